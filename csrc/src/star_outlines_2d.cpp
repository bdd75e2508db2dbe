// star_outlines_2d: dist (n, rays) in pixels of the network's input, points (n, 2) y, x in pixels of the image ->
// coords (n, rays, 2) y, x in pixels of the image.
#include "star_outlines_2d.hpp"

#include <cmath>
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
    constexpr std::int64_t polygons_per_grain = 256;
    parallel_for(n, polygons_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        bool usable = true;
        for (std::int64_t i = begin; i < end; ++i) {
            const float* const lengths = dist + i * n_rays;
            float* const vertices = coords + 2 * i * n_rays;
            for (std::int32_t ray = 0; ray < n_rays; ++ray) {
                const auto at = static_cast<std::size_t>(ray);
                vertices[2 * ray] = vertex(lengths[ray], sines[at], scale_y, points[2 * i]);
                vertices[2 * ray + 1] = vertex(lengths[ray], cosines[at], scale_x, points[2 * i + 1]);
                usable &= std::isfinite(vertices[2 * ray]) & std::isfinite(vertices[2 * ray + 1]);
            }
        }
        require(usable, CELLRT_ERROR_DATA);
    });
}

}  // namespace cellrt
