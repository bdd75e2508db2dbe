// label_regions_2d: labels (Y, X) -> areas (n,) pixels, boxes (n, 4), centroids (n, 2) y, x in pixels.
//
// Works on runs of equal labels in a row. Bands of rows sum up on their own; all sums are integers, so adding the
// bands together gives the same result however many there are.
#include "label_regions_2d.hpp"

#include <algorithm>
#include <mutex>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

struct Region {
    std::int64_t area = 0;
    std::int64_t sum_y = 0;
    std::int64_t sum_x = 0;
    std::int32_t y_begin = 0, x_begin = 0, y_end = 0, x_end = 0;

    // Adds pixels whose coordinates sum up to the given ones, in the given box.
    void add(const Region& other) {
        if (other.area == 0) return;
        if (area == 0) {
            *this = other;
            return;
        }
        area += other.area;
        sum_y += other.sum_y;
        sum_x += other.sum_x;
        y_begin = std::min(y_begin, other.y_begin);
        x_begin = std::min(x_begin, other.x_begin);
        y_end = std::max(y_end, other.y_end);
        x_end = std::max(x_end, other.x_end);
    }
};

// The pixels begin..end of row y.
Region region_of_run(std::int64_t y, std::int64_t begin, std::int64_t end) {
    Region run;
    run.area = end - begin;
    run.sum_y = y * run.area;
    run.sum_x = (begin + end - 1) * run.area / 2;  // an arithmetic series: the product is even
    run.y_begin = static_cast<std::int32_t>(y);
    run.y_end = static_cast<std::int32_t>(y + 1);
    run.x_begin = static_cast<std::int32_t>(begin);
    run.x_end = static_cast<std::int32_t>(end);
    return run;
}

}  // namespace

void label_regions_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                      int n_threads, std::int64_t* areas, std::int32_t* boxes, double* centroids) {
    std::vector<Region> regions(static_cast<std::size_t>(n_labels));
    std::mutex regions_mutex;
    // A band has a table of all labels: not worth it for fewer pixels than labels.
    const std::int64_t rows_per_thread = (n_y - 1) / thread_count(n_threads) + 1;
    const std::int64_t rows_worthwhile = n_labels / std::max<std::int64_t>(n_x, 1) + 1;
    parallel_for(n_y, std::max(rows_per_thread, rows_worthwhile), n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<Region> band(static_cast<std::size_t>(n_labels));
        for (std::int64_t y = begin; y < end; ++y) {
            const std::int32_t* const row = labels + y * n_x;
            for (std::int64_t x = 0; x < n_x;) {
                const std::int32_t label = row[x];
                const std::int64_t run_begin = x;
                do ++x;
                while (x < n_x && row[x] == label);
                if (label == 0) continue;
                require(label > 0 && label <= n_labels);
                band[static_cast<std::size_t>(label - 1)].add(region_of_run(y, run_begin, x));
            }
        }
        const std::lock_guard<std::mutex> lock(regions_mutex);
        for (std::size_t i = 0; i < regions.size(); ++i) regions[i].add(band[i]);
    });

    for (std::size_t i = 0; i < regions.size(); ++i) {
        const Region& region = regions[i];
        const auto area = static_cast<double>(region.area);
        areas[i] = region.area;
        boxes[4 * i] = region.y_begin;
        boxes[4 * i + 1] = region.x_begin;
        boxes[4 * i + 2] = region.y_end;
        boxes[4 * i + 3] = region.x_end;
        centroids[2 * i] = region.area > 0 ? static_cast<double>(region.sum_y) / area : -1.0;
        centroids[2 * i + 1] = region.area > 0 ? static_cast<double>(region.sum_x) / area : -1.0;
    }
}

}  // namespace cellrt
