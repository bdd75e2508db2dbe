// Percentiles and normalisation of small float images at random strides, percentiles against sorting.
#include <algorithm>
#include <cmath>

#include "cellrt.h"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    const std::int64_t n[] = {input.between(1, 3), input.between(1, 9), input.between(1, 9)};
    std::int64_t stride[3], low = 0, high = 0;
    for (int axis = 0; axis < 3; ++axis) {
        stride[axis] = input.between(0, 24) - 12;
        (stride[axis] < 0 ? low : high) += (n[axis] - 1) * stride[axis];
    }
    const std::vector<float> memory = input.numbers(high - low + 1, -8, 16);
    const float* const first = memory.data() - low;
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    const double percents[] = {0.0, input.between(0, 1000) / 10.0, 100.0};
    double values[3];
    const std::int32_t status = cellrt_percentiles_f32(first, n[0], n[1], n[2], stride[0], stride[1], stride[2],
                                                       percents, 3, n_threads, values);
    std::vector<float> sorted;
    for (std::int64_t channel = 0; channel < n[0]; ++channel) {
        for (std::int64_t y = 0; y < n[1]; ++y) {
            for (std::int64_t x = 0; x < n[2]; ++x) {
                sorted.push_back(first[channel * stride[0] + y * stride[1] + x * stride[2]]);
            }
        }
    }
    const bool finite = std::all_of(sorted.begin(), sorted.end(), [](float value) { return std::isfinite(value); });
    expect(status == (finite ? CELLRT_OK : CELLRT_ERROR_DATA));
    if (finite) {
        std::sort(sorted.begin(), sorted.end());
        expect(values[0] == sorted.front() && values[2] == sorted.back());
        expect(std::isnan(values[1]) || std::isinf(values[1]) || (values[0] <= values[1] && values[1] <= values[2]));
    }

    const std::int64_t out_y = n[1] + input.between(0, 20);
    const std::int64_t out_x = n[2] + input.between(0, 20);
    const std::vector<float> lows = input.numbers(n[0], -8, 16);
    const std::vector<float> divisors = input.numbers(n[0], 1, 16);
    std::vector<float> out(static_cast<std::size_t>(n[0] * out_y * out_x));
    cellrt_normalize_f32(first, n[0], n[1], n[2], stride[0], stride[1], stride[2], lows.data(), divisors.data(), out_y,
                         out_x, n_threads, out.data());
    return 0;
}
