// prob (n), dist (n, n_rays) in voxels, points (n, 3) z, y, x in voxels -> indices of the survivors, best first.
//
// Candidates are taken in rank order, and each one looks for a kept polyhedron that suppresses it, as in 2D
// (star_nms_2d.cpp): chunks of ranks, tested in parallel against what was kept before and one by one against what is kept
// since; a hierarchy of grids gives the kept polyhedra whose box overlaps a candidate's. A pair is decided by what is
// cheapest, in the original's order and with its arithmetic:
//   1. the intersection of the boxes, and that of spheres around the polyhedra, bound the shared volume from above;
//   2. that of spheres inside of both bounds it from below;
//   3. the intersection of kernels bounds it from below;
//   4. that of convex hulls bounds it from above;
//   5. voxels that are in both are counted, until there are enough or too few are left.
// The original spends its time on 3 and 4. Here 5 comes first: a count that is far enough from what is needed proves how
// 3 and 4 would have decided, since it is the shared volume but for the rounding of its surface to voxels. Only within
// that rounding the one of the two that could decide otherwise is measured (half_space_volume.cpp).
//
// A face of which two rays have the same direction encloses nothing, but in its plane all of the original's determinants
// can be 0, and then it counts voxels there, as far as the box of the kept polyhedron goes. With such faces, what the others
// enclose is counted first, since only that is like a volume; unless it is far more than is needed, all is counted then.
//
// The voxels of a polyhedron are bits (star_polyhedron_3d.cpp), found slice by slice as they are needed, from the middle
// of the common box outwards. A candidate's are found once; of the kept polyhedra each thread remembers a few, for
// candidates next to each other meet the same one. Nothing else about a polyhedron is kept but its summary.
//
// Where more candidates may come (star_settle_3d), there are three outcomes. One that such may overlap, or that an undecided
// one suppresses, is undecided, unless one that is kept for certain suppresses it. Undecided ones are put among the kept,
// marked.
#include "star_nms_3d.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "half_space_volume.hpp"
#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr float longest_ray = 1048576.0F;         // 2^20 voxels
constexpr std::int32_t farthest_point = 1 << 20;  // voxels
constexpr double pi = 3.14159265358979323846;
constexpr std::int64_t looks_per_unit = 8;        // cells and boxes that take as long as a row of voxels
constexpr std::int64_t uncounted_work = 1 << 16;  // threads add up what they did now and then
constexpr std::int64_t most_bits = 1 << 20;       // of a polyhedron that is held as a whole: 128 KiB
constexpr std::int64_t never = INT64_MAX;
constexpr std::int64_t any_rounding = INT64_MAX / 4;  // what it takes to suppress, up to 4e18, can be added

// Outcomes of star_settle_3d.
constexpr std::uint8_t dropped = CELLRT_STAR_DROPPED, kept_for_certain = CELLRT_STAR_KEPT,
                       undecided = CELLRT_STAR_UNDECIDED;

using Index = std::uint32_t;  // of a candidate
constexpr std::uint32_t none = UINT32_MAX;

// What the bounds need of a polyhedron. Radii are those in a space stretched by the anisotropy.
struct Summary {
    VoxelBox box;
    float volume, outer_radius, inner_radius;
};

// ---- The original's bounds ------------------------------------------------------------------------------------

// Voxels along an axis that two boxes share, less one: the original takes boxes for volumes between voxel centres. It
// has no last voxel before -1.
std::int32_t shared_length(const VoxelBox& a, const VoxelBox& b, int axis) {
    const std::int32_t last = std::min(std::max(a.last[axis], -1), std::max(b.last[axis], -1));
    return std::max(0, last - std::max(a.first[axis], b.first[axis]));
}
bool overlap(const VoxelBox& a, const VoxelBox& b) {
    return shared_length(a, b, 0) > 0 && shared_length(a, b, 1) > 0 && shared_length(a, b, 2) > 0;
}

// Of two spheres in the stretched space. Where one lies inside of the other the original forgets to undo the stretching.
float shared_sphere_volume(float r1, const float* p1, float r2, const float* p2, const float* anisotropy) {
    const float dz = anisotropy[0] * (p1[0] - p2[0]);
    const float dy = anisotropy[1] * (p1[1] - p2[1]);
    const float dx = anisotropy[2] * (p1[2] - p2[2]);
    const float d = std::sqrt(dz * dz + dy * dy + dx * dx);
    if (d > r1 + r2) return 0;
    const float smaller = std::fmin(r1, r2), larger = std::fmax(r1, r2);
    if (larger >= d + smaller - 1e-10) return static_cast<float>(pi * 4.0F / 3 * smaller * smaller * smaller);
    const float t = (r1 + r2 - d) / 2 / d;
    const float h1 = (r2 - r1 + d) * t;
    const float h2 = (r1 - r2 + d) * t;
    const auto v1 = static_cast<float>(pi / 3 * h1 * h1 * (3 * r1 - h1));
    const auto v2 = static_cast<float>(pi / 3 * h2 * h2 * (3 * r2 - h2));
    return (v1 + v2) / (anisotropy[0] * anisotropy[1] * anisotropy[2]);
}

