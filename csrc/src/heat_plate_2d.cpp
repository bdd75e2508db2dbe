// heat_plate_2d: one step of the diffusion of heat inside a mask, (Y, X) doubles -> (Y, X) doubles.
//
// A step goes through a list of blocks of 2 x 4 pixels without asking anything on the way, so that no branch is
// mispredicted however small the mask; two rows at a time share the rows that both need. Sums are taken in one order
// everywhere, that of the original. The one place where instruction sets differ, a division by 9, gives the correctly
// rounded quotient either way (see ninth()).
#include "heat_plate_2d.hpp"

#include <limits>

#include "instruction_set.hpp"

#if defined(CELLRT_HAS_AVX2)
#include <immintrin.h>
#endif

namespace cellrt {
namespace {

// A block: see HeatPlate.
constexpr std::int32_t lanes = 4;
constexpr std::int32_t block_rows = 2;

// What a step works on.
struct Step {
    const double* heat;  // the first pixel of the box
    double* next;
    std::int64_t pitch;
    const HeatPlate::Block* blocks;
    std::int64_t n;
    const double* weights;  // 16 x 4: see Kernel
};

template <Average average>
void step_portable(const Step& step) {
    const std::int64_t pitch = step.pitch;
    for (std::int64_t i_block = 0; i_block < step.n; ++i_block) {
        const HeatPlate::Block& block = step.blocks[i_block];
        for (std::int64_t row = 0; row < block_rows; ++row) {
            const double* const heat = step.heat + block.offset + row * pitch;
            double* const next = step.next + block.offset + row * pitch;
            const double* const weights = step.weights + std::int64_t{block.inside[row]} * lanes;
            // One neighbour at a time: a form that compilers turn into vectors of any width.
            const std::int64_t neighbours[] = {-pitch, pitch, -1, 1, -pitch - 1, -pitch + 1, pitch - 1, pitch + 1};
            double sums[lanes];
            for (std::int32_t i = 0; i < lanes; ++i) sums[i] = heat[i];
            for (const std::int64_t neighbour : neighbours) {
                for (std::int32_t i = 0; i < lanes; ++i) sums[i] += heat[neighbour + i];
            }
            for (std::int32_t i = 0; i < lanes; ++i) {
                next[i] = average == Average::divided_by_nine ? sums[i] / weights[i] : sums[i] * weights[i];
            }
        }
    }
}

#if defined(CELLRT_HAS_AVX2)

// sum / 9, correctly rounded, where weight is the double nearest to 1/9; 0 where it is 0. That double is (1 - d) / 9
// with d = 2^-54, and sum - 9 quotient is exact, so what the last line rounds is sum/9 + d (quotient - sum/9): the true
// quotient to 2^-53 units in the last place. No double's ninth is nearer than 1/18 unit to where rounding changes.
CELLRT_TARGET_AVX2 inline __m256d ninth(__m256d sum, __m256d weight) {
    const __m256d quotient = _mm256_mul_pd(sum, weight);
    const __m256d remainder = _mm256_fnmadd_pd(_mm256_set1_pd(9.0), quotient, sum);
    return _mm256_fmadd_pd(remainder, weight, quotient);
}

struct Row {
    __m256d left, centre, right;
};

CELLRT_TARGET_AVX2 inline Row load_row(const double* heat) {
    return {_mm256_loadu_pd(heat - 1), _mm256_load_pd(heat), _mm256_loadu_pd(heat + 1)};
}

template <Average average>
CELLRT_TARGET_AVX2 inline __m256d average_of(const Row& above, const Row& here,
                                                                             const Row& below, __m256d weight) {
    __m256d sum = _mm256_add_pd(here.centre, above.centre);
    sum = _mm256_add_pd(sum, below.centre);
    sum = _mm256_add_pd(sum, here.left);
    sum = _mm256_add_pd(sum, here.right);
    sum = _mm256_add_pd(sum, above.left);
    sum = _mm256_add_pd(sum, above.right);
    sum = _mm256_add_pd(sum, below.left);
    sum = _mm256_add_pd(sum, below.right);
    return average == Average::divided_by_nine ? ninth(sum, weight) : _mm256_mul_pd(sum, weight);
}

template <Average average>
CELLRT_TARGET_AVX2 void step_avx2(const Step& step) {
    const std::int64_t pitch = step.pitch;
    const double* const first = step.heat;
    double* const first_next = step.next;
    const double* const weights = step.weights;
    const HeatPlate::Block* const end = step.blocks + step.n;
    for (const HeatPlate::Block* block = step.blocks; block != end; ++block) {
        const double* const heat = first + block->offset;
        double* const next = first_next + block->offset;
        const Row rows[] = {load_row(heat - pitch), load_row(heat), load_row(heat + pitch), load_row(heat + 2 * pitch)};
        _mm256_store_pd(next, average_of<average>(rows[0], rows[1], rows[2],
                                                  _mm256_loadu_pd(weights + block->inside[0] * lanes)));
        _mm256_store_pd(next + pitch, average_of<average>(rows[1], rows[2], rows[3],
                                                          _mm256_loadu_pd(weights + block->inside[1] * lanes)));
    }
}

#endif

// A way to take a step, with its weights: for each of the 16 sets of pixels of a block's row, what the sums of its four
// pixels are to be multiplied with, or divided by.
struct Kernel {
    void (*take)(const Step&);
    double weights[16 * lanes];

