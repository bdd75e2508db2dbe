// flow (3, Z, Y, X), cellprob (Z, Y, X) -> voxels inside cells (n,), and where the flow carries each (n, 3): z, y, x.
//
// flow_follow_2d.cpp with an axis more: a field of what one step adds, with zeros around it; trajectories in small blocks
// of the volume; rounds of steps, after which those that came back to where they were are at their end. There is one
// kind of step: Cellpose 3 and 4 both use torch's grid_sample here, which for volumes is plain code, compiled without
// fused multiply-add. So the order of the operations is all that has to be kept.
//
// A voxel of the field is four floats, so that it is one load, and two trajectories fill a vector.
//
// Of a volume that does not fit in memory there may be a window only. Positions are those in the whole volume, so that all
// is rounded as it would be there. The outermost voxels of the window, where it is cut, are NaN in the field: a trajectory
// that comes near them becomes NaN for good, and nobody takes it for one that ended.
#include "flow_follow_3d.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "flow_steps.hpp"
#include "instruction_set.hpp"
#include "parallel.hpp"
#include "status.hpp"

#if defined(CELLRT_HAS_AVX2)
#include <immintrin.h>
#endif

namespace cellrt {
namespace {

constexpr std::int64_t tile_planes = 8;
constexpr std::int64_t tile_rows = 8;
constexpr std::int64_t tile_columns = 32;
constexpr std::int64_t batch_size = 1024;  // trajectories; a batch takes tiles until it holds as many
constexpr std::int64_t lanes = 16;         // trajectories that advance side by side, to hide how long each step takes

// From -1 to 1 between the first and the last voxel of each axis.
struct alignas(16) Position {
    float z, y, x, nothing;
};

// What one step adds, z, y, x per voxel; zeros around the volume. A row has one zero before it, a plane one row of zeros,
// the volume one plane of zeros before and one after it, and a row: what is beyond the end of a row or a plane is what
// is before the next.
class Field {
public:
    Field(std::int64_t n_z, std::int64_t n_y, std::int64_t n_x)
        : row_(n_x + 1), plane_((n_y + 1) * row_), n_rows_((n_z + 2) * (n_y + 1)),
          memory_(new Position[static_cast<std::size_t>((n_z + 2) * plane_ + row_ + 1)]) {}
    std::int64_t row() const { return row_; }      // voxels from one row to the next
    std::int64_t plane() const { return plane_; }  // and from one plane
    std::int64_t n_rows() const { return n_rows_; }  // without the last
    // The voxel (-1, -1, -1), and with it the first of all rows in the order of memory.
    Position* begin() { return memory_.get(); }
    const Position* begin() const { return memory_.get(); }

private:
    std::int64_t row_, plane_, n_rows_;
    std::unique_ptr<Position[]> memory_;  // not initialised: fill_field() does that on all threads
};

// What there is of a volume: a window of n_z * n_y * n_x voxels.
struct Volume {
    const float* flow;
    const float* cellprob;
    std::int64_t n_z, n_y, n_x;
    const FlowWindow3D& window;
    float cellprob_thresh;
};

// The sides of the whole volume, for whoever computes with floats, and where the window lies in it.
struct Frame {
    Position side;  // voxels
    Position step;  // of a flow of one voxel
    Position last;  // the last voxel
    // z, y, x, nothing: the voxel before the window's first, and where a trajectory may be for the field, both counted
    // from (-1, -1, -1)
    std::array<std::int32_t, 4> origin, lowest, highest;
};

Frame frame_of(const Volume& volume) {
    const auto side = [](std::int64_t n) { return static_cast<float>(n); };  // exact: 2^20 at most
    const auto [n_z, n_y, n_x] = volume.window.volume;
    Frame frame{{side(n_z), side(n_y), side(n_x), 0},
                {unit_of_pixel(n_z), unit_of_pixel(n_y), unit_of_pixel(n_x), 0},
                {float_not_above(n_z - 1), float_not_above(n_y - 1), float_not_above(n_x - 1), 0},
                {}, {}, {}};
    const std::array<std::int64_t, 3> sides{volume.n_z, volume.n_y, volume.n_x};
    for (std::size_t axis = 0; axis < 3; ++axis) {
        const auto origin = static_cast<std::int32_t>(volume.window.origin[axis]);
        const auto n = static_cast<std::int32_t>(sides[axis]);
        frame.origin[axis] = origin;
        frame.lowest[axis] = origin + (volume.window.is_cut_before(axis) ? 1 : 0);
        frame.highest[axis] = origin + n - (volume.window.is_cut_after(axis, n) ? 1 : 0);
    }
    return frame;
}

// ---- One step ---------------------------------------------------------------------------------------------------

// Between which two voxels of an axis a coordinate lies, and the weights of both.
struct Neighbours {
    std::int64_t first;
    float far, near;  // of the first, of the second: distances from the other

