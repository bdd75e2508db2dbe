// flow_masks_3d: positions (n, 3) z, y, x in voxels where the voxels (n,) ended -> labels (Z, Y, X).
//
// As flow_masks_2d.cpp, with an axis more: the histogram lies in the output, a seed has more than 10 of the n voxels, and
// a fixed window around each is looked at, so that time is O(n + voxels).
#include "flow_masks_3d.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <utility>
#include <vector>

#include "mask_seeds.hpp"
#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr std::int64_t peak_radius = 2;   // a seed is the largest of 5 x 5 x 5 bins
constexpr std::int64_t grown_radius = 5;  // steps of growth, and half the window that it stays in
constexpr std::size_t window_side = 2 * grown_radius + 1;
constexpr std::int64_t voxels_per_grain = 1 << 16;
constexpr std::int64_t bins_at_once = 16;

// Bins (n_z, n_y, n_x): how many voxels ended in each; bin (margin, margin, margin) is voxel (0, 0, 0).
struct Histogram {
    std::int32_t* counts;
    std::int64_t n_z, n_y, n_x, margin;

    std::int64_t plane() const { return n_y * n_x; }
    std::int32_t at(std::int64_t z, std::int64_t y, std::int64_t x) const {
        const bool is_inside = z >= 0 && z < n_z && y >= 0 && y < n_y && x >= 0 && x < n_x;
        return is_inside ? counts[(z * n_y + y) * n_x + x] : 0;
    }
};

// Around a seed: planes of rows with a bit for each bin.
using Window = std::array<std::array<std::uint16_t, window_side>, window_side>;

// What end positions there are.
struct Ends {
    bool are_finite = true;
    bool are_inside = true;  // none needs the margin
};

// The bin along one axis that a coordinate truncates to, moved inside.
class Axis {
public:
    Axis(std::int64_t n_bins, std::int64_t margin)
        : lowest_(static_cast<float>(-margin)), margin_(static_cast<std::int32_t>(margin)),
          last_(static_cast<std::int32_t>(n_bins - 1)) {}
    std::int64_t bin(float coordinate) const {
        coordinate = coordinate > lowest_ ? coordinate : lowest_;  // in this form NaN ends up in the histogram too
        return std::min(static_cast<std::int32_t>(coordinate < highest ? coordinate : highest) + margin_, last_);
    }

private:
    static constexpr auto highest = static_cast<float>(1 << 30);  // no side is longer: cut off below
    float lowest_;
    std::int32_t margin_, last_;
};

// Calls visit(bins, begin, count) for pieces of the voxels begin..end.
template <typename Visit>
Ends for_each_bin(const float* positions, std::int64_t begin, std::int64_t end, const Histogram& histogram,
                  const Visit& visit) {
    const Axis z(histogram.n_z, histogram.margin), y(histogram.n_y, histogram.margin), x(histogram.n_x, histogram.margin);
    std::array<std::int64_t, 512> bins;
    int n_bad = 0, n_outside = 0;
    for (; begin < end; begin += static_cast<std::int64_t>(bins.size())) {
        const std::int64_t count = std::min(static_cast<std::int64_t>(bins.size()), end - begin);
        for (std::int64_t i = 0; i < count; ++i) {
            const float* const p = positions + 3 * (begin + i);
            for (int axis = 0; axis < 3; ++axis) {
                n_bad |= !std::isfinite(p[axis]);
                n_outside |= p[axis] <= -1.0F;
            }
            bins[static_cast<std::size_t>(i)] = (z.bin(p[0]) * histogram.n_y + y.bin(p[1])) * histogram.n_x + x.bin(p[2]);
        }
        visit(bins.data(), begin, count);
    }
    return {n_bad == 0, n_outside == 0};
}

