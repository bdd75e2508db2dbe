// Star-convex polyhedra as bits: intervals of x per tetrahedron and row, and float32 determinants where they end.
//
// A tetrahedron's planes are each a linear function of z, y and x, at least 0 inside. In a row it bounds x from one side.
// Coordinates here are those from the voxel nearest to the centre, so that they are small, and the functions are computed
// in float32 as the original's determinants are: either has an error of a few units in the last place of the sum of its
// terms' magnitudes. Every plane has such a bound as margin. Within it, the original's operations decide.
#include "star_polyhedron_3d.hpp"

#include <algorithm>
#include <cmath>

#include "lanes.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

// A determinant here and one of the original take less than 32 roundings of terms below the bound, each of 2^-24.
constexpr float relative_error = 1.0F / (1 << 18);
constexpr float no_error = 1e-30F;  // where all terms are 0: keeps quotients finite
constexpr float farthest_vertex = 2097152.0F;  // 2^21 voxels: twice that is far below what float32 and int32 know exactly

std::int32_t rounded(float value) { return static_cast<std::int32_t>(std::lrint(value)); }

// Of tetrahedra side by side: a corner.
struct Corners {
    Lanes z, y, x;
};

// The largest magnitudes of coordinates that a plane is evaluated at.
struct Extent {
    float z, y, x;
};

// Planes through p, of tetrahedra side by side: det(a - p, b - p, q - p) as a function of q.
struct Planes {
    Lanes nz, ny, nx, d, error;
    Lanes by_y, by_z, at_0, margin, slope;

    void assign(const Corners& p, const Corners& a, const Corners& b, const Extent& extent, float reach) {
        const Lanes az = a.z - p.z, ay = a.y - p.y, ax = a.x - p.x;
        const Lanes bz = b.z - p.z, by = b.y - p.y, bx = b.x - p.x;
        nz = ay * bx - ax * by;
        ny = ax * bz - az * bx;
        nx = az * by - ay * bz;
        d = -(nz * p.z + ny * p.y + nx * p.x);
        const Lanes all_z = magnitude_of(ay * bx) + magnitude_of(ax * by);
        const Lanes all_y = magnitude_of(ax * bz) + magnitude_of(az * bx);
        const Lanes all_x = magnitude_of(az * by) + magnitude_of(ay * bz);
        error = all_lanes(relative_error) * (all_z * (all_lanes(extent.z) + magnitude_of(p.z)) +
                                             all_y * (all_lanes(extent.y) + magnitude_of(p.y)) +
                                             all_x * (all_lanes(extent.x) + magnitude_of(p.x))) +
                all_lanes(no_error);
        // A plane along x gets a slope that changes its values by no more than their error.
        const Lanes steepness = larger_of(magnitude_of(nx), error / all_lanes(reach));
        slope = with_sign_of(steepness, nx);
        by_y = -ny / slope;
        by_z = -nz / slope;
        at_0 = -d / slope;
        // The last term is for the rounding of x itself.
        margin = all_lanes(2) * error / steepness + all_lanes(reach * (1.0F / (1 << 20)));
    }
};

void set_bits(std::uint64_t* row, std::int32_t first, std::int32_t last) {
    const std::int32_t first_word = first >> 6, last_word = last >> 6;
    const std::uint64_t from_first = ~std::uint64_t{0} << (first & 63);
    const std::uint64_t to_last = ~std::uint64_t{0} >> (63 - (last & 63));
    if (first_word == last_word) {
        row[first_word] |= from_first & to_last;
        return;
    }
    row[first_word] |= from_first;
    for (std::int32_t word = first_word + 1; word < last_word; ++word) row[word] = ~std::uint64_t{0};
    row[last_word] |= to_last;
}

// The determinant of the original, operation by operation: not below 0 where (z, y, x) is inside of the plane.
bool is_inside(const float* q, const float* a, const float* b, const float* c) {
    const float m00 = b[0] - a[0], m01 = b[1] - a[1], m02 = b[2] - a[2];
    const float m10 = c[0] - a[0], m11 = c[1] - a[1], m12 = c[2] - a[2];
    const float m20 = q[0] - a[0], m21 = q[1] - a[1], m22 = q[2] - a[2];
    return m00 * (m11 * m22 - m21 * m12) - m01 * (m10 * m22 - m12 * m20) + m02 * (m10 * m21 - m11 * m20) >= 0;
}

}  // namespace

