// The grid samples of a StarDist network's output that may be objects.
#pragma once

#include <cstdint>

namespace cellrt {

// A window of samples, half open.
struct Window {
    std::int64_t y_begin, y_end, x_begin, x_end;
};

// Where samples lie in pixels: sample (i, j) is at origin + grid * (i, j).
struct SampleGrid {
    std::int32_t grid_y, grid_x, origin_y, origin_x;
};

// See cellrt_star_candidates_2d() in cellrt.h: shapes, units and order. Throws Failure.
void star_candidates_2d(const float* maps, std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t n_y,
                        std::int64_t n_x, const Window& window, float prob_thresh, const SampleGrid& grid,
                        std::int64_t capacity, int n_threads, std::int64_t* n_candidates, float* prob, float* dist,
                        std::int32_t* points, float* class_prob);

}  // namespace cellrt
