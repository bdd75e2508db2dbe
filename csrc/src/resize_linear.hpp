// Bilinear resampling of planes, as OpenCV's resize(INTER_LINEAR) computes it.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_resize_linear_f32() in cellrt.h. Throws Failure.
void resize_linear(const float* image, std::int64_t n_planes, std::int64_t n_y, std::int64_t n_x, std::int64_t out_y,
                   std::int64_t out_x, bool single_precision, int n_threads, float* out);

}  // namespace cellrt
