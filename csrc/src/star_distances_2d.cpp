// star_distances_2d: labels (Y, X) -> dist (rays, y, x) in pixels, y and x being every grid_y-th row and grid_x-th column.
//
// A ray leads the same way from every pixel, so its steps are computed once: how far on in memory the pixel of each is.
// Samples side by side walk together, a block at a time, until each has left its label: compare, and count. For that the
// labels are copied: with background around them, which ends every walk, and with the columns sorted by x mod grid_x,
// so that the pixels to which a step leads from samples side by side are side by side, too.
#include "star_distances_2d.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "instruction_set.hpp"
#include "parallel.hpp"

#if defined(CELLRT_HAS_AVX2)
#include <immintrin.h>
#endif

namespace cellrt {
namespace {

constexpr std::int64_t block_width = 16;  // samples

struct Grid {
    std::int64_t y, x;
};

// A copy of the labels. Each row is grid.x strands, the first of columns 0, grid.x, 2 grid.x ..., the next of columns 1,
// 1 + grid.x ...
class Strands {
public:
    Strands(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, Grid grid, int n_threads)
        : grid_x_(grid.x),
          length_((ceil_divide(n_x, grid.x) + border + block_width - 1) / block_width * block_width),
          pitch_(grid.x * length_),
          // Where one sample of a block is in the border, the others may be beyond it.
          values_(static_cast<std::size_t>((n_y + 2 * border) * pitch_ + 4 * block_width)) {
        constexpr std::int64_t rows_per_grain = 64;
        parallel_for(n_y, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t y = begin; y < end; ++y) {
                for (std::int64_t first = 0; first < grid.x; ++first) {
                    std::int32_t* strand = values_.data() + origin() + y * pitch_ + first * length_;
                    for (std::int64_t x = first; x < n_x; x += grid.x) *strand++ = labels[y * n_x + x];
                }
            }
        });
    }

    // The labels of the sampled columns of row y.
    const std::int32_t* row(std::int64_t y) const { return values_.data() + origin() + y * pitch_; }

    // How far from a sample the pixel is that lies (y, x) off.
    std::int64_t shift(std::int64_t y, std::int64_t x) const {
        std::int64_t strand = x % grid_x_;
        if (strand < 0) strand += grid_x_;
        return y * pitch_ + strand * length_ + (x - strand) / grid_x_;
    }

    static std::int64_t ceil_divide(std::int64_t n, std::int64_t by) { return (n - 1) / by + 1; }

private:
    // Rows above and below the image, and pixels after each strand and thus before the next: a step of length 1 leads at
    // most 2 pixels on, once both its ends are rounded.
    static constexpr std::int64_t border = 2;

    std::int64_t origin() const { return 2 * block_width + border * pitch_; }

    std::int64_t grid_x_;
    std::int64_t length_;
    std::int64_t pitch_;
    std::vector<std::int32_t> values_;
};

struct Step {
    std::int64_t shift;  // from a sample to the pixel where the step ends, in memory
    float y, x;          // the same in pixels

    // Instead of a shift: which pixel it is depends on the sample, as its coordinates are rounded to float32.
    static constexpr std::int64_t borderline = INT64_MIN;
    bool is_borderline() const { return shift == borderline; }
};

// The steps of a ray, as many as have been asked for, and how long it is once it has left a label.
class Ray {
public:
    Ray(std::int32_t k, std::int32_t n_rays, const Strands& strands, std::int64_t longest_side) : strands_(strands) {
        const double pi = 3.141592653589793;
        const float angle = static_cast<float>(k) * static_cast<float>(2.0 * pi / n_rays);
        step_y_ = static_cast<float>(std::sin(static_cast<double>(angle)));
        step_x_ = static_cast<float>(std::cos(static_cast<double>(angle)));
        taken_back_ = 1.0f - 0.5f / std::max(std::abs(step_y_), std::abs(step_x_));
        // At least half a unit in the last place of any coordinate on the way.
        rounding_ = static_cast<float>(longest_side + 4) * 0x1p-24f;
    }

    const Step& step(std::int32_t i) {
        const auto at = static_cast<std::size_t>(i);
        if (at == steps_.size()) extend();
        return steps_[at];
    }

    // After n steps, which have been asked for and the last of which left the label; 0 after none.
    float length(std::int32_t n) const { return lengths_[static_cast<std::size_t>(n)]; }

private:
    void extend() {
        y_ += step_y_;  // a running sum in float32, as in the original: multiples of the step are rounded differently
        x_ += step_x_;
        const bool is_borderline = is_between_pixels(y_) || is_between_pixels(x_);
        const std::int64_t shift = strands_.shift(std::lrint(y_), std::lrint(x_));
        steps_.push_back({is_borderline ? Step::borderline : shift, y_, x_});
        const float end_y = y_ - taken_back_ * step_y_;
        const float end_x = x_ - taken_back_ * step_x_;
        lengths_.push_back(std::sqrt(end_y * end_y + end_x * end_x));
    }

    bool is_between_pixels(float offset) const { return std::abs(offset - std::floor(offset) - 0.5f) <= rounding_; }