// Ends of rays from the centre, stretched, as columns z, y and x.
void trace_ends(const StarMesh3D& mesh, const float* dist, const float* stretch, float* ends) {
    const auto n = static_cast<std::size_t>(mesh.n_rays);
    for (std::size_t k = 0; k < n; ++k)
        for (std::size_t axis = 0; axis < 3; ++axis)
            ends[axis * n + k] = stretch[axis] * dist[k] * mesh.rays[3 * k + axis];
}

float volume_of(const StarMesh3D& mesh, const float* ends) {
    const float* const z = ends;
    const float* const y = z + mesh.n_rays;
    const float* const x = y + mesh.n_rays;
    float volume = 0;
    for (const std::int32_t* face = mesh.faces; face < mesh.faces + 3 * mesh.n_faces; face += 3) {
        const std::int32_t a = face[0], b = face[1], c = face[2];
        const float m00 = z[b] - z[a], m01 = y[b] - y[a], m02 = x[b] - x[a];
        const float m10 = z[c] - z[a], m11 = y[c] - y[a], m12 = x[c] - x[a];
        const float m20 = -z[a], m21 = -y[a], m22 = -x[a];
        const float determinant = m00 * (m11 * m22 - m21 * m12) - m01 * (m10 * m22 - m12 * m20) +
                                  m02 * (m10 * m21 - m11 * m20);
        volume += determinant / 6.0F;
    }
    return volume;
}

float outer_radius_of(const StarMesh3D& mesh, const float* ends) {
    const auto n = static_cast<std::size_t>(mesh.n_rays);
    float most = 0;
    for (std::size_t k = 0; k < n; ++k)
        most = std::fmax(ends[k] * ends[k] + ends[n + k] * ends[n + k] + ends[2 * n + k] * ends[2 * n + k], most);
    return std::sqrt(most);
}

float inner_radius_of(const StarMesh3D& mesh, const float* ends) {
    const float* const z = ends;
    const float* const y = z + mesh.n_rays;
    const float* const x = y + mesh.n_rays;
    float least = INFINITY;
    for (const std::int32_t* face = mesh.faces; face < mesh.faces + 3 * mesh.n_faces; face += 3) {
        const std::int32_t a = face[0], b = face[1], c = face[2];
        const float pz = z[b] - z[a], py = y[b] - y[a], px = x[b] - x[a];
        const float qz = z[c] - z[a], qy = y[c] - y[a], qx = x[c] - x[a];
        const float nz = px * qy - py * qx, ny = pz * qx - px * qz, nx = py * qz - pz * qy;
        const auto scale = static_cast<float>(1.0F / (std::sqrt(nz * nz + ny * ny + nx * nx) + 1e-10));
        least = std::fmin(least, z[a] * (nz * scale) + y[a] * (ny * scale) + x[a] * (nx * scale));
    }
    return least;
}

// ---- Kept polyhedra -------------------------------------------------------------------------------------------

// The kept polyhedra in a hierarchy of uniform grids over their boxes: each is listed once, in the cell of its box's
// first corner, in the grid whose cells are just as large as the longest side of its box. A box of side s can touch only
// those listed in the (s / cell + 2)^3 cells around it, so one huge polyhedron costs nobody else anything.
class KeptPolyhedra {
public:
    std::uint32_t size() const { return static_cast<std::uint32_t>(kept_.size()); }
    Index operator[](std::uint32_t index) const { return kept_[index].candidate; }

    void add(Index candidate, const VoxelBox& box);

    // visit(index) for each kept polyhedron from `first` on that is listed near `box`. Returns how many cells and
    // polyhedra were looked at.
    template <typename Visit>
    std::int64_t visit_near(const VoxelBox& box, std::uint32_t first, const Visit& visit) const;

private:
    static constexpr int finest = 4, n_levels = 24;  // cells of 2^level voxels

    struct Kept {
        Index candidate;
        std::uint32_t next_in_cell;  // one more than its index, 0 at the end
    };
    struct Slot {
        std::uint64_t key;
        std::uint32_t head;  // one more than the index of a cell's latest polyhedron; 0: an empty slot
    };
    static std::uint64_t cell_key(int level, std::int64_t z, std::int64_t y, std::int64_t x) {
        // Vertices are within 2^21, so 18 bits and a sign hold cells of level 4.
        const auto positive = [](std::int64_t index) { return static_cast<std::uint64_t>(index + (1 << 18)); };
        return positive(z) << 43 | positive(y) << 24 | positive(x) << 5 | static_cast<std::uint64_t>(level);
    }
    std::size_t slot(std::uint64_t key) const {
        const std::size_t mask = slots_.size() - 1;
        std::size_t index = static_cast<std::size_t>(((key ^ (key >> 31)) * 0x9E3779B97F4A7C15U) >> 32) & mask;
        while (slots_[index].head != 0 && slots_[index].key != key) index = (index + 1) & mask;
        return index;
    }

