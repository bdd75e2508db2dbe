// paint_polyhedra_3d: dist (n, n_rays), points (n, 3) z, y, x in voxels -> labels (Z, Y, X).
//
// A polyhedron's voxels are found as bits, with its box cut into pieces of bounded size, and many pieces at the same time.
// Then the bits of all pieces are painted in order, by slabs of the volume: whoever comes first has a voxel.
//
// Three rules say what is inside, each with the original's arithmetic where rounding matters:
//   kernel  behind every face: half spaces with coefficients in float32, summed up in double precision
//   hull    behind every facet of the convex hull of the vertices
//   full    in the kernel; or in the hull and in one of the tetrahedra between centre and faces
// Away from their borders the last is just the tetrahedra (star_polyhedron_3d.cpp); only near them the others are asked.
#include "paint_polyhedra_3d.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "convex_hull_3d.hpp"
#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr float farthest = 1048576.0F;  // 2^20 voxels: up to there float32 knows every voxel of a polyhedron

bool is_behind_all(const std::vector<HalfSpace>& half_spaces, std::int32_t z, std::int32_t y, std::int32_t x) {
    for (const HalfSpace& h : half_spaces)
        if (h[0] * z + h[1] * y + h[2] * x + h[3] > 0) return false;
    return true;
}

// A part of a polyhedron's box inside the window, and the bits of its voxels once they are known.
struct Piece {
    std::int64_t polyhedron;
    VoxelBox box;
    std::int64_t words_per_row;
    std::vector<std::uint64_t> bits;

    std::uint64_t* row(std::int32_t z, std::int32_t y) {
        return bits.data() + ((z - box.first[0]) * box.side(1) + (y - box.first[1])) * words_per_row;
    }
};

void set_bit(std::uint64_t* row, std::int64_t at) { row[at >> 6] |= std::uint64_t{1} << (at & 63); }

// Finds the voxels of pieces. Its scratch is reused from piece to piece.
class Finder {
public:
    Finder(const StarMesh3D& mesh, const float* dist, const float* points, std::int32_t mode)
        : mesh_(mesh), dist_(dist), points_(points), mode_(mode), vertices_(3 * static_cast<std::size_t>(mesh.n_rays)) {}

    void find(Piece& piece) {
        piece.words_per_row = (piece.box.side(2) + 63) / 64;
        piece.bits.assign(static_cast<std::size_t>(piece.box.side(0) * piece.box.side(1) * piece.words_per_row), 0);
        if (mode_ == CELLRT_POLYHEDRON_FULL) return find_full(piece);
        if (mode_ == CELLRT_POLYHEDRON_BBOX) return find_convex(piece, {});
        star_vertices_3d(mesh_, dist_of(piece), point_of(piece), vertices_.data());
        if (mode_ == CELLRT_POLYHEDRON_KERNEL) return find_convex(piece, star_kernel_3d(mesh_, vertices_.data()));
        const std::vector<HalfSpace> hull = convex_hull_3d(vertices_.data(), mesh_.n_rays);
        if (!hull.empty()) find_convex(piece, hull);
    }

private:
    const float* dist_of(const Piece& piece) const { return dist_ + piece.polyhedron * mesh_.n_rays; }
    const float* point_of(const Piece& piece) const { return points_ + 3 * piece.polyhedron; }
    void find_full(Piece& piece);
    void find_convex(Piece& piece, const std::vector<HalfSpace>& half_spaces);

    const StarMesh3D& mesh_;
    const float* const dist_;
    const float* const points_;
    const std::int32_t mode_;
    std::vector<float> vertices_;
    StarVoxels3D voxels_;
    std::vector<Doubt> doubts_;
};

void Finder::find_full(Piece& piece) {
    voxels_.place(mesh_, dist_of(piece), point_of(piece), piece.box, true);
    std::vector<HalfSpace> kernel, hull;
    bool hull_is_known = false;
    for (std::int32_t z = piece.box.first[0]; z <= piece.box.last[0]; ++z) {
        std::uint64_t* const bits = voxels_.slice(z, doubts_);
        for (const Doubt& doubt : doubts_) {
            std::uint64_t* const row = bits + (doubt.y - piece.box.first[1]) * piece.words_per_row;
            const std::int64_t at = std::int64_t{doubt.x} - piece.box.first[2];
            if (row[at >> 6] >> (at & 63) & 1) continue;
            if (kernel.empty()) kernel = star_kernel_3d(mesh_, voxels_.vertices());
            bool is_inside = is_behind_all(kernel, z, doubt.y, doubt.x);
            if (!is_inside && doubt.is_inside) {
                if (!hull_is_known) hull = convex_hull_3d(voxels_.vertices(), mesh_.n_rays);
                hull_is_known = true;
                is_inside = !hull.empty() && is_behind_all(hull, z, doubt.y, doubt.x);
            }
            if (is_inside) set_bit(row, at);
        }
        std::copy(bits, bits + piece.box.side(1) * piece.words_per_row, piece.row(z, piece.box.first[1]));
    }
}

