// What following flows has in common in two and three dimensions: where positions begin, rounds of steps, cancelling.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "status.hpp"

namespace cellrt {

constexpr std::int32_t longest_round = 128;  // steps

// Steps of the next round: few while many trajectories come to their ends, then more, so that longer circles are found.
inline std::int32_t round_length(std::int32_t n_done) {
    if (n_done == 0) return 24;
    return std::clamp(n_done / 24 * 8, 8, longest_round);
}

inline void poll(const std::int32_t* cancel) {
    if (cancel && *static_cast<const volatile std::int32_t*>(cancel) != 0) throw Failure(CELLRT_ERROR_CANCELLED);
}

// The largest float that is not above a count: some beyond 2^24 lie between two floats.
inline float float_not_above(std::int64_t count) {
    const auto nearest = static_cast<float>(count);
    return static_cast<std::int64_t>(nearest) > count ? std::nextafter(nearest, 0.0F) : nearest;
}

// The coordinates of the pixels of an axis, in pixels.
inline std::vector<float> starts_in_pixels(std::int64_t n) {
    std::vector<float> starts(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < starts.size(); ++i) starts[i] = float_not_above(static_cast<std::int64_t>(i));
    return starts;
}

// The same from -1 to 1 between the first and the last pixel.
inline std::vector<float> starts_in_unit(std::int64_t n) {
    if (n == 1) return {0.0F};
    std::vector<float> starts = starts_in_pixels(n);
    const float last = starts.back();
    for (float& start : starts) start = start / last * 2.0F - 1.0F;
    return starts;
}

// How far one pixel is in that unit. An axis of one pixel has no length to divide by: its coordinate stays in the middle.
inline float unit_of_pixel(std::int64_t n) {
    return n > 1 ? static_cast<float>(2.0 / static_cast<double>(n - 1)) : 0.0F;
}

}  // namespace cellrt
