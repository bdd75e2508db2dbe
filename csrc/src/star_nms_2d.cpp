// prob (n), dist (n, n_rays) in pixels, points (n, 2) y and x in pixels -> indices of the survivors, best first.
//
// Candidates are taken in rank order, and each one looks for a kept polygon that suppresses it. Of a typical object's
// dozens of candidates all but the first meet their suppressor as the first polygon they look at, so nearly every
// candidate costs one comparison, however many there are. In three steps, cheapest first:
//   1. a grid of the kept polygons' boxes gives those whose box it touches, the closest centre first;
//   2. octagons around both polygons bound the intersection area from below and above, and where that does not decide,
//      row profiles do (star_profile_2d.cpp): enough for most pairs;
//   3. a sweep computes the area that the original's polygon clipper would (star_overlap_2d.cpp).
// Ranks are cut into chunks. Within a chunk, all candidates are tested against the polygons kept before it, in
// parallel, and in the order in which they lie in memory, which is mostly that of the image: what one looks at is still
// in the cache when the next one comes. Those left over, few, are then tested one after the other, by rank, against the
// polygons kept since. So which pairs are compared, and what is looked at to find them, depends on the candidates and
// their order only, and neither the result nor the count of pairs on the number of threads.
#include "star_nms_2d.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "instruction_set.hpp"
#include "parallel.hpp"
#include "star_overlap_2d.hpp"
#include "star_profile_2d.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr float longest_ray = 1048576.0F;          // 2^20 pixels
constexpr std::int32_t farthest_point = 1 << 30;   // pixels
constexpr std::int64_t looks_per_pair = 64;         // cells and boxes that take as long as comparing two profiles
constexpr std::int64_t fewest_to_free = 4096;       // fewer stay in the cache in any order
constexpr std::int64_t uncounted_pairs = 1024;      // threads add up what they did now and then

using Index = std::uint32_t;  // of a candidate

// Candidates in blocks of 2^block_bits, the last one shorter: parts of one array, or what StarNms2D holds.
struct CandidateBlock {
    const float *prob, *dist;
    const std::int32_t* points;
};
struct Candidates {
    const CandidateBlock* blocks;
    int block_bits;
    std::int32_t n_rays;
    std::int64_t n;

    const CandidateBlock& block(Index candidate) const { return blocks[candidate >> block_bits]; }
    std::size_t place(Index candidate) const { return candidate & ((Index{1} << block_bits) - 1); }
    const float* dist(Index candidate) const {
        return block(candidate).dist + place(candidate) * static_cast<std::size_t>(n_rays);
    }
    float prob(Index candidate) const { return block(candidate).prob[place(candidate)]; }
    const std::int32_t* point(Index candidate) const { return block(candidate).points + 2 * place(candidate); }
};

// Start loading what is needed soon. To be inlined by force: GCC takes a function that does nothing else for one
// without effects, and drops calls of it.
CELLRT_INLINE void prefetch(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(address);
#else
    static_cast<void>(address);
#endif
}

// ---- Ranks ----------------------------------------------------------------------------------------------------

