// Vertices of star-convex polygons.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_star_outlines_2d() in cellrt.h: shapes and units.
void star_outlines_2d(const float* dist, const double* points, std::int64_t n, std::int32_t n_rays, double scale_y,
                      double scale_x, int n_threads, float* coords);

}  // namespace cellrt
