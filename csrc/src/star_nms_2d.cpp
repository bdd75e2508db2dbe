// prob (n), dist (n, n_rays) in pixels, points (n, 2) y and x in pixels -> indices of the survivors, best first.
//
// Candidates are taken in rank order, and each one looks for a kept polygon that suppresses it. Of a typical object's
// dozens of candidates all but the first meet their suppressor as the first polygon they look at, so nearly every
// candidate costs one comparison, however many there are. In three steps, cheapest first:
//   1. a grid of the kept polygons' boxes gives those whose box it touches, the closest centre first;
//   2. row profiles of both polygons bound the intersection area from below and above: enough for most pairs;
//   3. a sweep computes the area that the original's polygon clipper would (star_overlap_2d.cpp).
// Ranks are cut into chunks. Within a chunk, all candidates are tested against the polygons kept before it, in
// parallel; those left over, few, are then tested one after the other against the polygons kept since. So which pairs
// are compared, and what is looked at to find them, depends on the ranks only, and neither the result nor the count of
// pairs on the number of threads.
#include "star_nms_2d.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "parallel.hpp"
#include "star_overlap_2d.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr float longest_ray = 1048576.0F;          // 2^20 pixels
constexpr std::int32_t farthest_point = 1 << 30;   // pixels
constexpr std::int32_t most_profile_rows = 256;    // taller polygons go straight to the sweep
constexpr std::int64_t looks_per_pair = 64;         // cells and boxes that take as long as comparing two profiles
constexpr std::int32_t widest_profile = 1 << 14;   // pixels: sums of profiles stay exact to far below a pixel

using Rank = std::uint32_t;

struct Candidates {
    const float* dist;
    const std::int32_t* points;
    std::int32_t n_rays;
    const Rank* order;  // candidate of each rank
    std::int64_t n;
};

struct Box {
    std::int32_t y_first, x_first, y_last, x_last;  // closed
};

bool touch(const Box& a, const Box& b) {
    return a.y_first <= b.y_last && b.y_first <= a.y_last && a.x_first <= b.x_last && b.x_first <= a.x_last;
}

// Directions of the rays in float32, as the original computes them; sin and cos in double and rounded once, so that
// they are the same on every platform.
struct Rays {
    std::vector<float> sine, cosine;
    explicit Rays(std::int32_t n_rays) : sine(static_cast<std::size_t>(n_rays)), cosine(sine.size()) {
        const auto step = static_cast<float>(2 * 3.14159265358979323846 / n_rays);
        for (std::size_t k = 0; k < sine.size(); ++k) {
            const float angle = step * static_cast<float>(k);
            sine[k] = static_cast<float>(std::sin(static_cast<double>(angle)));
            cosine[k] = static_cast<float>(std::cos(static_cast<double>(angle)));
        }
    }
};

// inverse_height[dy] = 1 / dy for the edges of polygons that have a profile.
struct InverseHeights {
    float values[2 * most_profile_rows + 1];
    InverseHeights() : values() {
        for (std::int32_t dy = 1; dy <= most_profile_rows; ++dy) {
            values[most_profile_rows + dy] = 1.0F / static_cast<float>(dy);
            values[most_profile_rows - dy] = -1.0F / static_cast<float>(dy);
        }
    }
    float operator[](std::int32_t dy) const noexcept { return values[most_profile_rows + dy]; }
};
const InverseHeights inverse_height;

// Start loading what is needed soon: candidates come in rank order, which is no order in memory.
inline void prefetch(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(address);
#else
    static_cast<void>(address);
#endif
}

// ---- One polygon ----------------------------------------------------------------------------------------------

// What the comparison of two polygons needs to know about each, besides its row profile.
struct Summary {
    Box box;
    std::int32_t y, x;   // centre
    float area;          // float32 as the original sums it
    bool has_profile;
    float slack_below;   // see bound_overlap()
    float slack_above;
};

// Vertices and row profile of one candidate; scratch of one thread.
class Shape {
public:
    Summary summary;
    std::vector<Vertex> vertices;    // n_rays, and the first once more
    std::vector<float> left, right;  // per row of the box but the last: see trace_profile()

