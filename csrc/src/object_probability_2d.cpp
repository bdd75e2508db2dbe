// object_probability_2d: labels (Y, X) -> prob (Y, X), the distance to the nearest pixel of another label over the
// largest such distance in the own label.
//
// Exact squared distances of all labels at once, in integers: first along columns, by counting up and down from where
// the label changes. Then along each run of equal labels in a row: a pixel's nearest other pixel lies just beyond an end
// of the run, or in the column of one of its pixels, as far up or down as the first pass found. Each of these sites is
// nearest to a stretch of the run, or to none of it: which ones matter is found from left to right, without divisions, by
// the test of Maurer, Qi and Raghavan (IEEE PAMI 25, 2003).
#include "object_probability_2d.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

// The frame of the image is no border: beyond it, pixels of another label are far away.
constexpr std::int64_t far_away = std::int64_t{1} << 40;

// Pixels from each pixel up or down to the nearest one of another label in its column; `far_away` or more without one.
void measure_columns(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, int n_threads,
                     std::int64_t* distances) {
    constexpr std::int64_t columns_per_grain = 256;
    parallel_for(n_x, columns_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::fill(distances + begin, distances + end, far_away);
        for (std::int64_t y = 1; y < n_y; ++y) {
            const std::int32_t* const row = labels + y * n_x;
            std::int64_t* const out = distances + y * n_x;
            for (std::int64_t x = begin; x < end; ++x) out[x] = row[x] == row[x - n_x] ? out[x - n_x] + 1 : 1;
        }
        for (std::int64_t y = n_y - 2; y >= 0; --y) {
            const std::int32_t* const row = labels + y * n_x;
            std::int64_t* const out = distances + y * n_x;
            for (std::int64_t x = begin; x < end; ++x) {
                const std::int64_t below = row[x] == row[x + n_x] ? out[x + n_x] + 1 : 1;
                out[x] = std::min(out[x], below);
            }
        }
    });
}

// The nearest pixel of another label in column x: its squared distance from the row that is looked at.
struct Site {
    std::int64_t x;
    std::int64_t squared;

    std::int64_t squared_from(std::int64_t at) const { return (at - x) * (at - x) + squared; }
};

// Whether the middle one of three sites from left to right is nearest nowhere.
bool is_hidden(const Site& left, const Site& middle, const Site& right) {
    const std::int64_t to_left = middle.x - left.x, to_right = right.x - middle.x, all = right.x - left.x;
    return all * middle.squared - to_right * left.squared - to_left * right.squared > to_left * to_right * all;
}

// The sites that are nearest to some of the pixels of a run, from left to right.
class Sites {
public:
    void clear() { sites_.clear(); }

    void add(const Site& site) {
        while (sites_.size() >= 2 && is_hidden(sites_[sites_.size() - 2], sites_.back(), site)) sites_.pop_back();
        sites_.push_back(site);
    }

    // Squared distances of the pixels [begin, end) to their nearest sites; returns the largest.
    std::int64_t measure(std::int64_t begin, std::int64_t end, std::int64_t* squared) const {
        std::int64_t largest = 0;
        auto site = sites_.begin();
        for (std::int64_t x = begin; x < end; ++x) {
            std::int64_t nearest = site->squared_from(x);
            for (; site + 1 != sites_.end(); ++site) {
                const std::int64_t next = site[1].squared_from(x);
                if (next > nearest) break;
                nearest = next;
            }
            squared[x] = nearest;
            largest = std::max(largest, nearest);
        }
        return largest;
    }

private:
    std::vector<Site> sites_;
};

// Calls visit(label, begin, end) for the runs of equal labels in a row that belong to objects.
template <typename Visit>
void for_each_run(const std::int32_t* row, std::int64_t n_x, const Visit& visit) {
    for (std::int64_t x = 0; x < n_x;) {
        const std::int32_t label = row[x];
        const std::int64_t begin = x;
        do ++x;
        while (x < n_x && row[x] == label);
        if (label > 0) visit(label, begin, x);
    }
}

float probability(double distance, double largest) { return static_cast<float>(distance / (largest + 1e-10)); }

// One object and no border anywhere: the frame has to serve. The shortest way out of a rectangle is straight.
void measure_whole_image(std::int64_t n_y, std::int64_t n_x, float* prob) {
    const auto to_frame = [](std::int64_t at, std::int64_t n) { return std::min(at + 1, n - at); };
    const auto largest = static_cast<double>((std::min(n_y, n_x) + 1) / 2);
    for (std::int64_t y = 0; y < n_y; ++y) {
        for (std::int64_t x = 0; x < n_x; ++x) {
            const auto distance = static_cast<double>(std::min(to_frame(y, n_y), to_frame(x, n_x)));
            prob[y * n_x + x] = probability(distance, largest);
        }
    }
}

}  // namespace

void object_probability_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                           int n_threads, float* prob) {
    const std::int64_t n_pixels = n_y * n_x;
    if (n_pixels == 0) return;
    if (labels[0] > 0 && std::all_of(labels, labels + n_pixels, [&](std::int32_t label) { return label == labels[0]; })) {
        require(labels[0] <= n_labels);
        return measure_whole_image(n_y, n_x, prob);
    }

    std::vector<std::int64_t> squared(static_cast<std::size_t>(n_pixels));
    measure_columns(labels, n_y, n_x, n_threads, squared.data());

    constexpr std::int64_t rows_per_grain = 16;
    std::vector<std::atomic<std::int64_t>> largest(static_cast<std::size_t>(n_labels) + 1);
    parallel_for(n_y, rows_per_grain, n_threads, [&](std::int64_t y_begin, std::int64_t y_end) {
        Sites sites;
        for (std::int64_t y = y_begin; y < y_end; ++y) {
            std::int64_t* const row = squared.data() + y * n_x;
            for_each_run(labels + y * n_x, n_x, [&](std::int32_t label, std::int64_t begin, std::int64_t end) {
                require(label <= n_labels);
                sites.clear();
                if (begin > 0) sites.add({begin - 1, 0});
                for (std::int64_t x = begin; x < end; ++x) {
                    if (row[x] < far_away) sites.add({x, row[x] * row[x]});
                }
                if (end < n_x) sites.add({end, 0});
                const std::int64_t run_largest = sites.measure(begin, end, row);
                auto& label_largest = largest[static_cast<std::size_t>(label)];
                std::int64_t seen = label_largest.load(std::memory_order_relaxed);
                while (seen < run_largest &&
                       !label_largest.compare_exchange_weak(seen, run_largest, std::memory_order_relaxed)) {
                }
            });
        }
    });

    parallel_for(n_y, rows_per_grain, n_threads, [&](std::int64_t y_begin, std::int64_t y_end) {
        for (std::int64_t y = y_begin; y < y_end; ++y) {
            const std::int64_t* const row = squared.data() + y * n_x;
            float* const out = prob + y * n_x;
            std::fill(out, out + n_x, 0.0f);
            for_each_run(labels + y * n_x, n_x, [&](std::int32_t label, std::int64_t begin, std::int64_t end) {
                const double label_largest = std::sqrt(static_cast<double>(largest[static_cast<std::size_t>(label)]));
                for (std::int64_t x = begin; x < end; ++x) {
                    out[x] = probability(std::sqrt(static_cast<double>(row[x])), label_largest);
                }
            });
        }
    });
}

}  // namespace cellrt
