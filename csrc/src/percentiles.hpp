// Exact percentiles of all pixels of an image, by counting instead of sorting.
#pragma once

#include <cstdint>

#include "pixel_runs.hpp"

namespace cellrt {

// See cellrt_percentiles_*() in cellrt.h. Pixel: uint8_t, uint16_t or float. values: n_percents doubles.
template <typename Pixel>
void percentiles(const StridedImage<Pixel>& image, const double* percents, std::int32_t n_percents, int n_threads,
                 double* values);

}  // namespace cellrt
