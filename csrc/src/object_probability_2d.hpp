// How deep inside its label every pixel lies, from 0 to 1: the probability that a star network learns.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_object_probability_2d() in cellrt.h. Throws Failure.
void object_probability_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                           int n_threads, float* prob);

}  // namespace cellrt
