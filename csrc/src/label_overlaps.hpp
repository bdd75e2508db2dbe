// The pairs of labels of two label images that share pixels.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_label_overlaps() in cellrt.h. Throws Failure.
void label_overlaps(const std::int32_t* truth, const std::int32_t* predicted, std::int64_t n_pixels,
                    std::int64_t capacity, int n_threads, std::int64_t* n_pairs, std::int32_t* pairs,
                    std::int64_t* counts);

}  // namespace cellrt
