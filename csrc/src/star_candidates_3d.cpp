// star_candidates_3d: count per row, so that each row knows where its candidates go; then gather, row by row.
//
// maps (1 + n_rays + n_class_channels, Z, Y, X): volumes. A row is all x of one z and y; the rows of the window are
// numbered z by z. Gathering runs along a row of one volume at a time, as in 2D.
#include "star_candidates_3d.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "star_lengths.hpp"
#include "status.hpp"

namespace cellrt {

void star_candidates_3d(const float* maps, std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t n_z,
                        std::int64_t n_y, std::int64_t n_x, const Window3D& window, float prob_thresh,
                        const SampleGrid3D& grid, std::int64_t capacity, int n_threads, std::int64_t* n_candidates,
                        float* prob, float* dist, std::int32_t* points, float* class_prob) {
    const std::int64_t volume = n_z * n_y * n_x;
    const std::int64_t rows_per_plane = window.y_end - window.y_begin;
    const std::int64_t n_rows = (window.z_end - window.z_begin) * rows_per_plane;
    constexpr std::int64_t samples_per_grain = 1 << 14;
    const std::int64_t rows_per_grain =
        samples_per_grain / std::max<std::int64_t>(window.x_end - window.x_begin, 1) + 1;
    const auto z_of = [&](std::int64_t row) { return window.z_begin + row / rows_per_plane; };
    const auto y_of = [&](std::int64_t row) { return window.y_begin + row % rows_per_plane; };

    std::vector<std::int64_t> first(static_cast<std::size_t>(n_rows) + 1);  // row -> index of its first candidate
    parallel_for(n_rows, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
            const float* const row_prob = maps + (z_of(row) * n_y + y_of(row)) * n_x;
            std::int64_t count = 0;
            for (std::int64_t x = window.x_begin; x < window.x_end; ++x) count += row_prob[x] > prob_thresh;
            first[static_cast<std::size_t>(row) + 1] = count;
        }
    });
    for (std::size_t row = 1; row < first.size(); ++row) first[row] += first[row - 1];

    *n_candidates = first.back();
    require(first.back() <= capacity, CELLRT_ERROR_CAPACITY);

    parallel_for(n_rows, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::int64_t> columns;
        for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t index = first[static_cast<std::size_t>(row)];
            const std::int64_t n = first[static_cast<std::size_t>(row) + 1] - index;
            if (n == 0) continue;
            const std::int64_t z = z_of(row);
            const std::int64_t y = y_of(row);
            const float* const row_maps = maps + (z * n_y + y) * n_x;
            columns.clear();
            for (std::int64_t x = window.x_begin; x < window.x_end; ++x) {
                if (row_maps[x] > prob_thresh) columns.push_back(x);
            }
            const std::int64_t* const column = columns.data();

            for (std::int64_t i = 0; i < n; ++i) {
                prob[index + i] = row_maps[column[i]];
                std::int32_t* const point = points + 3 * (index + i);
                point[0] = static_cast<std::int32_t>(grid.origin_z + grid.grid_z * z);
                point[1] = static_cast<std::int32_t>(grid.origin_y + grid.grid_y * y);
                point[2] = static_cast<std::int32_t>(grid.origin_x + grid.grid_x * column[i]);
            }
            const bool usable = gather_all_lengths(row_maps + volume, volume, column, n, dist + index * n_rays, n_rays);
            require(usable, CELLRT_ERROR_DATA);
            for (std::int32_t channel = 0; channel < n_class_channels; ++channel) {
                const float* const probabilities = row_maps + (1 + n_rays + channel) * volume;
                float* const target = class_prob + index * n_class_channels + channel;
                for (std::int64_t i = 0; i < n; ++i) target[i * n_class_channels] = probabilities[column[i]];
            }
        }
    });
}

}  // namespace cellrt
