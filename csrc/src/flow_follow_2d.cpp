// flow (2, Y, X), cellprob (Y, X) -> pixels inside cells (n,), and where the flow carries each (n, 2): y, x in pixels.
//
// The flow is first copied into a field of (y, x) pairs, scaled to one step and 0 outside cells, so that the two pixels
// of a row that a position lies between are one load. Zeros around it stand for what is beyond the image, so no
// neighbour needs a test: see Field.
//
// Trajectories are followed in rounds of a few steps. Nearly all of them soon stop, or go round in a circle of rounding
// errors. One that comes back, to the bit, to where it was earlier in the round will do so for ever: its end is known
// without going there. The others close ranks for the next round.
//
// Pixels are taken in small tiles, so that the part of the field that their trajectories see stays in the cache.
#include "flow_follow_2d.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
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

constexpr std::int64_t tile_rows = 16;
constexpr std::int64_t tile_columns = 64;
constexpr std::int64_t batch_size = 1024;  // trajectories; a batch takes tiles until it holds as many
constexpr std::int64_t lanes = 32;         // trajectories that advance side by side, to hide how long each step takes

struct Position {
    float y, x;
};

// What one step adds, (y, x) per pixel: one row of zeros before and two after the image, one zero between rows. The
// pixel (-1, -1) is the first; the pixel beyond the end of a row is the one before the next.
class Field {
public:
    Field(std::int64_t n_y, std::int64_t n_x)
        : stride_(n_x + 1), memory_(new float[static_cast<std::size_t>(2 * ((n_y + 3) * stride_ + 2))]) {}
    std::int64_t stride() const { return stride_; }
    // The pair of pixel (y, 0).
    float* row(std::int64_t y) { return memory_.get() + 2 * ((y + 1) * stride_ + 1); }
    const float* row(std::int64_t y) const { return memory_.get() + 2 * ((y + 1) * stride_ + 1); }

private:
    std::int64_t stride_;
    std::unique_ptr<float[]> memory_;  // not initialised: fill_field() does that on all threads
};

// The units of positions: V3 counts pixels, V4 from -1 to 1 between the first and the last pixel of an axis.
struct Frame {
    Position low, high;  // limits
    Position step;       // of a flow of one pixel
    Position half_side;  // V4 only
    Position last;       // the last pixel
};

// ---- One step ---------------------------------------------------------------------------------------------------

// a * b + c, rounded once.
inline float fused(float a, float b, float c) {
#if defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__) || defined(_M_ARM64)
    return std::fma(a, b, c);
#else
    // The product of two floats is exact in double. To round its sum with c to double and then to float is to round it
    // once, unless the first result is half way between two floats; below the normal numbers half ways are elsewhere.
    const double sum = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);
    constexpr std::uint64_t least_normal = UINT64_C(0x3820000000000000);  // of float, doubled, as the bits of a double
    std::uint64_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    const bool is_half_way = (bits & 0x1FFFFFFFU) == 0x10000000U;
    const bool is_small = 2 * bits - 1 < 2 * least_normal - 1;  // but not 0
    return is_half_way || is_small ? std::fma(a, b, c) : static_cast<float>(sum);
#endif
}

inline float clamp(float value, float low, float high) { return std::min(high, std::max(low, value)); }

inline Position move(const Frame& frame, Position p, float y, float x) {
    return {clamp(p.y + y, frame.low.y, frame.high.y), clamp(p.x + x, frame.low.x, frame.high.x)};
}

// Cellpose 3: weighted as numba compiles its expression, in double precision except that the factors of the lower row
// that do not contain "1 - " are multiplied in single precision.
struct BilinearV3 {
    static Position advance(const Field& field, const Frame& frame, Position p) {
        const auto row = static_cast<std::int32_t>(p.y), column = static_cast<std::int32_t>(p.x);
        const float y = p.y - static_cast<float>(row), x = p.x - static_cast<float>(column);
        const double from_y = 1.0 - static_cast<double>(y), from_x = 1.0 - static_cast<double>(x);
        const float* const north = field.row(row) + 2 * std::int64_t{column};
        const float* const south = north + 2 * field.stride();
        const auto sample = [&](int axis) {
            const double north_west = static_cast<double>(north[axis]) * from_y * from_x;
            const double north_east = static_cast<double>(north[2 + axis]) * from_y * static_cast<double>(x);
            const double south_west = static_cast<double>(south[axis] * y) * from_x;
            const auto south_east = static_cast<double>(south[2 + axis] * y * x);
            return static_cast<float>(north_west + north_east + south_west + south_east);
        };
        return move(frame, p, sample(0), sample(1));
    }
    static Position in_pixels(const Frame& /*frame*/, Position p) { return p; }
};

