// Star-convex polyhedra painted into a label volume.
#pragma once

#include <cstdint>

#include "star_polyhedron_3d.hpp"

namespace cellrt {

// A block of a volume: its first voxel and its sides.
struct VolumeWindow {
    std::int32_t origin_z, origin_y, origin_x;
    std::int64_t n_z, n_y, n_x;
};

// Which voxels a polyhedron has: CELLRT_POLYHEDRON_* in cellrt.h.
struct PaintRule {
    std::int32_t mode;
    bool marks_overlap;
    std::int32_t overlap_label;
};

// See cellrt_paint_polyhedra_3d() in cellrt.h: shapes, units and rules. Throws Failure.
void paint_polyhedra_3d(const float* dist, const float* points, const std::int64_t* order, std::int64_t n,
                        const StarMesh3D& mesh, const VolumeWindow& window, const PaintRule& rule,
                        const std::int32_t* cancel, int n_threads, std::int32_t* labels);

}  // namespace cellrt