    std::vector<Kept> kept_;
    std::vector<Slot> slots_ = std::vector<Slot>(64, Slot{0, 0});  // open addressing, a power of two
    std::size_t n_cells_ = 0;
    std::vector<std::uint32_t> in_level_[n_levels];
};

void KeptPolyhedra::add(Index candidate, const VoxelBox& box) {
    if (2 * (n_cells_ + 1) > slots_.size()) {
        std::vector<Slot> old(2 * slots_.size(), Slot{0, 0});
        old.swap(slots_);
        for (const Slot& entry : old)
            if (entry.head != 0) slots_[slot(entry.key)] = entry;
    }
    const std::int64_t side = std::max(box.side(0), std::max(box.side(1), box.side(2)));
    int level = finest;
    while ((std::int64_t{1} << level) < side) ++level;
    const std::uint64_t key = cell_key(level, box.first[0] >> level, box.first[1] >> level, box.first[2] >> level);
    Slot& found = slots_[slot(key)];
    if (found.head == 0) ++n_cells_;
    in_level_[level].push_back(size());
    kept_.push_back({candidate, found.head});
    found = {key, size()};
}

template <typename Visit>
std::int64_t KeptPolyhedra::visit_near(const VoxelBox& box, std::uint32_t first, const Visit& visit) const {
    std::int64_t n_looks = 0;
    for (int level = finest; level < n_levels; ++level) {
        const std::vector<std::uint32_t>& in_level = in_level_[level];
        if (in_level.empty() || in_level.back() < first) continue;
        std::int64_t begin[3], end[3];
        double n_cells = 1;  // up to 2^60
        for (int axis = 0; axis < 3; ++axis) {
            begin[axis] = (box.first[axis] - (std::int64_t{1} << level)) >> level;
            end[axis] = (std::int64_t{box.last[axis]} >> level) + 1;
            n_cells *= static_cast<double>(end[axis] - begin[axis]);
        }
        if (n_cells >= static_cast<double>(in_level.size())) {
            for (auto index = in_level.rbegin(); index != in_level.rend() && *index >= first; ++index, ++n_looks)
                visit(*index);
            continue;
        }
        for (std::int64_t z = begin[0]; z < end[0]; ++z)
            for (std::int64_t y = begin[1]; y < end[1]; ++y)
                for (std::int64_t x = begin[2]; x < end[2]; ++x) {
                    ++n_looks;
                    // Latest first, so the list can be left at the first that is too old.
                    std::uint32_t next = slots_[slot(cell_key(level, z, y, x))].head;
                    for (; next > first; next = kept_[next - 1].next_in_cell, ++n_looks) visit(next - 1);
                }
    }
    return n_looks;
}

// ---- Counting voxels ------------------------------------------------------------------------------------------

int count_bits(std::uint64_t bits) {
    bits -= (bits >> 1) & 0x5555555555555555U;
    bits = (bits & 0x3333333333333333U) + ((bits >> 2) & 0x3333333333333333U);
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F0F0F0F0FU;
    return static_cast<int>((bits * 0x0101010101010101U) >> 56);
}

// Up to 64 bits of a row of n_words, from bit `at` on.
std::uint64_t bits_from(const std::uint64_t* row, std::int64_t n_words, std::int64_t at) {
    const std::int64_t word = at >> 6;
    const int shift = static_cast<int>(at & 63);
    std::uint64_t bits = row[word] >> shift;
    if (shift != 0 && word + 1 < n_words) bits |= row[word + 1] << (64 - shift);
    return bits;
}

// Voxels that two polyhedra share in slice z of a box inside of both windows.
std::int64_t count_shared(StarVoxels3D& a, StarVoxels3D& b, const VoxelBox& box, std::int32_t z) {
    const std::uint64_t* const bits_a = a.slice(z);
    const std::uint64_t* const bits_b = b.slice(z);
    const std::int64_t words_a = a.words_per_row(), words_b = b.words_per_row();
    const std::int64_t at_a = std::int64_t{box.first[2]} - a.window().first[2];
    const std::int64_t at_b = std::int64_t{box.first[2]} - b.window().first[2];
    const std::int64_t width = box.side(2);
    std::int64_t count = 0;
    for (std::int32_t y = box.first[1]; y <= box.last[1]; ++y) {
        const std::uint64_t* const row_a = bits_a + (y - a.window().first[1]) * words_a;
        const std::uint64_t* const row_b = bits_b + (y - b.window().first[1]) * words_b;
        for (std::int64_t x = 0; x < width; x += 64) {
            std::uint64_t shared = bits_from(row_a, words_a, at_a + x) & bits_from(row_b, words_b, at_b + x);
            if (width - x < 64) shared &= (std::uint64_t{1} << (width - x)) - 1;
            count += count_bits(shared);
        }
    }
    return count;
}

