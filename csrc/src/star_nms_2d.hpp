// Greedy non-maximum suppression of star-convex polygons: one call for a list, one class for tiles of a list.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace cellrt {

// See cellrt_star_nms_2d() in cellrt.h: shapes, units and decisions. Throws Failure.
void star_nms_2d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n, std::int32_t n_rays,
                 float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel, int n_threads,
                 std::int64_t* n_kept, std::int64_t* kept);

// Candidates that arrive tile by tile, in any order of tiles, and the survivors of all of them.
//
// The survivors and their order are those of star_nms_2d() on the candidates of the whole image in row-major order:
// ties of probability go to the smaller (y, x), then to the earlier arrival. Tiles that share no pixel therefore give
// the same answer in whichever order they arrive. Every method may be called from any thread.
class StarNms2D {
public:
    // n_rays 3..1024; n_class_channels 0..65536 values carried along with each candidate; max_candidates 0..2^32 - 1.
    StarNms2D(std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t max_candidates);

    // Copy n candidates: prob (n), dist (n, n_rays), points (n, 2) y and x, class_prob (n, n_class_channels). Throws
    // Failure and changes nothing: CELLRT_ERROR_DATA for values that star_nms_2d() refuses, CELLRT_ERROR_CAPACITY if
    // there would be more than max_candidates.
    void add(const float* prob, const float* dist, const std::int32_t* points, const float* class_prob, std::int64_t n);

    struct Survivors {
        std::vector<float> prob, dist, class_prob;
        std::vector<std::int32_t> points;
    };
    // Descending probability. The candidates stay; more may be added afterwards.
    Survivors survivors(float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel, int n_threads) const;

    std::int64_t size() const;
    std::int32_t n_rays() const noexcept { return n_rays_; }
    std::int32_t n_class_channels() const noexcept { return n_class_channels_; }
    std::int64_t max_candidates() const noexcept { return max_candidates_; }

private:
    const std::int32_t n_rays_, n_class_channels_;
    const std::int64_t max_candidates_;
    int block_bits_ = 0;
    // Room for 2^block_bits_ candidates. Blocks stay where they are: nothing is copied as they become more.
    struct Block {
        std::unique_ptr<float[]> prob, dist, class_prob;
        std::unique_ptr<std::int32_t[]> points;
    };
    mutable std::mutex mutex_;  // held by every method that touches what follows
    std::vector<Block> blocks_;
    std::int64_t size_ = 0;
};

}  // namespace cellrt
