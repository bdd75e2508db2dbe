// The best one-to-one matching of rows and columns out of a list of scored pairs.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_match_pairs() in cellrt.h. Throws Failure.
void match_pairs(const std::int32_t* pairs, const double* scores, std::int64_t n_pairs, std::int32_t n_rows,
                 std::int32_t n_columns, double threshold, std::int64_t max_steps, std::uint8_t* is_matched);

}  // namespace cellrt
