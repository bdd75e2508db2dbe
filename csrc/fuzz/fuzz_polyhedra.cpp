// From a network's maps of a volume to labels: candidates, suppression, painting, with any rays and any faces.
#include <numeric>

#include "cellrt.h"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    const auto n_rays = static_cast<std::int32_t>(input.between(3, 9));
    const auto n_faces = static_cast<std::int32_t>(input.between(1, 14));
    const std::int64_t n_z = input.between(0, 3);
    const std::int64_t n_y = input.between(0, 4);
    const std::int64_t n_x = input.between(0, 4);
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    const auto grid = static_cast<std::int32_t>(input.between(1, 4));
    std::vector<std::int32_t> faces(3 * static_cast<std::size_t>(n_faces));
    for (std::int32_t& ray : faces) ray = static_cast<std::int32_t>(input.between(0, n_rays - 1));
    std::vector<float> rays = input.numbers(3 * n_rays, -1, 2);
    // As many as that have the direction of the first: faces between them are flat.
    const auto n_alike = static_cast<std::size_t>(input.between(1, n_rays));
    for (std::size_t i = 3; i < 3 * n_alike; ++i) rays[i] = rays[i % 3];
    const std::vector<float> maps = input.numbers((1 + n_rays) * n_z * n_y * n_x, -1, 12);

    std::int64_t n = -1;
    std::int32_t status =
        cellrt_star_candidates_3d(maps.data(), n_rays, 0, n_z, n_y, n_x, 0, n_z, 0, n_y, 0, n_x, 0.5f, grid, grid, 1, -9, 5,
                                  0, 0, n_threads, &n, nullptr, nullptr, nullptr, nullptr);
    expect(n >= 0 && n <= n_z * n_y * n_x && status == (n > 0 ? CELLRT_ERROR_CAPACITY : CELLRT_OK));
    const auto count = static_cast<std::size_t>(n);
    std::vector<float> prob(count), dist(count * static_cast<std::size_t>(n_rays));
    std::vector<std::int32_t> points(3 * count);
    status = cellrt_star_candidates_3d(maps.data(), n_rays, 0, n_z, n_y, n_x, 0, n_z, 0, n_y, 0, n_x, 0.5f, grid, grid, 1, -9,
                                       5, 0, n, n_threads, &n, prob.data(), dist.data(), points.data(), nullptr);
    if (status != CELLRT_OK) {
        expect(status == CELLRT_ERROR_DATA);
        return 0;
    }

    std::int64_t n_kept = -1;
    std::vector<std::int64_t> kept(count);
    const float nms_thresh = static_cast<float>(input.between(0, 10)) / 10.0f;
    status = cellrt_star_nms_3d(prob.data(), dist.data(), points.data(), n, rays.data(), n_rays, faces.data(), n_faces,
                                nms_thresh, 100000, nullptr, n_threads, &n_kept, kept.data());
    expect(status == CELLRT_OK || status == CELLRT_ERROR_DATA || status == CELLRT_ERROR_CAPACITY);
    if (status == CELLRT_OK) expect(n_kept <= n && (n == 0 || n_kept > 0));
    std::vector<std::uint8_t> is_open(count), states(count);
    for (std::uint8_t& one : is_open) one = static_cast<std::uint8_t>(input.between(0, 1));
    const std::int32_t settled = cellrt_star_settle_3d(prob.data(), dist.data(), points.data(), n, rays.data(), n_rays,
                                                       faces.data(), n_faces, is_open.data(), nms_thresh, 1000000, nullptr,
                                                       n_threads, states.data());
    // What is decided in any case is decided so among these alone.
    if (status == CELLRT_OK && settled == CELLRT_OK) {
        std::vector<bool> is_kept(count);
        for (std::int64_t i = 0; i < n_kept; ++i) is_kept[static_cast<std::size_t>(kept[static_cast<std::size_t>(i)])] = true;
        for (std::size_t i = 0; i < count; ++i) expect(states[i] == CELLRT_STAR_UNDECIDED || (states[i] != 0) == is_kept[i]);
    }

    const std::vector<float> centres(points.begin(), points.end());
    std::vector<std::int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    const std::int64_t side = input.between(1, 12);
    const auto mode = static_cast<std::int32_t>(input.between(0, 3));
    std::vector<std::int32_t> labels(static_cast<std::size_t>(side * side * side)), again(labels.size());
    for (std::vector<std::int32_t>* painted : {&labels, &again}) {
        status = cellrt_paint_polyhedra_3d(dist.data(), centres.data(), order.data(), n, rays.data(), n_rays, faces.data(),
                                           n_faces, -3, -2, -1, side, side, side, mode, 0, 0, nullptr,
                                           painted == &labels ? n_threads : 1, painted->data());
        expect(status == CELLRT_OK || status == CELLRT_ERROR_DATA);
    }
    if (status != CELLRT_OK) return 0;
    expect(labels == again);
    for (const std::int32_t label : labels) expect(label >= 0 && label <= n);
    return 0;
}
