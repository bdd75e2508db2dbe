// star_outlines_2d: dist (n, rays) in pixels of the network's input, points (n, 2) y, x in pixels of the image ->
// coords (n, rays, 2) y, x in pixels of the image.
#include "star_outlines_2d.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {

void star_outlines_2d(const float* dist, const double* points, std::int64_t n, std::int32_t n_rays, double scale_y,
                      double scale_x, int n_threads, float* coords) {
    const double pi = 3.141592653589793;
    std::vector<double> sines, cosines;
    for (std::int32_t ray = 0; ray < n_rays; ++ray) {
        const double angle = ray * (2.0 * pi / n_rays);  // as numpy.linspace rounds it
        sines.push_back(std::sin(angle));
        cosines.push_back(std::cos(angle));
    }
    // StarDist keeps float32 between its steps and computes each of them in double.
    const auto vertex = [](double length, double direction, double scale, double point) {
        const auto step = static_cast<float>(length * direction);
        const auto scaled = static_cast<float>(step * scale);
        return static_cast<float>(scaled + point);
    };
    constexpr std::int64_t vertices_per_grain = 1 << 16;  // a fraction of a millisecond: a thread takes time to start
    parallel_for(n, vertices_per_grain / n_rays + 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        const double* const sine = sines.data();
        const double* const cosine = cosines.data();
        std::uint32_t largest = 0;
        for (std::int64_t i = begin; i < end; ++i) {
            const float* const lengths = dist + i * n_rays;
            float* const vertices = coords + 2 * i * n_rays;
            const double y = points[2 * i], x = points[2 * i + 1];
            for (std::int32_t ray = 0; ray < n_rays; ++ray) {
                vertices[2 * ray] = vertex(lengths[ray], sine[ray], scale_y, y);
                vertices[2 * ray + 1] = vertex(lengths[ray], cosine[ray], scale_x, x);
            }
            // Finite is what has an exponent that is not all ones. In integers and on its own, so that both vectorise.
            for (std::int32_t value = 0; value < 2 * n_rays; ++value) {
                std::uint32_t bits;
                std::memcpy(&bits, vertices + value, sizeof bits);
                largest = std::max(largest, bits & 0x7fffffffU);
            }
        }
        require(largest < 0x7f800000U, CELLRT_ERROR_DATA);
    });
}

}  // namespace cellrt
