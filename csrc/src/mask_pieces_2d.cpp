// mask_pieces_2d: labels (Y, X) -> the runs of pixels of every label, its box, centre and piece, in pixels.
//
// Runs are sorted by label, so that what follows looks at the pixels of a mask only, whatever the size of its box:
// O(pixels) time, and at most 28 bytes per run of equal labels in a row.
#include "mask_pieces_2d.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cellrt.h"
#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr std::int64_t masks_per_grain = 16;

struct LabelledRun {
    std::int32_t label;
    Run run;
};

// Appends the runs of labels other than 0 in a row.
void append_runs(const std::int32_t* row, std::int64_t y, std::int64_t n_x, std::int32_t n_labels,
                 std::vector<LabelledRun>& runs) {
    for (std::int64_t x = 0; x < n_x;) {
        const std::int32_t label = row[x];
        const std::int64_t begin = x;
        do ++x;
        while (x < n_x && row[x] == label);
        if (label == 0) continue;
        require(label > 0 && label <= n_labels);
        runs.push_back({label, {static_cast<std::int32_t>(y), static_cast<std::int32_t>(begin),
                                static_cast<std::int32_t>(x)}});
    }
}

// How many runs of labels other than 0 begin in a row.
std::int64_t count_runs(const std::int32_t* row, std::int64_t n_x) {
    std::int64_t count = row[0] != 0 ? 1 : 0;
    for (std::int64_t x = 1; x < n_x; ++x) count += row[x] != 0 && row[x] != row[x - 1] ? 1 : 0;
    return count;
}

// Box, area and sums of coordinates, relative to the box.
struct Extent {
    Box box;
    std::int64_t area, sum_y, sum_x;
};

Extent extent_of(const Run* first, const Run* last) {
    Box box{first->y, first->x_begin, (last - 1)->y + 1, first->x_end};
    for (const Run* run = first; run != last; ++run) {
        box.x_begin = std::min(box.x_begin, run->x_begin);
        box.x_end = std::max(box.x_end, run->x_end);
    }
    Extent extent{box, 0, 0, 0};
    for (const Run* run = first; run != last; ++run) {
        const std::int64_t n = std::int64_t{run->x_end} - run->x_begin;
        extent.area += n;
        extent.sum_y += (std::int64_t{run->y} - box.y_begin) * n;
        // An arithmetic series: the product is even.
        extent.sum_x += (std::int64_t{run->x_begin} - box.x_begin + run->x_end - 1 - box.x_begin) * n / 2;
    }
    return extent;
}

struct Nearest {
    const Run* run;
    std::int32_t x;
};

// The first pixel by rows that is nearest to (y, x), coordinates being those of the box plus `shift`: distances are
// rounded as the original rounds them, so that of pixels about as near it is the same one that wins.
Nearest nearest_pixel(const Run* first, const Run* last, const Box& box, double y, double x, std::int32_t shift) {
    Nearest nearest{first, first->x_begin};
    double smallest = std::numeric_limits<double>::infinity();
    for (const Run* run = first; run != last; ++run) {
        const double dy = static_cast<double>(std::int64_t{run->y} - box.y_begin + shift) - y;
        if (dy * dy >= smallest) continue;
        const auto distance = [&](std::int32_t pixel) {
            const double dx = static_cast<double>(std::int64_t{pixel} - box.x_begin + shift) - x;
            return dx * dx + dy * dy;
        };
        // Distances fall up to x and rise from there on.
        const std::int64_t below = static_cast<std::int64_t>(std::floor(x)) - shift + box.x_begin;
        auto pixel = static_cast<std::int32_t>(
            std::min(std::max(below, std::int64_t{run->x_begin}), std::int64_t{run->x_end} - 1));
        if (pixel + 1 < run->x_end && distance(pixel + 1) < distance(pixel)) ++pixel;
        while (pixel > run->x_begin && distance(pixel - 1) <= distance(pixel)) --pixel;
        if (distance(pixel) < smallest) {
            smallest = distance(pixel);
            nearest = {run, pixel};
        }
    }
    return nearest;
}

