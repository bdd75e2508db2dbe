// From a network's maps to labels, the way a program calls it: candidates, suppression, outlines, painting, measuring.
#include <numeric>

#include "cellrt.h"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    const auto n_rays = static_cast<std::int32_t>(input.between(3, 9));
    const auto n_class_channels = static_cast<std::int32_t>(input.between(0, 2));
    const std::int64_t n_y = input.between(0, 9);
    const std::int64_t n_x = input.between(0, 9);
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    const auto grid = static_cast<std::int32_t>(input.between(1, 4));
    const std::vector<float> maps = input.numbers((1 + n_rays + n_class_channels) * n_y * n_x, -1, 12);

    std::int64_t n = -1;
    std::int32_t status =
        cellrt_star_candidates_2d(maps.data(), n_rays, n_class_channels, n_y, n_x, 0, n_y, 0, n_x, 0.5f, grid, grid, -9,
                                  5, 0, n_threads, &n, nullptr, nullptr, nullptr, nullptr);
    expect(n >= 0 && n <= n_y * n_x && status == (n > 0 ? CELLRT_ERROR_CAPACITY : CELLRT_OK));
    const auto count = static_cast<std::size_t>(n);
    const auto rays = static_cast<std::size_t>(n_rays);
    std::vector<float> prob(count), dist(count * rays), class_prob(count * static_cast<std::size_t>(n_class_channels));
    std::vector<std::int32_t> points(2 * count);
    status = cellrt_star_candidates_2d(maps.data(), n_rays, n_class_channels, n_y, n_x, 0, n_y, 0, n_x, 0.5f, grid,
                                       grid, -9, 5, n, n_threads, &n, prob.data(), dist.data(), points.data(),
                                       class_prob.data());
    if (status != CELLRT_OK) {
        expect(status == CELLRT_ERROR_DATA);
        return 0;
    }

    std::int64_t n_kept = -1;
    std::vector<std::int64_t> kept(count);
    const float nms_thresh = static_cast<float>(input.between(0, 10)) / 10.0f;
    expect(cellrt_star_nms_2d(prob.data(), dist.data(), points.data(), n, n_rays, nms_thresh, 1000000, nullptr,
                              n_threads, &n_kept, kept.data()) == CELLRT_OK);
    expect(n_kept <= n && (n == 0 || n_kept > 0));
    kept.resize(static_cast<std::size_t>(n_kept));

    const std::vector<double> centres(points.begin(), points.end());
    std::vector<float> coords(2 * count * rays);
    expect(cellrt_star_outlines_2d(dist.data(), centres.data(), n, n_rays, 1.0, 1.5, n_threads, coords.data()) ==
           CELLRT_OK);
    std::vector<std::int64_t> offsets(count + 1), order(count);
    for (std::size_t i = 0; i <= count; ++i) offsets[i] = static_cast<std::int64_t>(i * rays);
    std::iota(order.begin(), order.end(), 0);
    const std::int64_t side = input.between(1, 40);
    std::vector<std::int32_t> labels(static_cast<std::size_t>(side * side));
    expect(cellrt_paint_polygons_2d(coords.data(), offsets.data(), order.data(), n, side, side, n_threads,
                                    labels.data()) == CELLRT_OK);
    std::vector<std::int64_t> areas(count);
    std::vector<std::int32_t> boxes(4 * count), table(count + 1);
    std::vector<double> centroids(2 * count);
    const auto n_labels = static_cast<std::int32_t>(n);
    expect(cellrt_label_regions_2d(labels.data(), side, side, n_labels, n_threads, areas.data(), boxes.data(),
                                   centroids.data()) == CELLRT_OK);
    std::int32_t n_visible = -1;
    expect(cellrt_relabel(labels.data(), side * side, n_labels, n_threads, table.data(), labels.data(), &n_visible) ==
           CELLRT_OK);
    expect(n_visible == std::count_if(areas.begin(), areas.end(), [](std::int64_t area) { return area > 0; }));
    return 0;
}