// Cellpose 3 without interpolation: the pixel that the position truncates to.
struct TruncatedV3 {
    static Position advance(const Field& field, const Frame& frame, Position p) {
        const auto row = static_cast<std::int32_t>(p.y), column = static_cast<std::int32_t>(p.x);
        const float* const pixel = field.row(row) + 2 * std::int64_t{column};
        return move(frame, p, pixel[0], pixel[1]);
    }
    static Position in_pixels(const Frame& /*frame*/, Position p) { return p; }
};

// Cellpose 4: grid_sample as torch's vector code computes it, compiled as it is with fused multiply-add.
struct BilinearV4 {
    static Position advance(const Field& field, const Frame& frame, Position p) {
        const float pixel_y = fused(p.y + 1.0F, frame.half_side.y, -0.5F);
        const float pixel_x = fused(p.x + 1.0F, frame.half_side.x, -0.5F);
        const std::int32_t row = floor_of(pixel_y), column = floor_of(pixel_x);
        const float n = pixel_y - static_cast<float>(row), w = pixel_x - static_cast<float>(column);
        const float s = 1.0F - n, e = 1.0F - w;
        const float north_west = e * s, north_east = w * s, south_west = e * n, south_east = w * n;
        const float* const north = field.row(row) + 2 * std::int64_t{column};
        const float* const south = north + 2 * field.stride();
        const auto sample = [&](int axis) {
            const float upper = fused(north[2 + axis], north_east, north[axis] * north_west);
            return fused(south[2 + axis], south_east, fused(south[axis], south_west, upper));
        };
        return move(frame, p, sample(0), sample(1));
    }
    static Position in_pixels(const Frame& frame, Position p) {
        return {(p.y + 1.0F) * 0.5F * frame.last.y, (p.x + 1.0F) * 0.5F * frame.last.x};
    }

private:
    static std::int32_t floor_of(float value) {
        const auto towards_zero = static_cast<std::int32_t>(value);
        return towards_zero - (static_cast<float>(towards_zero) > value ? 1 : 0);
    }
};

// ---- A round of steps of many trajectories ------------------------------------------------------------------------

using Block = std::array<Position, lanes>;

// `history` holds a block after 0, 1 ... n_steps steps of a round. Whether a trajectory is back where it was at one of
// them; then *end is where it will be `left` steps later.
bool is_on_circle(const Block* history, std::int32_t n_steps, std::size_t lane, std::int32_t left, Position* end) {
    const Position now = history[n_steps][lane];
    for (std::int32_t step = n_steps - 1; step >= 0; --step) {
        const Position before = history[step][lane];
        if (before.y == now.y && before.x == now.x) {
            *end = history[step + left % (n_steps - step)][lane];
            return true;
        }
    }
    return false;
}

// Moves blocks of positions by n_steps. Those that go round in circles are moved on by the steps that are left after
// this round, and get a 1 in is_at_end, which has one bit per trajectory.
template <typename Step>
void advance_baseline(const Field& field, const Frame& frame, std::int32_t n_steps, std::int32_t left, Block* history,
                      Block* blocks, std::int64_t n_blocks, std::uint32_t* is_at_end) {
    for (std::int64_t i = 0; i < n_blocks; ++i) {
        history[0] = blocks[i];
        for (std::int32_t step = 0; step < n_steps; ++step) {
            for (std::size_t lane = 0; lane < lanes; ++lane)
                history[step + 1][lane] = Step::advance(field, frame, history[step][lane]);
        }
        blocks[i] = history[n_steps];
        is_at_end[i] = 0;
        for (std::size_t lane = 0; lane < lanes; ++lane)
            is_at_end[i] |= std::uint32_t{is_on_circle(history, n_steps, lane, left, &blocks[i][lane])} << lane;
    }
}

#if defined(CELLRT_HAS_AVX2)

// A Field and a Frame for vectors: pairs four times.
struct Constants {
    const float* pixels;  // the pair of the pixel whose row and column are 0 for locate()
    std::int64_t row;     // floats from one row of pairs to the next
    __m256i stride;
    __m256 low, high, half_side;
};

// Where four trajectories are.
struct Place {
    alignas(32) std::int64_t offset[4];  // from Constants::pixels to the pixel up and left: floats
    alignas(32) float fraction[8];       // of a pixel down and right of it: y, x
};

