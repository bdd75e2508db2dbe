// Polygons with any coordinates, painted against the point test of every pixel.
#include <cmath>

#include "cellrt.h"
#include "input.hpp"

namespace {

// O'Rourke's test as skimage.draw.polygon applies it: even-odd, edges and vertices inclusive.
bool contains(const std::vector<float>& vertices, std::int64_t y, std::int64_t x) {
    const std::size_t n = vertices.size() / 2;
    bool odd_right = false;
    bool odd_left = false;
    for (std::size_t i = 0, before = n - 1; i < n; before = i++) {
        const double y0 = vertices[2 * i] - static_cast<double>(y);
        const double x0 = vertices[2 * i + 1] - static_cast<double>(x);
        const double y1 = vertices[2 * before] - static_cast<double>(y);
        const double x1 = vertices[2 * before + 1] - static_cast<double>(x);
        if (std::abs(x0) < 1e-12 && std::abs(y0) < 1e-12) return true;
        if ((y0 > 0) != (y1 > 0)) odd_right ^= (x0 * y1 - x1 * y0) / (y1 - y0) > 0;
        if ((y0 < 0) != (y1 < 0)) odd_left ^= (x0 * y1 - x1 * y0) / (y1 - y0) < 0;
    }
    return odd_right || odd_left;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    const std::int64_t n_vertices = input.between(1, 12);
    const std::int64_t n_y = input.between(1, 12);
    const std::int64_t n_x = input.between(1, 12);
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    std::vector<float> vertices = input.numbers(2 * n_vertices, -2, 16);
    if (input.any<std::uint8_t>() % 2 == 0) {
        for (float& value : vertices) value = std::round(value);  // the corner cases lie on whole pixels
    }
    const std::int64_t offsets[] = {0, n_vertices};
    const std::int64_t order[] = {0};
    std::vector<std::int32_t> labels(static_cast<std::size_t>(n_y * n_x));
    const std::int32_t status =
        cellrt_paint_polygons_2d(vertices.data(), offsets, order, 1, n_y, n_x, n_threads, labels.data());
    bool usable = true;
    for (const float value : vertices) usable = usable && std::abs(value) <= 1099511627776.0f;
    expect(status == (usable ? CELLRT_OK : CELLRT_ERROR_DATA));
    if (!usable) return 0;
    for (std::int64_t y = 0; y < n_y; ++y) {
        for (std::int64_t x = 0; x < n_x; ++x) {
            expect(labels[static_cast<std::size_t>(y * n_x + x)] == (contains(vertices, y, x) ? 1 : 0));
        }
    }
    return 0;
}
