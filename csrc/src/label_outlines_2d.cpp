// label_outlines_2d: labels (Y, X) -> coords (m, 2) y, x in pixels, offsets (n + 1,).
//
// Runs of equal labels in a row are joined to parts (4-connected) through the rows, band by band, and then across the
// seams between bands: a forest of sets (Galler and Fischer 1964) whose roots come first by rows. The largest part of
// each label is traced along the cracks between pixels, with the label on the right hand.
//
// At a crack the pixel ahead on the right touches the one on the right, and the one ahead on the left touches that: of
// the same label means of the same part, and no map of the parts is needed.
#include "label_outlines_2d.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

// A piece of a label; all pieces of a part lead to its root.
struct Part {
    std::int64_t parent;  // of parts made earlier, or itself
    std::int64_t first;   // pixel y * n_x + x
    std::int64_t area;    // pixels
};

// The pixels [begin, end) of a row, all of one label.
struct Run {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t part;
};

class Parts {
public:
    std::int64_t root(std::int64_t i) {
        while (at(i).parent != i) i = at(i).parent = at(at(i).parent).parent;
        return i;
    }

    // Joins two parts; the one that was made first leads.
    std::int64_t join(std::int64_t a, std::int64_t b) {
        a = root(a);
        b = root(b);
        if (a > b) std::swap(a, b);
        at(b).parent = a;
        return a;
    }

    std::int64_t add(std::int64_t first) {
        parts_.push_back({size(), first, 0});
        return size() - 1;
    }

    void reserve(std::int64_t n) { parts_.reserve(static_cast<std::size_t>(n)); }

    // Takes over the parts of another forest, which are renumbered from `size()` on.
    void append(const Parts& other) {
        const std::int64_t offset = size();
        for (const Part& part : other.parts_) parts_.push_back({part.parent + offset, part.first, part.area});
    }

    Part& at(std::int64_t i) { return parts_[static_cast<std::size_t>(i)]; }
    std::int64_t size() const { return static_cast<std::int64_t>(parts_.size()); }

private:
    std::vector<Part> parts_;
};

// Calls touch(upper run, lower run) for the runs of two rows that overlap; both ascend.
template <typename Touch>
void for_touching_runs(std::vector<Run>& upper, std::vector<Run>& lower, const Touch& touch) {
    auto above = upper.begin();
    for (Run& run : lower) {
        while (above != upper.end() && above->end <= run.begin) ++above;
        for (auto other = above; other != upper.end() && other->begin < run.end; ++other) touch(*other, run);
    }
}

// A band of rows and the parts in it.
struct Band {
    Parts parts;
    std::vector<Run> top;
    std::vector<Run> bottom;
};

constexpr std::int64_t no_part = -1;

void find_parts(const std::int32_t* labels, std::int64_t n_x, std::int32_t n_labels, std::int64_t y_begin,
                std::int64_t y_end, Band& band) {
    std::vector<Run> above;
    std::vector<Run> runs;
    Parts& parts = band.parts;
    for (std::int64_t y = y_begin; y < y_end; ++y) {
        const std::int32_t* const row = labels + y * n_x;
        runs.clear();
        for (std::int64_t x = 0; x < n_x;) {
            const std::int32_t label = row[x];
            const std::int64_t begin = x;
            do ++x;
            while (x < n_x && row[x] == label);
            if (label == 0) continue;
            require(label > 0 && label <= n_labels);
            runs.push_back({begin, x, no_part});
        }
        for_touching_runs(above, runs, [&](const Run& other, Run& run) {
            if (labels[(y - 1) * n_x + other.begin] != row[run.begin]) return;
            run.part = run.part == no_part ? other.part : parts.join(run.part, other.part);
        });
        for (Run& run : runs) {
            if (run.part == no_part) run.part = parts.add(y * n_x + run.begin);
            parts.at(run.part).area += run.end - run.begin;
        }
        if (y == y_begin) band.top = runs;
        std::swap(above, runs);
    }
    band.bottom = std::move(above);
}

