// label_regions_3d: labels (Z, Y, X) -> areas (n,) voxels, boxes (n, 6), centroids (n, 3) z, y, x in voxels.
//
// Works on runs of equal labels in a row. Bands of rows, whatever their planes, sum up on their own; all sums are
// integers, so adding the bands together gives the same result however many there are.
#include "label_regions_3d.hpp"

#include <algorithm>
#include <mutex>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

struct Region {
    std::int64_t area = 0;
    std::int64_t sum[3] = {0, 0, 0};  // of the coordinates z, y, x
    std::int32_t begin[3] = {0, 0, 0};
    std::int32_t end[3] = {0, 0, 0};

    // Adds voxels whose coordinates sum up to the given ones, in the given box.
    void add(const Region& other) {
        if (other.area == 0) return;
        if (area == 0) {
            *this = other;
            return;
        }
        area += other.area;
        for (int axis = 0; axis < 3; ++axis) {
            sum[axis] += other.sum[axis];
            begin[axis] = std::min(begin[axis], other.begin[axis]);
            end[axis] = std::max(end[axis], other.end[axis]);
        }
    }
};

// The voxels x_begin..x_end of row y of plane z.
Region region_of_run(std::int64_t z, std::int64_t y, std::int64_t x_begin, std::int64_t x_end) {
    Region run;
    run.area = x_end - x_begin;
    run.sum[0] = z * run.area;
    run.sum[1] = y * run.area;
    run.sum[2] = (x_begin + x_end - 1) * run.area / 2;  // an arithmetic series: the product is even
    const std::int64_t begin[] = {z, y, x_begin}, end[] = {z + 1, y + 1, x_end};
    for (int axis = 0; axis < 3; ++axis) {
        run.begin[axis] = static_cast<std::int32_t>(begin[axis]);
        run.end[axis] = static_cast<std::int32_t>(end[axis]);
    }
    return run;
}

}  // namespace

void label_regions_3d(const std::int32_t* labels, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                      std::int32_t n_labels, int n_threads, std::int64_t* areas, std::int32_t* boxes,
                      double* centroids) {
    std::vector<Region> regions(static_cast<std::size_t>(n_labels));
    std::mutex regions_mutex;
    const std::int64_t n_rows = n_x > 0 ? n_z * n_y : 0;  // of no columns there may be 2^40 rows
    // A band has a table of all labels: not worth it for fewer voxels than labels.
    const std::int64_t rows_per_thread = (n_rows - 1) / thread_count(n_threads) + 1;
    const std::int64_t rows_worthwhile = n_labels / std::max<std::int64_t>(n_x, 1) + 1;
    const std::int64_t grain = std::max(rows_per_thread, rows_worthwhile);
    parallel_for(n_rows, grain, n_threads, [&](std::int64_t row_begin, std::int64_t row_end) {
        std::vector<Region> band(static_cast<std::size_t>(n_labels));
        for (std::int64_t row = row_begin; row < row_end; ++row) {
            const std::int32_t* const voxels = labels + row * n_x;
            for (std::int64_t x = 0; x < n_x;) {
                const std::int32_t label = voxels[x];
                const std::int64_t run_begin = x;
                do ++x;
                while (x < n_x && voxels[x] == label);
                if (label == 0) continue;
                require(label > 0 && label <= n_labels);
                band[static_cast<std::size_t>(label - 1)].add(region_of_run(row / n_y, row % n_y, run_begin, x));
            }
        }
        const std::lock_guard<std::mutex> lock(regions_mutex);
        for (std::size_t i = 0; i < regions.size(); ++i) regions[i].add(band[i]);
    });

    for (std::size_t i = 0; i < regions.size(); ++i) {
        const Region& region = regions[i];
        const auto area = static_cast<double>(region.area);
        areas[i] = region.area;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            boxes[6 * i + axis] = region.begin[axis];
            boxes[6 * i + 3 + axis] = region.end[axis];
            centroids[3 * i + axis] = region.area > 0 ? static_cast<double>(region.sum[axis]) / area : -1.0;
        }
    }
}

}  // namespace cellrt