CELLRT_TARGET_AVX2 inline __m256 four_times(Position pair) {
    return _mm256_setr_ps(pair.y, pair.x, pair.y, pair.x, pair.y, pair.x, pair.y, pair.x);
}

// Rows and columns, not negative -> Place::offset.
CELLRT_TARGET_AVX2 inline void put_offset(const Constants& constants, __m256i pixel, Place* place) {
    const __m256i pairs = _mm256_add_epi64(_mm256_mul_epu32(pixel, constants.stride), _mm256_srli_epi64(pixel, 32));
    _mm256_store_si256(reinterpret_cast<__m256i*>(place->offset), _mm256_slli_epi64(pairs, 1));
}

// The pairs of four pixels, and those of their neighbours to the east.
CELLRT_TARGET_AVX2 inline void load_pairs(const float* from, const Place& place, __m256* west, __m256* east) {
    const __m128 a = _mm_loadu_ps(from + place.offset[0]), b = _mm_loadu_ps(from + place.offset[1]);
    const __m128 c = _mm_loadu_ps(from + place.offset[2]), d = _mm_loadu_ps(from + place.offset[3]);
    const __m256d a_c = _mm256_castps_pd(_mm256_insertf128_ps(_mm256_castps128_ps256(a), c, 1));
    const __m256d b_d = _mm256_castps_pd(_mm256_insertf128_ps(_mm256_castps128_ps256(b), d, 1));
    *west = _mm256_castpd_ps(_mm256_unpacklo_pd(a_c, b_d));
    *east = _mm256_castpd_ps(_mm256_unpackhi_pd(a_c, b_d));
}

CELLRT_TARGET_AVX2 inline __m256 move(const Constants& constants, __m256 p, __m256 step) {
    return _mm256_min_ps(constants.high, _mm256_max_ps(constants.low, _mm256_add_ps(p, step)));
}

// Step::advance() for four trajectories at a time, in two halves: locate() and then advance().
template <typename Step>
struct Avx2;

template <>
struct Avx2<BilinearV3> {
    static constexpr std::int64_t first_pixel = 0;

    CELLRT_TARGET_AVX2 static void locate(const Constants& constants, __m256 p, Place* place) {
        const __m256i pixel = _mm256_cvttps_epi32(p);
        _mm256_store_ps(place->fraction, _mm256_sub_ps(p, _mm256_cvtepi32_ps(pixel)));
        put_offset(constants, pixel, place);
    }

    CELLRT_TARGET_AVX2 static __m256 advance(const Constants& constants, __m256 p, const Place& place) {
        const __m128 a_b = sample(constants, place.offset, place.fraction);
        const __m128 c_d = sample(constants, place.offset + 2, place.fraction + 4);
        return move(constants, p, _mm256_insertf128_ps(_mm256_castps128_ps256(a_b), c_d, 1));
    }

private:
    // The flow at two positions: as many doubles as a vector holds.
    CELLRT_TARGET_AVX2 static __m128 sample(const Constants& constants, const std::int64_t* offset,
                                            const float* fraction) {
        const float* const north_a = constants.pixels + offset[0];
        const float* const north_b = constants.pixels + offset[1];
        const __m128 north_of_a = _mm_loadu_ps(north_a), north_of_b = _mm_loadu_ps(north_b);
        const __m128 south_of_a = _mm_loadu_ps(north_a + constants.row);
        const __m128 south_of_b = _mm_loadu_ps(north_b + constants.row);
        const __m128 y_x = _mm_load_ps(fraction), y = _mm_moveldup_ps(y_x), x = _mm_movehdup_ps(y_x);
        const __m128 south_west = _mm_mul_ps(_mm_movelh_ps(south_of_a, south_of_b), y);
        const __m128 south_east = _mm_mul_ps(_mm_mul_ps(_mm_movehl_ps(south_of_b, south_of_a), y), x);

        const __m256d fractions = _mm256_cvtps_pd(y_x);
        const __m256d opposites = _mm256_sub_pd(_mm256_set1_pd(1.0), fractions);
        const __m256d from_y = _mm256_movedup_pd(opposites), from_x = _mm256_permute_pd(opposites, 0xF);
        const __m256d north_west = _mm256_mul_pd(_mm256_cvtps_pd(_mm_movelh_ps(north_of_a, north_of_b)), from_y);
        const __m256d north_east = _mm256_mul_pd(_mm256_cvtps_pd(_mm_movehl_ps(north_of_b, north_of_a)), from_y);
        __m256d sum = _mm256_mul_pd(north_west, from_x);
        sum = _mm256_add_pd(sum, _mm256_mul_pd(north_east, _mm256_permute_pd(fractions, 0xF)));
        sum = _mm256_add_pd(sum, _mm256_mul_pd(_mm256_cvtps_pd(south_west), from_x));
        return _mm256_cvtpd_ps(_mm256_add_pd(sum, _mm256_cvtps_pd(south_east)));
    }
};