// The first pixel of the largest part of every label, -1 for a label that does not occur.
std::vector<std::int64_t> first_pixels(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x,
                                       std::int32_t n_labels, int n_threads) {
    const std::int64_t n_bands = 4 * static_cast<std::int64_t>(thread_count(n_threads));
    const std::int64_t n_rows = std::max<std::int64_t>(64, (n_y - 1) / n_bands + 1);
    std::vector<Band> bands(static_cast<std::size_t>((n_y - 1) / n_rows + 1));
    parallel_for(n_y, n_rows, n_threads, [&](std::int64_t begin, std::int64_t end) {
        find_parts(labels, n_x, n_labels, begin, end, bands[static_cast<std::size_t>(begin / n_rows)]);
    });

    Parts parts;
    const auto label_of = [&](const Run& run) { return labels[parts.at(run.part).first]; };
    std::int64_t n_parts = 0;
    for (const Band& band : bands) n_parts += band.parts.size();
    parts.reserve(n_parts);
    std::vector<Run> bottom;
    for (Band& band : bands) {
        const std::int64_t offset = parts.size();
        parts.append(band.parts);
        for (Run& run : band.top) run.part += offset;
        for (Run& run : band.bottom) run.part += offset;
        for_touching_runs(bottom, band.top, [&](const Run& upper, const Run& lower) {
            if (label_of(upper) == label_of(lower)) parts.join(upper.part, lower.part);
        });
        bottom = std::move(band.bottom);
        band = Band();  // its memory
    }
    for (std::int64_t i = parts.size() - 1; i >= 0; --i) {  // a parent comes before its children
        const Part& part = parts.at(i);
        if (part.parent != i) parts.at(part.parent).area += part.area;
    }

    std::vector<std::int64_t> largest(static_cast<std::size_t>(n_labels), no_part);
    for (std::int64_t i = 0; i < parts.size(); ++i) {
        const Part& part = parts.at(i);
        if (part.parent != i) continue;
        std::int64_t& best = largest[static_cast<std::size_t>(labels[part.first] - 1)];
        if (best == no_part || part.area > parts.at(best).area) best = i;
    }
    for (std::int64_t& i : largest) i = i == no_part ? -1 : parts.at(i).first;
    return largest;
}

// Walks along the cracks around the part whose first pixel is given and calls put(y, x) at every turn: corner (y, x) is
// that of pixel (y, x) towards the origin. Turns lead from rows to columns and back. Where pixels of the label meet at a
// corner only, it turns right, and so does not join them. The corner where it begins is passed once, for no pixel above
// or to the left of the first belongs to the part.
template <typename Put>
void trace(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int64_t first, const Put& put) {
    const std::int32_t label = labels[first];
    const auto is_inside = [&](std::int64_t y, std::int64_t x) {
        return y >= 0 && y < n_y && x >= 0 && x < n_x && labels[y * n_x + x] == label;
    };
    const std::int64_t first_y = first / n_x;
    const std::int64_t first_x = first % n_x;
    std::int64_t y = first_y;
    std::int64_t x = first_x;
    std::int64_t step_x = 1;
    for (;;) {
        put(y, x);
        const std::int64_t right_y = step_x > 0 ? y : y - 1;  // the pixels on the right hand
        const std::int64_t left_y = step_x > 0 ? y - 1 : y;
        std::int64_t step_y = 0;
        while (step_y == 0) {
            x += step_x;
            const std::int64_t ahead_x = step_x > 0 ? x : x - 1;
            if (!is_inside(right_y, ahead_x))
                step_y = step_x;
            else if (is_inside(left_y, ahead_x))
                step_y = -step_x;
        }
        put(y, x);
        const std::int64_t right_x = step_y > 0 ? x - 1 : x;
        const std::int64_t left_x = step_y > 0 ? x : x - 1;
        step_x = 0;
        while (step_x == 0) {
            y += step_y;
            if (y == first_y && x == first_x) return;
            const std::int64_t ahead_y = step_y > 0 ? y : y - 1;
            if (!is_inside(ahead_y, right_x))
                step_x = -step_y;
            else if (is_inside(ahead_y, left_x))
                step_x = step_y;
        }
    }
}

}  // namespace

void label_outlines_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                       std::int64_t capacity, int n_threads, std::int64_t* offsets, float* coords) {
    std::fill(offsets, offsets + n_labels + 1, 0);
    if (n_y == 0 || n_x == 0) return;
    const std::vector<std::int64_t> firsts = first_pixels(labels, n_y, n_x, n_labels, n_threads);

    constexpr std::int64_t labels_per_grain = 512;
    parallel_for(n_labels, labels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t first = firsts[static_cast<std::size_t>(i)];
            std::int64_t n = 0;
            if (first >= 0) trace(labels, n_y, n_x, first, [&](std::int64_t, std::int64_t) { ++n; });
            offsets[i + 1] = n;
        }
    });
    for (std::int32_t i = 0; i < n_labels; ++i) offsets[i + 1] += offsets[i];
    require(offsets[n_labels] <= capacity, CELLRT_ERROR_CAPACITY);

    parallel_for(n_labels, labels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t first = firsts[static_cast<std::size_t>(i)];
            float* vertex = coords + 2 * offsets[i];
            if (first < 0) continue;
            trace(labels, n_y, n_x, first, [&](std::int64_t y, std::int64_t x) {
                *vertex++ = static_cast<float>(static_cast<double>(y) - 0.5);
                *vertex++ = static_cast<float>(static_cast<double>(x) - 0.5);
            });
        }
    });
}

}  // namespace cellrt
