// Star-convex polyhedra: vertices, boxes, and the voxels that StarDist takes to be inside.
#pragma once

#include <cstdint>
#include <vector>

#include "convex_hull_3d.hpp"

namespace cellrt {

// The rays (n_rays, 3), unit vectors z, y, x, and the triangles (n_faces, 3) between their ends: shared by all
// polyhedra.
struct StarMesh3D {
    const float* rays;
    std::int32_t n_rays;
    const std::int32_t* faces;
    std::int32_t n_faces;
};

// Voxels first..last of z, y and x, both included.
struct VoxelBox {
    std::int32_t first[3], last[3];

    std::int64_t side(int axis) const { return std::int64_t{last[axis]} - first[axis] + 1; }
    bool is_empty() const { return side(0) <= 0 || side(1) <= 0 || side(2) <= 0; }
    VoxelBox common(const VoxelBox& other) const;
};

// vertices (n_rays, 3): point + dist * ray in float32. Returns the box of the vertices rounded to voxels. Throws Failure
// with CELLRT_ERROR_DATA if one is beyond 2^21, or NaN.
VoxelBox star_vertices_3d(const StarMesh3D& mesh, const float* dist, const float* point, float* vertices);

// The half spaces behind each face, whose intersection is the kernel: from where all of the inside can be seen.
// Coefficients in float32, as StarDist computes them.
std::vector<HalfSpace> star_kernel_3d(const StarMesh3D& mesh, const float* vertices);

// A voxel so close to a face or to a plane between two tetrahedra that rounding decides.
struct Doubt {
    std::int32_t y, x;
    bool is_inside;  // of one of the tetrahedra, as float32 arithmetic has it
};

// Which voxels of a window are inside a polyhedron: in one of the tetrahedra between its centre and a face, by four
// determinants in float32 that are not negative, as StarDist decides. One bit per voxel, slice by slice, on demand.
//
// Each tetrahedron fills an interval of x in each row, found from its four planes. The determinants are computed only for
// voxels as close to a plane as rounding could matter: so the bits are those of the determinants, at a fraction of
// their cost.
class StarVoxels3D {
public:
    // Prepares the polyhedron for a window, which holds at least one voxel. with_kernel: margins are also wide enough
    // for the half spaces of the faces in StarDist's arithmetic, which uses coordinates from the volume's corner.
    void place(const StarMesh3D& mesh, const float* dist, const float* point, const VoxelBox& window, bool with_kernel);

    const VoxelBox& window() const { return window_; }
    const float* vertices() const { return vertices_.data(); }  // (n_rays, 3)
    std::int64_t words_per_row() const { return words_per_row_; }

    // The bits of slice z: rows of words_per_row() words, least significant bit first, from the window's first y and x.
    const std::uint64_t* slice(std::int32_t z) {
        const auto index = static_cast<std::size_t>(z - window_.first[0]);
        std::uint64_t* const bits = bits_.data() + index * slice_words_;
        if (!is_filled_[index]) {
            n_doubts_[index] = fill(z, bits, nullptr);
            is_filled_[index] = 1;
        }
        return bits;
    }
    // How often determinants decided in a slice that slice() gave.
    std::int64_t doubts_of(std::int32_t z) const { return n_doubts_[static_cast<std::size_t>(z - window_.first[0])]; }

    // Sets the bits of a slice that are beyond doubt; the others are left 0 and listed, some more than once.
    std::uint64_t* slice(std::int32_t z, std::vector<Doubt>& doubts) {
        std::uint64_t* const bits = bits_.data() + static_cast<std::size_t>(z - window_.first[0]) * slice_words_;
        doubts.clear();
        fill(z, bits, &doubts);
        return bits;
    }

private:
    // Where a plane crosses the row of y and z: x = by_y * y + by_z * z + at_0, give or take `margin`, coordinates
    // being those from `base_`.
    struct Plane {
        float by_y, by_z, at_0, margin;
    };
    struct Tetrahedron {
        Plane planes[4];  // first those that it lies beyond (x not smaller), then those that it lies before
        std::int32_t n_lower, face;
        std::int32_t z_first, z_last, y_first, y_last;  // from base_
    };
    void prepare_tetrahedra(const StarMesh3D& mesh, const float* point, bool with_kernel);
    std::int64_t fill(std::int32_t z, std::uint64_t* bits, std::vector<Doubt>* doubts) const;
    bool contains(std::int32_t face, std::int32_t z, std::int32_t y, std::int32_t x) const;

    VoxelBox window_{};
    std::int32_t base_[3] = {};
    float centre_[3] = {};
    float reach_ = 0;  // of x from base_
    const std::int32_t* faces_ = nullptr;
    std::int64_t words_per_row_ = 0;
    std::size_t slice_words_ = 0;
    std::vector<float> vertices_, columns_;
    std::vector<Tetrahedron> tetrahedra_;
    std::vector<std::uint64_t> bits_;
    std::vector<std::uint8_t> is_filled_;    // of each slice
    std::vector<std::int64_t> n_doubts_;
};

}  // namespace cellrt
