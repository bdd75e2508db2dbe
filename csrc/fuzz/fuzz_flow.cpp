// From a network's flows to where pixels end, the way a program calls it; some against following them step by step.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "cellrt.h"
#include "input.hpp"

namespace {

struct Maps {
    std::vector<float> flow, cellprob;
    std::int64_t n_y, n_x;
};

struct Ends {
    std::int32_t status;
    std::vector<std::int64_t> pixels;
    std::vector<float> positions;
};

Ends follow(const Maps& maps, std::int32_t dynamics, std::int32_t interpolate, std::int32_t n_iter,
            std::int32_t n_threads) {
    std::int64_t n = -1;
    const auto call = [&](std::int64_t capacity, std::int64_t* pixels, float* positions) {
        return cellrt_flow_follow_2d(maps.flow.data(), maps.cellprob.data(), maps.n_y, maps.n_x, 0.0f, dynamics,
                                     interpolate, n_iter, nullptr, capacity, n_threads, &n, pixels, positions);
    };
    Ends ends;
    ends.status = call(0, nullptr, nullptr);
    expect(n >= 0 && n <= maps.n_y * maps.n_x && ends.status == (n > 0 ? CELLRT_ERROR_CAPACITY : CELLRT_OK));
    ends.pixels.resize(static_cast<std::size_t>(n));
    ends.positions.resize(2 * ends.pixels.size());
    ends.status = call(n, ends.pixels.data(), ends.positions.data());
    return ends;
}

// Numbers of all magnitudes, some of them not usable.
std::vector<float> flows(Input* input, std::int64_t n) {
    const auto exponent = static_cast<int>(input->between(0, 60)) - 30;
    std::vector<float> values = input->numbers(n, -8, 16);
    for (float& value : values) value = std::ldexp(value, exponent);
    return values;
}

// A window of a volume: its voxels end where they do in the volume, or nobody knows where.
void follow_window(Input* input, const std::array<std::int64_t, 3>& sides, const std::vector<float>& flow,
                   const std::vector<float>& cellprob, std::int32_t n_iter, std::int32_t n_threads,
                   const std::vector<std::int64_t>& voxels, const std::vector<float>& positions) {
    std::array<std::int64_t, 3> origin{}, n{};
    std::array<std::int64_t, 6> keep{};
    for (std::size_t axis = 0; axis < 3; ++axis) {
        origin[axis] = input->between(0, sides[axis]);
        n[axis] = input->between(0, sides[axis] - origin[axis]);
        const std::int64_t first = origin[axis] > 0 ? 1 : 0, last = n[axis] - (origin[axis] + n[axis] < sides[axis] ? 1 : 0);
        if (first > last) return;
        keep[2 * axis] = input->between(first, last);
        keep[2 * axis + 1] = input->between(keep[2 * axis], last);
    }
    const auto n_window = static_cast<std::size_t>(n[0] * n[1] * n[2]);
    std::vector<float> part(3 * n_window), part_cellprob(n_window);
    const auto in_volume = [&](std::int64_t i) {
        const std::int64_t z = i / (n[1] * n[2]) + origin[0], y = i / n[2] % n[1] + origin[1], x = i % n[2] + origin[2];
        return (z * sides[1] + y) * sides[2] + x;
    };
    for (std::size_t i = 0; i < n_window; ++i) {
        const auto at = static_cast<std::size_t>(in_volume(static_cast<std::int64_t>(i)));
        part_cellprob[i] = cellprob[at];
        for (std::size_t axis = 0; axis < 3; ++axis) part[axis * n_window + i] = flow[axis * cellprob.size() + at];
    }
    std::vector<std::int64_t> kept(n_window);
    std::vector<float> ends(3 * n_window);
    std::int64_t n_kept = -1;
    expect(cellrt_flow_follow_window_3d(part.data(), part_cellprob.data(), n[0], n[1], n[2], sides.data(), origin.data(),
                                        keep.data(), 0.0f, n_iter, nullptr, static_cast<std::int64_t>(n_window), n_threads,
                                        &n_kept, kept.data(), ends.data()) == CELLRT_OK);
    for (std::size_t i = 0; i < static_cast<std::size_t>(n_kept); ++i) {
        const auto place = std::lower_bound(voxels.begin(), voxels.end(), in_volume(kept[i]));
        expect(place != voxels.end() && *place == in_volume(kept[i]));
        const float* const expected = positions.data() + 3 * (place - voxels.begin());
        expect(std::isnan(ends[3 * i]) || std::equal(expected, expected + 3, ends.data() + 3 * i));
    }
}

// A volume: its voxels end inside it, at the same places and in the same masks for any number of threads.
void follow_volume(Input* input, std::int32_t n_iter, std::int32_t n_threads) {
    const std::int64_t n_z = input->between(0, 6), n_y = input->between(0, 7), n_x = input->between(0, 8);
    const std::int64_t n_volume = n_z * n_y * n_x;
    const std::vector<float> flow = flows(input, 3 * n_volume), cellprob = input->numbers(n_volume, -1, 4);
    std::vector<std::int64_t> voxels(static_cast<std::size_t>(n_volume)), again(voxels.size());
    std::vector<float> positions(3 * voxels.size()), positions_again(positions.size());
    std::int64_t n = -1;
    const auto call = [&](std::int32_t threads, std::int64_t* inside, float* ends) {
        return cellrt_flow_follow_3d(flow.data(), cellprob.data(), n_z, n_y, n_x, 0.0f, n_iter, nullptr, n_volume, threads,
                                     &n, inside, ends);
    };
    const std::int32_t status = call(n_threads, voxels.data(), positions.data());
    expect(status == call(4 - n_threads, again.data(), positions_again.data()));
    expect(status == CELLRT_OK || status == CELLRT_ERROR_DATA);
    if (status != CELLRT_OK) return;
    voxels.resize(static_cast<std::size_t>(n));
    positions.resize(3 * voxels.size());
    expect(std::equal(voxels.begin(), voxels.end(), again.begin()));
    expect(std::equal(positions.begin(), positions.end(), positions_again.begin()));
    const std::int64_t sides[] = {n_z, n_y, n_x};
    for (std::size_t i = 0; i < positions.size(); ++i) {
        expect(positions[i] >= 0.0f && positions[i] <= static_cast<float>(sides[i % 3] - 1));
    }
    follow_window(input, {n_z, n_y, n_x}, flow, cellprob, n_iter, n_threads, voxels, positions);
    std::vector<std::int32_t> labels(static_cast<std::size_t>(n_volume));
    std::int32_t n_labels = -1;
    expect(cellrt_flow_masks_3d(voxels.data(), positions.data(), n, n_z, n_y, n_x, 0.4, n_threads, labels.data(),
                                &n_labels) == CELLRT_OK);
    for (const std::int32_t label : labels) expect(label >= 0 && label <= n_labels);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
    Input input(bytes, size);
    Maps maps;
    maps.n_y = input.between(0, 17);
    maps.n_x = input.between(0, 17);
    const auto n_threads = static_cast<std::int32_t>(input.between(1, 3));
    const auto n_iter = static_cast<std::int32_t>(input.between(0, 300));
    const std::int32_t dynamics = input.any<std::uint8_t>() % 2 == 0 ? CELLRT_DYNAMICS_V3 : CELLRT_DYNAMICS_V4;
    const std::int32_t interpolate = dynamics == CELLRT_DYNAMICS_V4 || input.any<std::uint8_t>() % 2 == 0 ? 1 : 0;
    maps.flow = flows(&input, 2 * maps.n_y * maps.n_x);
    maps.cellprob = input.numbers(maps.n_y * maps.n_x, -1, 4);

    const Ends ends = follow(maps, dynamics, interpolate, n_iter, n_threads);
    const auto n_plane = static_cast<std::size_t>(maps.n_y * maps.n_x);
    bool usable = true;
    for (std::size_t i = 0; i < n_plane; ++i) {
        const bool finite = std::isfinite(maps.flow[i]) && std::isfinite(maps.flow[n_plane + i]);
        usable = usable && (finite || !(maps.cellprob[i] > 0.0f));
    }
    expect(ends.status == (usable ? CELLRT_OK : CELLRT_ERROR_DATA));
    if (!usable) return 0;
    for (std::size_t i = 0; i < ends.pixels.size(); ++i) {
        expect(maps.cellprob[static_cast<std::size_t>(ends.pixels[i])] > 0.0f);
        expect(i == 0 || ends.pixels[i - 1] < ends.pixels[i]);
        // V4 comes back from [-1, 1] with the rounding of two products.
        expect(ends.positions[2 * i] >= 0.0f && ends.positions[2 * i] <= static_cast<float>(maps.n_y - 1));
        expect(ends.positions[2 * i + 1] >= 0.0f && ends.positions[2 * i + 1] <= static_cast<float>(maps.n_x - 1));
    }

    // Rounds of any lengths and ends known early change nothing: without interpolation it is easily done step by step.
    if (interpolate == 0) {
        const auto last_y = static_cast<float>(maps.n_y - 1), last_x = static_cast<float>(maps.n_x - 1);
        for (std::size_t i = 0; i < ends.pixels.size(); ++i) {
            auto y = static_cast<float>(ends.pixels[i] / maps.n_x), x = static_cast<float>(ends.pixels[i] % maps.n_x);
            for (std::int32_t step = 0; step < n_iter; ++step) {
                const auto at = static_cast<std::size_t>(static_cast<std::int64_t>(y) * maps.n_x +
                                                         static_cast<std::int64_t>(x));
                const bool inside = maps.cellprob[at] > 0.0f;
                y = std::clamp(y + (inside ? maps.flow[at] / 5.0f : 0.0f), 0.0f, last_y);
                x = std::clamp(x + (inside ? maps.flow[n_plane + at] / 5.0f : 0.0f), 0.0f, last_x);
            }
            expect(ends.positions[2 * i] == y && ends.positions[2 * i + 1] == x);
        }
    }
    const Ends again = follow(maps, dynamics, interpolate, n_iter, 4 - n_threads);
    expect(again.pixels == ends.pixels && again.positions == ends.positions);
    follow_volume(&input, n_iter, n_threads);
    return 0;
}