VoxelBox VoxelBox::common(const VoxelBox& other) const {
    VoxelBox box;
    for (int axis = 0; axis < 3; ++axis) {
        box.first[axis] = std::max(first[axis], other.first[axis]);
        box.last[axis] = std::min(last[axis], other.last[axis]);
    }
    return box;
}

VoxelBox star_vertices_3d(const StarMesh3D& mesh, const float* dist, const float* point, float* vertices) {
    float low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (std::int32_t k = 0; k < mesh.n_rays; ++k)
        for (int axis = 0; axis < 3; ++axis) {
            const float at = point[axis] + dist[k] * mesh.rays[3 * k + axis];
            vertices[3 * k + axis] = at;
            low[axis] = std::min(low[axis], at);
            high[axis] = std::max(high[axis], at);
        }
    VoxelBox box;
    for (int axis = 0; axis < 3; ++axis) {
        require(low[axis] >= -farthest_vertex && high[axis] <= farthest_vertex, CELLRT_ERROR_DATA);
        box.first[axis] = rounded(low[axis]);
        box.last[axis] = rounded(high[axis]);
    }
    return box;
}

std::vector<HalfSpace> star_kernel_3d(const StarMesh3D& mesh, const float* vertices) {
    std::vector<HalfSpace> half_spaces(static_cast<std::size_t>(mesh.n_faces));
    for (std::int32_t face = 0; face < mesh.n_faces; ++face) {
        const float* const a = vertices + 3 * mesh.faces[3 * face];
        const float* const b = vertices + 3 * mesh.faces[3 * face + 1];
        const float* const c = vertices + 3 * mesh.faces[3 * face + 2];
        const float pz = b[0] - a[0], py = b[1] - a[1], px = b[2] - a[2];
        const float qz = c[0] - a[0], qy = c[1] - a[1], qx = c[2] - a[2];
        const float nz = -(py * qx - px * qy), ny = -(px * qz - pz * qx), nx = -(pz * qy - py * qz);
        half_spaces[static_cast<std::size_t>(face)] = {nz, ny, nx, -(a[0] * nz + a[1] * ny + a[2] * nx)};
    }
    return half_spaces;
}

void StarVoxels3D::place(const StarMesh3D& mesh, const float* dist, const float* point, const VoxelBox& window,
                         bool with_kernel) {
    window_ = window;
    words_per_row_ = (window.side(2) + 63) / 64;
    slice_words_ = static_cast<std::size_t>(window.side(1) * words_per_row_);
    const auto n_slices = static_cast<std::size_t>(window.side(0));
    bits_.assign(n_slices * slice_words_, 0);
    is_filled_.assign(n_slices, 0);
    n_doubts_.resize(n_slices);
    vertices_.resize(3 * static_cast<std::size_t>(mesh.n_rays));
    star_vertices_3d(mesh, dist, point, vertices_.data());
    for (int axis = 0; axis < 3; ++axis) {
        centre_[axis] = point[axis];
        base_[axis] = rounded(point[axis]);
    }
    faces_ = mesh.faces;
    prepare_tetrahedra(mesh, point, with_kernel);
}

