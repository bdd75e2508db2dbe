// Fill the holes of labels and drop small ones, as Cellpose does.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_clean_labels_2d() in cellrt.h: shapes and units. Returns the largest label. Throws Failure.
std::int32_t clean_labels_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t max_label,
                             std::int64_t min_size, std::int32_t dynamics, int n_threads, std::int32_t* cleaned);

// See cellrt_clean_labels_3d().
std::int32_t clean_labels_3d(const std::int32_t* labels, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                             std::int32_t max_label, std::int64_t min_size, std::int32_t dynamics, int n_threads,
                             std::int32_t* cleaned);

}  // namespace cellrt
