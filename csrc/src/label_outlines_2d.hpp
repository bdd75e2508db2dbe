// Trace the outer boundary of every label along the edges of its pixels.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_label_outlines_2d() in cellrt.h. Throws Failure.
void label_outlines_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                       std::int64_t capacity, int n_threads, std::int64_t* offsets, float* coords);

}  // namespace cellrt
