// clean_labels_2d, clean_labels_3d: labels (Y, X) or (Z, Y, X) -> cleaned, the same shape: holes filled, small labels dropped.
//
// The original fills one label after the other in its bounding box; boxes may be as large as the image and as many as
// labels. Here the image becomes runs of equal labels in a row (of all planes, in a volume), and everything is done to
// runs, in a time that depends on their number only.
//
// A hole of a label is a piece of everything else, connected by faces (4 neighbours in an image, 6 in a volume), that
// does not touch the border of the image (that of the label's box makes no difference). Two facts make holes cheap:
//
//   - In a row, what is before the first run of a label and after its last one leads out of the image, and so does all of
//     a row without any. So a hole consists of gaps between two runs of a row. Gaps of neighbouring rows that overlap are
//     one piece; a gap that overlaps more than gaps is no hole.
//
//         row y - 1   LLL....LLL       the gap of 4 pixels lies over a gap and the label
//         row y       LLLLL.LLLL       this one lies over the label: both together are a hole
//         row y + 1    LLLLLLL         (with a run less at the end, the second one would lie over what leads out)
//
//   - A label without holes does not get any by what its predecessors fill, for that only takes pixels away from it. So
//     the labels that have holes are found at the start, side by side; only those are filled, one after the other.
//
// Filling visits the runs of the hole. What is inside becomes one piece, never entered again: a later fill that reaches
// it crosses it to the runs along its edge. So each run is visited once, however deep holes are nested.
#include "clean_labels.hpp"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr std::int64_t pixels_per_grain = 1 << 16;

// An image, or a volume, whose rows are numbered through all planes.
struct Shape {
    std::int64_t n_z, n_y, n_x;
    std::vector<std::int64_t> neighbours;  // how far those of a row are

    std::int64_t n_rows() const { return n_z * n_y; }
    // Whether a row lacks a neighbour: it is at the border.
    bool is_at_border(std::int64_t row) const {
        const std::int64_t y = row % n_y, z = row / n_y;
        return y == 0 || y == n_y - 1 || (neighbours.size() == 4 && (z == 0 || z == n_z - 1));
    }
};

// The pixels begin..end of a row.
struct Run {
    std::int32_t row, begin, end, label;
};

// The runs of an image in row-major order; those of row i are first_of_row[i] .. first_of_row[i + 1] - 1.
struct Runs {
    std::vector<Run> all;
    std::vector<std::int64_t> first_of_row;

    const Run& operator[](std::int64_t i) const { return all[static_cast<std::size_t>(i)]; }
};

// Union-find: the piece that an element is part of, in a forest of parents.
std::int64_t root_of(std::vector<std::int64_t>& parents, std::int64_t i) {
    const auto parent = [&](std::int64_t k) -> std::int64_t& { return parents[static_cast<std::size_t>(k)]; };
    while (parent(i) != i) {
        parent(i) = parent(parent(i));
        i = parent(i);
    }
    return i;
}

Runs find_runs(const std::int32_t* labels, const Shape& shape, std::int32_t max_label, int n_threads) {
    const std::int64_t n_rows = shape.n_rows(), n_x = shape.n_x;
    Runs runs;
    runs.first_of_row.resize(static_cast<std::size_t>(n_rows) + 1);
    const std::int64_t rows_per_grain = pixels_per_grain / n_x + 1;
    parallel_for(n_rows, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int32_t* const row = labels + i * n_x;
            std::int32_t n_changes = 0;
            for (std::int64_t x = 1; x < n_x; ++x) n_changes += row[x] != row[x - 1];
            runs.first_of_row[static_cast<std::size_t>(i) + 1] = n_changes + 1;
        }
    });
    std::partial_sum(runs.first_of_row.begin(), runs.first_of_row.end(), runs.first_of_row.begin());
    runs.all.resize(static_cast<std::size_t>(runs.first_of_row.back()));
    parallel_for(n_rows, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int32_t* const row = labels + i * n_x;
            auto run = static_cast<std::size_t>(runs.first_of_row[static_cast<std::size_t>(i)]);
            for (std::int64_t x = 0; x < n_x; ++run) {
                const std::int32_t label = row[x];
                require(label >= 0 && label <= max_label);
                const std::int64_t run_begin = x;
                do ++x;
                while (x < n_x && row[x] == label);
                runs.all[run] = {static_cast<std::int32_t>(i), static_cast<std::int32_t>(run_begin),
                                 static_cast<std::int32_t>(x), label};
            }
        }
    });
    return runs;
}

