// percentiles: the pixels are counted by value, and the order statistics are read off the cumulated counts.
//
// u8 and u16: one histogram holds everything. f32: a first histogram counts the upper 16 bits of each pixel (as an
// integer that orders like the number), which finds the few buckets that hold the wanted ranks. If these hold few
// pixels, as mostly, these are collected and sorted; else a second histogram counts the lower 16 bits of them. Threads
// count pieces of the image and add their counts up: integers, so the order does not matter.
#include "percentiles.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <type_traits>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

using Counts = std::vector<std::uint64_t>;

// A wanted percentile: interpolated at `fraction` between the order statistics `rank` and `next` (0 is the smallest).
struct Wanted {
    std::int64_t rank;
    std::int64_t next;
    double fraction;
};

// numpy's "linear" rule, operation by operation: quantile = percent / 100, position = (n - 1) * quantile.
Wanted wanted_ranks(double percent, std::int64_t n_pixels) {
    const double position = static_cast<double>(n_pixels - 1) * (percent / 100.0);
    if (position >= static_cast<double>(n_pixels - 1)) return {n_pixels - 1, n_pixels - 1, 0.0};
    const double below = std::floor(position);
    const auto rank = static_cast<std::int64_t>(below);
    return {rank, rank + 1, position - below};
}

// numpy's _lerp: from the nearer end, so that it is monotonic and exact at both ends. Number is what numpy computes in:
// double for integer pixels, float for float pixels.
template <typename Number>
double interpolate(Number a, Number b, double fraction) {
    const Number difference = b - a;
    return fraction >= 0.5 ? b - difference * static_cast<Number>(1.0 - fraction)
                           : a + difference * static_cast<Number>(fraction);
}

// Counts pixels in parallel: count(begin, end, counts) adds the pixels begin..end of the image to its own 32-bit
// counts, n_lanes histograms of n_counters each, which are added up to one. A piece is large enough that zeroing and
// adding costs little beside it, and below 2^31 pixels so that no counter overflows.
template <typename Count>
Counts count_in_pieces(std::int64_t n_pixels, int n_threads, std::size_t n_lanes, std::size_t n_counters,
                       const Count& count) {
    const std::int64_t per_thread = (n_pixels - 1) / thread_count(n_threads) + 1;
    const std::int64_t worthwhile = 8 * static_cast<std::int64_t>(n_lanes * n_counters);
    const std::int64_t grain = std::min<std::int64_t>(std::max(per_thread, worthwhile), std::int64_t{1} << 31);
    std::mutex total_mutex;
    Counts total(n_counters);
    parallel_for(n_pixels, grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::uint32_t> counts(n_lanes * n_counters);
        count(begin, end, counts.data());
        const std::lock_guard<std::mutex> lock(total_mutex);
        for (std::size_t lane = 0; lane < n_lanes; ++lane)
            for (std::size_t i = 0; i < n_counters; ++i) total[i] += counts[lane * n_counters + i];
    });
    return total;
}

// Neighbouring pixels are counted in several histograms in turn. They are often equal, and adding to the same counter again
// has to wait until the last sum has arrived in memory.
constexpr std::size_t n_lanes = 2;

// The histogram of an integer image, one counter per value.
template <typename Pixel>
Counts histogram(const PixelRuns<Pixel>& runs, int n_threads) {
    constexpr std::size_t n_values = std::size_t{1} << (8 * sizeof(Pixel));
    const auto count = [&](std::int64_t begin, std::int64_t end, std::uint32_t* counts) {
        runs.for_each(begin, end, [&](const Pixel* pixels, std::int64_t n, std::int64_t step) {
            std::int64_t i = 0;
            for (; i + 2 <= n; i += 2) {
                ++counts[pixels[i * step]];
                ++counts[n_values + pixels[(i + 1) * step]];
            }
            if (i < n) ++counts[pixels[i * step]];
        });
    };
    return count_in_pieces(runs.size(), n_threads, n_lanes, n_values, count);
}