    void trace(const Candidates& candidates, const Rays& rays, Rank candidate);
    void trace_profile();

private:
    std::vector<std::int32_t> edges_in_row_;
};

void Shape::trace(const Candidates& candidates, const Rays& rays, Rank candidate) {
    const auto n = static_cast<std::size_t>(candidates.n_rays);
    vertices.resize(n + 1);
    const float* const dist = candidates.dist + std::size_t{candidate} * n;
    summary.y = candidates.points[2 * std::size_t{candidate}];
    summary.x = candidates.points[2 * std::size_t{candidate} + 1];
    const auto y = static_cast<float>(summary.y), x = static_cast<float>(summary.x);
    for (std::size_t k = 0; k < n; ++k) {
        // The conversion truncates towards zero, as the original's does. |y| < 2^30 + 2^21: it fits.
        vertices[k].y = static_cast<std::int32_t>(y + dist[k] * rays.sine[k]);
        vertices[k].x = static_cast<std::int32_t>(x + dist[k] * rays.cosine[k]);
    }

    vertices[n] = vertices[0];

    Box box{vertices[0].y, vertices[0].x, vertices[0].y, vertices[0].x};
    for (const Vertex& vertex : vertices) {
        box.y_first = std::min(box.y_first, vertex.y);
        box.x_first = std::min(box.x_first, vertex.x);
        box.y_last = std::max(box.y_last, vertex.y);
        box.x_last = std::max(box.x_last, vertex.x);
    }
    summary.box = box;
    summary.has_profile = false;

    // The original adds up float32 values of the integers x y' - y x'. While the sum of their magnitudes is below 2^24
    // every partial sum is exact and any way to the same area will do: each of the n terms equals
    // x (y' - y) - y (x' - x), at most the farthest coordinate times the two sides of the box.
    const std::int64_t height = std::int64_t{box.y_last} - box.y_first, width = std::int64_t{box.x_last} - box.x_first;
    const std::int64_t farthest = std::max({std::abs(std::int64_t{box.y_first}), std::abs(std::int64_t{box.y_last}),
                                            std::abs(std::int64_t{box.x_first}), std::abs(std::int64_t{box.x_last})});
    if (farthest * (height + width) < 16777216 / static_cast<std::int64_t>(n)) {
        std::int32_t twice_area = 0;
        const auto term = [](Vertex a, Vertex b) { return a.x * (b.y - a.y) - a.y * (b.x - a.x); };
        for (std::size_t k = 0; k < n; ++k) twice_area += term(vertices[k], vertices[k + 1]);
        summary.area = 0.5F * static_cast<float>(std::abs(twice_area));
    } else {
        float twice_area = 0;
        for (std::size_t k = 0; k < n; ++k) {
            const Vertex a = vertices[k], b = vertices[k + 1];
            twice_area += static_cast<float>(std::int64_t{a.x} * b.y - std::int64_t{a.y} * b.x);
        }
        summary.area = static_cast<float>(0.5 * std::fabs(static_cast<double>(twice_area)));
    }
}

