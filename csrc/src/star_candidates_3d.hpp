// The grid samples of a 3D StarDist network's output that may be objects.
#pragma once

#include <cstdint>

namespace cellrt {

// A window of samples, half open.
struct Window3D {
    std::int64_t z_begin, z_end, y_begin, y_end, x_begin, x_end;
};

// Where samples lie in voxels: sample (i, j, k) is at origin + grid * (i, j, k).
struct SampleGrid3D {
    std::int32_t grid_z, grid_y, grid_x, origin_z, origin_y, origin_x;
};

// See cellrt_star_candidates_3d() in cellrt.h: shapes, units and order. Throws Failure.
void star_candidates_3d(const float* maps, std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t n_z,
                        std::int64_t n_y, std::int64_t n_x, const Window3D& window, float prob_thresh,
                        const SampleGrid3D& grid, std::int64_t capacity, int n_threads, std::int64_t* n_candidates,
                        float* prob, float* dist, std::int32_t* points, float* class_prob);

}  // namespace cellrt