template <>
struct Avx2<TruncatedV3> {
    static constexpr std::int64_t first_pixel = 0;

    CELLRT_TARGET_AVX2 static void locate(const Constants& constants, __m256 p, Place* place) {
        put_offset(constants, _mm256_cvttps_epi32(p), place);
    }

    CELLRT_TARGET_AVX2 static __m256 advance(const Constants& constants, __m256 p, const Place& place) {
        __m256 step, east;
        load_pairs(constants.pixels, place, &step, &east);
        return move(constants, p, step);
    }
};

template <>
struct Avx2<BilinearV4> {
    static constexpr std::int64_t first_pixel = -1;

    CELLRT_TARGET_AVX2 static void locate(const Constants& constants, __m256 p, Place* place) {
        const __m256 from_one = _mm256_add_ps(p, _mm256_set1_ps(1.0F));
        const __m256 exact = _mm256_fmadd_ps(from_one, constants.half_side, _mm256_set1_ps(-0.5F));
        const __m256 pixel = _mm256_floor_ps(exact);
        _mm256_store_ps(place->fraction, _mm256_sub_ps(exact, pixel));
        put_offset(constants, _mm256_add_epi32(_mm256_cvtps_epi32(pixel), _mm256_set1_epi32(1)), place);
    }

    CELLRT_TARGET_AVX2 static __m256 advance(const Constants& constants, __m256 p, const Place& place) {
        constexpr int swap = 0xB1;
        __m256 north_west, north_east, south_west, south_east;
        load_pairs(constants.pixels, place, &north_west, &north_east);
        load_pairs(constants.pixels + constants.row, place, &south_west, &south_east);
        const __m256 n_w = _mm256_load_ps(place.fraction), s_e = _mm256_sub_ps(_mm256_set1_ps(1.0F), n_w);
        const __m256 e_s = _mm256_permute_ps(s_e, swap);
        const __m256 ne_ws = _mm256_mul_ps(n_w, e_s);
        __m256 step = _mm256_mul_ps(north_west, _mm256_mul_ps(s_e, e_s));
        step = _mm256_fmadd_ps(north_east, _mm256_movehdup_ps(ne_ws), step);
        step = _mm256_fmadd_ps(south_west, _mm256_moveldup_ps(ne_ws), step);
        step = _mm256_fmadd_ps(south_east, _mm256_mul_ps(n_w, _mm256_permute_ps(n_w, swap)), step);
        return move(constants, p, step);
    }
};

// As advance_baseline().
template <typename Step>
CELLRT_TARGET_AVX2 void advance_avx2(const Field& field, const Frame& frame, std::int32_t n_steps, std::int32_t left,
                                     Block* history, Block* blocks, std::int64_t n_blocks, std::uint32_t* is_at_end) {
    constexpr int n_vectors = lanes / 4;
    const std::int64_t first = Avx2<Step>::first_pixel;
    const Constants constants{field.row(first) + 2 * first,
                              2 * field.stride(),
                              _mm256_set1_epi64x(field.stride()),
                              four_times(frame.low),
                              four_times(frame.high),
                              four_times(frame.half_side)};
    const auto vector = [](Block& block, int k) { return &block[static_cast<std::size_t>(4 * k)].y; };
    for (std::int64_t i = 0; i < n_blocks; ++i) {
        history[0] = blocks[i];
        for (std::int32_t step = 0; step < n_steps; ++step) {
            // First all are located, then all are moved: the loads of one wait for no arithmetic of another.
            Place places[n_vectors];
            for (int k = 0; k < n_vectors; ++k)
                Avx2<Step>::locate(constants, _mm256_loadu_ps(vector(history[step], k)), &places[k]);
            for (int k = 0; k < n_vectors; ++k) {
                const __m256 p = _mm256_loadu_ps(vector(history[step], k));
                _mm256_storeu_ps(vector(history[step + 1], k), Avx2<Step>::advance(constants, p, places[k]));
            }
        }
        blocks[i] = history[n_steps];

        __m256i came_back[n_vectors];
        for (__m256i& lane : came_back) lane = _mm256_setzero_si256();
        for (std::int32_t step = 0; step < n_steps; ++step) {
            for (int k = 0; k < n_vectors; ++k) {
                const __m256i before = _mm256_castps_si256(_mm256_loadu_ps(vector(history[step], k)));
                const __m256i now = _mm256_castps_si256(_mm256_loadu_ps(vector(history[n_steps], k)));
                came_back[k] = _mm256_or_si256(came_back[k], _mm256_cmpeq_epi64(before, now));
            }
        }
        std::uint32_t found = 0;
        for (int k = 0; k < n_vectors; ++k)
            found |= static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(came_back[k]))) << 4 * k;
        for (std::size_t lane = 0; lane < lanes; ++lane)
            if (found >> lane & 1U) is_on_circle(history, n_steps, lane, left, &blocks[i][lane]);
        is_at_end[i] = found;
    }
}