// Counts the voxels that end in each bin. A slab of planes owns the bins of its planes; the voxels that end in those of
// others are counted afterwards.
Ends count_ends(const std::int64_t* voxels, const float* positions, std::int64_t n, std::int64_t n_z, std::int64_t plane,
                int n_threads, const Histogram& histogram) {
    Ends all;
    std::vector<std::int64_t> bins_of_others;
    std::mutex mutex;
    std::int32_t* const counts = histogram.counts;
    const auto add = [counts](std::int64_t bin, std::int64_t n_ends) {
        counts[bin] = static_cast<std::int32_t>(std::min<std::int64_t>(counts[bin] + n_ends, INT32_MAX));
    };
    const std::int64_t planes_per_slab = (n_z - 1) / thread_count(n_threads) + 1;
    parallel_for(n_z, planes_per_slab, n_threads, [&](std::int64_t z_begin, std::int64_t z_end) {
        const std::int64_t begin = std::lower_bound(voxels, voxels + n, z_begin * plane) - voxels;
        const std::int64_t end = std::lower_bound(voxels + begin, voxels + n, z_end * plane) - voxels;
        const std::int64_t first_bin = (z_begin == 0 ? 0 : z_begin + histogram.margin) * histogram.plane();
        const std::int64_t end_bin = (z_end + histogram.margin) * histogram.plane();
        std::fill(counts + first_bin, counts + end_bin, 0);
        std::vector<std::int64_t> others;
        const Ends ends = for_each_bin(
            positions, begin, end, histogram, [&](const std::int64_t* bins, std::int64_t, std::int64_t count) {
                // Neighbours mostly end together.
                for (std::int64_t i = 0, next; i < count; i = next) {
                    const std::int64_t bin = bins[i];
                    next = i + 1;
                    while (next < count && bins[next] == bin) ++next;
                    if (bin >= first_bin && bin < end_bin) {
                        add(bin, next - i);
                    } else {
                        others.insert(others.end(), static_cast<std::size_t>(next - i), bin);
                    }
                }
            });
        const std::lock_guard<std::mutex> lock(mutex);
        all.are_finite &= ends.are_finite;
        all.are_inside &= ends.are_inside;
        bins_of_others.insert(bins_of_others.end(), others.begin(), others.end());
    });
    for (const std::int64_t bin : bins_of_others) add(bin, 1);
    return all;
}

// Whether no bin of 5 x 5 x 5 holds more than the one in the middle.
bool is_peak(const Histogram& histogram, std::int64_t z, std::int64_t y, std::int64_t x) {
    const std::int32_t count = histogram.at(z, y, x);
    for (std::int64_t dz = -peak_radius; dz <= peak_radius; ++dz) {
        for (std::int64_t dy = -peak_radius; dy <= peak_radius; ++dy) {
            for (std::int64_t dx = -peak_radius; dx <= peak_radius; ++dx) {
                if (histogram.at(z + dz, y + dy, x + dx) > count) return false;
            }
        }
    }
    return true;
}

// Whether any of the bins begin..end of a row may be a seed; most are not, and to see it of many at once is fast.
bool holds_seed(const std::int32_t* row, std::int64_t begin, std::int64_t end) {
    int n_found = 0;
    for (std::int64_t x = begin; x < end; ++x) n_found |= row[x] >= smallest_seed;
    return n_found != 0;
}

// The seeds in row-major order.
std::vector<Seed> find_seeds(const Histogram& histogram, int n_threads) {
    std::vector<Seed> seeds;
    std::mutex mutex;
    const std::int64_t rows_per_grain = voxels_per_grain / histogram.n_x + 1;
    parallel_for(histogram.n_z * histogram.n_y, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<Seed> found;
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t z = i / histogram.n_y, y = i % histogram.n_y;
            const std::int32_t* const row = histogram.counts + i * histogram.n_x;
            for (std::int64_t x_begin = 0; x_begin < histogram.n_x; x_begin += bins_at_once) {
                const std::int64_t x_end = std::min(x_begin + bins_at_once, histogram.n_x);
                if (!holds_seed(row, x_begin, x_end)) continue;
                for (std::int64_t x = x_begin; x < x_end; ++x) {
                    if (row[x] < smallest_seed || !is_peak(histogram, z, y, x)) continue;
                    found.push_back({row[x], i * histogram.n_x + x});
                }
            }
        }
        const std::lock_guard<std::mutex> lock(mutex);
        seeds.insert(seeds.end(), found.begin(), found.end());
    });
    std::sort(seeds.begin(), seeds.end(), [](const Seed& a, const Seed& b) { return a.bin < b.bin; });
    return seeds;
}