// Where the polygon's leftmost and rightmost edges cross the middle of each row [y, y + 1], relative to the centre; and
// how far that can be from the polygon. All vertices lie on rows' borders, so edges are straight within a row.
void Shape::trace_profile() {
    const Box& box = summary.box;
    const std::int64_t height = std::int64_t{box.y_last} - box.y_first;
    if (height > most_profile_rows || std::int64_t{box.x_last} - box.x_first > widest_profile) return;
    const auto n_rows = static_cast<std::int32_t>(height);
    left.resize(static_cast<std::size_t>(n_rows));
    right.resize(static_cast<std::size_t>(n_rows));

    // Of the edges that are not horizontal: summed |dy|, summed |dx|, summed max(0, |dx| - |dy|).
    const auto n = static_cast<std::int32_t>(vertices.size()) - 1;  // the first vertex stands once more at the end
    const Vertex* const corner = vertices.data();
    std::int32_t rise = 0, run = 0, shallow_run = 0;
    for (std::int32_t k = 0; k < n; ++k) {
        const std::int32_t dy = std::abs(corner[k + 1].y - corner[k].y), dx = std::abs(corner[k + 1].x - corner[k].x);
        rise += dy;
        run += dy != 0 ? dx : 0;
        shallow_run += dy != 0 && dx > dy ? dx - dy : 0;
    }

    // visit(row, x, goes_down) for every row of every edge
    const auto for_each_row = [&](const auto& visit) {
        for (std::int32_t k = 0; k < n; ++k) {
            const std::int32_t dy = corner[k + 1].y - corner[k].y;
            if (dy == 0) continue;
            const Vertex& top = corner[dy > 0 ? k : k + 1];
            const float slope = static_cast<float>(corner[k + 1].x - corner[k].x) * inverse_height[dy];
            float x = static_cast<float>(top.x - summary.x) + 0.5F * slope;
            const std::int32_t first = top.y - box.y_first, last = first + std::abs(dy);
            for (std::int32_t row = first; row < last; ++row) {
                visit(static_cast<std::size_t>(row), x, dy > 0);
                x += slope;
            }
        }
    };
    float hollow = 0;  // what lies between leftmost and rightmost edge and may not belong to the polygon
    if (rise == 2 * n_rows) {  // once down and once up, the usual case: two edges in every row
        float* const sides[2] = {left.data(), right.data()};
        for_each_row([&](std::size_t row, float x, bool down) { sides[down][row] = x; });
        for (std::size_t row = 0; row < left.size(); ++row) {
            const float up = sides[0][row], down = sides[1][row];
            sides[0][row] = std::min(up, down);
            sides[1][row] = std::max(up, down);
        }
    } else {
        std::fill(left.begin(), left.end(), 2.0F * widest_profile);
        std::fill(right.begin(), right.end(), -2.0F * widest_profile);
        edges_in_row_.assign(left.size(), 0);
        for_each_row([&](std::size_t row, float x, bool) {
            left[row] = std::min(left[row], x);
            right[row] = std::max(right[row], x);
            ++edges_in_row_[row];
        });
        for (std::size_t row = 0; row < left.size(); ++row)
            if (edges_in_row_[row] > 2) hollow += right[row] - left[row];
    }
    summary.slack_above = 0.125F * static_cast<float>(run) + 0.5F * static_cast<float>(shallow_run) +
                          6.0F * static_cast<float>(rise - 2 * n_rows);
    summary.slack_below = summary.slack_above + hollow;
    summary.has_profile = true;
}

// ---- Kept polygons --------------------------------------------------------------------------------------------

struct Kept {
    Summary summary;
    Rank candidate;
    std::uint32_t next_in_cell;  // one more than its index, 0 at the end
    std::size_t profile;         // where its left and right profile begin
};

// The kept polygons, and a hierarchy of uniform grids over their boxes: a polygon is listed once, in the cell of its
// box's first corner, in the grid whose cells are just as large as the longer side of its box. A box of side s can
// touch only polygons listed in the (s / cell + 2)^2 cells around it, so one huge polygon costs nobody else anything.
class KeptPolygons {
public:
    std::size_t size() const noexcept { return kept_.size(); }
    const Kept& operator[](std::size_t index) const noexcept { return kept_[index]; }
    const float* left(const Kept& kept) const noexcept { return profiles_.data() + kept.profile; }
    const float* right(const Kept& kept) const noexcept {
        return left(kept) + (kept.summary.box.y_last - kept.summary.box.y_first);
    }

    void add(const Shape& shape, Rank candidate);

    // visit(index) for each kept polygon from `first` on whose box touches `box`. Returns how many cells and boxes were
    // looked at for that: most of the work where long boxes share cells and do not touch.
    template <typename Visit>
    std::int64_t visit_touching(const Box& box, std::size_t first, const Visit& visit) const;

private:
    static constexpr int finest = 3, n_levels = 24;  // cells of 2^level pixels