    Neighbours(float coordinate, float side) {
        const float exact = ((coordinate + 1.0F) * side - 1.0F) / 2.0F;
        const auto towards_zero = static_cast<std::int32_t>(exact >= -1.0F ? exact : -1.0F);  // NaN is somewhere too
        const auto before = static_cast<float>(towards_zero - (static_cast<float>(towards_zero) > exact ? 1 : 0));
        first = static_cast<std::int64_t>(before);
        near = exact - before;
        far = (before + 1.0F) - exact;
    }
};

// Of NaN, NaN: the order of the arguments is what keeps it.
inline float moved(float coordinate, float step) { return std::min(std::max(coordinate + step, -1.0F), 1.0F); }

Position advance_one(const Field& field, const Frame& frame, Position p) {
    const Neighbours z(p.z, frame.side.z), y(p.y, frame.side.y), x(p.x, frame.side.x);
    const auto in_window = [&](const Neighbours& neighbours, std::size_t axis) {
        const std::int64_t lowest = frame.lowest[axis], highest = frame.highest[axis];
        return std::clamp(neighbours.first + 1, lowest, highest) - frame.origin[axis];
    };
    const Position* const corner =
        field.begin() + in_window(z, 0) * field.plane() + in_window(y, 1) * field.row() + in_window(x, 2);
    const float xy[4] = {x.far * y.far, x.near * y.far, x.far * y.near, x.near * y.near};
    const std::int64_t offsets[4] = {0, 1, field.row(), field.row() + 1};
    Position step{0, 0, 0, 0};
    for (int half = 0; half < 2; ++half) {
        const Position* const plane = corner + (half == 0 ? 0 : field.plane());
        for (int k = 0; k < 4; ++k) {
            const float weight = xy[k] * (half == 0 ? z.far : z.near);
            const Position& voxel = plane[offsets[k]];
            step.z += voxel.z * weight;
            step.y += voxel.y * weight;
            step.x += voxel.x * weight;
        }
    }
    return {moved(p.z, step.z), moved(p.y, step.y), moved(p.x, step.x), 0};
}

// ---- A round of steps of many trajectories ------------------------------------------------------------------------

using Block = std::array<Position, lanes>;

// `history` holds a block after 0, 1 ... n_steps steps of a round. Whether a trajectory is back where it was at one of
// them; then *end is where it will be `left` steps later.
bool is_on_circle(const Block* history, std::int32_t n_steps, std::size_t lane, std::int32_t left, Position* end) {
    const Position now = history[n_steps][lane];
    if (std::isnan(now.z)) return true;  // it stays so
    for (std::int32_t step = n_steps - 1; step >= 0; --step) {
        const Position before = history[step][lane];
        if (before.z == now.z && before.y == now.y && before.x == now.x) {
            *end = history[step + left % (n_steps - step)][lane];
            return true;
        }
    }
    return false;
}

// Moves blocks of positions by n_steps. Those that go round in circles are moved on by the steps that are left after
// this round, and get a 1 in is_at_end, which has one bit per trajectory.
void advance_baseline(const Field& field, const Frame& frame, std::int32_t n_steps, std::int32_t left, Block* history,
                      Block* blocks, std::int64_t n_blocks, std::uint32_t* is_at_end) {
    for (std::int64_t i = 0; i < n_blocks; ++i) {
        history[0] = blocks[i];
        for (std::int32_t step = 0; step < n_steps; ++step) {
            for (std::size_t lane = 0; lane < lanes; ++lane)
                history[step + 1][lane] = advance_one(field, frame, history[step][lane]);
        }
        blocks[i] = history[n_steps];
        is_at_end[i] = 0;
        for (std::size_t lane = 0; lane < lanes; ++lane)
            is_at_end[i] |= std::uint32_t{is_on_circle(history, n_steps, lane, left, &blocks[i][lane])} << lane;
    }
}

#if defined(CELLRT_HAS_AVX2)

// A Field and a Frame for vectors; z, y, x, nothing, twice.
struct Constants {
    const float* corner;     // the voxel (-1, -1, -1)
    std::int64_t row, plane;  // floats
    __m256 side;
    __m256i origin, lowest, highest;
};

CELLRT_TARGET_AVX2 inline __m256i twice(const std::array<std::int32_t, 4>& values) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values.data())));
}

