// Normalise, cast and pad an image in one pass.
#pragma once

#include <cstdint>

#include "pixel_runs.hpp"

namespace cellrt {

// See cellrt_normalize_*() in cellrt.h. low, divisor: one float per channel. out: (channels, out_y, out_x) floats.
template <typename Pixel>
void normalize(const StridedImage<Pixel>& image, const float* low, const float* divisor, std::int64_t out_y,
               std::int64_t out_x, int n_threads, float* out);

}  // namespace cellrt