    struct Cell {
        std::uint64_t key;
        std::uint32_t head;  // one more than the index of its latest polygon; 0: an empty slot
    };
    static std::uint64_t cell_key(int level, std::int64_t row, std::int64_t column) {
        // |row| < 2^29 at level 3.
        const auto positive = [](std::int64_t index) { return static_cast<std::uint64_t>(index + (1 << 29)); };
        return (positive(row) << 35) | (positive(column) << 5) | static_cast<std::uint64_t>(level);
    }
    std::size_t slot(std::uint64_t key) const {
        // Multiplication carries the low bits of both factors up; the row's bits are folded down to them first.
        const std::size_t mask = cells_.size() - 1;
        std::size_t index = static_cast<std::size_t>(((key ^ (key >> 33)) * 0x9E3779B97F4A7C15U) >> 32) & mask;
        while (cells_[index].head != 0 && cells_[index].key != key) index = (index + 1) & mask;
        return index;
    }

    std::vector<Kept> kept_;
    std::vector<float> profiles_;
    std::vector<Cell> cells_ = std::vector<Cell>(64, Cell{0, 0});  // open addressing, a power of two
    std::size_t n_cells_ = 0;
    std::vector<std::uint32_t> in_level_[n_levels];
};

void KeptPolygons::add(const Shape& shape, Rank candidate) {
    const Box& box = shape.summary.box;
    const std::int64_t side = std::max(std::int64_t{box.y_last} - box.y_first, std::int64_t{box.x_last} - box.x_first);
    int level = finest;
    while ((std::int64_t{1} << level) < side) ++level;
    if (2 * (n_cells_ + 1) > cells_.size()) {
        std::vector<Cell> old(2 * cells_.size(), Cell{0, 0});
        old.swap(cells_);
        for (const Cell& cell : old)
            if (cell.head != 0) cells_[slot(cell.key)] = cell;
    }
    Cell& cell = cells_[slot(cell_key(level, std::int64_t{box.y_first} >> level, std::int64_t{box.x_first} >> level))];
    Kept kept{shape.summary, candidate, cell.head, profiles_.size()};
    if (shape.summary.has_profile) {
        profiles_.insert(profiles_.end(), shape.left.begin(), shape.left.end());
        profiles_.insert(profiles_.end(), shape.right.begin(), shape.right.end());
    }
    kept_.push_back(kept);
    in_level_[level].push_back(static_cast<std::uint32_t>(kept_.size() - 1));
    if (cell.head == 0) {
        cell.key = cell_key(level, std::int64_t{box.y_first} >> level, std::int64_t{box.x_first} >> level);
        ++n_cells_;
    }
    cell.head = static_cast<std::uint32_t>(kept_.size());
}

template <typename Visit>
std::int64_t KeptPolygons::visit_touching(const Box& box, std::size_t first, const Visit& visit) const {
    std::int64_t n_looks = 0;
    const auto look = [&](std::uint32_t index) {
        ++n_looks;
        if (touch(kept_[index].summary.box, box)) visit(index);
    };
    for (int level = finest; level < n_levels; ++level) {
        const std::vector<std::uint32_t>& in_level = in_level_[level];
        if (in_level.empty() || in_level.back() < first) continue;
        const std::int64_t reach = std::int64_t{1} << level;
        const std::int64_t row_begin = (box.y_first - reach) >> level;
        const std::int64_t row_end = (std::int64_t{box.y_last} >> level) + 1;
        const std::int64_t column_begin = (box.x_first - reach) >> level;
        const std::int64_t column_end = (std::int64_t{box.x_last} >> level) + 1;
        const std::int64_t n_here = static_cast<std::int64_t>(in_level.size());
        // Both factors are below 2^20 even for the largest box over the finest cells.
        if ((row_end - row_begin) * (column_end - column_begin) >= n_here) {
            for (auto index = in_level.rbegin(); index != in_level.rend() && *index >= first; ++index) look(*index);
            continue;
        }
        n_looks += (row_end - row_begin) * (column_end - column_begin);
        for (std::int64_t row = row_begin; row < row_end; ++row)
            for (std::int64_t column = column_begin; column < column_end; ++column) {
                // Latest first, so the list can be left at the first that is too old.
                std::uint32_t next = cells_[slot(cell_key(level, row, column))].head;
                while (next > first) {
                    look(next - 1);
                    next = kept_[next - 1].next_in_cell;
                }
            }
    }
    return n_looks;
}