// The corner of the window around a seed: z, y, x.
std::array<std::int64_t, 3> corner_of(const Histogram& histogram, const Seed& seed) {
    const std::int64_t row = seed.bin / histogram.n_x;
    return {row / histogram.n_y - grown_radius, row % histogram.n_y - grown_radius,
            seed.bin % histogram.n_x - grown_radius};
}

// The bins around a seed that hold enough to grow into, those painted among them: only such bins are.
Window occupied_bins(const Histogram& histogram, const Seed& seed) {
    Window occupied{};
    const auto [z_begin, y_begin, x_begin] = corner_of(histogram, seed);
    for (std::size_t z = 0; z < window_side; ++z) {
        for (std::size_t y = 0; y < window_side; ++y) {
            unsigned bits = 0;
            for (std::size_t x = 0; x < window_side; ++x) {
                const std::int32_t count = histogram.at(z_begin + static_cast<std::int64_t>(z),
                                                        y_begin + static_cast<std::int64_t>(y),
                                                        x_begin + static_cast<std::int64_t>(x));
                bits |= static_cast<unsigned>(count >= smallest_grown || count < 0) << x;
            }
            occupied[z][y] = static_cast<std::uint16_t>(bits);
        }
    }
    return occupied;
}

// The bins that a seed grows into: in every step to the 26 neighbours that hold enough.
Window grow(const Histogram& histogram, const Seed& seed) {
    const Window occupied = occupied_bins(histogram, seed);
    Window grown{};
    grown[grown_radius][grown_radius] = 1 << grown_radius;
    for (std::int64_t step = 0; step < grown_radius; ++step) {
        // Rows and planes more at each end, so that all have neighbours.
        std::array<std::array<unsigned, window_side + 2>, window_side + 2> wider{};
        for (std::size_t z = 0; z < window_side; ++z) {
            for (std::size_t y = 0; y < window_side; ++y) {
                const unsigned row = grown[z][y];
                wider[z + 1][y + 1] = row | row << 1 | row >> 1;
            }
        }
        for (auto& plane : wider) {
            unsigned above = 0;
            for (std::size_t y = 0; y + 1 < plane.size(); ++y) {
                const unsigned row = plane[y];
                plane[y] |= above | plane[y + 1];
                above = row;
            }
        }
        for (std::size_t z = 0; z < window_side; ++z) {
            for (std::size_t y = 0; y < window_side; ++y) {
                const unsigned near = wider[z][y + 1] | wider[z + 1][y + 1] | wider[z + 2][y + 1];
                grown[z][y] = static_cast<std::uint16_t>(near & occupied[z][y]);
            }
        }
    }
    return grown;
}

// Replaces the counts of the bins that belong to seed k by -(k + 1); counts are positive.
void paint_seeds(const Histogram& histogram, const std::vector<Seed>& seeds, int n_threads) {
    // Some seeds at a time: the windows of all would need 242 bytes for every 11 voxels.
    constexpr std::size_t most_windows = 4096;
    std::vector<Window> windows(std::min(most_windows, seeds.size()));
    for (std::size_t first = 0; first < seeds.size(); first += most_windows) {
        const std::size_t n_windows = std::min(most_windows, seeds.size() - first);
        parallel_for(static_cast<std::int64_t>(n_windows), 64, n_threads, [&](std::int64_t begin, std::int64_t end) {
            for (auto k = static_cast<std::size_t>(begin); k < static_cast<std::size_t>(end); ++k) {
                windows[k] = grow(histogram, seeds[first + k]);
            }
        });
        for (std::size_t k = 0; k < n_windows; ++k) {
            const auto [z_begin, y_begin, x_begin] = corner_of(histogram, seeds[first + k]);
            const auto value = -static_cast<std::int32_t>(first + k + 1);
            for (std::size_t z = 0; z < window_side; ++z) {
                for (std::size_t y = 0; y < window_side; ++y) {
                    const std::int64_t row = (z_begin + static_cast<std::int64_t>(z)) * histogram.n_y + y_begin +
                                             static_cast<std::int64_t>(y);
                    std::int64_t bin = row * histogram.n_x + x_begin;
                    for (unsigned bits = windows[k][z][y]; bits != 0; bits >>= 1, ++bin) {
                        if ((bits & 1) != 0) histogram.counts[bin] = value;
                    }
                }
            }
        }
    }
}