// The bucket that holds an order statistic; the rank becomes the one within the bucket.
std::size_t find_bucket(const std::uint64_t* counts, std::int64_t& rank) {
    auto left = static_cast<std::uint64_t>(rank);
    std::size_t bucket = 0;
    while (left >= counts[bucket]) left -= counts[bucket++];
    rank = static_cast<std::int64_t>(left);
    return bucket;
}

// Order statistics of an integer image.
template <typename Pixel>
void select(const PixelRuns<Pixel>& runs, int n_threads, std::vector<std::int64_t>& ranks, std::vector<double>& found) {
    const Counts counts = histogram(runs, n_threads);
    for (std::size_t i = 0; i < ranks.size(); ++i) found[i] = static_cast<double>(find_bucket(counts.data(), ranks[i]));
}

constexpr std::size_t n_halves = std::size_t{1} << 16;  // values of a half of a float's bits

std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// An integer that orders as the float does. -0 is below 0.
std::uint32_t key_of_bits(std::uint32_t bits) {
    return bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | 0x80000000u);
}
std::uint32_t key_of(float value) { return key_of_bits(bits_of(value)); }

float value_of(std::uint32_t key) {
    const std::uint32_t bits = key ^ ((key >> 31) != 0 ? 0x80000000u : 0xffffffffu);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Calls visit(bits, n) for the bits of a run's pixels, some at a time and next to each other; -0 becomes 0.
template <typename Visit>
void for_each_some(const float* pixels, std::int64_t n, std::int64_t step, const Visit& visit) {
    constexpr std::int64_t n_at_once = 1024;
    std::uint32_t bits[n_at_once];
    for (std::int64_t begin = 0; begin < n; begin += n_at_once) {
        const std::int64_t count = std::min(n_at_once, n - begin);
        const float* const some = pixels + begin * step;
        if (step == 1) {
            for (std::int64_t i = 0; i < count; ++i) bits[i] = bits_of(some[i] + 0.0f);
        } else {
            for (std::int64_t i = 0; i < count; ++i) bits[i] = bits_of(some[i * step] + 0.0f);
        }
        visit(bits, count);
    }
}

// The histogram of the upper halves of the keys.
Counts count_upper(const PixelRuns<float>& runs, int n_threads) {
    // Upper halves are equal more often than whole pixels are; but a small image is not worth the memory.
    const std::size_t n_float_lanes = runs.size() < 1 << 19 ? 1 : 4;
    const std::size_t lane = n_float_lanes == 1 ? 0 : n_halves;
    const auto count = [&](std::int64_t begin, std::int64_t end, std::uint32_t* counts) {
        runs.for_each(begin, end, [&](const float* pixels, std::int64_t n, std::int64_t step) {
            for_each_some(pixels, n, step, [&](const std::uint32_t* bits, std::int64_t n_values) {
                std::int64_t i = 0;
                for (; i + 4 <= n_values; i += 4) {
                    const std::uint32_t a = bits[i], b = bits[i + 1], c = bits[i + 2], d = bits[i + 3];
                    ++counts[a >> 16];
                    ++counts[lane + (b >> 16)];
                    ++counts[2 * lane + (c >> 16)];
                    ++counts[3 * lane + (d >> 16)];
                }
                for (; i < n_values; ++i) ++counts[bits[i] >> 16];
            });
        });
    };
    Counts counts = count_in_pieces(runs.size(), n_threads, n_float_lanes, n_halves, count);
    // By bits: from 0 up, then from -0 down.
    const auto minus_zero = counts.begin() + n_halves / 2;
    std::reverse(minus_zero, counts.end());
    std::swap_ranges(counts.begin(), minus_zero, minus_zero);
    return counts;
}

constexpr std::size_t n_slots = 4;
constexpr std::uint64_t most_collected = 1 << 18;  // a megabyte
constexpr std::uint64_t most_sorted = 1 << 13;     // takes as long as a histogram of their lower halves

// Up to n_slots wanted buckets: upper halves of keys, ascending.
struct Buckets {
    std::uint32_t halves[n_slots];
    std::size_t n_used;

    Buckets(const std::vector<std::size_t>& buckets, std::size_t first)
        : n_used(std::min(n_slots, buckets.size() - first)) {
        for (std::size_t slot = 0; slot < n_used; ++slot) halves[slot] = static_cast<std::uint32_t>(buckets[first + slot]);
    }
    // n_used if the key is in none of them
    std::size_t slot_of(std::uint32_t key) const {
        std::size_t slot = 0;
        while (slot < n_used && halves[slot] != key >> 16) ++slot;
        return slot;
    }
    // Whether any of n numbers with these bits is in one of them. It vectorises.
    template <std::int64_t n>
    bool hold_any(const std::uint32_t* bits) const {
        std::uint32_t any = 0;
        for (std::size_t slot = 0; slot < n_used; ++slot) {
            const std::uint32_t half = bits_of(value_of(halves[slot] << 16)) >> 16;
            for (std::int64_t i = 0; i < n; ++i) any |= static_cast<std::uint32_t>(bits[i] >> 16 == half);
        }
        return any != 0;
    }
};

// The keys of all pixels in the buckets, in any order.
std::vector<std::uint32_t> collect(const PixelRuns<float>& runs, int n_threads, const Buckets& wanted) {
    std::mutex all_mutex;
    std::vector<std::uint32_t> all;
    parallel_for(runs.size(), std::int64_t{1} << 18, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<std::uint32_t> some;
        runs.for_each(begin, end, [&](const float* pixels, std::int64_t n, std::int64_t step) {
            for_each_some(pixels, n, step, [&](const std::uint32_t* bits, std::int64_t n_values) {
                // Most pixels are in none of the buckets.
                constexpr std::int64_t n_at_once = 32;
                for (std::int64_t i = 0; i < n_values; i += n_at_once) {
                    if (i + n_at_once <= n_values && !wanted.hold_any<n_at_once>(bits + i)) continue;
                    for (std::int64_t j = i; j < std::min(i + n_at_once, n_values); ++j) {
                        const std::uint32_t key = key_of_bits(bits[j]);
                        if (wanted.slot_of(key) < wanted.n_used) some.push_back(key);
                    }
                }
            });
        });
        const std::lock_guard<std::mutex> lock(all_mutex);
        all.insert(all.end(), some.begin(), some.end());
    });
    return all;
}

