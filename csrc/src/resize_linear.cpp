// resize_linear: planes (P, Y, X) -> (P, y, x) float32; sample d lies at (d + 0.5) * Y / y - 0.5, clamped to the plane.
//
// OpenCV has two routines for this, and both are here to the bit, along rows first, then between them. Its builds for
// x86-64 give images of 1, 3 or 4 channels to Intel's IPP: fractions of positions in double precision, then rounded; a
// + (b - a) * fraction with the product unrounded, as a fused multiply-add has it. Images of 2 channels or with a side
// of 1 pixel go to its own, in single precision: positions rounded to float32, which moves a sample by up to 6e-5
// pixels in columns beyond 1024; a * (1 - fraction) + b * fraction, also beyond the first and the last row, where a is
// b; and where both sides become half as long, the mean of four pixels.
//
// A row is stretched once for all rows of the output that lie beside it, in blocks of columns that stay in the cache.
#include "resize_linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "instruction_set.hpp"
#include "parallel.hpp"
#include "status.hpp"

#if defined(CELLRT_HAS_AVX2)
#include <immintrin.h>
#endif

namespace cellrt {
namespace {

// In double precision the product of two floats is exact. So the bits are those of a fused multiply-add, except where
// the sum, once cut to double precision, happens to be a tie between two floats: one sample in some 10^9.
inline float interpolate(float a, float b, float fraction) {
    return static_cast<float>(static_cast<double>(b - a) * static_cast<double>(fraction) + static_cast<double>(a));
}

// The same in single precision.
inline float interpolate_single(float a, float b, float fraction) { return a * (1.0F - fraction) + b * fraction; }

// n samples of a row: sample x between pixels before[x] and before[x] + 1.
template <float (*interpolate_pair)(float, float, float)>
void stretch_baseline(const float* row, const std::int32_t* before, const float* fractions, std::int64_t n,
                      float* out) {
    for (std::int64_t x = 0; x < n; ++x) {
        const float* const pair = row + before[x];
        out[x] = interpolate_pair(pair[0], pair[1], fractions[x]);
    }
}

// n samples between two rows.
template <float (*interpolate_pair)(float, float, float)>
void blend_baseline(const float* upper, const float* lower, float fraction, std::int64_t n, float* out) {
    for (std::int64_t x = 0; x < n; ++x) out[x] = interpolate_pair(upper[x], lower[x], fraction);
}

#if defined(CELLRT_HAS_AVX2)

// interpolate(), four at a time.
CELLRT_TARGET_AVX2 inline __m128 interpolate_avx2(__m128 a, __m128 b, __m256d fraction) {
    const __m256d difference = _mm256_cvtps_pd(_mm_sub_ps(b, a));
    return _mm256_cvtpd_ps(_mm256_add_pd(_mm256_mul_pd(difference, fraction), _mm256_cvtps_pd(a)));
}

// The pixels at `first` and at `second`, each with its right neighbour.
CELLRT_TARGET_AVX2 inline __m128 load_pairs_avx2(const float* first, const float* second) {
    double pairs[2];
    std::memcpy(&pairs[0], first, sizeof(double));
    std::memcpy(&pairs[1], second, sizeof(double));
    return _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(&pairs[0]), &pairs[1]));
}

CELLRT_TARGET_AVX2 void stretch_avx2(const float* row, const std::int32_t* before, const float* fractions,
                                                  std::int64_t n, float* out) {
    std::int64_t x = 0;
    for (; x <= n - 4; x += 4) {
        const __m128 low = load_pairs_avx2(row + before[x], row + before[x + 1]);
        const __m128 high = load_pairs_avx2(row + before[x + 2], row + before[x + 3]);
        const __m128 left = _mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
        const __m128 right = _mm_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1));
        const __m256d fraction = _mm256_cvtps_pd(_mm_loadu_ps(fractions + x));
        _mm_storeu_ps(out + x, interpolate_avx2(left, right, fraction));
    }
    stretch_baseline<interpolate>(row, before + x, fractions + x, n - x, out + x);
}

CELLRT_TARGET_AVX2 void blend_avx2(const float* upper, const float* lower, float fraction, std::int64_t n,
                                                float* out) {
    const __m256d fractions = _mm256_set1_pd(static_cast<double>(fraction));
    std::int64_t x = 0;
    for (; x <= n - 4; x += 4) {
        _mm_storeu_ps(out + x, interpolate_avx2(_mm_loadu_ps(upper + x), _mm_loadu_ps(lower + x), fractions));
    }
    blend_baseline<interpolate>(upper + x, lower + x, fraction, n - x, out + x);
}

#endif

// The inner loops for this processor; every set computes the same bytes.
struct Loops {
    decltype(&stretch_baseline<interpolate>) stretch;
    decltype(&blend_baseline<interpolate>) blend;
};

Loops choose_loops(bool single_precision) {
    if (single_precision) return {stretch_baseline<interpolate_single>, blend_baseline<interpolate_single>};
#if defined(CELLRT_HAS_AVX2)
    if (use_avx2()) return {stretch_avx2, blend_avx2};
#endif
    return {stretch_baseline<interpolate>, blend_baseline<interpolate>};
}

// Where the samples of a resampled axis lie: samples [begin, end) between pixels before[d] and before[d] + 1, those in
// front of them on the first pixel, those behind them on the last.
struct Axis {
    std::int64_t begin = 0;
    std::int64_t end;
    std::vector<std::int32_t> before;
    std::vector<float> fractions;