// Where two trajectories are.
struct Place {
    alignas(32) std::int32_t voxel[8];  // before each, from (-1, -1, -1)
    alignas(32) float near[8], far[8];
};

CELLRT_TARGET_AVX2 inline void locate(const Constants& constants, __m256 p, Place* place) {
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 doubled = _mm256_sub_ps(_mm256_mul_ps(_mm256_add_ps(p, one), constants.side), one);
    const __m256 exact = _mm256_mul_ps(doubled, _mm256_set1_ps(0.5F));
    const __m256 after = _mm256_add_ps(_mm256_floor_ps(exact), one);
    const __m256i voxel = _mm256_min_epi32(_mm256_max_epi32(_mm256_cvtps_epi32(after), constants.lowest), constants.highest);
    _mm256_store_si256(reinterpret_cast<__m256i*>(place->voxel), _mm256_sub_epi32(voxel, constants.origin));
    _mm256_store_ps(place->near, _mm256_sub_ps(exact, _mm256_floor_ps(exact)));
    _mm256_store_ps(place->far, _mm256_sub_ps(after, exact));
}

// The voxels at `a` and `b`.
CELLRT_TARGET_AVX2 inline __m256 load_two(const float* a, const float* b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_load_ps(a)), _mm_load_ps(b), 1);
}

CELLRT_TARGET_AVX2 inline const float* corner_of(const Constants& constants, const std::int32_t* voxel) {
    return constants.corner + voxel[0] * constants.plane + voxel[1] * constants.row + std::int64_t{voxel[2]} * 4;
}

CELLRT_TARGET_AVX2 inline __m256 advance_two(const Constants& constants, __m256 p, const Place& place) {
    const float* a = corner_of(constants, place.voxel);
    const float* b = corner_of(constants, place.voxel + 4);
    const __m256 near = _mm256_load_ps(place.near), far = _mm256_load_ps(place.far);
    const __m256 x = _mm256_permute_ps(_mm256_unpackhi_ps(far, near), 0x44);  // far, near, far, near
    const __m256 y = _mm256_permute_ps(_mm256_unpacklo_ps(far, near), 0xFA);  // far, far, near, near
    const __m256 xy = _mm256_mul_ps(x, y);
    const __m256 above = _mm256_mul_ps(xy, _mm256_permute_ps(far, 0x00));
    const __m256 below = _mm256_mul_ps(xy, _mm256_permute_ps(near, 0x00));
    const std::int64_t row = constants.row;
    __m256 step = _mm256_mul_ps(load_two(a, b), _mm256_permute_ps(above, 0x00));
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a + 4, b + 4), _mm256_permute_ps(above, 0x55)));
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a + row, b + row), _mm256_permute_ps(above, 0xAA)));
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a + row + 4, b + row + 4), _mm256_permute_ps(above, 0xFF)));
    a += constants.plane;
    b += constants.plane;
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a, b), _mm256_permute_ps(below, 0x00)));
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a + 4, b + 4), _mm256_permute_ps(below, 0x55)));
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a + row, b + row), _mm256_permute_ps(below, 0xAA)));
    step = _mm256_add_ps(step, _mm256_mul_ps(load_two(a + row + 4, b + row + 4), _mm256_permute_ps(below, 0xFF)));
    const __m256 one = _mm256_set1_ps(1.0F), minus_one = _mm256_set1_ps(-1.0F);
    return _mm256_min_ps(one, _mm256_max_ps(minus_one, _mm256_add_ps(p, step)));
}

