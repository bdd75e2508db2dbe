// Lengths of the rays from pixels to the borders of their labels: what a star network learns.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_star_distances_2d() in cellrt.h: shapes and units.
void star_distances_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t grid_y,
                       std::int32_t grid_x, std::int32_t n_rays, int n_threads, float* dist);

}  // namespace cellrt