    Axis(std::int64_t n, std::int64_t n_out, bool single_precision)
        : end(n_out), before(static_cast<std::size_t>(n_out)), fractions(static_cast<std::size_t>(n_out)) {
        const auto n_old = static_cast<double>(n), n_new = static_cast<double>(n_out);
        // Two roundings or one: OpenCV's own routine divides twice.
        const double step = single_precision ? 1.0 / (n_new / n_old) : n_old / n_new;
        for (std::int64_t d = 0; d < n_out; ++d) {
            const double exact = (static_cast<double>(d) + 0.5) * step - 0.5;
            const double position = single_precision ? static_cast<double>(static_cast<float>(exact)) : exact;
            const double whole = std::floor(position);
            const auto pixel = static_cast<std::int64_t>(whole);
            if (pixel < 0) begin = d + 1;
            if (pixel >= n - 1) end = std::min(end, d);
            const auto i = static_cast<std::size_t>(d);
            before[i] = static_cast<std::int32_t>(std::min(std::max<std::int64_t>(pixel, 0), n - 1));
            fractions[i] = static_cast<float>(position - whole);
        }
    }
};

// n samples of half the sides: the mean of two pixels in each of two rows, added up in the order of memory.
void halve(const float* upper, const float* lower, std::int64_t n, float* out) {
    for (std::int64_t x = 0; x < n; ++x) {
        out[x] = (upper[2 * x] + upper[2 * x + 1] + lower[2 * x] + lower[2 * x + 1]) * 0.25F;
    }
}

// A range [begin, end) of samples.
struct Range {
    std::int64_t begin;
    std::int64_t end;
};

// The rows of a plane that were stretched last, in a block of columns of the output.
class StretchedRows {
public:
    StretchedRows(const float* plane, std::int64_t n_x, const Axis& axis, const Range& block, const Loops& loops)
        : plane_(plane), n_x_(n_x), axis_(axis), block_(block), loops_(loops),
          newer_(static_cast<std::size_t>(block.end - block.begin)), older_(newer_.size()) {}

    // Row y of the plane, stretched; valid until the call after the next.
    const float* row(std::int64_t y) {
        if (y != newer_y_) {
            std::swap(newer_, older_);
            std::swap(newer_y_, older_y_);
            if (y != newer_y_) stretch_row(plane_ + y * n_x_);
            newer_y_ = y;
        }
        return newer_.data();
    }

private:
    void stretch_row(const float* pixels) {
        const std::int64_t begin = std::min(std::max(axis_.begin, block_.begin), block_.end);
        const std::int64_t end = std::max(std::min(axis_.end, block_.end), begin);
        float* const out = newer_.data();
        std::fill(out, out + (begin - block_.begin), pixels[0]);
        loops_.stretch(pixels, axis_.before.data() + begin, axis_.fractions.data() + begin, end - begin,
                       out + (begin - block_.begin));
        std::fill(out + (end - block_.begin), out + (block_.end - block_.begin), pixels[n_x_ - 1]);
    }

    const float* plane_;
    std::int64_t n_x_;
    const Axis& axis_;
    Range block_;
    const Loops& loops_;
    std::vector<float> newer_, older_;
    std::int64_t newer_y_ = -1, older_y_ = -1;
};

}  // namespace

void resize_linear(const float* image, std::int64_t n_planes, std::int64_t n_y, std::int64_t n_x, std::int64_t out_y,
                   std::int64_t out_x, bool single_precision, int n_threads, float* out) {
    if (single_precision && n_y == 2 * out_y && n_x == 2 * out_x) {  // OpenCV makes an exception of it
        constexpr std::int64_t samples_per_grain = 1 << 16;
        parallel_for(n_planes * out_y, samples_per_grain / out_x + 1, n_threads, [&](std::int64_t y, std::int64_t end) {
            for (; y < end; ++y) halve(image + 2 * y * n_x, image + (2 * y + 1) * n_x, out_x, out + y * out_x);
        });
        return;
    }
    const Loops loops = choose_loops(single_precision);
    const Axis rows(n_y, out_y, single_precision);
    const Axis columns(n_x, out_x, single_precision);
    constexpr std::int64_t samples_per_row = 1 << 13;  // two such rows, and where they come from, fit in a second cache
    constexpr std::int64_t samples_per_task = 1 << 18;
    const std::int64_t n_block = std::min(out_x, samples_per_row);
    const std::int64_t n_band = std::min(out_y, samples_per_task / n_block);
    const std::int64_t n_blocks = (out_x - 1) / n_block + 1;
    const std::int64_t n_bands = (out_y - 1) / n_band + 1;
    parallel_for(n_planes * n_bands * n_blocks, 1, n_threads, [&](std::int64_t task, std::int64_t) {
        const Range block{task % n_blocks * n_block, std::min(out_x, (task % n_blocks + 1) * n_block)};
        const std::int64_t n = block.end - block.begin;
        const std::int64_t plane = task / n_blocks / n_bands;
        const std::int64_t y_begin = task / n_blocks % n_bands * n_band;
        StretchedRows stretched(image + plane * n_y * n_x, n_x, columns, block, loops);
        for (std::int64_t y = y_begin; y < std::min(y_begin + n_band, out_y); ++y) {
            float* const to = out + (plane * out_y + y) * out_x + block.begin;
            const auto i = static_cast<std::size_t>(y);
            const float* const upper = stretched.row(rows.before[i]);
            if (y >= rows.begin && y < rows.end)
                loops.blend(upper, stretched.row(rows.before[i] + 1), rows.fractions[i], n, to);
            else if (single_precision)  // between the row and itself, which is not always the row: the weights round
                loops.blend(upper, upper, rows.fractions[i], n, to);
            else
                std::copy(upper, upper + n, to);
        }
    });
}

}  // namespace cellrt