// As advance_baseline().
CELLRT_TARGET_AVX2 void advance_avx2(const Field& field, const Frame& frame, std::int32_t n_steps, std::int32_t left,
                                     Block* history, Block* blocks, std::int64_t n_blocks, std::uint32_t* is_at_end) {
    constexpr int n_vectors = lanes / 2;
    const Position& side = frame.side;
    const Constants constants{&field.begin()->z,
                              4 * field.row(),
                              4 * field.plane(),
                              _mm256_setr_ps(side.z, side.y, side.x, 0, side.z, side.y, side.x, 0),
                              twice(frame.origin),
                              twice(frame.lowest),
                              twice(frame.highest)};
    const auto vector = [](Block& block, int k) { return &block[static_cast<std::size_t>(2 * k)].z; };
    for (std::int64_t i = 0; i < n_blocks; ++i) {
        history[0] = blocks[i];
        for (std::int32_t step = 0; step < n_steps; ++step) {
            // First all are located, then all are moved: the loads of one wait for no arithmetic of another.
            Place places[n_vectors];
            for (int k = 0; k < n_vectors; ++k) locate(constants, _mm256_loadu_ps(vector(history[step], k)), &places[k]);
            for (int k = 0; k < n_vectors; ++k) {
                const __m256 p = _mm256_loadu_ps(vector(history[step], k));
                _mm256_storeu_ps(vector(history[step + 1], k), advance_two(constants, p, places[k]));
            }
        }
        blocks[i] = history[n_steps];

        std::uint32_t found = 0;
        for (int k = 0; k < n_vectors; ++k) {
            const __m256i now = _mm256_castps_si256(_mm256_loadu_ps(vector(history[n_steps], k)));
            __m256i came_back = _mm256_setzero_si256();
            for (std::int32_t step = 0; step < n_steps; ++step) {
                const __m256i before = _mm256_castps_si256(_mm256_loadu_ps(vector(history[step], k)));
                const __m256i halves = _mm256_cmpeq_epi64(before, now);
                came_back = _mm256_or_si256(came_back, _mm256_and_si256(halves, _mm256_shuffle_epi32(halves, 0x4E)));
            }
            const auto bits = static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(came_back)));
            found |= ((bits & 1U) | (bits >> 1 & 2U)) << 2 * k;
        }
        for (std::size_t lane = 0; lane < lanes; ++lane)
            if (found >> lane & 1U) is_on_circle(history, n_steps, lane, left, &blocks[i][lane]);
        is_at_end[i] = found;
    }
}

#endif

void advance(const Field& field, const Frame& frame, std::int32_t n_steps, std::int32_t left, Block* history,
             Block* blocks, std::int64_t n_blocks, std::uint32_t* is_at_end) {
#if defined(CELLRT_HAS_AVX2)
    if (use_avx2()) return advance_avx2(field, frame, n_steps, left, history, blocks, n_blocks, is_at_end);
#endif
    advance_baseline(field, frame, n_steps, left, history, blocks, n_blocks, is_at_end);
}

// ---- All steps of many trajectories -------------------------------------------------------------------------------

// Trajectories that are followed together.
class Batch {
public:
    Batch() : blocks_(n_blocks), slots_(lanes * n_blocks), is_at_end_(n_blocks), history_(longest_round + 1) {}
    std::size_t size() const { return n_; }
    // Whether it is to be kept comes as a value, so that there is no branch to be mispredicted at every edge of a cell.
    void add(Position position, std::int64_t slot, bool is_kept) {
        at(n_) = position;
        slots_[n_] = slot;
        n_ += is_kept;
    }

    // Follows all, calls put(slot, position) for each and leaves the batch empty.
    template <typename Put>
    void follow(const Field& field, const Frame& frame, std::int32_t n_iter, const std::int32_t* cancel,
                const Put& put) {
        for (std::int32_t n_done = 0; n_done < n_iter && n_ > 0;) {
            poll(cancel);
            const std::int32_t n_steps = std::min(round_length(n_done), n_iter - n_done);
            n_done += n_steps;
            const std::size_t n_used = (n_ + lanes - 1) / lanes;
            for (std::size_t i = n_; i < lanes * n_used; ++i) at(i) = at(0);  // the last block is followed as a whole
            advance(field, frame, n_steps, n_iter - n_done, history_.data(), blocks_.data(),
                    static_cast<std::int64_t>(n_used), is_at_end_.data());
            std::size_t n_kept = 0;
            for (std::size_t i = 0; i < n_; ++i) {
                if (is_at_end_[i / lanes] >> i % lanes & 1U) {
                    put(slots_[i], at(i));
                } else {
                    at(n_kept) = at(i);
                    slots_[n_kept] = slots_[i];
                    ++n_kept;
                }
            }
            n_ = n_kept;
        }
        for (std::size_t i = 0; i < n_; ++i) put(slots_[i], at(i));
        n_ = 0;
    }

private:
    static constexpr std::size_t n_blocks = (batch_size + tile_planes * tile_rows * tile_columns) / lanes + 1;