    Kernel(void (*function)(const Step&), double inside, double outside) : take(function), weights() {
        for (std::int32_t set = 0; set < 16; ++set) {
            for (std::int32_t i = 0; i < lanes; ++i) weights[set * lanes + i] = (set >> i & 1) != 0 ? inside : outside;
        }
    }
};

const Kernel& kernel(Average average) {
    static const Kernel kernels[] = {
        {step_portable<Average::times_a_ninth>, 1.0 / 9.0, 0.0},
        {step_portable<Average::divided_by_nine>, 9.0, std::numeric_limits<double>::infinity()},
#if defined(CELLRT_HAS_AVX2)
        {step_avx2<Average::times_a_ninth>, 1.0 / 9.0, 0.0},
        {step_avx2<Average::divided_by_nine>, 1.0 / 9.0, 0.0},
#endif
    };
    const std::size_t first = use_avx2() ? 2 : 0;
    return kernels[first + (average == Average::divided_by_nine ? 1 : 0)];
}

// How many rows (or columns) away from those of a box begin..end lies; 0 where they overlap.
std::int32_t gap(std::int32_t begin, std::int32_t end, std::int32_t box_begin, std::int32_t box_end) {
    return std::max({0, begin - box_end + 1, box_begin - end + 1});
}

}  // namespace

void HeatField::reset(const Box& box) {
    box_ = box;
    n_rows_ = (box.height() + block_rows - 1) / block_rows * block_rows + 2;
    pitch_ = pitch_of(box);
    const auto n = static_cast<std::size_t>(n_rows_ * pitch_ + lanes);
    std::size_t n_left = n + lanes;  // for the first to be aligned
    if (n_left > capacity_) {
        storage_.reset(new double[n_left]);
        capacity_ = n_left;
    }
    void* first = storage_.get();
    n_left *= sizeof(double);
    first_ = static_cast<double*>(std::align(lanes * sizeof(double), n * sizeof(double), first, n_left));
}

void HeatField::clear(std::int32_t y_begin, std::int32_t y_end) {
    const std::int64_t begin = y_begin == box_.y_begin ? 0 : (std::int64_t{y_begin} - box_.y_begin + 1) * pitch_;
    const std::int64_t end = y_end == box_.y_end ? n_rows_ * pitch_ + lanes
                                                 : (std::int64_t{y_end} - box_.y_begin + 1) * pitch_;
    std::fill(first_ + begin, first_ + end, 0.0);
}

void HeatField::copy_from(const HeatField& other, const Box& box) {
    for (std::int32_t y = box.y_begin; y < box.y_end; ++y) {
        const double* const row = other.at(y, box.x_begin);
        std::copy(row, row + box.width(), at(y, box.x_begin));
    }
}

HeatPlate::HeatPlate(const Run* first, const Run* last, const Box& box, const Box& middle, Average average)
    : average_(average) {
    // Calls visit(y, x_begin, x_end) for the pixels of each row of each block, in rows and columns of the box.
    const auto for_each_piece = [&](const auto& visit) {
        const auto is_above = [](const Run& run, std::int32_t y) { return run.y < y; };
        const Run* run = std::lower_bound(first, last, box.y_begin, is_above);
        for (; run != last && run->y < box.y_end; ++run) {
            const std::int32_t x_end = std::min(run->x_end, box.x_end) - box.x_begin;
            for (std::int32_t x = std::max(run->x_begin, box.x_begin) - box.x_begin; x < x_end;) {
                const std::int32_t end = std::min(x_end, x / lanes * lanes + lanes);
                visit(run->y - box.y_begin, x, end);
                x = end;
            }
        }
    };

    // Which blocks there are.
    constexpr std::int32_t nowhere = -1;
    const auto n_strips = static_cast<std::int32_t>((box.width() + lanes - 1) / lanes);
    const auto n_pairs = static_cast<std::int32_t>((box.height() + block_rows - 1) / block_rows);
    std::vector<std::int32_t> indices(static_cast<std::size_t>(n_strips) * static_cast<std::size_t>(n_pairs), nowhere);
    const auto index_at = [&](std::int32_t y, std::int32_t x) -> std::int32_t& {
        return indices[static_cast<std::size_t>(y / block_rows) * static_cast<std::size_t>(n_strips) +
                       static_cast<std::size_t>(x / lanes)];
    };
    for_each_piece([&](std::int32_t y, std::int32_t x, std::int32_t) { index_at(y, x) = 0; });
    const auto for_each_block = [&](const auto& visit) {
        for (std::int32_t y = 0; y < n_pairs * block_rows; y += block_rows) {
            for (std::int32_t x = 0; x < n_strips * lanes; x += lanes) {
                std::int32_t& index = index_at(y, x);
                if (index != nowhere) visit(y, x, index);
            }
        }
    };

    // Sort them by ring.
    ring_width_ = static_cast<std::int32_t>(std::max(box.height(), box.width()) / n_rings + 1);
    const auto ring_of = [&](std::int32_t y, std::int32_t x) {
        const std::int32_t y_begin = box.y_begin + y, x_begin = box.x_begin + x;
        const std::int32_t rows = gap(y_begin, y_begin + block_rows, middle.y_begin, middle.y_end);
        const std::int32_t columns = gap(x_begin, x_begin + lanes, middle.x_begin, middle.x_end);
        return static_cast<std::size_t>(std::max(rows, columns) / ring_width_);
    };
    for_each_block([&](std::int32_t y, std::int32_t x, std::int32_t&) { ++ring_ends_[ring_of(y, x) + 1]; });
    for (std::size_t ring = 1; ring < ring_ends_.size(); ++ring) ring_ends_[ring] += ring_ends_[ring - 1];
    blocks_.resize(static_cast<std::size_t>(ring_ends_.back()));
    const std::int64_t pitch = HeatField::pitch_of(box);
    for_each_block([&](std::int32_t y, std::int32_t x, std::int32_t& index) {
        index = ring_ends_[ring_of(y, x)]++;  // from the end of the ring before to that of its own
        blocks_[static_cast<std::size_t>(index)].offset = static_cast<std::int32_t>(y * pitch + x);
    });

    for_each_piece([&](std::int32_t y, std::int32_t x, std::int32_t end) {
        const std::int32_t set = ((1 << (end - x)) - 1) << x % lanes;
        blocks_[static_cast<std::size_t>(index_at(y, x))].inside[y % block_rows] |= static_cast<std::uint8_t>(set);
    });
}

void HeatPlate::step(const HeatField& heat, HeatField& next, std::int64_t distance) const {
    const auto ring = static_cast<std::size_t>(std::min<std::int64_t>(distance / ring_width_, n_rings));
    const Box& box = heat.box();
    const Kernel& fastest = kernel(average_);
    fastest.take({heat.at(box.y_begin, box.x_begin), next.at(box.y_begin, box.x_begin), heat.pitch(), blocks_.data(),
                  ring_ends_[ring], fastest.weights});
}

}  // namespace cellrt