    const Strands& strands_;
    float step_y_, step_x_, taken_back_, rounding_;
    float y_ = 0.0f, x_ = 0.0f;
    std::vector<Step> steps_;
    std::vector<float> lengths_{0.0f};
};

// Samples side by side: (y, x), (y, x + grid_x) and so on.
struct Block {
    const std::int32_t* labels;  // of the samples, in a strand
    std::int64_t y, x, grid_x;
};

struct Image {
    const std::int32_t* labels;
    std::int64_t n_y, n_x;

    // Whether a step from sample i of a block ends in the label of that sample.
    bool is_inside(const Block& block, std::int64_t i, const Step& step) const {
        if (!step.is_borderline()) return block.labels[i + step.shift] == block.labels[i];
        const std::int64_t y = std::lrint(static_cast<float>(block.y) + step.y);
        const std::int64_t x = std::lrint(static_cast<float>(block.x + i * block.grid_x) + step.x);
        return y >= 0 && y < n_y && x >= 0 && x < n_x && labels[y * n_x + x] == block.labels[i];
    }
};

// How many steps lead out of the label of each sample of a block; 0 for samples of the background.
void walk_baseline(const Image& image, const Block& block, Ray& ray, std::int32_t* n_steps) {
    for (std::int64_t i = 0; i < block_width; ++i) {
        n_steps[i] = 0;
        for (bool walks = block.labels[i] != 0; walks; ++n_steps[i]) {
            walks = image.is_inside(block, i, ray.step(n_steps[i]));
        }
    }
}

#if defined(CELLRT_HAS_AVX2)

CELLRT_TARGET_AVX2 inline __m256i load(const std::int32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

CELLRT_TARGET_AVX2 inline void store(std::int32_t* to, __m256i values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), values);
}

CELLRT_TARGET_AVX2 void walk_avx2(const Image& image, const Block& block, Ray& ray, std::int32_t* n_steps) {
    const __m256i first = load(block.labels), second = load(block.labels + 8);
    // All bits of a sample are set while it walks; that is -1, so that subtracting counts.
    const __m256i all = _mm256_set1_epi32(-1), none = _mm256_setzero_si256();
    __m256i first_walks = _mm256_andnot_si256(_mm256_cmpeq_epi32(first, none), all);
    __m256i second_walks = _mm256_andnot_si256(_mm256_cmpeq_epi32(second, none), all);
    __m256i first_steps = none, second_steps = none;
    for (std::int32_t s = 0;; ++s) {
        const __m256i any = _mm256_or_si256(first_walks, second_walks);
        if (_mm256_testz_si256(any, any) != 0) break;
        first_steps = _mm256_sub_epi32(first_steps, first_walks);
        second_steps = _mm256_sub_epi32(second_steps, second_walks);
        const Step& step = ray.step(s);
        if (step.is_borderline()) {
            std::int32_t is_walking[block_width];
            store(is_walking, first_walks);
            store(is_walking + 8, second_walks);
            for (std::int64_t i = 0; i < block_width; ++i) {
                if (is_walking[i] != 0 && !image.is_inside(block, i, step)) is_walking[i] = 0;
            }
            first_walks = load(is_walking);
            second_walks = load(is_walking + 8);
        } else {
            const std::int32_t* const there = block.labels + step.shift;
            first_walks = _mm256_and_si256(first_walks, _mm256_cmpeq_epi32(load(there), first));
            second_walks = _mm256_and_si256(second_walks, _mm256_cmpeq_epi32(load(there + 8), second));
        }
    }
    store(n_steps, first_steps);
    store(n_steps + 8, second_steps);
}

#endif

decltype(&walk_baseline) fastest_walk() {
#if defined(CELLRT_HAS_AVX2)
    if (use_avx2()) return walk_avx2;
#endif
    return walk_baseline;
}

}  // namespace

void star_distances_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t grid_y,
                       std::int32_t grid_x, std::int32_t n_rays, int n_threads, float* dist) {
    if (n_y == 0 || n_x == 0) return;
    const Grid grid{grid_y, std::min<std::int64_t>(grid_x, n_x)};  // beyond the image it makes no difference
    const std::int64_t samples_y = Strands::ceil_divide(n_y, grid.y);
    const std::int64_t samples_x = Strands::ceil_divide(n_x, grid.x);
    const Image image{labels, n_y, n_x};
    const Strands strands(labels, n_y, n_x, grid, n_threads);
    const auto walk = fastest_walk();

    parallel_for(n_rays, 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
            Ray ray(static_cast<std::int32_t>(k), n_rays, strands, std::max(n_y, n_x));
            for (std::int64_t sample_y = 0; sample_y < samples_y; ++sample_y) {
                const std::int64_t y = sample_y * grid.y;
                const std::int32_t* const row = strands.row(y);
                float* const out = dist + (k * samples_y + sample_y) * samples_x;
                for (std::int64_t first = 0; first < samples_x; first += block_width) {
                    std::int32_t n_steps[block_width];
                    walk(image, {row + first, y, first * grid.x, grid.x}, ray, n_steps);
                    const std::int64_t count = std::min(block_width, samples_x - first);
                    for (std::int64_t i = 0; i < count; ++i) out[first + i] = ray.length(n_steps[i]);
                }
            }
        }
    });
}

}  // namespace cellrt