    Position& at(std::size_t i) { return blocks_[i / lanes][i % lanes]; }

    std::vector<Block> blocks_;
    std::vector<std::int64_t> slots_;
    std::vector<std::uint32_t> is_at_end_;
    std::vector<Block> history_;
    std::size_t n_ = 0;
};

// ---- The volume ---------------------------------------------------------------------------------------------------

// The voxels inside cells of a row of what is followed.
std::int64_t count_in_row(const Volume& volume, std::int64_t z, std::int64_t y) {
    const auto& begin = volume.window.keep_begin;
    const auto& end = volume.window.keep_end;
    if (z < begin[0] || z >= end[0] || y < begin[1] || y >= end[1]) return 0;
    const float* const cellprob = volume.cellprob + (z * volume.n_y + y) * volume.n_x;
    return std::count_if(cellprob + begin[2], cellprob + end[2],
                         [&](float value) { return value > volume.cellprob_thresh; });
}

// Fills the field, counts the voxels inside cells of each row of what is followed, and refuses flows that are not finite.
void fill_field(const Volume& volume, const Frame& frame, int n_threads, Field* field, std::int64_t* row_counts) {
    const std::int64_t n_y = volume.n_y, n_x = volume.n_x, n_volume = volume.n_z * n_y * n_x;
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    const Position zero{0, 0, 0, 0}, unknown{nan, nan, nan, 0};
    const FlowWindow3D& window = volume.window;
    const auto is_at_cut = [&](std::size_t axis, std::int64_t i, std::int64_t n) {
        return (i == 0 && window.is_cut_before(axis)) || (i == n - 1 && window.is_cut_after(axis, n));
    };
    parallel_for(field->n_rows(), 64, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t z = i / (n_y + 1) - 1, y = i % (n_y + 1) - 1;
            Position* const steps = field->begin() + i * field->row();
            if (z < 0 || z >= volume.n_z || y < 0) {
                std::fill(steps, steps + field->row(), zero);
                continue;
            }
            steps[0] = zero;
            const std::int64_t first = (z * n_y + y) * n_x;
            const float* const flow_z = volume.flow + first;
            const float* const flow_y = flow_z + n_volume;
            const float* const flow_x = flow_y + n_volume;
            const float* const cellprob = volume.cellprob + first;
            std::int32_t n_unusable = 0;
            for (std::int64_t x = 0; x < n_x; ++x) {
                const bool inside = cellprob[x] > volume.cellprob_thresh;
                // NaN unless all are finite
                const float difference = (flow_z[x] - flow_z[x]) + (flow_y[x] - flow_y[x]) + (flow_x[x] - flow_x[x]);
                const float step_z = flow_z[x] / 5.0F * frame.step.z;
                const float step_y = flow_y[x] / 5.0F * frame.step.y;
                const float step_x = flow_x[x] / 5.0F * frame.step.x;
                steps[x + 1] = {inside ? step_z : 0.0F, inside ? step_y : 0.0F, inside ? step_x : 0.0F, 0.0F};
                n_unusable += inside && difference != 0.0F;
            }
            require(n_unusable == 0, CELLRT_ERROR_DATA);
            if (is_at_cut(0, z, volume.n_z) || is_at_cut(1, y, n_y)) std::fill(steps + 1, steps + n_x + 1, unknown);
            if (window.is_cut_before(2)) steps[1] = unknown;
            if (window.is_cut_after(2, n_x)) steps[n_x] = unknown;
            row_counts[z * n_y + y] = count_in_row(volume, z, y);
        }
    });
    Position* const last = field->begin() + field->n_rows() * field->row();
    std::fill(last, last + field->row() + 1, zero);
}