// ---- Comparing two polygons -----------------------------------------------------------------------------------

struct Bounds {
    double below, above;
};

// Bounds of the area that OverlapSweep computes, from the row profiles of both polygons: the sum over all rows of what
// the two intervals in the middle of the row have in common, give or take
//   - 1/8 of the summed |dx| of the edges, because the common part is not linear within a row where two edges cross:
//     the integral of |a - b| over a row with a crossing in its middle is a quarter of the difference of the slopes;
//   - below only, all of the rows in which a polygon has more than two edges, since it may be hollow there ("hollow");
//   - what the sweep's rounding moves. It keeps the edges in the order of their x rounded at every scanline, so an edge
//     that stands for its neighbour is within 1 pixel of it, and a piece of the boundary ends within 1.5 pixels of its
//     edge, or for an unclamped crossing of an edge of slope s within (1 + s) / 2. The result's left and right boundary
//     hence lose at most 1.5 pixels each per row and gain at most 2.5, plus max(0, |dx| - |dy|) / 2 for each shallow
//     edge; each further pair of edges in a row adds 2 * 2.5 pixels and what it takes from the rows counted with two,
//     together below 6 per edge and row ("6 * extra_rise").
// The argument treats one crossing at a time; several within one scanbeam are covered by trials, not by a proof.
Bounds bound_overlap(const Summary& a, const float* a_left, const float* a_right, const Summary& b, const float* b_left,
                     const float* b_right) {
    const std::int32_t row_begin = std::max(a.box.y_first, b.box.y_first);
    const std::int32_t row_end = std::min(a.box.y_last, b.box.y_last);
    const auto shift = static_cast<float>(b.x - a.x);
    a_left += row_begin - a.box.y_first;
    a_right += row_begin - a.box.y_first;
    b_left += row_begin - b.box.y_first;
    b_right += row_begin - b.box.y_first;
    constexpr std::int32_t lanes = 8;  // independent sums, so that the compiler may use vectors
    float sums[lanes] = {0, 0, 0, 0, 0, 0, 0, 0};
    const std::int32_t rows = row_end - row_begin;
    const auto common = [&](std::int32_t row) {
        const float left = std::max(a_left[row], b_left[row] + shift);
        const float right = std::min(a_right[row], b_right[row] + shift);
        return std::max(0.0F, right - left);
    };
    std::int32_t row = 0;
    for (; row + lanes <= rows; row += lanes)
        for (std::int32_t lane = 0; lane < lanes; ++lane) sums[lane] += common(row + lane);
    for (; row < rows; ++row) sums[row % lanes] += common(row);
    double sum = 0;
    for (const float lane_sum : sums) sum += static_cast<double>(lane_sum);
    const double n_rows = std::max(rows, 0);
    return {sum - (3 * n_rows + 0.5) - static_cast<double>(a.slack_below + b.slack_below),
            sum + (5 * n_rows + 0.5) + static_cast<double>(a.slack_above + b.slack_above)};
}

struct Scratch {
    Shape shape;
    Outline outline, other_outline;
    Shape other;
    OverlapSweep sweep;
    std::vector<std::pair<std::int64_t, std::uint32_t>> neighbours;  // squared distance of centres, index
};

class Suppression {
public:
    Suppression(const Candidates& candidates, float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel)
        : candidates_(candidates), rays_(candidates.n_rays), nms_thresh_(nms_thresh), max_pairs_(max_pairs),
          cancel_(cancel) {}

    std::vector<Rank> run(int n_threads);

private:
    void poll() const {
        if (cancel_ && *static_cast<const volatile std::int32_t*>(cancel_) != 0) throw Failure(CELLRT_ERROR_CANCELLED);
    }
    bool exceeds(double intersection, double smaller) const {
        return static_cast<float>(intersection / smaller) > nms_thresh_;
    }
    bool suppresses(const Kept& kept, Scratch& scratch, bool* outline_ready) const;
    bool suppressed(Rank candidate, std::size_t first_kept, Scratch& scratch);
    void count(std::int64_t n_pairs) {
        const std::int64_t before = n_pairs_.fetch_add(n_pairs, std::memory_order_relaxed);
        require(before + n_pairs <= max_pairs_, CELLRT_ERROR_CAPACITY);
    }
    std::unique_ptr<Scratch> take_scratch();
    void return_scratch(std::unique_ptr<Scratch> scratch);

