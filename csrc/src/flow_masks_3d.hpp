// Masks of a volume from where its voxels ended.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "mask_seeds.hpp"

namespace cellrt {

// See cellrt_flow_masks_3d() in cellrt.h: shapes and units. Returns the number of labels. Throws Failure.
std::int32_t flow_masks_3d(const std::int64_t* voxels, const float* positions, std::int64_t n, std::int64_t n_z,
                           std::int64_t n_y, std::int64_t n_x, double max_size_fraction, int n_threads,
                           std::int32_t* labels);

// A part of a volume: z, y, x, in voxels.
struct Box {
    std::array<std::int64_t, 3> begin, end;
};

// The seeds of flow_masks_3d() for a volume whose histogram comes window by window: first all are found, then the bins of
// each are painted. The bins are those of the whole volume, of which each holds how many voxels ended there, 0 or more.
//
// Any thread may call any function; calls on one object wait for each other. All throw Failure.
class MaskSeeds3D {
public:
    static constexpr std::int64_t find_margin = 2;    // bins around those asked for that `find` has to know
    static constexpr std::int64_t paint_margin = 10;  // and `paint`: a seed grows by 5, into bins up to 5 from it

    MaskSeeds3D(std::int64_t n_z, std::int64_t n_y, std::int64_t n_x);  // sides of the volume, 1..2^20

    // Keeps the seeds in `keep`, a part of the window. No bin may be asked for twice.
    void find(const std::int32_t* counts, const Box& window, const Box& keep, int n_threads);
    // Replaces the counts of a window by the mask that each bin belongs to, 1..size() in the order of painting, or 0.
    // Nearer than the margin to where the volume goes on, what comes out means nothing.
    void paint(std::int32_t* counts, const Box& window, int n_threads);
    std::int64_t size() const;

private:
    void require_window(const Box& window) const;
    void rank();

    mutable std::mutex mutex_;
    std::array<std::int64_t, 3> sides_;
    std::vector<Seed> seeds_;          // by bin once ranked
    std::vector<std::int32_t> ranks_;  // of each, in the order of painting
    bool is_ranked_ = false;
};

}  // namespace cellrt