// Where every voxel inside a cell ends; row_begin[i] is how many there are before row i of all planes.
void follow(const Volume& volume, const Field& field, const Frame& frame, const std::vector<std::int64_t>& row_begin,
            std::int32_t n_iter, const std::int32_t* cancel, int n_threads, std::int64_t* voxels, float* positions) {
    const std::int64_t n_y = volume.n_y, n_x = volume.n_x;
    const auto& sides = volume.window.volume;
    const auto& origin = volume.window.origin;
    const auto& begin = volume.window.keep_begin;
    const auto& end = volume.window.keep_end;
    const std::vector<float> starts_z = starts_in_unit(sides[0]), starts_y = starts_in_unit(sides[1]),
                             starts_x = starts_in_unit(sides[2]);
    const auto put = [&](std::int64_t slot, Position p) {
        float* const position = positions + 3 * slot;
        position[0] = (p.z + 1.0F) * 0.5F * frame.last.z;
        position[1] = (p.y + 1.0F) * 0.5F * frame.last.y;
        position[2] = (p.x + 1.0F) * 0.5F * frame.last.x;
    };
    // A beam of rows: as long as the volume, so that the slots of its rows go on from tile to tile.
    const std::int64_t beams_per_slab = (end[1] - begin[1] - 1) / tile_rows + 1;
    const std::int64_t n_beams = ((end[0] - begin[0] - 1) / tile_planes + 1) * beams_per_slab;
    const auto follow_beam = [&](std::int64_t beam, Batch& batch, std::vector<std::int64_t>& next_slot) {
        const std::int64_t z_begin = begin[0] + beam / beams_per_slab * tile_planes;
        const std::int64_t y_begin = begin[1] + beam % beams_per_slab * tile_rows;
        const std::int64_t z_end = std::min(z_begin + tile_planes, end[0]), y_end = std::min(y_begin + tile_rows, end[1]);
        for (std::int64_t first = begin[2]; first < end[2]; first += tile_columns) {
            const std::int64_t last = std::min(first + tile_columns, end[2]);
            for (std::int64_t z = z_begin; z < z_end; ++z) {
                for (std::int64_t y = y_begin; y < y_end; ++y) {
                    const std::int64_t row = z * n_y + y;
                    std::int64_t& slot = next_slot[static_cast<std::size_t>((z - z_begin) * tile_rows + y - y_begin)];
                    if (first == begin[2]) slot = row_begin[static_cast<std::size_t>(row)];
                    const float* const cellprob = volume.cellprob + row * n_x;
                    const float start_z = starts_z[static_cast<std::size_t>(origin[0] + z)];
                    const float start_y = starts_y[static_cast<std::size_t>(origin[1] + y)];
                    const float* const start_x = starts_x.data() + origin[2];
                    for (std::int64_t x = first; x < last; ++x) {
                        const bool inside = cellprob[x] > volume.cellprob_thresh;
                        batch.add({start_z, start_y, start_x[x], 0}, slot, inside);
                        if (inside) voxels[slot++] = row * n_x + x;
                    }
                }
            }
            if (batch.size() >= batch_size) batch.follow(field, frame, n_iter, cancel, put);
        }
    };
    parallel_for(n_beams, 4, n_threads, [&](std::int64_t first_beam, std::int64_t end_beam) {
        Batch batch;
        std::vector<std::int64_t> next_slot(tile_planes * tile_rows);
        for (std::int64_t beam = first_beam; beam < end_beam; ++beam) follow_beam(beam, batch, next_slot);
        batch.follow(field, frame, n_iter, cancel, put);
    });
}

}  // namespace

std::int64_t count_followed_3d(const float* cellprob, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                               const FlowWindow3D& window, float cellprob_thresh) {
    const Volume volume{nullptr, cellprob, n_z, n_y, n_x, window, cellprob_thresh};
    std::int64_t n = 0;
    for (std::int64_t z = window.keep_begin[0]; z < window.keep_end[0]; ++z)
        for (std::int64_t y = window.keep_begin[1]; y < window.keep_end[1]; ++y) n += count_in_row(volume, z, y);
    return n;
}

void flow_follow_3d(const float* flow, const float* cellprob, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                    const FlowWindow3D& window, float cellprob_thresh, std::int32_t n_iter, const std::int32_t* cancel,
                    std::int64_t n_inside, int n_threads, std::int64_t* voxels, float* positions) {
    if (n_inside == 0) return;
    const Volume volume{flow, cellprob, n_z, n_y, n_x, window, cellprob_thresh};
    const Frame frame = frame_of(volume);
    Field field(n_z, n_y, n_x);
    std::vector<std::int64_t> row_begin(static_cast<std::size_t>(n_z * n_y + 1));
    fill_field(volume, frame, n_threads, &field, row_begin.data() + 1);
    for (std::size_t i = 1; i < row_begin.size(); ++i) row_begin[i] += row_begin[i - 1];
    require(row_begin.back() == n_inside, CELLRT_ERROR_INTERNAL);
    follow(volume, field, frame, row_begin, n_iter, cancel, n_threads, voxels, positions);
}

}  // namespace cellrt
