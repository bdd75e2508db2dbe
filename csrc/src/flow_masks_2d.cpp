// flow_masks_2d: positions (n, 2) y, x in pixels where the pixels (n,) ended -> labels (Y, X).
//
// A histogram of the end positions, one bin per pixel; its peaks are seeds; each grows over occupied bins; a pixel gets
// the label of the bin that it ended in. A seed has more than 10 of the n pixels, so there are fewer than n / 10 of
// them and looking at a fixed window around each is O(n).
//
// The histogram lies in the output, which is overwritten last. Only if a position is outside the image (no integration
// of flows does that) it needs a margin, and an array of its own.
#include "flow_masks_2d.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <vector>

#include "instruction_set.hpp"
#include "mask_seeds.hpp"
#include "parallel.hpp"
#include "status.hpp"

#if defined(CELLRT_HAS_AVX2)
#include <immintrin.h>
#endif

namespace cellrt {
namespace {

constexpr std::int64_t peak_radius = 2;           // a seed is the largest of 5 x 5 bins
constexpr std::int64_t grown_radius = 5;          // steps of growth, and half the window that it stays in
constexpr std::int64_t window_side = 2 * grown_radius + 1;

constexpr std::int64_t pixels_per_grain = 1 << 16;
constexpr std::int64_t bins_at_once = 16;

// Bins (n_y, n_x): how many pixels ended in each; bin (margin, margin) is pixel (0, 0) of the image.
struct Histogram {
    std::int32_t* counts;
    std::int64_t n_y, n_x, margin;

    std::int32_t at(std::int64_t y, std::int64_t x) const {
        return y >= 0 && y < n_y && x >= 0 && x < n_x ? counts[y * n_x + x] : 0;
    }
};

using Window = std::array<std::uint16_t, window_side>;  // a bit for each bin around a seed

// What end positions there are.
struct Ends {
    bool are_finite = true;
    bool are_inside = true;  // none needs the margin
};

constexpr auto highest = static_cast<float>(1 << 30);  // no side is longer, so what it cuts off is cut off below

#if defined(CELLRT_HAS_AVX2)
// The bins of the first positions, four at a time; returns how many.
CELLRT_TARGET_AVX2 std::int64_t find_bins_avx2(const float* positions, std::int64_t count, const Histogram& histogram,
                                               std::int64_t* bins, Ends* ends) {
    const __m256 lowest = _mm256_set1_ps(static_cast<float>(-histogram.margin));
    const __m256i margin = _mm256_set1_epi32(static_cast<std::int32_t>(histogram.margin));
    const __m256i last = _mm256_set1_epi64x(((histogram.n_x - 1) << 32) | (histogram.n_y - 1));  // y, x, y, x ...
    const __m256i n_x = _mm256_set1_epi64x(histogram.n_x);
    __m256i bad = _mm256_setzero_si256();
    __m256 outside = _mm256_setzero_ps();
    std::int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const __m256 given = _mm256_loadu_ps(positions + 2 * i);
        const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(given), _mm256_set1_epi32(0x7fffffff));
        bad = _mm256_or_si256(bad, _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f7fffff)));
        outside = _mm256_or_ps(outside, _mm256_cmp_ps(given, _mm256_set1_ps(-1.0F), _CMP_LE_OQ));
        // In this order of operands, NaN becomes the lowest.
        const __m256 clamped = _mm256_min_ps(_mm256_max_ps(given, lowest), _mm256_set1_ps(highest));
        const __m256i bin = _mm256_min_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(clamped), margin), last);
        const __m256i row = _mm256_mul_epi32(bin, n_x);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bins + i), _mm256_add_epi64(row, _mm256_srli_epi64(bin, 32)));
    }
    ends->are_finite = _mm256_testz_si256(bad, bad) != 0;
    ends->are_inside = _mm256_movemask_ps(outside) == 0;
    return i;
}
#endif

// The bins of `count` positions.
Ends find_bins(const float* positions, std::int64_t count, const Histogram& histogram, std::int64_t* bins) {
    Ends ends;
    std::int64_t first = 0;
#if defined(CELLRT_HAS_AVX2)
    if (use_avx2()) first = find_bins_avx2(positions, count, histogram, bins, &ends);
#endif
    const auto lowest = static_cast<float>(-histogram.margin);
    const auto margin = static_cast<std::int32_t>(histogram.margin);
    const auto last_y = static_cast<std::int32_t>(histogram.n_y - 1);
    const auto last_x = static_cast<std::int32_t>(histogram.n_x - 1);
    const std::int64_t n_x = histogram.n_x;
    int n_bad = 0, n_outside = 0;
    for (std::int64_t i = first; i < count; ++i) {
        float y = positions[2 * i], x = positions[2 * i + 1];
        n_bad += !std::isfinite(y);
        n_bad += !std::isfinite(x);
        n_outside += y <= -1.0F;
        n_outside += x <= -1.0F;
        y = y > lowest ? y : lowest;  // in this form NaN ends up in the histogram too
        x = x > lowest ? x : lowest;
        const std::int32_t bin_y = static_cast<std::int32_t>(y < highest ? y : highest) + margin;
        const std::int32_t bin_x = static_cast<std::int32_t>(x < highest ? x : highest) + margin;
        bins[i] = std::min(bin_y, last_y) * n_x + std::min(bin_x, last_x);
    }
    ends.are_finite &= n_bad == 0;
    ends.are_inside &= n_outside == 0;
    return ends;
}