void StarVoxels3D::prepare_tetrahedra(const StarMesh3D& mesh, const float* point, bool with_kernel) {
    float farthest[3], beyond[3];
    for (int axis = 0; axis < 3; ++axis) {
        farthest[axis] = static_cast<float>(std::max(std::abs(window_.first[axis] - base_[axis]),
                                                     std::abs(window_.last[axis] - base_[axis])) + 1);
        beyond[axis] = with_kernel ? 2 * std::fabs(static_cast<float>(base_[axis])) : 0.0F;
    }
    reach_ = farthest[2];
    const Extent inner{farthest[0], farthest[1], farthest[2]};
    const Extent outer{farthest[0] + beyond[0], farthest[1] + beyond[1], farthest[2] + beyond[2]};

    const auto n_rays = static_cast<std::size_t>(mesh.n_rays);
    columns_.resize(3 * n_rays);
    float* const column[3] = {columns_.data(), columns_.data() + n_rays, columns_.data() + 2 * n_rays};
    for (std::size_t k = 0; k < n_rays; ++k)
        for (int axis = 0; axis < 3; ++axis)
            column[axis][k] = vertices_[3 * k + static_cast<std::size_t>(axis)] - static_cast<float>(base_[axis]);
    const Corners centre{all_lanes(point[0] - static_cast<float>(base_[0])),
                         all_lanes(point[1] - static_cast<float>(base_[1])),
                         all_lanes(point[2] - static_cast<float>(base_[2]))};

    tetrahedra_.resize(static_cast<std::size_t>(mesh.n_faces));
    std::size_t n = 0;
    Corners corners[3] = {};
    Planes planes[4];
    for (std::int32_t begin = 0; begin < mesh.n_faces; begin += lanes) {
        for (int i = 0; i < lanes; ++i) {
            const std::int32_t* const face = mesh.faces + 3 * std::min(begin + i, mesh.n_faces - 1);
            for (int corner = 0; corner < 3; ++corner) {
                corners[corner].z[i] = column[0][face[corner]];
                corners[corner].y[i] = column[1][face[corner]];
                corners[corner].x[i] = column[2][face[corner]];
            }
        }
        planes[0].assign(corners[0], corners[1], corners[2], outer, reach_);
        planes[1].assign(centre, corners[1], corners[0], inner, reach_);
        planes[2].assign(centre, corners[2], corners[1], inner, reach_);
        planes[3].assign(centre, corners[0], corners[2], inner, reach_);
        const Lanes volume = planes[0].nz * centre.z + planes[0].ny * centre.y + planes[0].nx * centre.x + planes[0].d;
        const Lanes error = planes[0].error + planes[1].error + planes[2].error + planes[3].error;
        const Lanes low[2] = {
            smaller_of(smaller_of(centre.z, corners[0].z), smaller_of(corners[1].z, corners[2].z)),
            smaller_of(smaller_of(centre.y, corners[0].y), smaller_of(corners[1].y, corners[2].y))};
        const Lanes high[2] = {
            larger_of(larger_of(centre.z, corners[0].z), larger_of(corners[1].z, corners[2].z)),
            larger_of(larger_of(centre.y, corners[0].y), larger_of(corners[1].y, corners[2].y))};
        for (int i = 0; i < std::min(lanes, mesh.n_faces - begin); ++i) {
            // The value of a plane, over that at the opposite corner, is the weight of this corner in a point. The four
            // weights add up to 1. Within the margins none is below -error / volume: that bounds how far such a point
            // can be outside the box of the corners. If the tetrahedron is inside out, none can be inside.
            if (volume[i] < 0 && error[i] < -volume[i]) continue;
            Tetrahedron& tetrahedron = tetrahedra_[n];
            const bool is_flat = !(4 * error[i] < volume[i]);
            std::int32_t range[2][2];
            for (int axis = 0; axis < 2; ++axis) {
                const std::int32_t first = window_.first[axis] - base_[axis];
                const std::int32_t last = window_.last[axis] - base_[axis];
                range[axis][0] = first;
                range[axis][1] = last;
                if (is_flat) continue;
                const float slack = error[i] / volume[i] * (high[axis][i] - low[axis][i]) + 0.001F;
                const float from = std::max(low[axis][i] - slack, static_cast<float>(first));
                const float to = std::min(high[axis][i] + slack, static_cast<float>(last));
                range[axis][0] = static_cast<std::int32_t>(std::ceil(std::min(from, static_cast<float>(last) + 1)));
                range[axis][1] = static_cast<std::int32_t>(std::floor(std::max(to, static_cast<float>(first) - 1)));
            }
            if (range[0][0] > range[0][1] || range[1][0] > range[1][1]) continue;
            tetrahedron.z_first = range[0][0];
            tetrahedron.z_last = range[0][1];
            tetrahedron.y_first = range[1][0];
            tetrahedron.y_last = range[1][1];
            tetrahedron.face = begin + i;
            int lower = 0, upper = 3;
            for (const Planes& some : planes)
                tetrahedron.planes[some.slope[i] > 0 ? lower++ : upper--] = {some.by_y[i], some.by_z[i], some.at_0[i],
                                                                            some.margin[i]};
            tetrahedron.n_lower = lower;
            ++n;
        }
    }
    tetrahedra_.resize(n);
}

bool StarVoxels3D::contains(std::int32_t face, std::int32_t z, std::int32_t y, std::int32_t x) const {
    const float q[3] = {static_cast<float>(z), static_cast<float>(y), static_cast<float>(x)};
    const float* const a = vertices_.data() + 3 * faces_[3 * face];
    const float* const b = vertices_.data() + 3 * faces_[3 * face + 1];
    const float* const c = vertices_.data() + 3 * faces_[3 * face + 2];
    return is_inside(q, a, b, c) && is_inside(q, centre_, b, a) && is_inside(q, centre_, c, b) &&
           is_inside(q, centre_, a, c);
}

