// star_outlines_2d: dist (n, rays) in pixels of the network's input, points (n, 2) y, x in pixels of the image ->
// coords (n, rays, 2) y, x in pixels of the image.
#include "star_outlines_2d.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "instruction_set.hpp"
#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

struct Star {
    double y, x;              // centre
    double scale_y, scale_x;
};

// StarDist keeps float32 between its steps and computes each of them in double.
CELLRT_INLINE float vertex(float length, double direction, double scale, double point) {
    const auto step = static_cast<float>(static_cast<double>(length) * direction);
    const auto scaled = static_cast<float>(static_cast<double>(step) * scale);
    return static_cast<float>(static_cast<double>(scaled) + point);
}

// The vertices of one star, and the largest of their bits but the sign: from 0x7f800000 on, one is not finite.
CELLRT_INLINE std::uint32_t place_vertices(const float* __restrict lengths, const double* __restrict sine,
                                           const double* __restrict cosine, std::int32_t n_rays, const Star& star,
                                           float* __restrict vertices) {
    const double y = star.y, x = star.x, scale_y = star.scale_y, scale_x = star.scale_x;
    for (std::int32_t ray = 0; ray < n_rays; ++ray) {
        vertices[2 * ray] = vertex(lengths[ray], sine[ray], scale_y, y);
        vertices[2 * ray + 1] = vertex(lengths[ray], cosine[ray], scale_x, x);
    }
    std::uint32_t largest = 0;
    for (std::int32_t value = 0; value < 2 * n_rays; ++value) {
        std::uint32_t bits;
        std::memcpy(&bits, vertices + value, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffffU);
    }
    return largest;
}

#if defined(CELLRT_HAS_AVX2)
CELLRT_TARGET_AVX2 std::uint32_t place_vertices_avx2(const float* lengths, const double* sine, const double* cosine,
                                                     std::int32_t n_rays, const Star& star, float* vertices) {
    return place_vertices(lengths, sine, cosine, n_rays, star, vertices);
}
#endif

}  // namespace

void star_outlines_2d(const float* dist, const double* points, std::int64_t n, std::int32_t n_rays, double scale_y,
                      double scale_x, int n_threads, float* coords) {
    const double pi = 3.141592653589793;
    std::vector<double> sines, cosines;
    for (std::int32_t ray = 0; ray < n_rays; ++ray) {
        const double angle = ray * (2.0 * pi / n_rays);  // as numpy.linspace rounds it
        sines.push_back(std::sin(angle));
        cosines.push_back(std::cos(angle));
    }
    constexpr std::int64_t vertices_per_grain = 1 << 16;  // a fraction of a millisecond: a thread takes time to start
    parallel_for(n, vertices_per_grain / n_rays + 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::uint32_t largest = 0;
        for (std::int64_t i = begin; i < end; ++i) {
            const float* const lengths = dist + i * n_rays;
            float* const vertices = coords + 2 * i * n_rays;
            const Star star{points[2 * i], points[2 * i + 1], scale_y, scale_x};
#if defined(CELLRT_HAS_AVX2)
            if (use_avx2()) {
                largest = std::max(
                    largest, place_vertices_avx2(lengths, sines.data(), cosines.data(), n_rays, star, vertices));
                continue;
            }
#endif
            largest =
                std::max(largest, place_vertices(lengths, sines.data(), cosines.data(), n_rays, star, vertices));
        }
        require(largest < 0x7f800000U, CELLRT_ERROR_DATA);
    });
}

}  // namespace cellrt