// Calls visit(bins, begin, count) for pieces of the pixels begin..end.
template <typename Visit>
Ends for_each_bin(const float* positions, std::int64_t begin, std::int64_t end, const Histogram& histogram,
                  const Visit& visit) {
    std::array<std::int64_t, 512> bins;
    Ends all;
    for (; begin < end; begin += static_cast<std::int64_t>(bins.size())) {
        const std::int64_t count = std::min(static_cast<std::int64_t>(bins.size()), end - begin);
        const Ends ends = find_bins(positions + 2 * begin, count, histogram, bins.data());
        all.are_finite &= ends.are_finite;
        all.are_inside &= ends.are_inside;
        visit(bins.data(), begin, count);
    }
    return all;
}

// Counts the pixels that end in each bin. A band of rows owns the bins of its rows; the few pixels that end in those of
// others are counted afterwards.
Ends count_ends(const std::int64_t* pixels, const float* positions, std::int64_t n, std::int64_t n_y, std::int64_t n_x,
                int n_threads, const Histogram& histogram) {
    Ends all;
    std::vector<std::int64_t> bins_of_others;
    std::mutex mutex;
    std::int32_t* const counts = histogram.counts;
    const auto add = [counts](std::int64_t bin, std::int64_t n_ends) {
        counts[bin] = static_cast<std::int32_t>(std::min<std::int64_t>(counts[bin] + n_ends, INT32_MAX));
    };
    const std::int64_t rows_per_band = (n_y - 1) / thread_count(n_threads) + 1;
    parallel_for(n_y, rows_per_band, n_threads, [&](std::int64_t row_begin, std::int64_t row_end) {
        const std::int64_t begin = std::lower_bound(pixels, pixels + n, row_begin * n_x) - pixels;
        const std::int64_t end = std::lower_bound(pixels + begin, pixels + n, row_end * n_x) - pixels;
        const std::int64_t first_bin = (row_begin == 0 ? 0 : row_begin + histogram.margin) * histogram.n_x;
        const std::int64_t end_bin = (row_end + histogram.margin) * histogram.n_x;
        std::fill(counts + first_bin, counts + end_bin, 0);
        std::vector<std::int64_t> others;
        const Ends ends = for_each_bin(
            positions, begin, end, histogram, [&](const std::int64_t* bins, std::int64_t, std::int64_t count) {
                // Neighbours mostly end together.
                for (std::int64_t i = 0, next; i < count; i = next) {
                    const std::int64_t bin = bins[i];
                    next = i + 1;
                    while (next < count && bins[next] == bin) ++next;
                    if (bin >= first_bin && bin < end_bin) {
                        add(bin, next - i);
                    } else {
                        others.insert(others.end(), static_cast<std::size_t>(next - i), bin);
                    }
                }
            });
        const std::lock_guard<std::mutex> lock(mutex);
        all.are_finite &= ends.are_finite;
        all.are_inside &= ends.are_inside;
        bins_of_others.insert(bins_of_others.end(), others.begin(), others.end());
    });
    for (const std::int64_t bin : bins_of_others) add(bin, 1);
    return all;
}

// Whether no bin of 5 x 5 holds more than the one in the middle.
bool is_peak(const Histogram& histogram, std::int64_t y, std::int64_t x) {
    const std::int32_t count = histogram.counts[y * histogram.n_x + x];
    for (std::int64_t dy = -peak_radius; dy <= peak_radius; ++dy) {
        for (std::int64_t dx = -peak_radius; dx <= peak_radius; ++dx) {
            if (histogram.at(y + dy, x + dx) > count) return false;
        }
    }
    return true;
}

// Whether any of the bins begin..end of a row may be a seed; most are not, and to see it of many at once is fast.
bool holds_seed(const std::int32_t* row, std::int64_t begin, std::int64_t end) {
    int n_found = 0;
    for (std::int64_t x = begin; x < end; ++x) n_found |= row[x] >= smallest_seed;
    return n_found != 0;
}

// The seeds in row-major order.
std::vector<Seed> find_seeds(const Histogram& histogram, int n_threads) {
    std::vector<Seed> seeds;
    std::mutex mutex;
    const std::int64_t rows_per_grain = pixels_per_grain / histogram.n_x + 1;
    parallel_for(histogram.n_y, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<Seed> found;
        for (std::int64_t y = begin; y < end; ++y) {
            const std::int32_t* const row = histogram.counts + y * histogram.n_x;
            for (std::int64_t x_begin = 0; x_begin < histogram.n_x; x_begin += bins_at_once) {
                const std::int64_t x_end = std::min(x_begin + bins_at_once, histogram.n_x);
                if (!holds_seed(row, x_begin, x_end)) continue;
                for (std::int64_t x = x_begin; x < x_end; ++x) {
                    if (row[x] < smallest_seed || !is_peak(histogram, y, x)) continue;
                    found.push_back({row[x], y * histogram.n_x + x});
                }
            }
        }
        const std::lock_guard<std::mutex> lock(mutex);
        seeds.insert(seeds.end(), found.begin(), found.end());
    });
    std::sort(seeds.begin(), seeds.end(), [](const Seed& a, const Seed& b) { return a.bin < b.bin; });
    return seeds;
}