// How many voxels a box has, as far as that can be counted.
std::int64_t voxels_of(const VoxelBox& box) {
    const double volume = static_cast<double>(box.side(0) * box.side(1)) * static_cast<double>(box.side(2));  // < 2^67
    return volume < 9e18 ? static_cast<std::int64_t>(volume) : INT64_MAX;
}

// Adds the voxels that two polyhedra share in a box inside of both windows to a total, and takes those that were looked at
// from those that are left: until the total is at least `most`, or with all that are left less than `least`.
void add_shared(StarVoxels3D& a, StarVoxels3D& b, const VoxelBox& box, std::int64_t most, std::int64_t least,
                std::int64_t* left, std::int64_t* total, std::int64_t* work) {
    const std::int64_t slice = box.side(1) * box.side(2);
    const std::int64_t rows = box.side(1) * ((box.side(2) + 63) / 64);
    // Slice by slice, from the middle outwards: there most is shared.
    std::int32_t below = box.first[0] + (box.last[0] - box.first[0]) / 2, above = below + 1;
    while (below >= box.first[0] || above <= box.last[0]) {
        const bool goes_down = below >= box.first[0] && (above > box.last[0] || (above - below) % 2 != 0);
        const std::int32_t z = goes_down ? below-- : above++;
        *total += count_shared(a, b, box, z);
        *work += rows + a.doubts_of(z) + b.doubts_of(z);
        *left -= slice;
        if (*total >= most || *left < least - *total) return;
    }
}

// The fewest shared voxels with which the original suppresses: more than the threshold times the smaller volume, or just
// that where its quotient, in float32, rounds up.
std::int64_t fewest_to_suppress(double smaller_volume, float nms_thresh) {
    const auto most = static_cast<float>(smaller_volume * nms_thresh);
    if (!(most >= 0 && most < 4e18F)) return never;
    const auto whole = static_cast<std::int64_t>(most);
    return static_cast<float>(static_cast<float>(whole) / smaller_volume) > nms_thresh ? whole : whole + 1;
}

// By how much a count of voxels can differ from the volume of a body of this volume, in practice. Each voxel at the surface
// is off by some 0.3, and their number grows as the volume to the power of 2/3: this is about seven times the error of as
// many that do not depend on each other, and an eighth of the volume, for flat ones that do. In a box of up to three
// layers of voxels it can be any: a body thinner than a voxel fills the layer that it lies in, or is between two.
std::int64_t surface_rounding(double volume, const VoxelBox& box) {
    if (std::min(box.side(0), std::min(box.side(1), box.side(2))) <= 3) return any_rounding;
    return static_cast<std::int64_t>(5 * std::cbrt(volume) + volume / 8) + 2;
}

// ---- Suppression ----------------------------------------------------------------------------------------------

// Which polyhedron suppressed the last candidate nearby: most likely it suppresses the next one too.
class LastSuppressors {
public:
    void clear() { indices_.fill(none); }
    std::uint32_t& near(const std::int32_t* point) {
        const std::int32_t cell = ((point[0] >> 2) * 37 + (point[1] >> 2)) * 37 + (point[2] >> 2);
        return indices_[static_cast<std::uint32_t>(cell) % indices_.size()];
    }

private:
    std::array<std::uint32_t, 4096> indices_;
};

struct Scratch {
    struct Placed {
        std::uint32_t index = none;  // of a kept polyhedron, or the candidate
        StarVoxels3D voxels;
    };
    LastSuppressors last;
    std::array<Placed, 16> kept;      // by their index modulo 16
    StarVoxels3D own;                 // of the candidate that is looked at
    bool own_is_placed = false;
    StarVoxels3D part_of_kept, part_of_own;
    HalfSpaceVolume volume;
    std::vector<float> vertices;
    std::vector<std::pair<std::int64_t, std::uint32_t>> neighbours;  // squared distance of centres, index
    std::int64_t work = 0;                                           // done and not yet counted
};

// Whether two rays of a face have the same direction, within 1e-6.
bool is_flat(const float* rays, const std::int32_t* face) {
    double units[3][3];
    for (int corner = 0; corner < 3; ++corner) {
        const float* const ray = rays + 3 * face[corner];
        const double length = std::hypot(double{ray[0]}, double{ray[1]}, double{ray[2]});
        for (int axis = 0; axis < 3; ++axis) units[corner][axis] = ray[axis] / length;
    }
    const auto away = [&](int a, int b) {
        return std::hypot(units[a][0] - units[b][0], units[a][1] - units[b][1], units[a][2] - units[b][2]);
    };
    return away(0, 1) < 1e-6 || away(1, 2) < 1e-6 || away(2, 0) < 1e-6;
}

class Suppression {
public:
    Suppression(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                const StarMesh3D& mesh, float nms_thresh, std::int64_t max_work, const std::int32_t* cancel)
        : prob_(prob), dist_(dist), points_(points), n_(n), mesh_(mesh), solid_mesh_(mesh), nms_thresh_(nms_thresh),
          max_work_(max_work), cancel_(cancel) {
        for (const std::int32_t* face = mesh.faces; face < mesh.faces + 3 * mesh.n_faces; face += 3)
            if (!is_flat(mesh.rays, face)) solid_faces_.insert(solid_faces_.end(), face, face + 3);
        solid_mesh_.faces = solid_faces_.data();
        solid_mesh_.n_faces = static_cast<std::int32_t>(solid_faces_.size() / 3);
    }