std::int32_t bits_of(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// A key whose ascending order is the descending order of the probability; -0 and +0 are equal.
std::uint32_t descending_key(float prob) {
    const auto bits = static_cast<std::uint32_t>(bits_of(prob + 0.0F));
    return bits & 0x80000000U ? bits : ~bits & 0x7FFFFFFFU;
}

// Which candidate of two with the same probability comes first: the one with the smaller index, or the one whose point
// comes first by rows, and only of equal points the one with the smaller index.
enum class Ties { by_index, by_rows };

struct Ranked {
    std::uint32_t key;
    Index candidate;
};

bool comes_first(const Candidates& candidates, Ties ties, const Ranked& a, const Ranked& b) {
    if (a.key != b.key) return a.key < b.key;
    if (ties == Ties::by_rows) {
        const std::int32_t* const p = candidates.point(a.candidate);
        const std::int32_t* const q = candidates.point(b.candidate);
        if (p[0] != q[0]) return p[0] < q[0];
        if (p[1] != q[1]) return p[1] < q[1];
    }
    return a.candidate < b.candidate;
}

// Sorts candidates, given in ascending order, into the order of their ranks. `sorted` is scratch.
void sort_by_rank(const Candidates& candidates, Ties ties, std::vector<Ranked>& entries, std::vector<Ranked>& sorted) {
    // A radix sort is stable.
    constexpr int digit_bits = 11, n_digits = 3;
    constexpr std::uint32_t digits = 1 << digit_bits;
    const auto digit = [](const Ranked& entry, int place) { return entry.key >> (place * digit_bits) & (digits - 1); };
    const auto comes_before = [&](const Ranked& a, const Ranked& b) {
        return comes_first(candidates, ties, a, b);
    };
    if (entries.size() < digits) {
        std::sort(entries.begin(), entries.end(), comes_before);
        return;
    }
    sorted.resize(entries.size());
    std::vector<std::uint32_t> counts(n_digits * digits);
    for (const Ranked& entry : entries)
        for (int place = 0; place < n_digits; ++place)
            ++counts[static_cast<std::uint32_t>(place) * digits + digit(entry, place)];
    for (int place = 0; place < n_digits; ++place) {
        std::uint32_t* const begin = counts.data() + static_cast<std::uint32_t>(place) * digits;
        std::uint32_t sum = 0;
        for (std::uint32_t value = 0; value < digits; ++value) sum += std::exchange(begin[value], sum);
        for (const Ranked& entry : entries) sorted[begin[digit(entry, place)]++] = entry;
        entries.swap(sorted);
    }
    if (ties == Ties::by_index) return;
    for (std::size_t begin = 0, end; begin < entries.size(); begin = end) {
        end = begin + 1;
        while (end < entries.size() && entries[end].key == entries[begin].key) ++end;
        if (end - begin > 1)
            std::sort(entries.begin() + static_cast<std::ptrdiff_t>(begin),
                      entries.begin() + static_cast<std::ptrdiff_t>(end), comes_before);
    }
}

// All candidates in chunks: each has higher ranks than the next, and lists its candidates in ascending order. Chunks
// become longer, as more is kept: what conflicts within one stays little, and so do the times that threads are started.
// They end between values of the probability, so a value that is very frequent can make one as long as it likes.
class Chunks {
public:
    explicit Chunks(const Candidates& candidates);

    std::size_t size() const noexcept { return begins_.size() - 1; }
    const Index* begin(std::size_t chunk) const noexcept { return members_.get() + begins_[chunk]; }

private:
    static constexpr std::uint64_t shortest = 512, growth = 4;
    static constexpr int bucket_bits = 16;

    std::unique_ptr<Index[]> members_;
    std::vector<std::uint32_t> begins_;  // of each chunk, and the end of the last
};

Chunks::Chunks(const Candidates& candidates) : members_(new Index[static_cast<std::size_t>(candidates.n)]) {
    std::uint32_t first = UINT32_MAX, last = 0;
    const auto for_each_key = [&](const auto& visit) {
        for (std::int64_t i = 0; i < candidates.n; ++i) {
            const auto candidate = static_cast<Index>(i);
            visit(candidate, descending_key(candidates.prob(candidate)));
        }
    };
    for_each_key([&](Index, std::uint32_t key) {
        first = std::min(first, key);
        last = std::max(last, key);
    });
    int shift = 0;
    while (((last - first) >> shift) >> bucket_bits != 0) ++shift;
    std::vector<std::uint32_t> counts(candidates.n > 0 ? ((last - first) >> shift) + 1 : 0);
    for_each_key([&](Index, std::uint32_t key) { ++counts[(key - first) >> shift]; });

    // counts becomes the chunk of each bucket.
    std::uint32_t sum = 0;
    begins_.push_back(0);
    for (std::uint32_t& count : counts) {
        if (sum - begins_.back() >= std::max(shortest, growth * begins_.back())) begins_.push_back(sum);
        sum += std::exchange(count, static_cast<std::uint32_t>(begins_.size() - 1));
    }
    std::vector<std::uint32_t> next = begins_;
    begins_.push_back(sum);
    for_each_key([&](Index candidate, std::uint32_t key) {
        members_[next[counts[(key - first) >> shift]]++] = candidate;
    });
    if (candidates.n == 0) begins_.pop_back();
}

// ---- Kept polygons --------------------------------------------------------------------------------------------

// A vector whose elements never move: it grows by blocks, and needs no memory for copies of itself.
template <typename Element>
class Pool {
public:
    std::size_t size() const noexcept { return size_; }
    Element& operator[](std::size_t index) noexcept { return blocks_[index / block_size][index % block_size]; }
    const Element& operator[](std::size_t index) const noexcept {
        return blocks_[index / block_size][index % block_size];
    }
    void push_back(const Element& element) {
        if (size_ == blocks_.size() * block_size)
            blocks_.push_back(std::unique_ptr<Element[]>(new Element[block_size]));
        (*this)[size_++] = element;
    }

private:
    static constexpr std::size_t block_size = 1024;
    std::vector<std::unique_ptr<Element[]>> blocks_;
    std::size_t size_ = 0;
};

struct alignas(64) Kept {  // a cache line
    StarSummary summary;
    Index candidate;
    std::uint32_t next_in_cell;  // one more than its index, 0 at the end
};
static_assert(sizeof(Kept) == 64, "a kept polygon is meant to fill a cache line");

// The kept polygons, and a hierarchy of uniform grids over their boxes: a polygon is listed once, in the cell of its
// box's first corner, in the grid whose cells are just as large as the longer side of its box. A box of side s can
// touch only polygons listed in the (s / cell + 2)^2 cells around it, so one huge polygon costs nobody else anything.
// Cells lie in memory by squares, so that those around a box are next to each other.
class KeptPolygons {
public:
    std::size_t size() const noexcept { return kept_.size(); }
    const Kept& operator[](std::size_t index) const noexcept { return kept_[index]; }

    void add(const StarSummary& summary, Index candidate);

    // visit(index) for each kept polygon from `first` on whose box touches `box`, until it returns false. Returns how
    // many cells and boxes were looked at for that: most of the work where long boxes share cells and do not touch.
    template <typename Visit>
    std::int64_t visit_touching(const VertexBox& box, std::size_t first, const Visit& visit) const;

private:
    static constexpr int finest = 3, n_levels = 24;  // cells of 2^level pixels
    static constexpr int square_bits = 2;            // 4 x 4 cells
    static constexpr std::int64_t square_side = 1 << square_bits;

    struct alignas(64) Square {  // a cache line
        std::uint32_t heads[square_side * square_side];  // one more than the index of a cell's latest polygon; 0: none
    };
    struct Slot {
        std::uint64_t key;
        std::uint32_t square;  // one more than its index; 0: an empty slot
    };
    static std::uint64_t square_key(int level, std::int64_t row, std::int64_t column) {
        // |row| < 2^27 at level 3.
        const auto positive = [](std::int64_t index) { return static_cast<std::uint64_t>(index + (1 << 27)); };
        return (positive(row) << 35) | (positive(column) << 5) | static_cast<std::uint64_t>(level);
    }
    static std::size_t cell_in_square(std::int64_t row, std::int64_t column) {
        constexpr std::int64_t mask = square_side - 1;
        return static_cast<std::size_t>((row & mask) * square_side + (column & mask));
    }
    std::size_t slot(std::uint64_t key) const {
        // Multiplication carries the low bits of both factors up; the row's bits are folded down to them first.
        const std::size_t mask = slots_.size() - 1;
        std::size_t index = static_cast<std::size_t>(((key ^ (key >> 33)) * 0x9E3779B97F4A7C15U) >> 32) & mask;
        while (slots_[index].square != 0 && slots_[index].key != key) index = (index + 1) & mask;
        return index;
    }
    std::uint32_t& head_of_cell(int level, std::int64_t row, std::int64_t column);

    Pool<Kept> kept_;
    Pool<Square> squares_;
    std::vector<Slot> slots_ = std::vector<Slot>(64, Slot{0, 0});  // open addressing, a power of two
    std::vector<std::uint32_t> in_level_[n_levels];
};

std::uint32_t& KeptPolygons::head_of_cell(int level, std::int64_t row, std::int64_t column) {
    if (2 * (squares_.size() + 1) > slots_.size()) {
        std::vector<Slot> old(2 * slots_.size(), Slot{0, 0});
        old.swap(slots_);
        for (const Slot& entry : old)
            if (entry.square != 0) slots_[slot(entry.key)] = entry;
    }
    const std::uint64_t key = square_key(level, row >> square_bits, column >> square_bits);
    Slot& found = slots_[slot(key)];
    if (found.square == 0) {
        squares_.push_back(Square{});
        found = {key, static_cast<std::uint32_t>(squares_.size())};
    }
    return squares_[found.square - 1].heads[cell_in_square(row, column)];
}

void KeptPolygons::add(const StarSummary& summary, Index candidate) {
    const VertexBox& box = summary.box;
    const std::int64_t side = std::max(box.height(), box.width());
    int level = finest;
    while ((std::int64_t{1} << level) < side) ++level;
    std::uint32_t& head = head_of_cell(level, std::int64_t{box.y_first} >> level, std::int64_t{box.x_first} >> level);
    in_level_[level].push_back(static_cast<std::uint32_t>(kept_.size()));
    kept_.push_back({summary, candidate, head});
    head = static_cast<std::uint32_t>(kept_.size());
}

template <typename Visit>
std::int64_t KeptPolygons::visit_touching(const VertexBox& box, std::size_t first, const Visit& visit) const {
    std::int64_t n_looks = 0;
    const auto look = [&](std::uint32_t index) {
        ++n_looks;
        return !kept_[index].summary.box.touches(box) || visit(index);
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
        const std::int64_t n_cells = (row_end - row_begin) * (column_end - column_begin);
        if (n_cells >= n_here) {
            for (auto index = in_level.rbegin(); index != in_level.rend() && *index >= first; ++index)
                if (!look(*index)) return n_looks;
            continue;
        }
        n_looks += n_cells;
        for (std::int64_t y = row_begin >> square_bits; y <= (row_end - 1) >> square_bits; ++y)
            for (std::int64_t x = column_begin >> square_bits; x <= (column_end - 1) >> square_bits; ++x) {
                const std::uint32_t found = slots_[slot(square_key(level, y, x))].square;
                if (found == 0) continue;
                const Square& square = squares_[found - 1];
                const std::int64_t y_end = std::min(row_end, (y + 1) * square_side);
                const std::int64_t x_end = std::min(column_end, (x + 1) * square_side);
                for (std::int64_t row = std::max(row_begin, y * square_side); row < y_end; ++row)
                    for (std::int64_t column = std::max(column_begin, x * square_side); column < x_end; ++column) {
                        // Latest first, so the list can be left at the first that is too old.
                        std::uint32_t next = square.heads[cell_in_square(row, column)];
                        while (next > first) {
                            if (!look(next - 1)) return n_looks;
                            next = kept_[next - 1].next_in_cell;
                        }
                    }
            }
    }
    return n_looks;
}

// ---- Comparing two polygons -----------------------------------------------------------------------------------

// Which polygon suppressed the last candidate nearby: most likely it suppresses the next one too.
class LastSuppressors {
public:
    void clear() { indices_.fill(none); }
    std::uint32_t& near(std::int32_t y, std::int32_t x) {
        return indices_[static_cast<std::size_t>((y >> cell_bits) * 37 + (x >> cell_bits)) % indices_.size()];
    }

    static constexpr std::uint32_t none = UINT32_MAX;

private:
    static constexpr int cell_bits = 4;  // 8 x 8 pixels
    std::array<std::uint32_t, 2048> indices_;
};

struct Scratch {
    LastSuppressors last;
    StarShape shape;
    StarShape kept;                                      // that of the kept polygon compared last in detail
    std::uint32_t kept_index = LastSuppressors::none;  // which one
    bool kept_outline_is_ready = false;
    Outline outline, kept_outline;
    OverlapSweep sweep;
    std::vector<std::pair<std::int64_t, std::uint32_t>> neighbours;  // squared distance of centres, index
    std::vector<Vertex> vertices;
    std::int64_t n_pairs = 0;  // compared and not yet counted

    void assign(Outline& to, const StarShape& from) {
        vertices.clear();
        for (std::int32_t k = 0; k < from.n_vertices(); ++k)
            vertices.push_back({from.vertices_y()[k], from.vertices_x()[k]});
        to.assign(vertices.data(), from.n_vertices());
    }
};

class Suppression {
public:
    Suppression(const Candidates& candidates, Ties ties, float nms_thresh, std::int64_t max_pairs,
                const std::int32_t* cancel)
        : candidates_(candidates), ties_(ties), rays_(candidates.n_rays), nms_thresh_(nms_thresh),
          max_pairs_(max_pairs), cancel_(cancel) {}

    // The survivors, best first.
    std::vector<Index> run(int n_threads);

private:
    void poll() const {
        if (cancel_ && *static_cast<const volatile std::int32_t*>(cancel_) != 0) throw Failure(CELLRT_ERROR_CANCELLED);
    }
    bool exceeds(double intersection, double smaller) const {
        return static_cast<float>(intersection / smaller) > nms_thresh_;
    }
    void trace(Index candidate, StarShape& shape) const {
        const std::int32_t* const point = candidates_.point(candidate);
        shape.trace(candidates_.dist(candidate), point[0], point[1], rays_);
    }
    CELLRT_INLINE void prefetch_candidate(Index candidate) const {
        const float* const dist = candidates_.dist(candidate);
        const std::int32_t n_soon = std::min(candidates_.n_rays, 64);
        for (std::int32_t k = 0; k < n_soon; k += 16) prefetch(dist + k);
        prefetch(dist + n_soon - 1);
        prefetch(candidates_.point(candidate));
    }
    bool suppresses(std::uint32_t index, Scratch& scratch, bool* outline_is_ready) const;
    std::uint32_t suppressor_of(Index candidate, std::size_t first_kept, std::uint32_t likely, Scratch& scratch);
    void test_against_kept(const Index* chunk, std::int64_t n, int n_threads);
    void keep_free(std::vector<Ranked>& left_over, std::vector<Ranked>& survivors, Scratch& scratch, int n_threads);
    void count(Scratch& scratch) { count(std::exchange(scratch.n_pairs, 0)); }
    void count(std::int64_t n_pairs) {
        const std::int64_t before = n_pairs_.fetch_add(n_pairs, std::memory_order_relaxed);
        require(before + n_pairs <= max_pairs_, CELLRT_ERROR_CAPACITY);
    }
    std::unique_ptr<Scratch> take_scratch();
    void return_scratch(std::unique_ptr<Scratch> scratch);

    const Candidates candidates_;
    const Ties ties_;
    const RayDirections rays_;
    const float nms_thresh_;
    const std::int64_t max_pairs_;
    const std::int32_t* const cancel_;
    std::vector<std::uint8_t> is_left_over_;  // of each candidate of a chunk: no polygon kept before it suppresses it
    KeptPolygons kept_;
    std::atomic<std::int64_t> n_pairs_{0};
    std::mutex scratch_mutex_;
    std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

bool Suppression::suppresses(std::uint32_t index, Scratch& scratch, bool* outline_is_ready) const {
    const StarSummary& other = scratch.shape.summary;
    const double area = kept_[index].summary.area;
    const double smaller = std::min(area + 1e-10, static_cast<double>(other.area) + 1e-10);
    const double limit = static_cast<double>(nms_thresh_) * smaller;
    // The quotient is rounded to float32 before it is compared: 1e-6 is more than that rounding.
    const auto is_above = [limit](const AreaBounds& bounds) { return bounds.below > limit * (1 + 1e-6); };
    const auto is_below = [limit](const AreaBounds& bounds) { return bounds.above < limit * (1 - 1e-6); };
    if (kept_[index].summary.has_octagon && other.has_octagon) {
        const AreaBounds bounds = bound_by_octagons(kept_[index].summary, other);
        if (is_above(bounds)) return true;
        if (is_below(bounds)) return false;
    }

    // Candidates that lie next to each other mostly meet the same polygon: its shape stays for the next one.
    if (scratch.kept_index != index) {
        scratch.kept_index = LastSuppressors::none;
        trace(kept_[index].candidate, scratch.kept);
        scratch.kept.trace_profile();
        scratch.kept_outline_is_ready = false;
        scratch.kept_index = index;
    }
    const StarSummary& one = scratch.kept.summary;
    if (!other.has_profile) scratch.shape.trace_profile();
    if (one.has_profile && other.has_profile) {
        const AreaBounds bounds = bound_overlap(one, scratch.kept.profile(), other, scratch.shape.profile());
        if (is_above(bounds)) return true;
        if (is_below(bounds)) return false;
    } else if (one.has_profile || other.has_profile) {
        // One is huge; the other one mostly lies inside of it, or in a notch.
        const StarShape& small = one.has_profile ? scratch.kept : scratch.shape;
        const StarShape& huge = one.has_profile ? scratch.shape : scratch.kept;
        const Location location = locate(small.summary.box, huge);
        if (location == Location::outside) return false;
        if (location == Location::inside && is_above(bound_enclosed(small.summary, small.profile()))) return true;
    }
    if (!*outline_is_ready) scratch.assign(scratch.outline, scratch.shape);
    *outline_is_ready = true;
    if (!scratch.kept_outline_is_ready) scratch.assign(scratch.kept_outline, scratch.kept);
    scratch.kept_outline_is_ready = true;
    const auto twice_area = static_cast<double>(scratch.sweep.twice_area(scratch.kept_outline, scratch.outline));
    return exceeds(static_cast<double>(static_cast<float>(0.5 * std::fabs(twice_area))), smaller);
}

// The index of a polygon kept from `first_kept` on that suppresses the candidate, or `none`. The one at `likely`, if
// there is one, is compared first, and the others only if need be. Leaves the candidate's shape in scratch.shape.
std::uint32_t Suppression::suppressor_of(Index candidate, std::size_t first_kept, std::uint32_t likely,
                                         Scratch& scratch) {
    poll();
    trace(candidate, scratch.shape);
    const StarSummary& summary = scratch.shape.summary;
    bool outline_is_ready = false;
    if (likely != LastSuppressors::none && kept_[likely].summary.box.touches(summary.box)) {
        ++scratch.n_pairs;
        if (suppresses(likely, scratch, &outline_is_ready)) return likely;
    }
    auto& neighbours = scratch.neighbours;
    neighbours.clear();
    const std::int64_t n_looks = kept_.visit_touching(summary.box, first_kept, [&](std::uint32_t index) {
        if (index == likely) return true;
        const std::int64_t y = std::int64_t{kept_[index].summary.y} - summary.y;
        const std::int64_t x = std::int64_t{kept_[index].summary.x} - summary.x;
        neighbours.emplace_back(y * y + x * x, index);  // the boxes touch, so |y| and |x| are below 2^23
        return true;
    });
    scratch.n_pairs += n_looks / looks_per_pair;
    if (neighbours.empty()) return LastSuppressors::none;
    std::swap(neighbours.front(), *std::min_element(neighbours.begin(), neighbours.end()));
    std::uint32_t found = LastSuppressors::none;
    std::size_t tested = 0;
    while (tested < neighbours.size() && found == LastSuppressors::none) {
        if (tested == 1) std::sort(neighbours.begin() + 1, neighbours.end());
        poll();
        const std::uint32_t index = neighbours[tested].second;
        if (suppresses(index, scratch, &outline_is_ready)) found = index;
        ++tested;
    }
    scratch.n_pairs += static_cast<std::int64_t>(tested);
    if (scratch.n_pairs > uncounted_pairs) count(scratch);
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

// Finds is_left_over_ of each candidate of a chunk, given in the order in which they lie in memory.
void Suppression::test_against_kept(const Index* chunk, std::int64_t n, int n_threads) {
    constexpr std::int64_t ahead = 8;
    is_left_over_.resize(static_cast<std::size_t>(n));
    // A few rows of an image, if the chunk is long: its objects come again. The same for any number of threads.
    const std::int64_t grain = std::min<std::int64_t>(std::max<std::int64_t>(n / 16, 128), 2048);
    parallel_for(n, grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::unique_ptr<Scratch> scratch = take_scratch();
        scratch->last.clear();
        for (std::int64_t i = begin; i < end; ++i) {
            prefetch_candidate(chunk[std::min(i + ahead, n - 1)]);
            const std::int32_t* const point = candidates_.point(chunk[i]);
            std::uint32_t& last = scratch->last.near(point[0], point[1]);
            const std::uint32_t suppressor = suppressor_of(chunk[i], 0, last, *scratch);
            is_left_over_[static_cast<std::size_t>(i)] = suppressor == LastSuppressors::none;
            if (suppressor != LastSuppressors::none) last = suppressor;
        }
        count(*scratch);
        return_scratch(std::move(scratch));
    });
}

std::vector<Index> Suppression::run(int n_threads) {
    std::vector<Index> survivors;
    const Chunks chunks(candidates_);
    std::vector<Ranked> left_over, new_survivors, sorted;
    const std::unique_ptr<Scratch> own_scratch = take_scratch();
    for (std::size_t c = 0; c < chunks.size(); ++c) {
        const Index* const chunk = chunks.begin(c);
        const std::int64_t n = chunks.begin(c + 1) - chunk;
        const std::size_t first_new = kept_.size();
        if (first_new > 0)
            test_against_kept(chunk, n, n_threads);
        else
            is_left_over_.assign(static_cast<std::size_t>(n), 1);
        left_over.clear();
        for (std::int64_t i = 0; i < n; ++i)
            if (is_left_over_[static_cast<std::size_t>(i)])
                left_over.push_back({descending_key(candidates_.prob(chunk[i])), chunk[i]});
        new_survivors.clear();
        // Where nearly nothing is suppressed, nearly all are free. In a crowd it would be a detour.
        const auto n_left_over = static_cast<std::int64_t>(left_over.size());
        if (first_new > 0 && n_left_over >= fewest_to_free && 4 * n_left_over > 3 * n)
            keep_free(left_over, new_survivors, *own_scratch, n_threads);
        sort_by_rank(candidates_, ties_, left_over, sorted);
        for (std::size_t i = 0; i < left_over.size(); ++i) {
            prefetch_candidate(left_over[std::min(i + 8, left_over.size() - 1)].candidate);
            const Index candidate = left_over[i].candidate;
            constexpr std::uint32_t none = LastSuppressors::none;
            if (suppressor_of(candidate, first_new, none, *own_scratch) != none) continue;
            kept_.add(own_scratch->shape.summary, candidate);
            new_survivors.push_back(left_over[i]);
        }
        count(*own_scratch);
        sort_by_rank(candidates_, ties_, new_survivors, sorted);
        for (const Ranked& survivor : new_survivors) survivors.push_back(survivor.candidate);
    }
    return survivors;
}

// Of the candidates left over, given in the order in which they lie in memory, keeps those whose box touches none of a
// higher rank: no other can suppress them. They are moved to `survivors`. Those that stay touch only what has a higher
// rank than they have, of all that is kept here.
void Suppression::keep_free(std::vector<Ranked>& left_over, std::vector<Ranked>& survivors, Scratch& scratch,
                            int n_threads) {
    KeptPolygons pending;
    for (std::size_t i = 0; i < left_over.size(); ++i) {
        poll();
        prefetch_candidate(left_over[std::min(i + 8, left_over.size() - 1)].candidate);
        trace(left_over[i].candidate, scratch.shape);
        pending.add(scratch.shape.summary, left_over[i].candidate);
    }
    const auto n = static_cast<std::int64_t>(left_over.size());
    std::vector<std::uint8_t> is_free(left_over.size());
    parallel_for(n, 512, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::int64_t n_pairs = 0;
        for (auto i = static_cast<std::uint32_t>(begin); i < static_cast<std::uint32_t>(end); ++i) {
            poll();
            bool free = true;
            const std::int64_t n_looks = pending.visit_touching(pending[i].summary.box, 0, [&](std::uint32_t other) {
                free = other == i || comes_first(candidates_, ties_, left_over[i], left_over[other]);
                return free;
            });
            is_free[i] = free;
            n_pairs += n_looks / looks_per_pair;
            if (n_pairs > uncounted_pairs) count(std::exchange(n_pairs, 0));
        }
        count(n_pairs);
    });
    std::size_t n_left = 0;
    for (std::size_t i = 0; i < left_over.size(); ++i) {
        if (!is_free[i]) {
            left_over[n_left++] = left_over[i];
            continue;
        }
        kept_.add(pending[i].summary, left_over[i].candidate);
        survivors.push_back(left_over[i]);
    }
    left_over.resize(n_left);
}

// ---- Input ----------------------------------------------------------------------------------------------------

void check_candidates(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
                      std::int32_t n_rays, int n_threads) {
    parallel_for(n, 4096, n_threads, [&](std::int64_t begin, std::int64_t end) {
        bool usable = true;
        for (std::int64_t i = begin; i < end; ++i) usable &= prob[i] == prob[i];
        for (std::int64_t i = 2 * begin; i < 2 * end; ++i)
            usable &= points[i] >= -farthest_point && points[i] <= farthest_point;
        // As integers, floats from the smallest above 0 up to 2^20 are those from 1 up to its bits; NaN lies beyond.
        const std::int32_t most = bits_of(longest_ray);
        std::int32_t is_unusable = 0;
        for (std::int64_t i = begin * n_rays; i < end * n_rays; ++i) {
            const std::int32_t bits = bits_of(dist[i]);
            is_unusable |= static_cast<std::int32_t>(bits < 1) | static_cast<std::int32_t>(bits > most);
        }
        require(usable && is_unusable == 0, CELLRT_ERROR_DATA);
    });
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
    constexpr int block_bits = 16;
    std::vector<CandidateBlock> blocks;
    for (std::int64_t begin = 0; begin < n; begin += std::int64_t{1} << block_bits)
        blocks.push_back({prob + begin, dist + begin * n_rays, points + 2 * begin});
    const Candidates candidates{blocks.data(), block_bits, n_rays, n};
    Suppression suppression(candidates, Ties::by_index, nms_thresh, max_pairs, cancel);
    const std::vector<Index> survivors = suppression.run(n_threads);
    std::copy(survivors.begin(), survivors.end(), kept);
    *n_kept = static_cast<std::int64_t>(survivors.size());
}

// ---- Tile by tile ---------------------------------------------------------------------------------------------

StarNms2D::StarNms2D(std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t max_candidates)
    : n_rays_(n_rays), n_class_channels_(n_class_channels), max_candidates_(max_candidates) {
    require(n_rays >= 3 && n_rays <= 1024);
    require(n_class_channels >= 0 && n_class_channels <= 65536);
    require(max_candidates >= 0 && max_candidates <= INT64_C(0xFFFFFFFF));
    constexpr std::int64_t values_per_block = 1 << 18;  // 1 MiB
    while (block_bits_ < 16 && (std::int64_t{2} << block_bits_) * (n_rays + n_class_channels) <= values_per_block)
        ++block_bits_;
}

void StarNms2D::add(const float* prob, const float* dist, const std::int32_t* points, const float* class_prob,
                    std::int64_t n) {
    require(n >= 0);
    check_candidates(prob, dist, points, n, n_rays_, 1);
    const std::lock_guard<std::mutex> lock(mutex_);
    require(n <= max_candidates_ - size_, CELLRT_ERROR_CAPACITY);
    const std::int64_t block_size = std::int64_t{1} << block_bits_;
    const auto new_values = [block_size](auto zero, std::int32_t width) {  // not set to zero: it may stay unused
        return std::unique_ptr<decltype(zero)[]>(new decltype(zero)[static_cast<std::size_t>(block_size * width)]);
    };
    // Blocks that are still empty when memory ends wait for the next call.
    while (static_cast<std::int64_t>(blocks_.size()) * block_size < size_ + n)
        blocks_.push_back({new_values(0.0F, 1), new_values(0.0F, n_rays_), new_values(0.0F, n_class_channels_),
                           new_values(std::int32_t{0}, 2)});
    for (std::int64_t begin = 0, end; begin < n; begin = end) {
        const std::int64_t place = size_ % block_size;
        const Block& block = blocks_[static_cast<std::size_t>(size_ / block_size)];
        end = std::min(n, begin + block_size - place);
        const auto copy = [&](const auto* from, std::int64_t width, auto* to) {
            std::copy(from + begin * width, from + end * width, to + place * width);
        };
        copy(prob, 1, block.prob.get());
        copy(dist, n_rays_, block.dist.get());
        copy(points, 2, block.points.get());
        if (n_class_channels_ > 0) copy(class_prob, n_class_channels_, block.class_prob.get());
        size_ += end - begin;
    }
}

std::int64_t StarNms2D::size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return size_;
}