// Replaces the labels by their rank among those that occur; the background is 0 whether it occurs or not.
// Returns the labels that the ranks stand for, ascending.
std::vector<std::int32_t> rank_labels(Runs& runs, std::int64_t n_pixels, std::int32_t max_label) {
    std::vector<std::int32_t> labels{0};
    if (max_label <= n_pixels) {
        std::vector<std::int32_t> ranks(static_cast<std::size_t>(max_label) + 1);
        for (const Run& run : runs.all) ranks[static_cast<std::size_t>(run.label)] = 1;
        ranks[0] = 0;
        for (std::size_t label = 1; label < ranks.size(); ++label) {
            if (ranks[label] == 0) continue;
            ranks[label] = static_cast<std::int32_t>(labels.size());
            labels.push_back(static_cast<std::int32_t>(label));
        }
        for (Run& run : runs.all) run.label = ranks[static_cast<std::size_t>(run.label)];
    } else {  // a table would be larger than the image
        for (const Run& run : runs.all) labels.push_back(run.label);
        std::sort(labels.begin(), labels.end());
        labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
        for (Run& run : runs.all) {
            const auto rank = std::lower_bound(labels.begin(), labels.end(), run.label) - labels.begin();
            run.label = static_cast<std::int32_t>(rank);
        }
    }
    return labels;
}

// Drops labels of fewer than min_size pixels and renumbers the others by first appearance; returns how many there are.
// `names` are the numbers that labels have for the caller, ascending.
std::int32_t drop_small(Runs& runs, const std::vector<std::int32_t>& names, std::int64_t min_size,
                        std::int32_t dynamics) {
    std::vector<std::int64_t> areas(names.size());
    for (const Run& run : runs.all) areas[static_cast<std::size_t>(run.label)] += run.end - run.begin;

    constexpr std::int32_t dropped = 0, unnumbered = -1;
    std::vector<std::int32_t> numbers(names.size(), unnumbered);
    numbers[0] = dropped;
    std::int32_t position = -1;  // among the labels that occur
    for (std::size_t label = 0; label < names.size(); ++label) {
        if (areas[label] == 0) continue;
        ++position;
        // Upstream takes the first for the background, so without any the smallest label is never too small.
        if (position == 0 || areas[label] >= min_size) continue;
        if (dynamics == CELLRT_DYNAMICS_V4) {
            numbers[label] = dropped;
        } else {  // upstream's defect: the position is taken for the label
            const auto named = std::lower_bound(names.begin(), names.end(), position);
            if (named != names.end() && *named == position) {
                numbers[static_cast<std::size_t>(named - names.begin())] = dropped;
            }
        }
    }
    std::int32_t n_labels = 0;
    for (Run& run : runs.all) {
        std::int32_t& number = numbers[static_cast<std::size_t>(run.label)];
        if (number == unnumbered) number = ++n_labels;
        run.label = number;
    }
    return n_labels;
}

// The runs of each label in row-major order: those of label k are runs[first[k]] .. runs[first[k + 1] - 1].
struct Members {
    std::vector<std::int64_t> first;
    std::vector<std::int64_t> runs;
};

Members group_by_label(const Runs& runs, std::int32_t n_labels) {
    Members members;
    members.first.resize(static_cast<std::size_t>(n_labels) + 2);
    for (const Run& run : runs.all) {
        if (run.label != 0) ++members.first[static_cast<std::size_t>(run.label) + 1];
    }
    std::partial_sum(members.first.begin(), members.first.end(), members.first.begin());
    members.runs.resize(static_cast<std::size_t>(members.first.back()));
    std::vector<std::int64_t> next = members.first;
    for (std::size_t i = 0; i < runs.all.size(); ++i) {
        const std::int32_t label = runs.all[i].label;
        if (label == 0) continue;
        const std::int64_t position = next[static_cast<std::size_t>(label)]++;
        members.runs[static_cast<std::size_t>(position)] = static_cast<std::int64_t>(i);
    }
    return members;
}