    // The survivors, best first. `is_open` is null, or tells the candidates that some not given may overlap: then states,
    // n, become StarState.
    std::vector<Index> run(const std::uint8_t* is_open, int n_threads, std::uint8_t* states);

private:
    void poll() const {
        if (cancel_ && *static_cast<const volatile std::int32_t*>(cancel_) != 0) throw Failure(CELLRT_ERROR_CANCELLED);
    }
    const float* dist(Index candidate) const { return dist_ + std::size_t{candidate} * static_cast<std::size_t>(mesh_.n_rays); }
    std::array<float, 3> point(Index candidate) const {
        const std::int32_t* const at = points_ + 3 * std::size_t{candidate};
        return {static_cast<float>(at[0]), static_cast<float>(at[1]), static_cast<float>(at[2])};
    }
    void rank();
    void summarise(int n_threads);
    bool suppresses(std::uint32_t index, Index candidate, Scratch& scratch) const;
    bool shares_enough(std::uint32_t index, Index candidate, float smaller, Scratch& scratch) const;
    double shared_volume(std::uint32_t index, Index candidate, double enough, bool of_hulls, Scratch& scratch) const;
    std::int64_t count_shared_up_to(std::uint32_t index, Index candidate, const VoxelBox& box, std::int64_t most,
                                    std::int64_t least, Scratch& scratch) const;
    std::int64_t count_in_parts(const StarMesh3D& mesh, std::uint32_t index, Index candidate, const VoxelBox& box,
                                std::int64_t most, std::int64_t least, Scratch& scratch) const;
    std::uint32_t suppressor_of(Index candidate, std::uint32_t first_kept, std::uint32_t likely, bool is_certain,
                                Scratch& scratch);
    bool is_undecided(Index candidate, std::uint32_t first_kept, Scratch& scratch) {
        return n_uncertain_ > 0 && suppressor_of(candidate, first_kept, none, false, scratch) != none;
    }
    void count(Scratch& scratch) {
        const std::int64_t work = std::exchange(scratch.work, 0);
        require(work_.fetch_add(work, std::memory_order_relaxed) + work <= max_work_, CELLRT_ERROR_CAPACITY);
    }
    std::unique_ptr<Scratch> take_scratch();
    void return_scratch(std::unique_ptr<Scratch> scratch);

    const float* const prob_;
    const float* const dist_;
    const std::int32_t* const points_;
    const std::int64_t n_;
    const StarMesh3D mesh_;
    std::vector<std::int32_t> solid_faces_;  // those that enclose something
    StarMesh3D solid_mesh_;
    const float nms_thresh_;
    const std::int64_t max_work_;
    const std::int32_t* const cancel_;
    float anisotropy_[3] = {};
    std::vector<Index> ranked_;
    std::vector<Summary> summaries_;
    KeptPolyhedra kept_;
    std::vector<std::uint8_t> is_certain_;  // of those: 0 where it is undecided
    std::size_t n_uncertain_ = 0;           // of those
    std::atomic<std::int64_t> work_{0};
    std::mutex scratch_mutex_;
    std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

void Suppression::rank() {
    ranked_.resize(static_cast<std::size_t>(n_));
    for (std::size_t i = 0; i < ranked_.size(); ++i) ranked_[i] = static_cast<Index>(i);
    std::sort(ranked_.begin(), ranked_.end(),
              [this](Index a, Index b) { return prob_[a] != prob_[b] ? prob_[a] > prob_[b] : a < b; });
}

void Suppression::summarise(int n_threads) {
    summaries_.resize(static_cast<std::size_t>(n_));
    constexpr float unstretched[3] = {1, 1, 1};
    const auto n_values = 3 * static_cast<std::size_t>(mesh_.n_rays);
    parallel_for(n_, 256, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> values(n_values);
        for (std::int64_t i = begin; i < end; ++i) {
            const auto candidate = static_cast<Index>(i);
            Summary& summary = summaries_[candidate];
            summary.box = star_vertices_3d(mesh_, dist(candidate), point(candidate).data(), values.data());
            trace_ends(mesh_, dist(candidate), unstretched, values.data());
            summary.volume = volume_of(mesh_, values.data());
        }
        poll();
    });
    // The sums of the original with one thread; with more, its threads overwrite each other's.
    for (const Index candidate : ranked_)
        for (int axis = 0; axis < 3; ++axis) {
            const VoxelBox& box = summaries_[candidate].box;
            anisotropy_[axis] += static_cast<float>(std::max(box.last[axis], -1) - box.first[axis]) /
                                 static_cast<float>(n_);
        }
    const float most = std::fmax(std::fmax(anisotropy_[0], anisotropy_[1]), anisotropy_[2]);
    for (float& extent : anisotropy_) extent = most / extent;
    parallel_for(n_, 256, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> values(n_values);
        for (std::int64_t i = begin; i < end; ++i) {
            const auto candidate = static_cast<Index>(i);
            Summary& summary = summaries_[candidate];
            trace_ends(mesh_, dist(candidate), anisotropy_, values.data());
            summary.outer_radius = outer_radius_of(mesh_, values.data());
            summary.inner_radius = inner_radius_of(mesh_, values.data());
        }
        poll();
    });
}