    const Candidates candidates_;
    const Rays rays_;
    const float nms_thresh_;
    const std::int64_t max_pairs_;
    const std::int32_t* const cancel_;
    KeptPolygons kept_;
    std::atomic<std::int64_t> n_pairs_{0};
    std::mutex scratch_mutex_;
    std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

bool Suppression::suppresses(const Kept& kept, Scratch& scratch, bool* outline_ready) const {
    const Summary& one = kept.summary;
    const Summary& other = scratch.shape.summary;
    const double smaller = std::min(static_cast<double>(one.area) + 1e-10, static_cast<double>(other.area) + 1e-10);
    const double limit = static_cast<double>(nms_thresh_) * smaller;
    // The quotient is rounded to float32 before it is compared: 1e-6 is more than that rounding.
    if (one.has_profile && other.has_profile) {
        const Bounds bounds = bound_overlap(one, kept_.left(kept), kept_.right(kept), other, scratch.shape.left.data(),
                                            scratch.shape.right.data());
        if (bounds.below > limit * (1 + 1e-6)) return true;
        if (bounds.above < limit * (1 - 1e-6)) return false;
    }
    if (!*outline_ready) {
        scratch.outline.assign(scratch.shape.vertices.data(), candidates_.n_rays);
        *outline_ready = true;
    }
    scratch.other.trace(candidates_, rays_, kept.candidate);
    scratch.other_outline.assign(scratch.other.vertices.data(), candidates_.n_rays);
    const auto twice_area = static_cast<double>(scratch.sweep.twice_area(scratch.other_outline, scratch.outline));
    return exceeds(static_cast<double>(static_cast<float>(0.5 * std::fabs(twice_area))), smaller);
}

// Whether a polygon kept from `first_kept` on suppresses the candidate. Leaves its shape in scratch.shape.
bool Suppression::suppressed(Rank candidate, std::size_t first_kept, Scratch& scratch) {
    poll();
    scratch.shape.trace(candidates_, rays_, candidate);
    const Summary& summary = scratch.shape.summary;
    auto& neighbours = scratch.neighbours;
    neighbours.clear();
    const std::int64_t n_looks = kept_.visit_touching(summary.box, first_kept, [&](std::uint32_t index) {
        const std::int64_t y = std::int64_t{kept_[index].summary.y} - summary.y;
        const std::int64_t x = std::int64_t{kept_[index].summary.x} - summary.x;
        neighbours.emplace_back(y * y + x * x, index);  // the boxes touch, so |y| and |x| are below 2^23
    });
    if (n_looks >= looks_per_pair) count(n_looks / looks_per_pair);
    if (neighbours.empty()) return false;
    scratch.shape.trace_profile();
    std::swap(neighbours.front(), *std::min_element(neighbours.begin(), neighbours.end()));
    bool outline_ready = false, found = false;
    std::size_t tested = 0;
    while (tested < neighbours.size() && !found) {
        if (tested == 1) std::sort(neighbours.begin() + 1, neighbours.end());
        poll();
        found = suppresses(kept_[neighbours[tested].second], scratch, &outline_ready);
        ++tested;
    }
    count(static_cast<std::int64_t>(tested));
    return found;
}

std::unique_ptr<Scratch> Suppression::take_scratch() {
    const std::lock_guard<std::mutex> lock(scratch_mutex_);
    if (free_scratch_.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> scratch = std::move(free_scratch_.back());
    free_scratch_.pop_back();
    return scratch;
}

void Suppression::return_scratch(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard<std::mutex> lock(scratch_mutex_);
    free_scratch_.push_back(std::move(scratch));
}

std::vector<Rank> Suppression::run(int n_threads) {
    std::vector<Rank> survivors;
    std::vector<std::uint8_t> left_over;
    std::unique_ptr<Scratch> own_scratch = take_scratch();
    for (std::int64_t begin = 0; begin < candidates_.n;) {
        // Longer chunks as more is kept: the share that conflicts within a chunk stays small, and so does the number of
        // times that threads are started.
        const std::int64_t size = std::min(std::max<std::int64_t>(512, begin / 8), candidates_.n - begin);
        const std::size_t first_new = kept_.size();
        left_over.assign(static_cast<std::size_t>(size), 1);
        if (first_new > 0)
            parallel_for(size, 128, n_threads, [&](std::int64_t from, std::int64_t to) {
                std::unique_ptr<Scratch> scratch = take_scratch();
                for (std::int64_t i = from; i < to; ++i) {
                    const std::size_t soon = candidates_.order[std::min(begin + i + 4, candidates_.n - 1)];
                    const float* const dist = candidates_.dist + soon * static_cast<std::size_t>(candidates_.n_rays);
                    for (std::int32_t k = 0; k < std::min(candidates_.n_rays, 64); k += 16) prefetch(dist + k);
                    prefetch(candidates_.points + 2 * soon);
                    left_over[static_cast<std::size_t>(i)] = !suppressed(candidates_.order[begin + i], 0, *scratch);
                }
                return_scratch(std::move(scratch));
            });
        for (std::int64_t i = 0; i < size; ++i) {
            if (!left_over[static_cast<std::size_t>(i)]) continue;
            const Rank candidate = candidates_.order[begin + i];
            if (suppressed(candidate, first_new, *own_scratch)) continue;
            if (!own_scratch->shape.summary.has_profile) own_scratch->shape.trace_profile();
            kept_.add(own_scratch->shape, candidate);
            survivors.push_back(candidate);
        }
        begin += size;
    }
    return survivors;
}

// ---- Input ----------------------------------------------------------------------------------------------------

void check_candidates(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                      std::int32_t n_rays, int n_threads) {
    parallel_for(n, 4096, n_threads, [&](std::int64_t begin, std::int64_t end) {
        bool usable = true;
        for (std::int64_t i = begin; i < end; ++i) usable &= prob[i] == prob[i];
        for (std::int64_t i = 2 * begin; i < 2 * end; ++i)
            usable &= points[i] >= -farthest_point && points[i] <= farthest_point;
        // A comparison with NaN is false.
        for (std::int64_t i = begin * n_rays; i < end * n_rays; ++i) usable &= (dist[i] > 0) & (dist[i] <= longest_ray);
        require(usable, CELLRT_ERROR_DATA);
    });
}

// A key whose ascending order is the descending order of the probability; -0 and +0 are equal.
std::uint32_t descending_key(float prob) {
    const float value = prob + 0.0F;
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000U ? bits : ~bits & 0x7FFFFFFFU;
}

// Candidates in descending order of probability, ties in ascending order: a radix sort, which is stable.
std::vector<Rank> rank_candidates(const float* prob, std::int64_t n) {
    struct Entry {
        std::uint32_t key;
        Rank candidate;
    };
    std::vector<Entry> entries(static_cast<std::size_t>(n)), sorted(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) entries[i] = {descending_key(prob[i]), static_cast<Rank>(i)};
    constexpr std::uint32_t digits = 2048;
    for (int bits = 0; bits < 32; bits += 11) {
        std::size_t begin[digits] = {};
        for (const Entry& entry : entries) ++begin[(entry.key >> bits) % digits];
        std::size_t sum = 0;
        for (std::size_t& place : begin) sum += std::exchange(place, sum);
        for (const Entry& entry : entries) sorted[begin[(entry.key >> bits) % digits]++] = entry;
        entries.swap(sorted);
    }
    std::vector<Rank> order(entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) order[i] = entries[i].candidate;
    return order;
}

void check_parameters(float nms_thresh, std::int64_t max_pairs) {
    require(nms_thresh >= 0 && nms_thresh <= 1);
    require(max_pairs >= 0);
}

}  // namespace

void star_nms_2d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n, std::int32_t n_rays,
                 float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel, int n_threads,
                 std::int64_t* n_kept, std::int64_t* kept) {
    require(n >= 0 && n_rays >= 3 && n_rays <= 1024);
    check_parameters(nms_thresh, max_pairs);
    require(n <= INT64_C(0xFFFFFFFF), CELLRT_ERROR_CAPACITY);
    check_candidates(prob, dist, points, n, n_rays, n_threads);
    const std::vector<Rank> order = rank_candidates(prob, n);
    Suppression suppression({dist, points, n_rays, order.data(), n}, nms_thresh, max_pairs, cancel);
    const std::vector<Rank> survivors = suppression.run(n_threads);
    std::copy(survivors.begin(), survivors.end(), kept);
    *n_kept = static_cast<std::int64_t>(survivors.size());
}

