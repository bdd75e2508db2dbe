// Greedy non-maximum suppression of star-convex polyhedra.
#pragma once

#include <cstdint>

#include "star_polyhedron_3d.hpp"

namespace cellrt {

// See cellrt_star_nms_3d() in cellrt.h: shapes, units and decisions. Throws Failure.
void star_nms_3d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                 const StarMesh3D& mesh, float nms_thresh, std::int64_t max_work, const std::int32_t* cancel,
                 int n_threads, std::int64_t* n_kept, std::int64_t* kept);

// See cellrt_star_settle_3d().
void star_settle_3d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                    const StarMesh3D& mesh, const std::uint8_t* is_open, float nms_thresh, std::int64_t max_work,
                    const std::int32_t* cancel, int n_threads, std::uint8_t* states);

}  // namespace cellrt