// Finds the holes of labels, one label after the other; what it needs for that is kept for the next.
class HoleFinder {
public:
    HoleFinder(const Shape& shape, const Runs& runs) : shape_(shape), runs_(runs) {}

    // A run in every hole of a label, ascending. members: the `n` runs of the label in row-major order, no two of them
    // neighbours in a row.
    void find(const std::int64_t* members, std::int64_t n, std::vector<std::int64_t>& holes) {
        holes.clear();
        members_ = members;
        const auto shares_row = [&](std::int64_t k) { return run(k).row == run(k + 1).row; };
        std::int64_t first = 0;
        while (first + 1 < n && !shares_row(first)) ++first;
        if (first + 1 >= n) return;  // one run in each row: no gap

        outside_ = n;
        parents_.resize(static_cast<std::size_t>(n) + 1);
        std::iota(parents_.begin(), parents_.end(), std::int64_t{0});
        rows_.clear();
        for (std::int64_t k = 0; k < n; ++k)
            if (k == 0 || !shares_row(k - 1)) rows_.push_back(k);
        rows_.push_back(n);
        for (std::size_t i = 0; i + 1 < rows_.size(); ++i)
            if (rows_[i + 1] - rows_[i] > 1) link_row(i);
        for (std::int64_t k = first; k + 1 < n; ++k) {
            if (!shares_row(k)) continue;
            const std::int64_t piece = root_of(parents_, k);
            if (piece == outside_) continue;
            holes.push_back(members[k] + 1);
            unite(piece, outside_);  // one run of each is enough
        }
    }

private:
    const Run& run(std::int64_t k) const { return runs_[members_[k]]; }

    void unite(std::int64_t a, std::int64_t b) {
        const auto [smaller, larger] = std::minmax({root_of(parents_, a), root_of(parents_, b)});
        parents_[static_cast<std::size_t>(smaller)] = larger;  // the largest of all is the outside
    }

    // Links the gaps of the label's i-th row with what is beside them in the rows around.
    void link_row(std::size_t i) {
        const std::int64_t row = run(rows_[i]).row;
        const bool is_at_border = shape_.is_at_border(row);
        for (std::size_t side = 0; side < shape_.neighbours.size(); ++side) {
            const std::int64_t wanted = row + shape_.neighbours[side];
            const auto place = std::lower_bound(rows_.begin(), rows_.end() - 1, wanted, [&](std::int64_t k, std::int64_t at) {
                return run(k).row < at;
            });
            if (is_at_border || place == rows_.end() - 1 || run(*place).row != wanted) {
                for (std::int64_t gap = rows_[i]; gap + 1 < rows_[i + 1]; ++gap) unite(gap, outside_);
                return;
            }
            link_rows(rows_[i], rows_[i + 1], *place, *(place + 1));
        }
    }

    // Links the gaps between the runs begin..end of a row with those between other_begin..other_end of another.
    void link_rows(std::int64_t begin, std::int64_t end, std::int64_t other_begin, std::int64_t other_end) {
        const std::int32_t first = run(other_begin).begin, last = run(other_end - 1).end;
        std::int64_t other = other_begin;
        for (std::int64_t gap = begin; gap + 1 < end; ++gap) {
            const std::int32_t gap_begin = run(gap).end, gap_end = run(gap + 1).begin;
            if (gap_begin < first || gap_end > last) unite(gap, outside_);
            while (other + 1 < other_end && run(other + 1).begin <= gap_begin) ++other;
            for (std::int64_t k = other; k + 1 < other_end && run(k).end < gap_end; ++k) unite(gap, k);
        }
    }

    const Shape& shape_;
    const Runs& runs_;
    const std::int64_t* members_ = nullptr;
    std::int64_t outside_ = 0;
    std::vector<std::int64_t> parents_;  // of the gap after each run, and of the outside
    std::vector<std::int64_t> rows_;     // the first run of each row that has any, and the end
};

// Fills holes one after the other. A run is inside at most one hole, a hole may be inside another.
class Filler {
public:
    Filler(const Shape& shape, Runs& runs, std::int32_t n_labels)
        : shape_(shape), runs_(runs), is_eroded_(static_cast<std::size_t>(n_labels) + 1) {}