#endif

template <typename Step>
void advance(const Field& field, const Frame& frame, std::int32_t n_steps, std::int32_t left, Block* history,
             Block* blocks, std::int64_t n_blocks, std::uint32_t* is_at_end) {
#if defined(CELLRT_HAS_AVX2)
    if (use_avx2()) return advance_avx2<Step>(field, frame, n_steps, left, history, blocks, n_blocks, is_at_end);
#endif
    advance_baseline<Step>(field, frame, n_steps, left, history, blocks, n_blocks, is_at_end);
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
    template <typename Step, typename Put>
    void follow(const Field& field, const Frame& frame, std::int32_t n_iter, const std::int32_t* cancel,
                const Put& put);

private:
    static constexpr std::size_t n_blocks = (batch_size + tile_rows * tile_columns) / lanes + 1;

    Position& at(std::size_t i) { return blocks_[i / lanes][i % lanes]; }

    std::vector<Block> blocks_;
    std::vector<std::int64_t> slots_;
    std::vector<std::uint32_t> is_at_end_;
    std::vector<Block> history_;
    std::size_t n_ = 0;
};

template <typename Step, typename Put>
void Batch::follow(const Field& field, const Frame& frame, std::int32_t n_iter, const std::int32_t* cancel,
                   const Put& put) {
    for (std::int32_t n_done = 0; n_done < n_iter && n_ > 0;) {
        poll(cancel);
        const std::int32_t n_steps = std::min(round_length(n_done), n_iter - n_done);
        n_done += n_steps;
        const std::size_t n_used = (n_ + lanes - 1) / lanes;
        for (std::size_t i = n_; i < lanes * n_used; ++i) at(i) = at(0);  // the last block is followed as a whole
        advance<Step>(field, frame, n_steps, n_iter - n_done, history_.data(), blocks_.data(),
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

// ---- The image ----------------------------------------------------------------------------------------------------

struct Image {
    const float* flow;
    const float* cellprob;
    std::int64_t n_y, n_x;
    float cellprob_thresh;
};

Frame frame_v3(const Image& image) {
    const Position last{float_not_above(image.n_y - 1), float_not_above(image.n_x - 1)};
    return {{0, 0}, last, {1, 1}, {0, 0}, last};
}

Frame frame_v4(const Image& image) {
    return {{-1, -1},
            {1, 1},
            {unit_of_pixel(image.n_y), unit_of_pixel(image.n_x)},
            {float_not_above(image.n_y) / 2, float_not_above(image.n_x) / 2},
            {float_not_above(image.n_y - 1), float_not_above(image.n_x - 1)}};
}

// Fills the field, counts the pixels inside cells of each row and refuses flows that are not finite there.
void fill_field(const Image& image, const Frame& frame, int n_threads, Field* field, std::int64_t* row_counts) {
    const std::int64_t n_y = image.n_y, n_x = image.n_x;
    parallel_for(n_y + 3, 32, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t y = begin - 1; y < end - 1; ++y) {
            float* const steps = field->row(y);
            steps[-2] = steps[-1] = 0.0F;
            if (y < 0 || y >= n_y) {
                std::fill(steps, steps + 2 * n_x, 0.0F);
                continue;
            }
            const float* const flow_y = image.flow + y * n_x;
            const float* const flow_x = flow_y + n_y * n_x;
            const float* const cellprob = image.cellprob + y * n_x;
            std::int32_t count = 0, n_unusable = 0;
            for (std::int64_t x = 0; x < n_x; ++x) {
                const bool inside = cellprob[x] > image.cellprob_thresh;
                const float zero = (flow_y[x] - flow_y[x]) + (flow_x[x] - flow_x[x]);  // NaN unless both are finite
                const float step_y = flow_y[x] / 5.0F * frame.step.y, step_x = flow_x[x] / 5.0F * frame.step.x;
                steps[2 * x] = inside ? step_y : 0.0F;
                steps[2 * x + 1] = inside ? step_x : 0.0F;
                count += inside;
                n_unusable += inside && zero != 0.0F;
            }
            require(n_unusable == 0, CELLRT_ERROR_DATA);
            row_counts[y] = count;
        }
    });
    std::fill(field->row(n_y + 2) - 2, field->row(n_y + 2) + 2, 0.0F);
}

// Follows every pixel inside a cell; row_begin[y] is how many there are above row y.
template <typename Step>
void follow(const Image& image, const Field& field, const Frame& frame, const std::vector<float>& starts_y,
            const std::vector<float>& starts_x, const std::vector<std::int64_t>& row_begin, std::int32_t n_iter,
            const std::int32_t* cancel, int n_threads, std::int64_t* pixels, float* positions) {
    const auto put = [&](std::int64_t slot, Position p) {
        const Position end = Step::in_pixels(frame, p);
        positions[2 * slot] = end.y;
        positions[2 * slot + 1] = end.x;
    };
    parallel_for(image.n_y, tile_rows, n_threads, [&](std::int64_t begin, std::int64_t end) {
        Batch batch;
        std::vector<std::int64_t> next_slot(row_begin.begin() + begin, row_begin.begin() + end);
        for (std::int64_t first = 0; first < image.n_x; first += tile_columns) {
            const std::int64_t last = std::min(first + tile_columns, image.n_x);
            for (std::int64_t y = begin; y < end; ++y) {
                const float* const cellprob = image.cellprob + y * image.n_x;
                std::int64_t& slot = next_slot[static_cast<std::size_t>(y - begin)];
                for (std::int64_t x = first; x < last; ++x) {
                    const bool inside = cellprob[x] > image.cellprob_thresh;
                    const Position start{starts_y[static_cast<std::size_t>(y)], starts_x[static_cast<std::size_t>(x)]};
                    batch.add(start, slot, inside);
                    if (inside) pixels[slot++] = y * image.n_x + x;
                }
            }
            if (batch.size() >= batch_size) batch.follow<Step>(field, frame, n_iter, cancel, put);
        }
        batch.follow<Step>(field, frame, n_iter, cancel, put);
    });
}

}  // namespace