std::int64_t StarVoxels3D::fill(std::int32_t z, std::uint64_t* bits, std::vector<Doubt>* doubts) const {
    const std::int32_t local_z = z - base_[0];
    const auto at_z = static_cast<float>(local_z);
    const std::int32_t x_first = window_.first[2] - base_[2], x_last = window_.last[2] - base_[2];
    const auto least = static_cast<float>(x_first), most = static_cast<float>(x_last);
    // Makes x positive, so that the conversion to integers rounds down.
    const auto shift = static_cast<std::int32_t>(reach_) + 2;
    const auto by = static_cast<float>(shift);
    const Lanes rows{0, 1, 2, 3};
    std::int64_t n_doubts = 0;

    for (const Tetrahedron& tetrahedron : tetrahedra_) {
        if (local_z < tetrahedron.z_first || local_z > tetrahedron.z_last) continue;
        for (std::int32_t y_begin = tetrahedron.y_first; y_begin <= tetrahedron.y_last; y_begin += lanes) {
            // Bounds of x: surely inside between sure_low and sure_high, maybe inside between may_low and may_high.
            Lanes sure_low = all_lanes(least), may_low = sure_low, sure_high = all_lanes(most), may_high = sure_high;
            const auto y_0 = static_cast<float>(y_begin);
            const Plane* plane = tetrahedron.planes;
            for (; plane < tetrahedron.planes + tetrahedron.n_lower; ++plane) {
                const float at_y_0 = plane->by_z * at_z + plane->at_0 + plane->by_y * y_0;
                const Lanes x = all_lanes(plane->by_y) * rows + all_lanes(at_y_0), margin = all_lanes(plane->margin);
                sure_low = larger_of(sure_low, x + margin);
                may_low = larger_of(may_low, x - margin);
            }
            for (; plane < tetrahedron.planes + 4; ++plane) {
                const float at_y_0 = plane->by_z * at_z + plane->at_0 + plane->by_y * y_0;
                const Lanes x = all_lanes(plane->by_y) * rows + all_lanes(at_y_0), margin = all_lanes(plane->margin);
                sure_high = smaller_of(sure_high, x - margin);
                may_high = smaller_of(may_high, x + margin);
            }
            // Less `shift`, or subtracted from it.
            const Lanes beyond = all_lanes(most + 1), before = all_lanes(least - 1);
            const WholeLanes sure_from = truncated(all_lanes(by) - smaller_of(sure_low, beyond));
            const WholeLanes may_from = truncated(all_lanes(by) - smaller_of(may_low, beyond));
            const WholeLanes sure_to = truncated(all_lanes(by) + larger_of(sure_high, before));
            const WholeLanes may_to = truncated(all_lanes(by) + larger_of(may_high, before));
            const std::int32_t n = std::min(lanes, tetrahedron.y_last - y_begin + 1);
            for (std::int32_t i = 0; i < n; ++i) {
                const std::int32_t may_first = shift - may_from[i], may_last = may_to[i] - shift;
                if (may_first > may_last) continue;
                const std::int32_t sure_first = shift - sure_from[i], sure_last = sure_to[i] - shift;
                const std::int32_t y = y_begin + i + base_[1];
                std::uint64_t* const row = bits + (y - window_.first[1]) * words_per_row_;
                const auto doubt = [&](std::int32_t first, std::int32_t last) {
                    for (std::int32_t at = first - x_first; at <= last - x_first; ++at) {
                        const std::uint64_t bit = std::uint64_t{1} << (at & 63);
                        if (row[at >> 6] & bit) continue;
                        const std::int32_t x = at + window_.first[2];
                        ++n_doubts;
                        const bool inside = contains(tetrahedron.face, z, y, x);
                        if (doubts != nullptr)
                            doubts->push_back({y, x, inside});
                        else if (inside)
                            row[at >> 6] |= bit;
                    }
                };
                if (sure_first > sure_last) {
                    doubt(may_first, may_last);
                    continue;
                }
                set_bits(row, sure_first - x_first, sure_last - x_first);
                if (may_first < sure_first) doubt(may_first, sure_first - 1);
                if (may_last > sure_last) doubt(sure_last + 1, may_last);
            }
        }
    }
    return n_doubts;
}

}  // namespace cellrt