    // Whether a label has lost runs to the holes of others, and whether a run is lost.
    bool is_eroded(std::int32_t label) const { return is_eroded_[static_cast<std::size_t>(label)] != 0; }
    bool is_filled(std::int64_t run) const { return runs_[run].label < 0; }

    // Gives everything to a label that is connected with `seed` by pixels of other labels.
    void fill(std::int64_t seed, std::int32_t label) {
        require(holes_.size() < INT32_MAX, CELLRT_ERROR_CAPACITY);
        hole_ = static_cast<std::int64_t>(holes_.size());
        outer_.push_back(hole_);
        holes_.push_back({label, edges_.size(), 0});
        enter(seed);
        while (!stack_.empty()) {
            const std::int64_t i = stack_.back();
            stack_.pop_back();
            const Run& run = runs_[i];
            // A hole does not touch the border of the image: there are runs on all sides.
            enter(i - 1);
            enter(i + 1);
            for (const std::int64_t neighbour : shape_.neighbours) {
                std::int64_t k = run_at(run.row + neighbour, run.begin);
                enter(k);
                while (runs_[k].end < run.end) enter(++k);
            }
        }
        holes_.back().edges_end = edges_.size();
    }

    // Writes the labels of everything filled.
    void finish() {
        for (Run& run : runs_.all) {
            if (run.label < 0) run.label = holes_[static_cast<std::size_t>(outermost(run))].label;
        }
    }

private:
    // The runs around it are edges_[edges_begin .. edges_end - 1]; some may occur twice.
    struct Hole {
        std::int32_t label;
        std::size_t edges_begin, edges_end;
    };

    // The hole around a filled run that is in no other.
    std::int64_t outermost(const Run& run) { return root_of(outer_, ~std::int64_t{run.label}); }

    // The run that holds pixel x of a row.
    std::int64_t run_at(std::int64_t row, std::int32_t x) const {
        const auto first = runs_.all.begin() + runs_.first_of_row[static_cast<std::size_t>(row)];
        const auto end = runs_.all.begin() + runs_.first_of_row[static_cast<std::size_t>(row) + 1];
        const auto begins_after = [](std::int32_t at, const Run& run) { return at < run.begin; };
        return std::upper_bound(first, end, x, begins_after) - runs_.all.begin() - 1;
    }

    // Takes a run into the current hole.
    void take(std::int64_t i) {
        Run& run = runs_.all[static_cast<std::size_t>(i)];
        is_eroded_[static_cast<std::size_t>(run.label)] = 1;
        run.label = static_cast<std::int32_t>(~hole_);
        stack_.push_back(i);
    }

    // Goes on to a neighbour of what is in the current hole.
    void enter(std::int64_t i) {
        const Run& run = runs_[i];
        if (run.label == holes_.back().label) {
            edges_.push_back(i);
        } else if (!is_filled(i)) {
            take(i);
        } else if (const std::int64_t inner = outermost(run); inner != hole_) {
            // Crosses a hole that was filled before. The runs around it are in no other hole than it is itself.
            outer_[static_cast<std::size_t>(inner)] = hole_;
            const Hole crossed = holes_[static_cast<std::size_t>(inner)];
            for (std::size_t edge = crossed.edges_begin; edge < crossed.edges_end; ++edge) {
                if (!is_filled(edges_[edge])) take(edges_[edge]);
            }
        }
    }

    const Shape& shape_;
    Runs& runs_;  // the label of a filled run is ~hole, below 0
    std::vector<std::uint8_t> is_eroded_;
    std::vector<Hole> holes_;
    std::int64_t hole_ = 0;             // the current one, the last
    std::vector<std::int64_t> outer_;  // the hole that each is inside of, or itself
    std::vector<std::int64_t> edges_;
    std::vector<std::int64_t> stack_;
};