std::int64_t count_cell_pixels(const float* cellprob, std::int64_t n_pixels, float cellprob_thresh, int n_threads) {
    std::atomic<std::int64_t> total{0};
    parallel_for(n_pixels, 1 << 16, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::int32_t count = 0;
        for (std::int64_t i = begin; i < end; ++i) count += cellprob[i] > cellprob_thresh;
        total.fetch_add(count, std::memory_order_relaxed);
    });
    return total.load();
}

void flow_follow_2d(const float* flow, const float* cellprob, std::int64_t n_y, std::int64_t n_x, float cellprob_thresh,
                    std::int32_t dynamics, bool interpolate, std::int32_t n_iter, const std::int32_t* cancel,
                    std::int64_t n_inside, int n_threads, std::int64_t* pixels, float* positions) {
    if (n_inside == 0) return;
    const bool is_v4 = dynamics == CELLRT_DYNAMICS_V4;
    const Image image{flow, cellprob, n_y, n_x, cellprob_thresh};
    const Frame frame = is_v4 ? frame_v4(image) : frame_v3(image);
    Field field(n_y, n_x);
    std::vector<std::int64_t> row_begin(static_cast<std::size_t>(n_y + 1));
    fill_field(image, frame, n_threads, &field, row_begin.data() + 1);
    for (std::size_t y = 1; y < row_begin.size(); ++y) row_begin[y] += row_begin[y - 1];
    require(row_begin.back() == n_inside, CELLRT_ERROR_INTERNAL);

    const auto starts = is_v4 ? starts_in_unit : starts_in_pixels;
    const auto follow_all = is_v4 ? follow<BilinearV4> : interpolate ? follow<BilinearV3> : follow<TruncatedV3>;
    follow_all(image, field, frame, starts(n_y), starts(n_x), row_begin, n_iter, cancel, n_threads, pixels, positions);
}

}  // namespace cellrt