StarNms2D::Survivors StarNms2D::survivors(float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel,
                                          int n_threads) const {
    check_parameters(nms_thresh, max_pairs);
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<CandidateBlock> blocks;
    for (const Block& block : blocks_) blocks.push_back({block.prob.get(), block.dist.get(), block.points.get()});
    const Candidates candidates{blocks.data(), block_bits_, n_rays_, size_};
    const std::vector<Index> kept =
        Suppression(candidates, Ties::by_rows, nms_thresh, max_pairs, cancel).run(n_threads);

    Survivors survivors;
    const auto gather = [&](auto values_of, std::int32_t width, auto& to) {
        to.reserve(kept.size() * static_cast<std::size_t>(width));
        for (const Index candidate : kept) {
            const auto* const from = values_of(blocks_[candidate >> block_bits_]) +
                                     candidates.place(candidate) * static_cast<std::size_t>(width);
            to.insert(to.end(), from, from + width);
        }
    };
    gather([](const Block& block) { return block.prob.get(); }, 1, survivors.prob);
    gather([](const Block& block) { return block.dist.get(); }, n_rays_, survivors.dist);
    gather([](const Block& block) { return block.points.get(); }, 2, survivors.points);
    if (n_class_channels_ > 0)
        gather([](const Block& block) { return block.class_prob.get(); }, n_class_channels_, survivors.class_prob);
    return survivors;
}

}  // namespace cellrt