bool Suppression::suppresses(std::uint32_t index, Index candidate, Scratch& scratch) const {
    const Index other = kept_[index];
    const Summary& one = summaries_[other];
    const Summary& two = summaries_[candidate];
    const std::array<float, 3> at_one = point(other), at_two = point(candidate);
    ++scratch.work;
    const float smaller = std::fmin(one.volume, two.volume);
    const float shared_box = static_cast<float>(shared_length(one.box, two.box, 2)) *
                             static_cast<float>(shared_length(one.box, two.box, 1)) *
                             static_cast<float>(shared_length(one.box, two.box, 0));
    const float above = std::fmin(
        shared_sphere_volume(one.outer_radius, at_one.data(), two.outer_radius, at_two.data(), anisotropy_), shared_box);
    if (above < 1e-10 || static_cast<float>(std::fmin(1.0, above / (smaller + 1e-10))) <= nms_thresh_) return false;
    const float below =
        shared_sphere_volume(one.inner_radius, at_one.data(), two.inner_radius, at_two.data(), anisotropy_);
    if (static_cast<float>(std::fmax(0.0, below / (smaller + 1e-10))) > nms_thresh_) return true;
    return shares_enough(index, candidate, smaller, scratch);
}

// Decisions 3 to 5 for a kept polyhedron and a candidate.
bool Suppression::shares_enough(std::uint32_t index, Index candidate, float smaller, Scratch& scratch) const {
    const std::int64_t needed = fewest_to_suppress(smaller + 1e-10, nms_thresh_);
    const double limit = static_cast<double>(nms_thresh_) * (smaller + 1e-10);
    if (needed == never) return false;
    const VoxelBox box = summaries_[kept_[index]].box.common(summaries_[candidate].box);
    const std::int64_t rounding = surface_rounding(limit, box);
    const std::int64_t least = needed - rounding, most = needed + rounding;
    const std::int64_t count = count_shared_up_to(index, candidate, box, most, least, scratch);
    if (count >= most) return true;
    const bool is_enough = solid_mesh_.n_faces == mesh_.n_faces
                               ? count >= needed
                               : count_in_parts(mesh_, index, candidate, summaries_[kept_[index]].box, needed, needed,
                                                scratch) >= needed;
    if (count < least && !is_enough) return false;
    // Close. A count that is enough is overruled by hulls that share too little, one that is not by kernels that do.
    const double volume = shared_volume(index, candidate, limit, is_enough, scratch);
    const auto exceeds = static_cast<float>(static_cast<float>(volume) / (smaller + 1e-10)) > nms_thresh_;
    return is_enough ? volume < 0 || exceeds : volume >= 0 && exceeds;
}

// The volume that the hulls or the kernels of two polyhedra share, or any number above `enough` if it is more; -1 if the
// middle between the centres is not in all of them: there the original gives up.
double Suppression::shared_volume(std::uint32_t index, Index candidate, double enough, bool of_hulls,
                                  Scratch& scratch) const {
    std::vector<HalfSpace> half_spaces[2];
    double middle[3] = {0, 0, 0};
    int which = 0;
    scratch.vertices.resize(3 * static_cast<std::size_t>(mesh_.n_rays));
    for (const Index some : {kept_[index], candidate}) {
        const std::array<float, 3> at = point(some);
        star_vertices_3d(mesh_, dist(some), at.data(), scratch.vertices.data());
        half_spaces[which++] = of_hulls ? convex_hull_3d(scratch.vertices.data(), mesh_.n_rays)
                                        : star_kernel_3d(mesh_, scratch.vertices.data());
        for (int axis = 0; axis < 3; ++axis) middle[axis] += 0.5 * at[static_cast<std::size_t>(axis)];
    }
    if (half_spaces[0].empty() || half_spaces[1].empty()) return -1;
    std::int64_t n_looks = 0;
    const double volume = scratch.volume.measure(half_spaces[0], half_spaces[1], middle, enough * (1 + 1e-6) + 1, &n_looks);
    scratch.work += n_looks / looks_per_unit + 4 * mesh_.n_faces;
    return volume;
}