// ---- Tile by tile ---------------------------------------------------------------------------------------------

StarNms2D::StarNms2D(std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t max_candidates)
    : n_rays_(n_rays), n_class_channels_(n_class_channels), max_candidates_(max_candidates) {
    require(n_rays >= 3 && n_rays <= 1024);
    require(n_class_channels >= 0 && n_class_channels <= 65536);
    require(max_candidates >= 0 && max_candidates <= INT64_C(0xFFFFFFFF));
}

void StarNms2D::add(const float* prob, const float* dist, const std::int32_t* points, const float* class_prob,
                    std::int64_t n) {
    require(n >= 0);
    check_candidates(prob, dist, points, n, n_rays_, 1);
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::size_t old_size = prob_.size();
    require(n <= max_candidates_ - static_cast<std::int64_t>(old_size), CELLRT_ERROR_CAPACITY);
    try {
        prob_.insert(prob_.end(), prob, prob + n);
        dist_.insert(dist_.end(), dist, dist + n * n_rays_);
        points_.insert(points_.end(), points, points + 2 * n);
        if (n_class_channels_ > 0)
            class_prob_.insert(class_prob_.end(), class_prob, class_prob + n * n_class_channels_);
    } catch (...) {  // no memory: drop what was copied
        prob_.resize(old_size);
        dist_.resize(old_size * static_cast<std::size_t>(n_rays_));
        points_.resize(old_size * 2);
        class_prob_.resize(old_size * static_cast<std::size_t>(n_class_channels_));
        throw;
    }
}