// Box of the pixels that are connected, over edges or corners, with those of one run.
Box piece_around(const Run* first, const Run* last, const Run* inside) {
    // Runs point to an earlier one of the same piece, the first of a piece to itself.
    std::vector<std::int64_t> earlier(static_cast<std::size_t>(last - first));
    const auto first_of = [&](std::int64_t run) {
        auto& table = earlier;
        while (table[static_cast<std::size_t>(run)] != run) {
            std::int64_t& next = table[static_cast<std::size_t>(run)];
            next = table[static_cast<std::size_t>(next)];
            run = next;
        }
        return run;
    };
    const Run* above = first;  // the first run that may touch this one or those after it from above
    for (const Run* run = first; run != last; ++run) {
        const std::int64_t index = run - first;
        earlier[static_cast<std::size_t>(index)] = index;
        while (above->y < run->y - 1 || (above->y == run->y - 1 && above->x_end < run->x_begin)) ++above;
        for (const Run* other = above; other->y < run->y && other->x_begin <= run->x_end; ++other) {
            const std::int64_t a = first_of(index), b = first_of(other - first);
            earlier[static_cast<std::size_t>(std::max(a, b))] = std::min(a, b);
        }
    }
    const std::int64_t piece = first_of(inside - first);
    Box box{inside->y, inside->x_begin, inside->y + 1, inside->x_end};
    for (const Run* run = first; run != last; ++run) {
        if (first_of(run - first) != piece) continue;
        box = {std::min(box.y_begin, run->y), std::min(box.x_begin, run->x_begin), std::max(box.y_end, run->y + 1),
               std::max(box.x_end, run->x_end)};
    }
    return box;
}

// A mask of which label, first and last are known.
void locate(Mask& mask, std::int32_t dynamics) {
    const Extent extent = extent_of(mask.first, mask.last);
    const auto area = static_cast<double>(extent.area);
    mask.box = extent.box;
    mask.area = extent.area;
    Nearest centre{};
    if (dynamics == CELLRT_DYNAMICS_V3) {  // whose boxes have a margin of 1
        centre = nearest_pixel(mask.first, mask.last, mask.box, static_cast<double>(extent.sum_y + extent.area) / area,
                               static_cast<double>(extent.sum_x + extent.area) / area, 1);
    } else {
        centre = nearest_pixel(mask.first, mask.last, mask.box,
                               std::nearbyint(static_cast<double>(extent.sum_y) / area),  // halves to even
                               std::nearbyint(static_cast<double>(extent.sum_x) / area), 0);
    }
    mask.centre_y = centre.run->y;
    mask.centre_x = centre.x;
    mask.piece = piece_around(mask.first, mask.last, centre.run);
}

}  // namespace

MaskPieces::MaskPieces(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                       std::int32_t dynamics, int n_threads) {
    const std::int64_t rows_per_band = std::max<std::int64_t>((n_y - 1) / thread_count(n_threads) + 1, 1);
    std::vector<std::vector<LabelledRun>> bands(static_cast<std::size_t>((n_y + rows_per_band - 1) / rows_per_band));
    parallel_for(n_x > 0 ? n_y : 0, rows_per_band, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<LabelledRun>& band = bands[static_cast<std::size_t>(begin / rows_per_band)];
        std::int64_t count = 0;
        for (std::int64_t y = begin; y < end; ++y) count += count_runs(labels + y * n_x, n_x);
        band.reserve(static_cast<std::size_t>(count));
        for (std::int64_t y = begin; y < end; ++y) append_runs(labels + y * n_x, y, n_x, n_labels, band);
    });

    // Sort by label; within a label the order of rows stays. ends[label] moves from its first run to behind its last.
    std::vector<std::int64_t> ends(static_cast<std::size_t>(n_labels) + 1, 0);
    for (const auto& band : bands) {
        for (const LabelledRun& run : band) ++ends[static_cast<std::size_t>(run.label)];
    }
    std::int64_t n_runs = 0;
    std::size_t n_masks = 0;
    for (std::int64_t& end : ends) {
        const std::int64_t count = end;
        end = n_runs;
        n_runs += count;
        n_masks += count > 0 ? 1 : 0;
    }
    runs_.resize(static_cast<std::size_t>(n_runs));
    for (auto& band : bands) {
        for (const LabelledRun& run : band) {
            runs_[static_cast<std::size_t>(ends[static_cast<std::size_t>(run.label)]++)] = run.run;
        }
        std::vector<LabelledRun>().swap(band);
    }

    masks_.reserve(n_masks);
    const Run* first = runs_.data();
    for (std::size_t label = 1; label < ends.size(); ++label) {
        const Run* const last = runs_.data() + ends[label];
        if (first != last) masks_.push_back({static_cast<std::int32_t>(label), 0, 0, 0, {}, {}, first, last});
        first = last;
    }
    const auto n = static_cast<std::int64_t>(n_masks);
    parallel_for(n, masks_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) locate(masks_[static_cast<std::size_t>(i)], dynamics);
    });
}

}  // namespace cellrt
