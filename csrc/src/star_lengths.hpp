// What the candidates of 2D and of 3D share: ray lengths from planes of the maps to rows of `dist`, checked and clipped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace cellrt {

constexpr float shortest_dist = 1e-3f;   // pixels; StarDist clips here
// The bits of 2^20 pixels; beyond it the arithmetic of the suppression would not be exact.
constexpr std::int32_t longest_bits = 0x49800000;
constexpr std::int32_t minus_infinity_bits = INT32_MIN + 0x7f800000;

// Lengths of n_rays neighbouring rays at n columns of a row, from planes to where each candidate has its own next to
// each other. False if one is not finite or too long.
template <std::int32_t n_rays>
bool gather_lengths(const float* lengths, std::int64_t plane, const std::int64_t* column, std::int64_t n, float* dist,
                    std::int32_t n_rays_in_all) {
    std::int32_t is_unusable = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        float some[n_rays];
        for (std::int32_t ray = 0; ray < n_rays; ++ray) some[ray] = lengths[ray * plane + column[i]];
        float* const target = dist + i * n_rays_in_all;
        for (std::int32_t ray = 0; ray < n_rays; ++ray) {
            // In integers, so that it vectorises. Negative lengths have negative bits, up to those of minus infinity.
            std::int32_t bits;
            std::memcpy(&bits, &some[ray], sizeof bits);
            is_unusable |= static_cast<std::int32_t>(bits > longest_bits);
            is_unusable |= static_cast<std::int32_t>(bits < 0) & static_cast<std::int32_t>(bits >= minus_infinity_bits);
            target[ray] = std::max(some[ray], shortest_dist);
        }
    }
    return is_unusable == 0;
}

// The same for any number of rays. `row_lengths` is the row in the plane of the first ray.
inline bool gather_all_lengths(const float* row_lengths, std::int64_t plane, const std::int64_t* column, std::int64_t n,
                               float* dist, std::int32_t n_rays) {
    constexpr std::int32_t rays_at_once = 8;
    bool usable = true;
    std::int32_t ray = 0;
    for (; ray + rays_at_once <= n_rays; ray += rays_at_once)
        usable &= gather_lengths<rays_at_once>(row_lengths + ray * plane, plane, column, n, dist + ray, n_rays);
    for (; ray < n_rays; ++ray)
        usable &= gather_lengths<1>(row_lengths + ray * plane, plane, column, n, dist + ray, n_rays);
    return usable;
}

}  // namespace cellrt
