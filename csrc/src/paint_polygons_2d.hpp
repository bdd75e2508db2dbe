// Fill polygons into a label image.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_paint_polygons_2d() in cellrt.h: shapes, units and the rule for pixels. Throws Failure.
void paint_polygons_2d(const float* coords, const std::int64_t* offsets, const std::int64_t* order, std::int64_t n,
                       std::int64_t n_y, std::int64_t n_x, int n_threads, std::int32_t* labels);

}  // namespace cellrt
