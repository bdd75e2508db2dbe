// Label images of any kind through everything that takes them: masks, diffusion, quality control, cleaning, outlines,
// overlaps and their matching.
#include <algorithm>
#include <cmath>

#include "cellrt.h"
#include "input.hpp"

namespace {

// Two label images -> their overlaps -> a matching of them, with the threshold somewhere among the scores.
void match_labels(Input& input, const std::vector<std::int32_t>& truth, const std::vector<std::int32_t>& predicted,
                  std::int32_t n_labels, std::int32_t n_threads) {
    const auto n_pixels = static_cast<std::int64_t>(truth.size());
    std::int64_t n_pairs = -1;
    const std::int32_t counted = cellrt_label_overlaps(truth.data(), predicted.data(), n_pixels, 0, n_threads, &n_pairs,
                                                       nullptr, nullptr);
    expect(counted == (n_pixels > 0 ? CELLRT_ERROR_CAPACITY : CELLRT_OK) && n_pairs <= n_pixels);
    const auto n = static_cast<std::size_t>(n_pairs);
    std::vector<std::int32_t> pairs(2 * n);
    std::vector<std::int64_t> counts(n);
    expect(cellrt_label_overlaps(truth.data(), predicted.data(), n_pixels, n_pairs, n_threads, &n_pairs, pairs.data(),
                                 counts.data()) == CELLRT_OK);
    std::int64_t n_counted = 0;
    for (const std::int64_t count : counts) n_counted += count;
    expect(n_counted == n_pixels);

    std::vector<double> scores(n);
    for (double& score : scores) score = input.number(0, 1);
    const double threshold = input.number(-1, 3);
    std::vector<std::uint8_t> is_matched(n);
    const std::int32_t status =
        cellrt_match_pairs(pairs.data(), scores.data(), n_pairs, n_labels + 1, n_labels + 1, threshold,
                           input.between(0, 5000), is_matched.data());
    if (status != CELLRT_OK) return;
    std::vector<int> of_row(static_cast<std::size_t>(n_labels) + 1), of_column(static_cast<std::size_t>(n_labels) + 1);
    for (std::size_t i = 0; i < n; ++i) {
        expect(is_matched[i] <= 1);
        expect((of_row[static_cast<std::size_t>(pairs[2 * i])] += is_matched[i]) <= 1);
        expect((of_column[static_cast<std::size_t>(pairs[2 * i + 1])] += is_matched[i]) <= 1);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    const std::int64_t n_y = input.between(0, 14), n_x = input.between(0, 14), n_plane = n_y * n_x;
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    const auto n_labels = static_cast<std::int32_t>(input.between(1, 12));
    const std::int32_t dynamics = input.between(0, 1) == 0 ? CELLRT_DYNAMICS_V3 : CELLRT_DYNAMICS_V4;
    const auto count = static_cast<std::size_t>(n_plane);
    std::vector<std::int32_t> labels(count), cleaned(count), masks(count);
    for (std::int32_t& label : labels) label = static_cast<std::int32_t>(input.between(0, n_labels));

    std::int32_t n_cleaned = -1;
    const std::int64_t min_size = input.between(-1, 5);
    expect(cellrt_clean_labels_2d(labels.data(), n_y, n_x, n_labels, min_size, dynamics, n_threads, cleaned.data(),
                                  &n_cleaned) == CELLRT_OK);
    for (const std::int32_t label : cleaned) expect(label >= 0 && label <= n_cleaned);

    // As many planes as divide the rows.
    const std::int64_t n_planes = n_y % 3 == 0 ? 3 : n_y % 2 == 0 ? 2 : 1;
    std::vector<std::int64_t> areas(static_cast<std::size_t>(n_labels));
    std::vector<std::int32_t> boxes(6 * areas.size());
    std::vector<double> centroids(3 * areas.size());
    expect(cellrt_label_regions_3d(labels.data(), n_planes, n_y / n_planes, n_x, n_labels, n_threads, areas.data(),
                                   boxes.data(), centroids.data()) == CELLRT_OK);
    for (std::size_t i = 0; i < areas.size(); ++i) {
        expect(areas[i] == std::count(labels.begin(), labels.end(), static_cast<std::int32_t>(i) + 1));
        for (std::size_t axis = 0; axis < 3 && areas[i] > 0; ++axis) {
            const double centroid = centroids[3 * i + axis];
            expect(boxes[6 * i + axis] <= centroid && centroid <= boxes[6 * i + 3 + axis] - 1);
        }
    }

    std::int32_t n_again = -1;
    expect(cellrt_clean_labels_3d(labels.data(), n_planes, n_y / n_planes, n_x, n_labels, min_size, dynamics, n_threads,
                                  masks.data(), &n_cleaned) == CELLRT_OK);
    expect(cellrt_clean_labels_3d(labels.data(), n_planes, n_y / n_planes, n_x, n_labels, min_size, dynamics,
                                  4 - n_threads, cleaned.data(), &n_again) == CELLRT_OK);
    expect(masks == cleaned && n_again == n_cleaned);
    for (const std::int32_t label : cleaned) expect(label >= 0 && label <= n_cleaned);

    std::vector<std::int64_t> offsets(static_cast<std::size_t>(n_labels) + 1);
    std::int32_t status =
        cellrt_label_outlines_2d(labels.data(), n_y, n_x, n_labels, 0, n_threads, offsets.data(), nullptr);
    const std::int64_t n_vertices = offsets.back();
    expect(status == (n_vertices > 0 ? CELLRT_ERROR_CAPACITY : CELLRT_OK) && n_vertices <= 4 * n_plane);
    std::vector<float> coords(2 * static_cast<std::size_t>(n_vertices));
    expect(cellrt_label_outlines_2d(labels.data(), n_y, n_x, n_labels, n_vertices, n_threads, offsets.data(),
                                    coords.data()) == CELLRT_OK);

    std::vector<float> flow(2 * count);
    const auto n_iter = static_cast<std::int32_t>(input.between(0, 40));
    expect(cellrt_label_flows_2d(labels.data(), n_y, n_x, n_labels, dynamics, n_iter, n_threads, flow.data()) ==
           CELLRT_OK);
    for (std::size_t i = 0; i < count; ++i) {
        const float length = std::hypot(flow[i], flow[count + i]);
        expect(std::fabs(length - 1.0f) < 1e-5f || length == 0.0f);
    }
    const std::vector<float> network = input.numbers(2 * n_plane, -8, 16);
    std::vector<double> errors(static_cast<std::size_t>(n_labels));
    status = cellrt_flow_errors_2d(labels.data(), network.data(), n_y, n_x, n_labels, dynamics, n_threads, errors.data());
    expect(status == CELLRT_OK || status == CELLRT_ERROR_DATA);
    if (status == CELLRT_OK) {
        for (const double error : errors) expect(error >= 0.0);
    }

    std::vector<std::int64_t> pixels;
    for (std::int64_t i = 0; i < n_plane; ++i) {
        if (labels[static_cast<std::size_t>(i)] > 0) pixels.push_back(i);
    }
    const std::vector<float> positions = input.numbers(2 * static_cast<std::int64_t>(pixels.size()), -30, 60);
    std::int32_t n_masks = -1;
    status = cellrt_flow_masks_2d(pixels.data(), positions.data(), static_cast<std::int64_t>(pixels.size()), n_y, n_x, 0.4,
                                  n_threads, masks.data(), &n_masks);
    expect(status == CELLRT_OK || status == CELLRT_ERROR_DATA);
    if (status == CELLRT_OK) {
        for (const std::int32_t label : masks) expect(label >= 0 && label <= n_masks);
    }

    for (std::int32_t& label : cleaned) label = static_cast<std::int32_t>(input.between(0, n_labels));
    match_labels(input, labels, cleaned, n_labels, n_threads);
    return 0;
}