// How many voxels a kept polyhedron and a candidate share, in their faces that enclose something: exactly, or if it is at
// least `most` or less than `least`, any number of which the same is true.
std::int64_t Suppression::count_shared_up_to(std::uint32_t index, Index candidate, const VoxelBox& box, std::int64_t most,
                                             std::int64_t least, Scratch& scratch) const {
    const Index other = kept_[index];
    const auto fits = [](const VoxelBox& whole) {
        return whole.side(0) <= most_bits && whole.side(1) <= most_bits && whole.side(2) <= most_bits &&
               whole.side(0) * whole.side(1) <= most_bits &&
               whole.side(0) * whole.side(1) * ((whole.side(2) + 63) / 64 * 64) <= most_bits;
    };
    if (!fits(summaries_[other].box) || !fits(summaries_[candidate].box))
        return count_in_parts(solid_mesh_, index, candidate, box, most, least, scratch);
    if (box.is_empty()) return 0;
    scratch.work += mesh_.n_faces;
    std::int64_t left = voxels_of(box);
    if (left < least) return 0;
    Scratch::Placed& remembered = scratch.kept[index % scratch.kept.size()];
    if (remembered.index != index) {
        remembered.index = none;
        remembered.voxels.place(solid_mesh_, dist(other), point(other).data(), summaries_[other].box, false);
        remembered.index = index;
    }
    if (!scratch.own_is_placed)
        scratch.own.place(solid_mesh_, dist(candidate), point(candidate).data(), summaries_[candidate].box, false);
    scratch.own_is_placed = true;
    std::int64_t total = 0;
    add_shared(remembered.voxels, scratch.own, box, most, least, &left, &total, &scratch.work);
    return total;
}

// The same of any box and with any faces: part by part, for polyhedra that are large, and without remembering anything.
std::int64_t Suppression::count_in_parts(const StarMesh3D& mesh, std::uint32_t index, Index candidate,
                                         const VoxelBox& box, std::int64_t most, std::int64_t least,
                                         Scratch& scratch) const {
    if (box.is_empty()) return 0;
    constexpr std::int32_t sides[3] = {64, 64, 256};
    const Index other = kept_[index];
    std::int64_t left = voxels_of(box), total = 0;
    scratch.work += mesh.n_faces;
    for (std::int32_t z = box.first[0]; z <= box.last[0]; z += sides[0])
        for (std::int32_t y = box.first[1]; y <= box.last[1]; y += sides[1])
            for (std::int32_t x = box.first[2]; x <= box.last[2]; x += sides[2]) {
                poll();
                const std::int32_t first[3] = {z, y, x};
                VoxelBox part;
                for (int axis = 0; axis < 3; ++axis) {
                    part.first[axis] = first[axis];
                    part.last[axis] = std::min(box.last[axis], first[axis] + sides[axis] - 1);
                }
                scratch.work += 2 * mesh.n_faces;
                require(work_.load(std::memory_order_relaxed) + scratch.work <= max_work_, CELLRT_ERROR_CAPACITY);
                scratch.part_of_kept.place(mesh, dist(other), point(other).data(), part, false);
                scratch.part_of_own.place(mesh, dist(candidate), point(candidate).data(), part, false);
                add_shared(scratch.part_of_kept, scratch.part_of_own, part, most, least, &left, &total, &scratch.work);
                if (total >= most || left < least - total) return total;
            }
    return total;
}

// The index of a polyhedron kept from `first_kept` on, for certain or not, that suppresses the candidate, or `none`. The one
// at `likely`, if there is one, is compared first, then the others, the closest first.
std::uint32_t Suppression::suppressor_of(Index candidate, std::uint32_t first_kept, std::uint32_t likely, bool is_certain,
                                         Scratch& scratch) {
    poll();
    scratch.own_is_placed = false;
    const VoxelBox& box = summaries_[candidate].box;
    if (likely != none && suppresses(likely, candidate, scratch)) return likely;
    auto& neighbours = scratch.neighbours;
    neighbours.clear();
    const std::int32_t* const at = points_ + 3 * std::size_t{candidate};
    const std::int64_t n_looks = kept_.visit_near(box, first_kept, [&](std::uint32_t index) {
        const Index other = kept_[index];
        if (index == likely || (is_certain_[index] != 0) != is_certain) return;
        if (!overlap(summaries_[other].box, box)) return;
        std::int64_t squared = 0;
        for (std::size_t axis = 0; axis < 3; ++axis) {
            const std::int64_t away = std::int64_t{points_[3 * std::size_t{other} + axis]} - at[axis];
            squared += away * away;
        }
        neighbours.emplace_back(squared, index);
    });
    scratch.work += n_looks / looks_per_unit + 1;
    std::sort(neighbours.begin(), neighbours.end());
    std::uint32_t found = none;
    for (const auto& neighbour : neighbours) {
        poll();
        if (suppresses(neighbour.second, candidate, scratch)) {
            found = neighbour.second;
            break;
        }
        if (scratch.work > uncounted_work) count(scratch);
    }
    if (scratch.work > uncounted_work) count(scratch);
    return found;
}

