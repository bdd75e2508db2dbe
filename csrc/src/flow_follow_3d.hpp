// Follow Cellpose's flows through a volume from every voxel inside a cell to where it ends.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace cellrt {

// Which part of a volume there is: z, y, x, in voxels.
struct FlowWindow3D {
    std::array<std::int64_t, 3> volume;                // sides of the whole
    std::array<std::int64_t, 3> origin;                // of the window in it
    std::array<std::int64_t, 3> keep_begin, keep_end;  // from where in the window voxels are followed

    // Whether the volume goes on beyond either end of an axis of the window, which is n long.
    bool is_cut_before(std::size_t axis) const { return origin[axis] > 0; }
    bool is_cut_after(std::size_t axis, std::int64_t n) const { return origin[axis] + n < volume[axis]; }
};

// See cellrt_flow_follow_window_3d() in cellrt.h: shapes and units. n_z, n_y and n_x are the window's. `n_inside` is what
// count_followed_3d() says. Throws Failure.
void flow_follow_3d(const float* flow, const float* cellprob, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                    const FlowWindow3D& window, float cellprob_thresh, std::int32_t n_iter, const std::int32_t* cancel,
                    std::int64_t n_inside, int n_threads, std::int64_t* voxels, float* positions);

// How many voxels inside a cell there are where they are followed.
std::int64_t count_followed_3d(const float* cellprob, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                               const FlowWindow3D& window, float cellprob_thresh);

}  // namespace cellrt