// The histogram of a window of a volume: all that ends outside the volume was moved inside before.
Histogram histogram_of(std::int32_t* counts, const Box& window) {
    return {counts, window.end[0] - window.begin[0], window.end[1] - window.begin[1], window.end[2] - window.begin[2], 0};
}

// Refuses counts that are negative: in a histogram that is painted these are masks.
void require_counts(const Histogram& histogram, int n_threads) {
    parallel_for(histogram.n_z * histogram.plane(), voxels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        int n_negative = 0;
        for (std::int64_t bin = begin; bin < end; ++bin) n_negative |= histogram.counts[bin] < 0;
        require(n_negative == 0, CELLRT_ERROR_DATA);
    });
}

// Where a seed of a window lies in the volume: z, y, x.
std::array<std::int64_t, 3> place_of(const Histogram& histogram, const Seed& seed, const Box& window) {
    const std::int64_t row = seed.bin / histogram.n_x;
    return {window.begin[0] + row / histogram.n_y, window.begin[1] + row % histogram.n_y,
            window.begin[2] + seed.bin % histogram.n_x};
}

}  // namespace

std::int32_t flow_masks_3d(const std::int64_t* voxels, const float* positions, std::int64_t n, std::int64_t n_z,
                           std::int64_t n_y, std::int64_t n_x, double max_size_fraction, int n_threads,
                           std::int32_t* labels) {
    const std::int64_t n_volume = n_z * n_y * n_x;
    if (n == 0) {
        std::fill(labels, labels + n_volume, 0);
        return 0;
    }
    Histogram histogram{labels, n_z, n_y, n_x, 0};
    std::vector<std::int32_t> counts;
    const Ends ends = count_ends(voxels, positions, n, n_z, n_y * n_x, n_threads, histogram);
    require(ends.are_finite, CELLRT_ERROR_DATA);
    if (!ends.are_inside) {
        constexpr std::int64_t margin = margin_of_histogram;
        histogram = {nullptr, n_z + margin, n_y + margin, n_x + margin, margin};
        counts.resize(static_cast<std::size_t>(histogram.n_z * histogram.plane()));
        histogram.counts = counts.data();
        count_ends(voxels, positions, n, n_z, n_y * n_x, n_threads, histogram);
    }

    std::vector<Seed> seeds = find_seeds(histogram, n_threads);
    require(seeds.size() < INT32_MAX, CELLRT_ERROR_CAPACITY);
    sort_seeds(seeds);
    paint_seeds(histogram, seeds, n_threads);

    std::vector<std::int32_t> masks(static_cast<std::size_t>(n));
    parallel_for(n, voxels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for_each_bin(positions, begin, end, histogram,
                     [&](const std::int64_t* bins, std::int64_t first, std::int64_t count) {
                         std::int32_t* const piece = masks.data() + first;
                         for (std::int64_t i = 0; i < count; ++i) {
                             piece[i] = std::max(-histogram.counts[bins[i]], 0);
                         }
                     });
    });
    return write_masks(masks, seeds.size(), voxels, n_volume, max_size_fraction, n_threads, labels);
}

// ---- Window by window ---------------------------------------------------------------------------------------------

MaskSeeds3D::MaskSeeds3D(std::int64_t n_z, std::int64_t n_y, std::int64_t n_x) : sides_{n_z, n_y, n_x} {
    for (const std::int64_t side : sides_) require(side >= 1 && side <= std::int64_t{1} << 20);
}

