// Follow Cellpose's flows from every pixel inside a cell to where it ends.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_flow_follow_2d() in cellrt.h. Throws Failure.
std::int64_t count_cell_pixels(const float* cellprob, std::int64_t n_pixels, float cellprob_thresh, int n_threads);

// `n_inside` is what count_cell_pixels() says.
void flow_follow_2d(const float* flow, const float* cellprob, std::int64_t n_y, std::int64_t n_x, float cellprob_thresh,
                    std::int32_t dynamics, bool interpolate, std::int32_t n_iter, const std::int32_t* cancel,
                    std::int64_t n_inside, int n_threads, std::int64_t* pixels, float* positions);

}  // namespace cellrt
