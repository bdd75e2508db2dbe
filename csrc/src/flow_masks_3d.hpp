// Masks from where the voxels ended: seeds of a histogram, grown.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_flow_masks_3d() in cellrt.h: shapes and units. Returns the number of labels. Throws Failure.
std::int32_t flow_masks_3d(const std::int64_t* voxels, const float* positions, std::int64_t n, std::int64_t n_z,
                           std::int64_t n_y, std::int64_t n_x, double max_size_fraction, int n_threads,
                           std::int32_t* labels);

}  // namespace cellrt
