// Each function again and again, a later allocation failing each time: it ends with "no memory" or does without.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "cellrt.h"
#include "check.h"

namespace {

std::atomic<long> until_failure{-1};  // allocations that still succeed; below 0: all of them

constexpr int n_threads = 4;

// Calls `call`, which gives a status, with its first, second, third ... allocation failing, until it needs no more.
template <typename Call>
void fail_each_allocation(const Call& call) {
    for (long n_good = 0; n_good < 1000; ++n_good) {
        until_failure = n_good;
        const std::int32_t status = call();
        const bool has_failed = until_failure.exchange(-1) < 0;
        CHECK(status == CELLRT_ERROR_MEMORY || status == CELLRT_OK);
        if (!has_failed) {
            CHECK(status == CELLRT_OK);
            return;
        }
    }
    CHECK(!"fewer than 1000 allocations");
}

void test_images() {
    constexpr std::int64_t side = 256;
    const std::vector<float> image(side * side, 1.0f);
    std::vector<float> out(image.size());
    const float low = 0.0f, divisor = 1.0f;
    const double percents[] = {1.0, 99.0};
    double values[2];
    fail_each_allocation([&] {
        return cellrt_percentiles_f32(image.data(), 1, side, side, 0, side, 1, percents, 2, n_threads, values);
    });
    fail_each_allocation([&] {
        return cellrt_normalize_f32(image.data(), 1, side, side, 0, side, 1, &low, &divisor, side, side, n_threads,
                                    out.data());
    });
}

void test_stars() {
    constexpr std::int64_t n = 700;  // more than one chunk of the suppression, some of them in parallel
    constexpr std::int32_t n_rays = 8;
    std::vector<float> prob(n), dist(n * n_rays, 6.0f), coords(2 * n * n_rays);
    std::vector<std::int32_t> points(2 * n);
    std::vector<double> centres(2 * n);
    std::vector<std::int64_t> kept(n), offsets(n + 1), order(n);
    for (std::int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<std::size_t>(i);
        prob[at] = 1.0f - static_cast<float>(i) / n;
        points[2 * at] = static_cast<std::int32_t>(7 * (i % 20));
        points[2 * at + 1] = static_cast<std::int32_t>(5 * (i / 20));
        order[at] = i;
    }
    for (std::size_t i = 0; i < points.size(); ++i) centres[i] = points[i];
    for (std::size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<std::int64_t>(i) * n_rays;

    std::int64_t n_kept = -1;
    fail_each_allocation([&] {
        return cellrt_star_nms_2d(prob.data(), dist.data(), points.data(), n, n_rays, 0.4f, 1000000, nullptr, n_threads,
                                  &n_kept, kept.data());
    });
    fail_each_allocation([&] {
        return cellrt_star_outlines_2d(dist.data(), centres.data(), n, n_rays, 1.0, 1.0, n_threads, coords.data());
    });

    constexpr std::int64_t side = 180;
    std::vector<std::int32_t> labels(side * side), boxes(6 * n), table(n + 1);
    std::vector<std::int64_t> areas(n);
    std::vector<double> centroids(3 * n);
    std::int32_t n_labels = -1;
    fail_each_allocation([&] {
        return cellrt_paint_polygons_2d(coords.data(), offsets.data(), order.data(), n, side, side, n_threads,
                                        labels.data());
    });
    fail_each_allocation([&] {
        return cellrt_label_regions_2d(labels.data(), side, side, n, n_threads, areas.data(), boxes.data(),
                                       centroids.data());
    });
    fail_each_allocation([&] {
        return cellrt_label_regions_3d(labels.data(), 2, side / 2, side, n, n_threads, areas.data(), boxes.data(),
                                       centroids.data());
    });
    fail_each_allocation([&] {
        return cellrt_relabel(labels.data(), side * side, n, n_threads, table.data(), labels.data(), &n_labels);
    });
    std::vector<std::int32_t> shifted(labels.rbegin(), labels.rend()), pairs(2 * side * side);
    std::vector<std::int64_t> counts(side * side);
    std::int64_t n_pairs = -1;
    fail_each_allocation([&] {
        return cellrt_label_overlaps(labels.data(), shifted.data(), side * side, side * side, n_threads, &n_pairs,
                                     pairs.data(), counts.data());
    });
    const std::vector<double> scores(counts.size(), 0.5);
    std::vector<std::uint8_t> is_matched(counts.size());
    fail_each_allocation([&] {
        return cellrt_match_pairs(pairs.data(), scores.data(), n_pairs, n_labels + 1, n_labels + 1, 0.1, 1000000,
                                  is_matched.data());
    });
}

// 36 square cells of 10 x 10 pixels with flows to their middle, touching.
void test_flows() {
    constexpr std::int64_t side = 60, n_pixels = side * side;
    constexpr std::int32_t n_labels = 36;
    std::vector<float> flow(2 * n_pixels), cellprob(n_pixels, 1.0f), positions(2 * n_pixels), out(8 * n_pixels);
    std::vector<std::int64_t> pixels(n_pixels), offsets(n_labels + 1);
    std::vector<std::int32_t> labels(n_pixels), masks(n_pixels);
    std::vector<double> errors(n_labels);
    for (std::int64_t at = 0; at < n_pixels; ++at) {
        const std::int64_t y = at / side, x = at % side;
        labels[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(y / 10 * 6 + x / 10 + 1);
        flow[static_cast<std::size_t>(at)] = y % 10 < 5 ? 5.0f : -5.0f;
        flow[static_cast<std::size_t>(n_pixels + at)] = x % 10 < 5 ? 5.0f : -5.0f;
    }
    std::int64_t n = -1;
    std::int32_t n_found = -1;
    for (const std::int32_t dynamics : {CELLRT_DYNAMICS_V3, CELLRT_DYNAMICS_V4}) {
        fail_each_allocation([&] {
            return cellrt_flow_follow_2d(flow.data(), cellprob.data(), side, side, 0.0f, dynamics, 1, 20, nullptr,
                                         n_pixels, n_threads, &n, pixels.data(), positions.data());
        });
        fail_each_allocation([&] {
            return cellrt_flow_masks_2d(pixels.data(), positions.data(), n, side, side, 0.4, n_threads, masks.data(),
                                        &n_found);
        });
        fail_each_allocation([&] {
            return cellrt_flow_errors_2d(labels.data(), flow.data(), side, side, n_labels, dynamics, n_threads,
                                         errors.data());
        });
        fail_each_allocation([&] {
            return cellrt_label_flows_2d(labels.data(), side, side, n_labels, dynamics, 0, n_threads, out.data());
        });
        fail_each_allocation([&] {
            return cellrt_clean_labels_2d(labels.data(), side, side, n_labels, 15, dynamics, n_threads, masks.data(),
                                          &n_found);
        });
    }
    fail_each_allocation([&] {
        return cellrt_label_outlines_2d(labels.data(), side, side, n_labels, 4 * n_labels, n_threads, offsets.data(),
                                        out.data());
    });
    fail_each_allocation([&] {
        return cellrt_star_distances_2d(labels.data(), side, side, 2, 1, 4, n_threads, out.data());
    });
    fail_each_allocation([&] {
        return cellrt_object_probability_2d(labels.data(), side, side, n_labels, n_threads, out.data());
    });
    fail_each_allocation([&] {
        return cellrt_resize_linear_f32(flow.data(), 2, side, side, 2 * side, 2 * side, 0, n_threads, out.data());
    });
}

}  // namespace

// The whole program's, the library's threads included. std::stable_sort asks for memory without an exception.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    if (until_failure.load() >= 0 && until_failure.fetch_sub(1) == 0) return nullptr;
    return std::malloc(size > 0 ? size : 1);
}
void* operator new(std::size_t size) {
    void* const memory = operator new(size, std::nothrow);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

int main() {
    test_images();
    test_stars();
    test_flows();
    return n_failed == 0 ? 0 : 1;
}