void MaskSeeds3D::find(const std::int32_t* counts, const Box& window, const Box& keep, int n_threads) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_window(window);
    for (std::size_t axis = 0; axis < 3; ++axis) {
        require(window.begin[axis] <= keep.begin[axis] && keep.begin[axis] <= keep.end[axis]);
        require(keep.end[axis] <= window.end[axis]);
    }
    // It is only read from here.
    const Histogram histogram = histogram_of(const_cast<std::int32_t*>(counts), window);
    require_counts(histogram, n_threads);
    std::vector<Seed> found = find_seeds(histogram, n_threads);
    const auto is_elsewhere = [&](Seed& seed) {
        const std::array<std::int64_t, 3> place = place_of(histogram, seed, window);
        seed.bin = (place[0] * sides_[1] + place[1]) * sides_[2] + place[2];
        for (std::size_t axis = 0; axis < 3; ++axis)
            if (place[axis] < keep.begin[axis] || place[axis] >= keep.end[axis]) return true;
        return false;
    };
    found.erase(std::remove_if(found.begin(), found.end(), is_elsewhere), found.end());
    require(seeds_.size() + found.size() < INT32_MAX, CELLRT_ERROR_CAPACITY);
    seeds_.insert(seeds_.end(), found.begin(), found.end());
    is_ranked_ = false;
}

void MaskSeeds3D::paint(std::int32_t* counts, const Box& window, int n_threads) {
    const std::lock_guard<std::mutex> lock(mutex_);
    require_window(window);
    const Histogram histogram = histogram_of(counts, window);
    require_counts(histogram, n_threads);
    rank();
    // Those in the planes of the window lie together; then in the order in which they are painted.
    const std::int64_t plane = sides_[1] * sides_[2];
    const auto before = [](const Seed& seed, std::int64_t bin) { return seed.bin < bin; };
    const auto first = std::lower_bound(seeds_.begin(), seeds_.end(), window.begin[0] * plane, before);
    const auto last = std::lower_bound(first, seeds_.end(), window.end[0] * plane, before);
    std::vector<std::pair<std::int32_t, Seed>> near;
    for (auto seed = first; seed != last; ++seed) {
        const std::int64_t z = seed->bin / plane, y = seed->bin / sides_[2] % sides_[1], x = seed->bin % sides_[2];
        if (y < window.begin[1] || y >= window.end[1] || x < window.begin[2] || x >= window.end[2]) continue;
        const std::int64_t bin = ((z - window.begin[0]) * histogram.n_y + y - window.begin[1]) * histogram.n_x;
        near.push_back({ranks_[static_cast<std::size_t>(seed - seeds_.begin())],
                        {seed->count, bin + x - window.begin[2]}});
    }
    std::sort(near.begin(), near.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<Seed> seeds;
    seeds.reserve(near.size());
    for (const auto& [rank, seed] : near) seeds.push_back(seed);
    paint_seeds(histogram, seeds, n_threads);
    const std::int64_t n_rows = histogram.n_z * histogram.n_y, n_x = histogram.n_x;
    parallel_for(n_rows, voxels_per_grain / n_x + 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t bin = begin * n_x; bin < end * n_x; ++bin) {
            const std::int32_t count = counts[bin];
            counts[bin] = count < 0 ? near[static_cast<std::size_t>(-count - 1)].first + 1 : 0;
        }
    });
}

std::int64_t MaskSeeds3D::size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<std::int64_t>(seeds_.size());
}

void MaskSeeds3D::require_window(const Box& window) const {
    for (std::size_t axis = 0; axis < 3; ++axis) {
        require(0 <= window.begin[axis] && window.begin[axis] < window.end[axis] && window.end[axis] <= sides_[axis]);
    }
}

void MaskSeeds3D::rank() {
    if (is_ranked_) return;
    std::sort(seeds_.begin(), seeds_.end(), [](const Seed& a, const Seed& b) { return a.bin < b.bin; });
    std::vector<Seed> ordered = seeds_;
    sort_seeds(ordered);
    ranks_.resize(seeds_.size());
    for (std::size_t rank = 0; rank < ordered.size(); ++rank) {
        const auto seed = std::lower_bound(seeds_.begin(), seeds_.end(), ordered[rank].bin,
                                           [](const Seed& one, std::int64_t bin) { return one.bin < bin; });
        ranks_[static_cast<std::size_t>(seed - seeds_.begin())] = static_cast<std::int32_t>(rank);
    }
    is_ranked_ = true;
}

}  // namespace cellrt