// The histograms of the lower halves of the keys in each bucket.
Counts count_lower(const PixelRuns<float>& runs, int n_threads, const Buckets& wanted) {
    std::vector<std::uint8_t> slot_of(n_halves, 0);  // 1 + slot of a wanted bucket
    for (std::size_t slot = 0; slot < wanted.n_used; ++slot)
        slot_of[wanted.halves[slot]] = static_cast<std::uint8_t>(slot + 1);
    const auto count = [&](std::int64_t begin, std::int64_t end, std::uint32_t* counts) {
        runs.for_each(begin, end, [&](const float* pixels, std::int64_t n, std::int64_t step) {
            for_each_some(pixels, n, step, [&](const std::uint32_t* bits, std::int64_t n_values) {
                for (std::int64_t i = 0; i < n_values; ++i) {
                    const std::uint32_t key = key_of_bits(bits[i]);
                    const std::size_t slot = slot_of[key >> 16];
                    if (slot != 0) ++counts[(slot - 1) * n_halves + (key & 0xffffu)];
                }
            });
        });
    };
    return count_in_pieces(runs.size(), n_threads, 1, wanted.n_used * n_halves, count);
}

Counts count_lower(const std::vector<std::uint32_t>& keys, const Buckets& wanted) {
    Counts counts(wanted.n_used * n_halves);
    for (const std::uint32_t key : keys) ++counts[wanted.slot_of(key) * n_halves + (key & 0xffffu)];
    return counts;
}

