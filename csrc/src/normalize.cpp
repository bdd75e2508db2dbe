// normalize: each row is cast and normalised in one pass to where it will lie, then mirrored into the padding.
#include "normalize.hpp"

#include <atomic>
#include <cstring>
#include <type_traits>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

// The pixel that padding repeats at position i of an axis of n pixels: numpy.pad's "reflect".
std::int64_t reflect(std::int64_t i, std::int64_t n) {
    if (i < n) return i;
    if (n == 1) return 0;
    const std::int64_t period = 2 * (n - 1);
    const std::int64_t phase = i % period;
    return phase < n ? phase : period - phase;
}

// Cast and normalise n pixels that lie `step` apart. Step is a type of its own where the compiler should know it.
template <typename Pixel, typename Step>
void normalize_pixels(const Pixel* pixels, Step step, std::int64_t n, float low, float divisor, float* row) {
    for (std::int64_t x = 0; x < n; ++x) row[x] = (static_cast<float>(pixels[x * step]) - low) / divisor;
}

template <typename Pixel>
void normalize_row(const Pixel* pixels, std::int64_t step, std::int64_t n, float low, float divisor, float* row) {
    if (step == 1)
        normalize_pixels(pixels, std::integral_constant<std::int64_t, 1>(), n, low, divisor, row);
    else if (step == 3)  // interleaved RGB: a constant step lets the compiler shuffle instead of gather
        normalize_pixels(pixels, std::integral_constant<std::int64_t, 3>(), n, low, divisor, row);
    else
        normalize_pixels(pixels, step, n, low, divisor, row);
}

// True if every pixel is finite: no exponent is all ones. In integers, so that the loop vectorises.
bool all_finite(const float* pixels, std::int64_t step, std::int64_t n) {
    std::uint32_t largest = 0;
    const auto look_at = [&](const float* pixel) {
        std::uint32_t bits;
        std::memcpy(&bits, pixel, sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    };
    if (step == 1)
        for (std::int64_t x = 0; x < n; ++x) look_at(pixels + x);
    else
        for (std::int64_t x = 0; x < n; ++x) look_at(pixels + x * step);
    return largest < 0x7f800000u;
}

}  // namespace

template <typename Pixel>
void normalize(const StridedImage<Pixel>& image, const float* low, const float* divisor, std::int64_t out_y,
               std::int64_t out_x, int n_threads, float* out) {
    const auto [n_channels, n_y, n_x] = image.n;
    const std::int64_t* const stride = image.stride;
    std::atomic<bool> finite{true};
    const auto fill_rows = [&, n_channels = n_channels, n_y = n_y, n_x = n_x](std::int64_t begin, std::int64_t end) {
        // All channels of a row together: interleaved ones share its cache lines.
        for (std::int64_t y = begin; y < end; ++y) {
            const Pixel* const pixels = image.first + reflect(y, n_y) * stride[1];
            for (std::int64_t channel = 0; channel < n_channels; ++channel) {
                float* const row = out + (channel * out_y + y) * out_x;
                const Pixel* const first = pixels + channel * stride[0];
                normalize_row(first, stride[2], n_x, low[channel], divisor[channel], row);
                if constexpr (std::is_floating_point_v<Pixel>) {
                    if (!all_finite(first, stride[2], n_x)) finite.store(false, std::memory_order_relaxed);
                }
                for (std::int64_t x = n_x; x < out_x; ++x) row[x] = row[reflect(x, n_x)];
            }
        }
    };
    constexpr std::int64_t pixels_per_grain = 1 << 16;
    parallel_for(out_y, pixels_per_grain / (n_channels * out_x) + 1, n_threads, fill_rows);
    require(finite.load(), CELLRT_ERROR_DATA);
}

template void normalize(const StridedImage<std::uint8_t>&, const float*, const float*, std::int64_t, std::int64_t, int,
                        float*);
template void normalize(const StridedImage<std::uint16_t>&, const float*, const float*, std::int64_t, std::int64_t, int,
                        float*);
template void normalize(const StridedImage<float>&, const float*, const float*, std::int64_t, std::int64_t, int, float*);

}  // namespace cellrt