// Each row of an intersection of half spaces is one interval: rounding keeps the order of a linear function's values.
void Finder::find_convex(Piece& piece, const std::vector<HalfSpace>& half_spaces) {
    const std::int32_t x_first = piece.box.first[2], x_last = piece.box.last[2];
    const double largest = std::max(std::abs(x_first), std::abs(x_last)) + 1.0;
    for (std::int32_t z = piece.box.first[0]; z <= piece.box.last[0]; ++z)
        for (std::int32_t y = piece.box.first[1]; y <= piece.box.last[1]; ++y) {
            double sure_low = x_first, may_low = x_first, sure_high = x_last, may_high = x_last;
            bool may_be_empty = false;
            for (const HalfSpace& h : half_spaces) {
                const double at_0 = h[0] * z + h[1] * y + h[3];
                // Some roundings of 2^-53 of terms up to this; a slope below it counts as none.
                const double error = 1e-14 * (std::fabs(h[0] * z) + std::fabs(h[1] * y) + std::fabs(h[2]) * largest +
                                              std::fabs(h[3]));
                if (std::fabs(h[2]) * largest <= error) {
                    may_be_empty |= at_0 > -2 * error;
                    continue;
                }
                const double x = -at_0 / h[2];
                const double margin = error / std::fabs(h[2]) + 1e-14 * largest;
                if (h[2] > 0) {
                    sure_high = std::min(sure_high, x - margin);
                    may_high = std::min(may_high, x + margin);
                } else {
                    sure_low = std::max(sure_low, x + margin);
                    may_low = std::max(may_low, x - margin);
                }
            }
            if (!(may_low <= may_high)) continue;
            auto first = static_cast<std::int32_t>(std::ceil(may_low));
            auto last = static_cast<std::int32_t>(std::floor(may_high));
            const auto is_inside = [&](std::int32_t x) { return is_behind_all(half_spaces, z, y, x); };
            if (may_be_empty || std::ceil(std::min(sure_low, x_last + 1.0)) != first)
                while (first <= last && !is_inside(first)) ++first;
            if (may_be_empty || std::floor(std::max(sure_high, x_first - 1.0)) != last)
                while (first <= last && !is_inside(last)) --last;
            std::uint64_t* const row = piece.row(z, y);
            for (std::int32_t x = first; x <= last; ++x) set_bit(row, std::int64_t{x} - x_first);
        }
}

// Cuts a box into pieces of at most 2^20 voxels.
void add_pieces(std::int64_t polyhedron, const VoxelBox& box, std::vector<Piece>& pieces) {
    constexpr std::int32_t sides[3] = {64, 64, 256};
    VoxelBox some = box;
    for (std::int32_t z = box.first[0]; z <= box.last[0]; z += sides[0])
        for (std::int32_t y = box.first[1]; y <= box.last[1]; y += sides[1])
            for (std::int32_t x = box.first[2]; x <= box.last[2]; x += sides[2]) {
                const std::int32_t first[3] = {z, y, x};
                for (int axis = 0; axis < 3; ++axis) {
                    some.first[axis] = first[axis];
                    some.last[axis] = std::min(box.last[axis], first[axis] + sides[axis] - 1);
                }
                pieces.push_back({polyhedron, some, 0, {}});
            }
}

}  // namespace