// Order statistics of a float image.
void select(const PixelRuns<float>& runs, int n_threads, std::vector<std::int64_t>& ranks, std::vector<double>& found) {
    const Counts upper = count_upper(runs, n_threads);

    // Infinities and NaNs have the largest exponent: both ends of the order.
    const std::size_t infinity = key_of(INFINITY) >> 16;
    const std::size_t minus_infinity = key_of(-INFINITY) >> 16;
    for (std::size_t half = 0; half <= minus_infinity; ++half) require(upper[half] == 0, CELLRT_ERROR_DATA);
    for (std::size_t half = infinity; half < n_halves; ++half) require(upper[half] == 0, CELLRT_ERROR_DATA);

    std::vector<std::size_t> bucket_of(ranks.size());
    std::vector<std::size_t> buckets;
    for (std::size_t i = 0; i < ranks.size(); ++i) {
        bucket_of[i] = find_bucket(upper.data(), ranks[i]);
        buckets.push_back(bucket_of[i]);
    }
    std::sort(buckets.begin(), buckets.end());
    buckets.erase(std::unique(buckets.begin(), buckets.end()), buckets.end());

    // Two percentiles need four buckets at most; more take several rounds, so that the scratch stays bounded.
    for (std::size_t first = 0; first < buckets.size(); first += n_slots) {
        const Buckets wanted(buckets, first);
        std::uint64_t n_inside = 0;
        for (std::size_t slot = 0; slot < wanted.n_used; ++slot) n_inside += upper[wanted.halves[slot]];
        std::vector<std::uint32_t> keys;
        if (n_inside <= most_collected) keys = collect(runs, n_threads, wanted);
        Counts lower;
        if (n_inside <= most_sorted)
            std::sort(keys.begin(), keys.end());
        else
            lower = n_inside <= most_collected ? count_lower(keys, wanted) : count_lower(runs, n_threads, wanted);
        for (std::size_t i = 0; i < ranks.size(); ++i) {
            const auto first_key = static_cast<std::uint32_t>(bucket_of[i] << 16);
            const std::size_t slot = wanted.slot_of(first_key);
            if (slot == wanted.n_used) continue;
            const std::uint32_t key =
                n_inside <= most_sorted
                    ? *(std::lower_bound(keys.begin(), keys.end(), first_key) + ranks[i])
                    : first_key | static_cast<std::uint32_t>(find_bucket(lower.data() + slot * n_halves, ranks[i]));
            found[i] = value_of(key);
        }
    }
}

}  // namespace

template <typename Pixel>
void percentiles(const StridedImage<Pixel>& image, const double* percents, std::int32_t n_percents, int n_threads,
                 double* values) {
    const PixelRuns<Pixel> runs(image);
    std::vector<double> fractions;
    std::vector<std::int64_t> ranks;  // the two neighbours of each percentile, one after the other
    for (std::int32_t i = 0; i < n_percents; ++i) {
        const Wanted wanted = wanted_ranks(percents[i], runs.size());
        ranks.push_back(wanted.rank);
        ranks.push_back(wanted.next);
        fractions.push_back(wanted.fraction);
    }
    std::vector<double> found(ranks.size());
    select(runs, n_threads, ranks, found);
    using Number = std::conditional_t<std::is_same<Pixel, float>::value, float, double>;
    for (std::size_t i = 0; i < fractions.size(); ++i) {
        values[i] = interpolate(static_cast<Number>(found[2 * i]), static_cast<Number>(found[2 * i + 1]), fractions[i]);
    }
}

template void percentiles(const StridedImage<std::uint8_t>&, const double*, std::int32_t, int, double*);
template void percentiles(const StridedImage<std::uint16_t>&, const double*, std::int32_t, int, double*);
template void percentiles(const StridedImage<float>&, const double*, std::int32_t, int, double*);

}  // namespace cellrt
