// Renumber labels without gaps.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_relabel() in cellrt.h. Throws Failure.
void relabel(const std::int32_t* labels, std::int64_t n_pixels, std::int32_t max_label, int n_threads,
             std::int32_t* table, std::int32_t* relabelled, std::int32_t* n_labels);

}  // namespace cellrt
