// Label images of any kind to training targets, against walking every ray and comparing every pair of pixels.
#include <algorithm>
#include <cmath>

#include "cellrt.h"
#include "input.hpp"

namespace {

struct Labels {
    std::int64_t n_y, n_x;
    std::vector<std::int32_t> pixels;

    std::int32_t at(std::int64_t y, std::int64_t x) const { return pixels[static_cast<std::size_t>(y * n_x + x)]; }
    bool has(std::int32_t label, std::int64_t y, std::int64_t x) const {
        return y >= 0 && y < n_y && x >= 0 && x < n_x && at(y, x) == label;
    }
};

float ray_length(const Labels& labels, std::int64_t y, std::int64_t x, std::int64_t ray, std::int64_t n_rays) {
    const std::int32_t own = labels.at(y, x);
    if (own == 0) return 0.0f;
    const float angle = static_cast<float>(ray) * static_cast<float>(2.0 * 3.141592653589793 / static_cast<double>(n_rays));
    const auto step_y = static_cast<float>(std::sin(static_cast<double>(angle)));
    const auto step_x = static_cast<float>(std::cos(static_cast<double>(angle)));
    float way_y = 0.0f, way_x = 0.0f;
    do {
        way_y += step_y;
        way_x += step_x;
    } while (labels.has(own, std::lrint(static_cast<float>(y) + way_y), std::lrint(static_cast<float>(x) + way_x)));
    const float taken_back = 1.0f - 0.5f / std::max(std::abs(step_y), std::abs(step_x));
    way_y -= taken_back * step_y;
    way_x -= taken_back * step_x;
    return std::sqrt(way_y * way_y + way_x * way_x);
}

// The squared distance to the nearest pixel of another label; -1 if there is none.
std::int64_t squared_distance(const Labels& labels, std::int64_t y, std::int64_t x) {
    std::int64_t nearest = -1;
    for (std::int64_t other_y = 0; other_y < labels.n_y; ++other_y) {
        for (std::int64_t other_x = 0; other_x < labels.n_x; ++other_x) {
            const std::int64_t squared = (y - other_y) * (y - other_y) + (x - other_x) * (x - other_x);
            if (labels.at(other_y, other_x) != labels.at(y, x) && (nearest < 0 || squared < nearest)) nearest = squared;
        }
    }
    return nearest;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    const std::int64_t n_y = input.between(0, 24), n_x = input.between(0, 24);
    const std::int64_t grid_y = input.between(1, 4), grid_x = input.between(1, 30);
    const std::int64_t n_rays = input.between(3, 13), n_labels = input.between(0, 4);
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    // Noise, or rectangles one over the other.
    Labels labels{n_y, n_x, std::vector<std::int32_t>(static_cast<std::size_t>(n_y * n_x))};
    if (input.between(0, 1) == 0) {
        for (std::int32_t& label : labels.pixels) label = static_cast<std::int32_t>(input.between(-1, n_labels));
    } else if (n_y > 0 && n_x > 0) {
        for (std::int64_t n = input.between(0, 9); n > 0; --n) {
            const std::int64_t y_end = input.between(1, n_y), x_end = input.between(1, n_x);
            const std::int64_t y_begin = input.between(0, y_end - 1), x_begin = input.between(0, x_end - 1);
            const auto label = static_cast<std::int32_t>(input.between(-1, n_labels));
            for (std::int64_t y = y_begin; y < y_end; ++y) {
                std::fill(labels.pixels.begin() + y * n_x + x_begin, labels.pixels.begin() + y * n_x + x_end, label);
            }
        }
    }

    const std::int64_t samples_y = (n_y + grid_y - 1) / grid_y, samples_x = (n_x + grid_x - 1) / grid_x;
    std::vector<float> dist(static_cast<std::size_t>(n_rays * samples_y * samples_x));
    expect(cellrt_star_distances_2d(labels.pixels.data(), n_y, n_x, static_cast<std::int32_t>(grid_y),
                                    static_cast<std::int32_t>(grid_x), static_cast<std::int32_t>(n_rays), n_threads,
                                    dist.data()) == CELLRT_OK);
    std::size_t at = 0;
    for (std::int64_t ray = 0; ray < n_rays; ++ray) {
        for (std::int64_t y = 0; y < n_y; y += grid_y) {
            for (std::int64_t x = 0; x < n_x; x += grid_x) expect(dist[at++] == ray_length(labels, y, x, ray, n_rays));
        }
    }

    std::vector<float> prob(labels.pixels.size());
    expect(cellrt_object_probability_2d(labels.pixels.data(), n_y, n_x, static_cast<std::int32_t>(n_labels), n_threads,
                                        prob.data()) == CELLRT_OK);
    std::vector<std::int64_t> squared, largest(static_cast<std::size_t>(n_labels) + 1);
    for (std::int64_t i = 0; i < n_y * n_x; ++i) {
        squared.push_back(squared_distance(labels, i / n_x, i % n_x));
        const std::int32_t label = labels.at(i / n_x, i % n_x);
        if (label <= 0) continue;
        auto& label_largest = largest[static_cast<std::size_t>(label)];
        label_largest = std::max(label_largest, squared.back());
    }
    for (std::size_t i = 0; i < prob.size(); ++i) {
        const std::int32_t label = labels.pixels[i];
        if (label <= 0) {
            expect(prob[i] == 0.0f);
        } else if (squared[i] < 0) {  // one label alone
            expect(prob[i] > 0.0f && prob[i] <= 1.0f);
        } else {
            const auto label_largest = static_cast<double>(largest[static_cast<std::size_t>(label)]);
            const double distance = std::sqrt(static_cast<double>(squared[i]));
            expect(prob[i] == static_cast<float>(distance / (std::sqrt(label_largest) + 1e-10)));
        }
    }
    return 0;
}