// Fills the holes of the labels 1..n_labels in ascending order.
void fill_holes(const Shape& shape, Runs& runs, std::int32_t n_labels, int n_threads) {
    const Members members = group_by_label(runs, n_labels);
    const auto members_of = [&](std::int64_t label) {
        return members.runs.data() + members.first[static_cast<std::size_t>(label)];
    };
    const auto count_of = [&](std::int64_t label) {
        return members.first[static_cast<std::size_t>(label) + 1] - members.first[static_cast<std::size_t>(label)];
    };
    using Hole = std::pair<std::int32_t, std::int64_t>;  // its label and a run in it
    std::vector<Hole> all_holes;
    std::mutex mutex;
    parallel_for(n_labels, 256, n_threads, [&](std::int64_t begin, std::int64_t end) {
        HoleFinder finder(shape, runs);
        std::vector<std::int64_t> holes;
        std::vector<Hole> found;
        for (std::int64_t label = begin + 1; label <= end; ++label) {
            finder.find(members_of(label), count_of(label), holes);
            for (const std::int64_t hole : holes) found.emplace_back(static_cast<std::int32_t>(label), hole);
        }
        const std::lock_guard<std::mutex> lock(mutex);
        all_holes.insert(all_holes.end(), found.begin(), found.end());
    });
    std::sort(all_holes.begin(), all_holes.end());

    Filler filler(shape, runs, n_labels);
    HoleFinder finder(shape, runs);
    std::vector<std::int64_t> left, holes;
    for (auto hole = all_holes.begin(); hole != all_holes.end();) {
        const std::int32_t label = hole->first;
        holes.clear();
        for (; hole != all_holes.end() && hole->first == label; ++hole) holes.push_back(hole->second);
        if (filler.is_eroded(label)) {
            left.clear();
            std::copy_if(members_of(label), members_of(label) + count_of(label), std::back_inserter(left),
                         [&](std::int64_t run) { return !filler.is_filled(run); });
            finder.find(left.data(), static_cast<std::int64_t>(left.size()), holes);
        }
        for (const std::int64_t seed : holes) filler.fill(seed, label);
    }
    filler.finish();
}

std::int32_t clean(const std::int32_t* labels, const Shape& shape, std::int32_t max_label, std::int64_t min_size,
                   std::int32_t dynamics, int n_threads, std::int32_t* cleaned) {
    const std::int64_t n_rows = shape.n_rows(), n_x = shape.n_x;
    if (n_rows == 0 || n_x == 0) return 0;
    require(n_rows <= INT32_MAX);
    Runs runs = find_runs(labels, shape, max_label, n_threads);
    std::vector<std::int32_t> names = rank_labels(runs, n_rows * n_x, max_label);
    auto n_labels = static_cast<std::int32_t>(names.size()) - 1;
    if (min_size > 0) {
        n_labels = drop_small(runs, names, min_size, dynamics);
        names.resize(static_cast<std::size_t>(n_labels) + 1);
        std::iota(names.begin(), names.end(), 0);
    }
    fill_holes(shape, runs, n_labels, n_threads);
    if (min_size > 0) {
        n_labels = drop_small(runs, names, min_size, dynamics);
    } else {
        n_labels = 0;
        for (const Run& run : runs.all) n_labels = std::max(n_labels, run.label);
    }
    parallel_for(n_rows, pixels_per_grain / n_x + 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = runs.first_of_row[static_cast<std::size_t>(begin)];
             i < runs.first_of_row[static_cast<std::size_t>(end)]; ++i) {
            const Run& run = runs[i];
            std::int32_t* const row = cleaned + run.row * n_x;
            std::fill(row + run.begin, row + run.end, run.label);
        }
    });
    return n_labels;
}

}  // namespace

std::int32_t clean_labels_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t max_label,
                             std::int64_t min_size, std::int32_t dynamics, int n_threads, std::int32_t* cleaned) {
    return clean(labels, {1, n_y, n_x, {-1, 1}}, max_label, min_size, dynamics, n_threads, cleaned);
}

std::int32_t clean_labels_3d(const std::int32_t* labels, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                             std::int32_t max_label, std::int64_t min_size, std::int32_t dynamics, int n_threads,
                             std::int32_t* cleaned) {
    return clean(labels, {n_z, n_y, n_x, {-n_y, -1, 1, n_y}}, max_label, min_size, dynamics, n_threads, cleaned);
}

}  // namespace cellrt