void paint_polyhedra_3d(const float* dist, const float* points, const std::int64_t* order, std::int64_t n,
                        const StarMesh3D& mesh, const VolumeWindow& window, const PaintRule& rule,
                        const std::int32_t* cancel, int n_threads, std::int32_t* labels) {
    const auto poll = [cancel] {
        if (cancel && *static_cast<const volatile std::int32_t*>(cancel) != 0) throw Failure(CELLRT_ERROR_CANCELLED);
    };
    parallel_for(n, 1024, n_threads, [&](std::int64_t begin, std::int64_t end) {
        bool usable = true;  // comparisons are written so that NaN fails
        for (std::int64_t i = begin * mesh.n_rays; i < end * mesh.n_rays; ++i) usable &= dist[i] > 0 && dist[i] <= farthest;
        for (std::int64_t i = 3 * begin; i < 3 * end; ++i) usable &= std::fabs(points[i]) <= farthest;
        require(usable, CELLRT_ERROR_DATA);
    });
    const std::int64_t plane = window.n_y * window.n_x;
    parallel_for(window.n_z, 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::fill(labels + begin * plane, labels + end * plane, 0);
    });
    if (plane * window.n_z == 0) return;
    const std::int32_t origin[3] = {window.origin_z, window.origin_y, window.origin_x};
    const std::int64_t sides[3] = {window.n_z, window.n_y, window.n_x};
    VoxelBox whole;
    for (int axis = 0; axis < 3; ++axis) {
        whole.first[axis] = origin[axis];
        whole.last[axis] = static_cast<std::int32_t>(
            std::min<std::int64_t>(origin[axis] + sides[axis] - 1, std::int64_t{1} << 30));  // no polyhedron is there
    }

    const auto paint = [&](Piece& piece, std::int32_t z) {
        const auto label = static_cast<std::int32_t>(piece.polyhedron + 1);
        const VoxelBox& box = piece.box;
        for (std::int32_t y = box.first[1]; y <= box.last[1]; ++y) {
            const std::uint64_t* const bits = piece.row(z, y);
            std::int32_t* const row = labels + (z - std::int64_t{origin[0]}) * plane +
                                      (y - std::int64_t{origin[1]}) * window.n_x + (box.first[2] - std::int64_t{origin[2]});
            for (std::int64_t word = 0; word < piece.words_per_row; ++word) {
                std::uint64_t some = bits[word];
                std::int32_t* target = row + 64 * word;
                for (; some != 0; some >>= 1, ++target) {
                    if ((some & 1) == 0) continue;
                    if (*target == 0)
                        *target = label;
                    else if (rule.marks_overlap)
                        *target = rule.overlap_label;
                }
            }
        }
    };

    constexpr std::int64_t polyhedra_at_once = 512;
    constexpr std::size_t pieces_at_once = 512;  // of 128 KiB at most
    std::vector<float> vertices(3 * static_cast<std::size_t>(mesh.n_rays));
    std::vector<Piece> pieces;
    for (std::int64_t position = 0; position < n;) {
        pieces.clear();
        for (std::int64_t taken = 0; position < n && taken < polyhedra_at_once && pieces.size() < pieces_at_once;
             ++position, ++taken) {
            const std::int64_t i = order[position];
            const VoxelBox box =
                star_vertices_3d(mesh, dist + i * mesh.n_rays, points + 3 * i, vertices.data()).common(whole);
            if (!box.is_empty()) add_pieces(i, box, pieces);
        }
        const auto n_pieces = static_cast<std::int64_t>(pieces.size());
        // A polyhedron that fills the window has any number of pieces; their bits are held for a part of them at a time.
        for (std::int64_t first = 0; first < n_pieces; first += static_cast<std::int64_t>(pieces_at_once)) {
            const std::int64_t last = std::min(n_pieces, first + static_cast<std::int64_t>(pieces_at_once));
            parallel_for(last - first, 8, n_threads, [&](std::int64_t begin, std::int64_t end) {
                Finder finder(mesh, dist, points, rule.mode);
                for (std::int64_t i = first + begin; i < first + end; ++i) {
                    poll();
                    finder.find(pieces[static_cast<std::size_t>(i)]);
                }
            });
            parallel_for(window.n_z, 4, n_threads, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t i = first; i < last; ++i) {
                    Piece& piece = pieces[static_cast<std::size_t>(i)];
                    const auto from = std::max<std::int64_t>(piece.box.first[0], origin[0] + begin);
                    const auto to = std::min<std::int64_t>(piece.box.last[0], origin[0] + end - 1);
                    for (std::int64_t z = from; z <= to; ++z) paint(piece, static_cast<std::int32_t>(z));
                }
            });
            for (std::int64_t i = first; i < last; ++i) pieces[static_cast<std::size_t>(i)].bits = {};
        }
    }
}

}  // namespace cellrt