std::unique_ptr<Scratch> Suppression::take_scratch() {
    const std::lock_guard<std::mutex> lock(scratch_mutex_);
    if (free_scratch_.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> scratch = std::move(free_scratch_.back());
    free_scratch_.pop_back();
    return scratch;
}

void Suppression::return_scratch(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> lock(scratch_mutex_);
    free_scratch_.push_back(std::move(scratch));
}

std::vector<Index> Suppression::run(const std::uint8_t* is_open, int n_threads, std::uint8_t* states) {
    // Chunks become longer, as more is kept: what conflicts within one stays little.
    constexpr std::size_t shortest = 64, growth = 1;
    rank();
    summarise(n_threads);
    std::vector<Index> survivors, chunk;
    std::vector<std::uint8_t> own_states;
    if (!states) {
        own_states.resize(static_cast<std::size_t>(n_));
        states = own_states.data();
    }
    std::fill(states, states + n_, kept_for_certain);  // until something else is found
    const std::unique_ptr<Scratch> own_scratch = take_scratch();
    for (std::size_t begin = 0, end; begin < ranked_.size(); begin = end) {
        end = std::min(ranked_.size(), begin + std::max(shortest, growth * begin));
        const std::uint32_t n_before = kept_.size();
        if (n_before > 0) {
            // In the order in which they lie in memory, which is mostly that of the volume.
            chunk.assign(ranked_.begin() + static_cast<std::ptrdiff_t>(begin),
                         ranked_.begin() + static_cast<std::ptrdiff_t>(end));
            std::sort(chunk.begin(), chunk.end());
            const auto n = static_cast<std::int64_t>(chunk.size());
            // The same for any number of threads: where a grain begins, nothing is remembered.
            const std::int64_t grain = std::min<std::int64_t>(std::max<std::int64_t>(n / 32, 16), 2048);
            parallel_for(n, grain, n_threads, [&](std::int64_t from, std::int64_t to) {
                std::unique_ptr<Scratch> scratch = take_scratch();
                scratch->last.clear();
                for (std::int64_t i = from; i < to; ++i) {
                    const Index candidate = chunk[static_cast<std::size_t>(i)];
                    std::uint32_t& last = scratch->last.near(points_ + 3 * std::size_t{candidate});
                    const std::uint32_t suppressor = suppressor_of(candidate, 0, last, true, *scratch);
                    if (suppressor != none) {
                        states[candidate] = dropped;
                        last = suppressor;
                    } else if ((is_open && is_open[candidate]) || is_undecided(candidate, 0, *scratch)) {
                        states[candidate] = undecided;
                    }
                }
                count(*scratch);
                return_scratch(std::move(scratch));
            });
        }
        for (std::size_t i = begin; i < end; ++i) {
            const Index candidate = ranked_[i];
            if (states[candidate] == dropped) continue;
            if (suppressor_of(candidate, n_before, none, true, *own_scratch) != none) {
                states[candidate] = dropped;
                continue;
            }
            if ((is_open && is_open[candidate]) ||
                (states[candidate] == kept_for_certain && is_undecided(candidate, n_before, *own_scratch)))
                states[candidate] = undecided;
            const bool is_certain = states[candidate] == kept_for_certain;
            if (is_certain) survivors.push_back(candidate);
            // One whose box has no volume overlaps nothing.
            if (!overlap(summaries_[candidate].box, summaries_[candidate].box)) continue;
            is_certain_.push_back(is_certain);
            n_uncertain_ += !is_certain;
            kept_.add(candidate, summaries_[candidate].box);
        }
        count(*own_scratch);
    }
    return survivors;
}

void check_candidates(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                      std::int32_t n_rays, int n_threads) {
    parallel_for(n, 4096, n_threads, [&](std::int64_t begin, std::int64_t end) {
        bool usable = true;
        for (std::int64_t i = begin; i < end; ++i) usable &= prob[i] == prob[i];
        for (std::int64_t i = 3 * begin; i < 3 * end; ++i)
            usable &= points[i] >= -farthest_point && points[i] <= farthest_point;
        for (std::int64_t i = begin * n_rays; i < end * n_rays; ++i) usable &= dist[i] > 0 && dist[i] <= longest_ray;
        require(usable, CELLRT_ERROR_DATA);
    });
}

}  // namespace

void star_nms_3d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                 const StarMesh3D& mesh, float nms_thresh, std::int64_t max_work, const std::int32_t* cancel,
                 int n_threads, std::int64_t* n_kept, std::int64_t* kept) {
    check_candidates(prob, dist, points, n, mesh.n_rays, n_threads);
    Suppression suppression(prob, dist, points, n, mesh, nms_thresh, max_work, cancel);
    const std::vector<Index> survivors = suppression.run(nullptr, n_threads, nullptr);
    std::copy(survivors.begin(), survivors.end(), kept);
    *n_kept = static_cast<std::int64_t>(survivors.size());
}

void star_settle_3d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                    const StarMesh3D& mesh, const std::uint8_t* is_open, float nms_thresh, std::int64_t max_work,
                    const std::int32_t* cancel, int n_threads, std::uint8_t* states) {
    check_candidates(prob, dist, points, n, mesh.n_rays, n_threads);
    Suppression suppression(prob, dist, points, n, mesh, nms_thresh, max_work, cancel);
    suppression.run(is_open, n_threads, states);
}

}  // namespace cellrt