std::int64_t StarNms2D::size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return static_cast<std::int64_t>(prob_.size());
}

StarNms2D::Survivors StarNms2D::survivors(float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel,
                                          int n_threads) const {
    check_parameters(nms_thresh, max_pairs);
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<Rank> order = rank_candidates(prob_.data(), static_cast<std::int64_t>(prob_.size()));
    // The rank order is stable in arrival; ties become row-major.
    for (std::size_t begin = 0, end; begin < order.size(); begin = end) {
        end = begin + 1;
        while (end < order.size() && prob_[order[end]] == prob_[order[begin]]) ++end;
        if (end - begin > 1)
            std::stable_sort(order.begin() + static_cast<std::ptrdiff_t>(begin),
                             order.begin() + static_cast<std::ptrdiff_t>(end), [this](Rank a, Rank b) {
                                 const std::int32_t* const p = points_.data() + 2 * std::size_t{a};
                                 const std::int32_t* const q = points_.data() + 2 * std::size_t{b};
                                 return p[0] != q[0] ? p[0] < q[0] : p[1] < q[1];
                             });
    }
    const auto n = static_cast<std::int64_t>(order.size());
    Suppression suppression({dist_.data(), points_.data(), n_rays_, order.data(), n}, nms_thresh, max_pairs, cancel);
    const std::vector<Rank> kept = suppression.run(n_threads);

    Survivors survivors;
    const auto gather = [&kept](const auto& from, std::int32_t width, auto& to) {
        to.reserve(kept.size() * static_cast<std::size_t>(width));
        for (const Rank candidate : kept) {
            const auto begin = from.begin() + static_cast<std::ptrdiff_t>(candidate) * width;
            to.insert(to.end(), begin, begin + width);
        }
    };
    gather(prob_, 1, survivors.prob);
    gather(dist_, n_rays_, survivors.dist);
    gather(points_, 2, survivors.points);
    if (n_class_channels_ > 0) gather(class_prob_, n_class_channels_, survivors.class_prob);
    return survivors;
}

}  // namespace cellrt
