// Follow Cellpose's flows through a volume from every voxel inside a cell to where it ends.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_flow_follow_3d() in cellrt.h: shapes and units. `n_inside` is what count_cell_pixels() says. Throws Failure.
void flow_follow_3d(const float* flow, const float* cellprob, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                    float cellprob_thresh, std::int32_t n_iter, const std::int32_t* cancel, std::int64_t n_inside,
                    int n_threads, std::int64_t* voxels, float* positions);

}  // namespace cellrt