// The bins around a seed that hold enough to grow into.
Window occupied_bins(const Histogram& histogram, std::int64_t y_begin, std::int64_t x_begin) {
    Window occupied{};
    const bool is_inside = y_begin >= 0 && y_begin + window_side <= histogram.n_y && x_begin >= 0 &&
                           x_begin + window_side <= histogram.n_x;
    for (std::int64_t y = 0; y < window_side; ++y) {
        const std::int64_t first = (y_begin + y) * histogram.n_x + x_begin;
        unsigned bits = 0;
        for (std::int64_t x = 0; x < window_side; ++x) {
            const std::int32_t count = is_inside ? histogram.counts[first + x] : histogram.at(y_begin + y, x_begin + x);
            bits |= static_cast<unsigned>(count >= smallest_grown) << x;
        }
        occupied[static_cast<std::size_t>(y)] = static_cast<std::uint16_t>(bits);
    }
    return occupied;
}

// The bins that a seed grows into: in every step to the 8 neighbours that hold enough.
Window grow(const Histogram& histogram, const Seed& seed) {
    const Window occupied = occupied_bins(histogram, seed.bin / histogram.n_x - grown_radius,
                                          seed.bin % histogram.n_x - grown_radius);
    Window grown{};
    grown[grown_radius] = 1 << grown_radius;
    for (std::int64_t step = 0; step < grown_radius; ++step) {
        std::array<unsigned, window_side + 2> wider{};  // a row more at each end, so that all have neighbours
        for (std::size_t y = 0; y < grown.size(); ++y) {
            const unsigned row = grown[y];
            wider[y + 1] = row | row << 1 | row >> 1;
        }
        for (std::size_t y = 0; y < grown.size(); ++y) {
            grown[y] = static_cast<std::uint16_t>((wider[y] | wider[y + 1] | wider[y + 2]) & occupied[y]);
        }
    }
    return grown;
}

// Replaces the counts of the bins that belong to seed k by -(k + 1); counts are positive.
void paint_seeds(const Histogram& histogram, const std::vector<Seed>& seeds, int n_threads) {
    std::vector<Window> windows(seeds.size());
    parallel_for(static_cast<std::int64_t>(seeds.size()), 256, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
            windows[k] = grow(histogram, seeds[k]);
        }
    });
    for (std::size_t k = 0; k < seeds.size(); ++k) {
        const std::int64_t corner = seeds[k].bin - grown_radius * (histogram.n_x + 1);
        for (std::int64_t y = 0; y < window_side; ++y) {
            std::int64_t bin = corner + y * histogram.n_x;
            for (unsigned bits = windows[k][static_cast<std::size_t>(y)]; bits != 0; bits >>= 1, ++bin) {
                if ((bits & 1) != 0) histogram.counts[bin] = -static_cast<std::int32_t>(k + 1);
            }
        }
    }
}

}  // namespace

std::int32_t flow_masks_2d(const std::int64_t* pixels, const float* positions, std::int64_t n, std::int64_t n_y,
                           std::int64_t n_x, double max_size_fraction, int n_threads, std::int32_t* labels) {
    if (n == 0) {
        std::fill(labels, labels + n_y * n_x, 0);
        return 0;
    }
    Histogram histogram{labels, n_y, n_x, 0};
    std::vector<std::int32_t> counts;
    const Ends ends = count_ends(pixels, positions, n, n_y, n_x, n_threads, histogram);
    require(ends.are_finite, CELLRT_ERROR_DATA);
    if (!ends.are_inside) {
        histogram = {nullptr, n_y + margin_of_histogram, n_x + margin_of_histogram, margin_of_histogram};
        counts.resize(static_cast<std::size_t>(histogram.n_y * histogram.n_x));
        histogram.counts = counts.data();
        count_ends(pixels, positions, n, n_y, n_x, n_threads, histogram);
    }

    std::vector<Seed> seeds = find_seeds(histogram, n_threads);
    require(seeds.size() < INT32_MAX, CELLRT_ERROR_CAPACITY);
    sort_seeds(seeds);
    paint_seeds(histogram, seeds, n_threads);

    std::vector<std::int32_t> masks(static_cast<std::size_t>(n));
    parallel_for(n, pixels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for_each_bin(positions, begin, end, histogram,
                     [&](const std::int64_t* bins, std::int64_t first, std::int64_t count) {
                         std::int32_t* const piece = masks.data() + first;
                         for (std::int64_t i = 0; i < count; ++i) {
                             piece[i] = std::max(-histogram.counts[bins[i]], 0);
                         }
                     });
    });

    return write_masks(masks, seeds.size(), pixels, n_y * n_x, max_size_fraction, n_threads, labels);
}

}  // namespace cellrt
