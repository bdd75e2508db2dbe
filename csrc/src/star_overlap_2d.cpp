#include "star_overlap_2d.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace cellrt {
namespace {

using Edge = Outline::Edge;

std::int64_t round_half_away(double value) {
    // Crossings of nearly parallel edges can lie anywhere; what follows clamps them to the scanbeam.
    constexpr double far_away = 1099511627776.0;  // 2^40
    value = std::min(std::max(value, -far_away), far_away);
    return static_cast<std::int64_t>(value < 0 ? value - 0.5 : value + 0.5);
}

// x of an edge at a scanline, rounded as an offset from its bottom.
std::int64_t x_at(const Edge& edge, std::int64_t y) {
    if (y == edge.top.y) return edge.top.x;
    return edge.bottom.x + round_half_away(edge.slope * static_cast<double>(y - edge.bottom.y));
}

// Differences of coordinates are below 2^32 and of one polygon's below 2^23: no product overflows.
bool collinear(Vertex a, Vertex b, Vertex c) {
    const std::int64_t y_ab = std::int64_t{b.y} - a.y, x_ab = std::int64_t{b.x} - a.x;
    const std::int64_t y_bc = std::int64_t{c.y} - b.y, x_bc = std::int64_t{c.x} - b.x;
    return y_ab * x_bc == x_ab * y_bc;
}

bool same(Vertex a, Vertex b) { return a.y == b.y && a.x == b.x; }

// Whether two edges look parallel from the rounded places where they stand at scanline y.
bool look_parallel(const Edge& a, std::int64_t a_x, const Edge& b, std::int64_t b_x, std::int64_t y) {
    return (a.top.y - y) * (b.top.x - b_x) == (a.top.x - a_x) * (b.top.y - y);
}

// The point at which two edges that change places within a scanbeam are taken to cross.
Vertex crossing_point(const Edge& left, const Edge& right, std::int64_t bottom_y, std::int64_t top_y,
                      std::int64_t left_top_x) {
    const double a = left.slope, b = right.slope;
    const auto at = [](std::int64_t y, std::int64_t x) {
        return Vertex{static_cast<std::int32_t>(y), static_cast<std::int32_t>(x)};
    };
    if (a == b) return at(bottom_y, x_at(left, bottom_y));

    const double left_y = left.bottom.y, left_x = left.bottom.x, right_y = right.bottom.y, right_x = right.bottom.x;
    std::int64_t y, x;
    if (a == 0) {
        x = left.bottom.x;
        y = round_half_away(left_x / b + (right_y - right_x / b));
    } else if (b == 0) {
        x = right.bottom.x;
        y = round_half_away(right_x / a + (left_y - left_x / a));
    } else {
        const double left_offset = left_x - left_y * a, right_offset = right_x - right_y * b;
        const double exact_y = (right_offset - left_offset) / (a - b);
        y = round_half_away(exact_y);
        x = round_half_away(std::fabs(a) < std::fabs(b) ? a * exact_y + left_offset : b * exact_y + right_offset);
    }
    // Not outside the scanbeam: there, the point lies on the steeper edge.
    const std::int64_t highest = std::max(left.top.y, right.top.y);
    if (y < highest) {
        y = highest;
        x = x_at(std::fabs(a) < std::fabs(b) ? left : right, y);
    }
    if (y > bottom_y) {
        y = bottom_y;
        x = x_at(std::fabs(a) > std::fabs(b) ? right : left, y);
    }
    if (y < top_y) return at(top_y, left_top_x);
    return at(y, x);
}

}  // namespace

// ---- A polygon's edges ----------------------------------------------------------------------------------------

void Outline::assign(const Vertex* vertices, int n) {
    edges_.clear();
    minima_.clear();

    // Repeated vertices, vertices on a straight line and spikes bound no area and go, until none is left.
    corners_.clear();
    for (int i = 0; i < n; ++i) {
        for (;;) {
            const std::size_t size = corners_.size();
            if (size >= 1 && same(corners_[size - 1], vertices[i])) corners_.pop_back();
            else if (size >= 2 && collinear(corners_[size - 2], corners_[size - 1], vertices[i])) corners_.pop_back();
            else break;
        }
        corners_.push_back(vertices[i]);
    }
    std::size_t begin = 0, end = corners_.size();
    while (end - begin >= 3) {
        const Vertex first = corners_[begin], last = corners_[end - 1];
        if (same(last, first) || collinear(corners_[end - 2], last, first))
            --end;
        else if (collinear(last, first, corners_[begin + 1]))
            ++begin;
        else
            break;
    }
    if (end - begin < 3) return;

    // Edges in the order of the ring. Those next to each other, but for horizontal ones, continue each other if they go
    // the same way; otherwise they meet in a lowest or a highest point.
    for (std::size_t i = begin; i < end; ++i) {
        const Vertex from = corners_[i], to = corners_[i + 1 < end ? i + 1 : begin];
        if (from.y == to.y) continue;
        const bool up = to.y < from.y;
        const Vertex bottom = up ? from : to, top = up ? to : from;
        const double slope = static_cast<double>(std::int64_t{top.x} - bottom.x) /
                             static_cast<double>(std::int64_t{top.y} - bottom.y);
        edges_.push_back(Edge{bottom, top, slope, -1, up ? 1 : -1, false});
    }
    const auto n_edges = static_cast<std::int32_t>(edges_.size());
    for (std::int32_t i = 0; i < n_edges; ++i) {
        const std::int32_t j = i + 1 < n_edges ? i + 1 : 0;
        Edge& a = edges_[static_cast<std::size_t>(i)];
        Edge& b = edges_[static_cast<std::size_t>(j)];
        if (a.direction > 0 && b.direction > 0) {
            a.next = j;
            a.next_is_apart = !same(a.top, b.bottom);
        } else if (a.direction < 0 && b.direction < 0) {
            b.next = i;
            b.next_is_apart = !same(b.top, a.bottom);
        } else if (a.direction < 0) {
            // Upwards is towards smaller y, where the edge with the larger slope is on the left.
            const bool a_is_left = same(a.bottom, b.bottom) ? a.slope > b.slope : a.bottom.x < b.bottom.x;
            const bool flat = !same(a.bottom, b.bottom);
            const Minimum minimum{a_is_left ? i : j, a_is_left ? j : i, a.bottom.y, flat};
            std::size_t place = minima_.size();
            while (place > 0 && minima_[place - 1].y < minimum.y) --place;
            minima_.insert(minima_.begin() + static_cast<std::ptrdiff_t>(place), minimum);
        }
    }
}

// ---- The sweep ------------------------------------------------------------------------------------------------

void OverlapSweep::finish_piece(Active& active, std::int64_t y, std::int64_t x) {
    // Green's theorem: the area is the integral of x dy along the right sides less that along the left sides. Only the
    // pieces' heights count, so horizontal edges play no part in it.
    if (active.side != 0)
        twice_area_ -= active.side * (active.begin_x + x - 2 * origin_x_) * (active.begin_y - y);
    active.begin_y = y;
    active.begin_x = x;
}

// Find an edge's side again from the winding numbers to its left; if it changes, its piece ends here.
void OverlapSweep::update_side(Active& active, std::int64_t y, std::int64_t x) {
    const std::int32_t direction = active.edge->direction;
    const std::int32_t own = active.winding[active.polygon], others = active.winding[1 - active.polygon];
    const std::int32_t side = others != 0 ? (own + direction != 0) - (own != 0) : 0;
    if (side == active.side) return;
    finish_piece(active, y, x);
    active.side = side;
}

// Find all winding numbers and sides again, from left to right.
void OverlapSweep::update_sides(std::int64_t y) {
    std::int32_t winding[2] = {0, 0};
    for (Active& active : active_) {
        active.winding[0] = winding[0];
        active.winding[1] = winding[1];
        winding[active.polygon] += active.edge->direction;
        update_side(active, y, active.x);
    }
}

// Two boundaries that stand at the same place and look parallel from there are taken to run along each other: the
// clipper gives the neighbour a vertex too, at the place where the edge `here` begins.
void OverlapSweep::share_vertex(std::size_t here, std::size_t neighbour, std::int64_t y) {
    const Active& active = active_[here];
    Active& other = active_[neighbour];
    if (active.side != 0 && other.side != 0 && other.x == active.x && other.edge->top.y < y &&
        look_parallel(*active.edge, active.x, *other.edge, other.x, y))
        finish_piece(other, y, other.x);
}

// Carry an edge along the horizontal one that leads to it, past the edges on its way. Of those at the far end it passes
// the ones that its own course above leaves on the near side.
void OverlapSweep::move(std::size_t here) {
    Active active = active_[here];
    const std::int64_t target = active.edge->bottom.x;
    const double slope = active.edge->slope;
    const auto stop = [&](const Active& other) { return other.x == target && other.edge->slope < slope; };
    if (active.x < target) {
        for (; here + 1 < active_.size() && active_[here + 1].x <= target && !stop(active_[here + 1]); ++here)
            active_[here] = active_[here + 1];
    } else {
        for (; here > 0 && active_[here - 1].x >= target && !stop(active_[here - 1]); --here)
            active_[here] = active_[here - 1];
    }
    active.x = active.begin_x = target;
    active.moves = false;
    active_[here] = active;
}

// Take out the edges that end here in a highest point; move those that a horizontal edge leads elsewhere.
void OverlapSweep::end_edges(std::int64_t y) {
    bool changed = false;
    std::size_t n_kept = 0;
    for (Active& active : active_) {
        if (active.edge->top.y == y && (active.edge->next < 0 || active.edge->next_is_apart)) {
            finish_piece(active, y, active.x);
            changed = true;
            if (active.edge->next < 0) continue;
            active.edge = &outlines_[active.polygon]->edges()[static_cast<std::size_t>(active.edge->next)];
            active.side = 0;
            active.moves = true;
        }
        active_[n_kept++] = active;
    }
    if (!changed) return;
    active_.resize(n_kept);
    finish_minima(y);
}

// Move what has to move, the latest first.
void OverlapSweep::finish_minima(std::int64_t y) {
    moving_.clear();
    for (const Active& active : active_)
        if (active.moves) moving_.push_back(active.edge);
    for (; !moving_.empty(); moving_.pop_back())
        for (std::size_t i = 0; i < active_.size(); ++i)
            if (active_[i].edge == moving_.back() && active_[i].moves) {
                move(i);
                break;
            }
    update_sides(y);
}

// Edges that end here give way to those that continue them.
void OverlapSweep::continue_edges(std::int64_t y) {
    for (std::size_t i = 0; i < active_.size(); ++i) {
        Active& active = active_[i];
        if (active.edge->top.y != y) continue;
        finish_piece(active, y, active.x);
        active.edge = &outlines_[active.polygon]->edges()[static_cast<std::size_t>(active.edge->next)];
        const std::int64_t before = i > 0 ? active_[i - 1].begin_y : 0;
        if (i > 0) share_vertex(i, i - 1, y);
        if (i + 1 < active_.size() && !(i > 0 && active_[i - 1].begin_y != before)) share_vertex(i, i + 1, y);
    }
}

// Put an edge that begins here in its place, at `from` or further right: before the first edge that is further right;
// where two meet, their courses above decide.
std::size_t OverlapSweep::insert(const Edge& edge, std::int32_t polygon, std::size_t from) {
    const std::int64_t x = edge.bottom.x;
    std::size_t place = from;
    for (; place < active_.size(); ++place) {
        if (x < active_[place].x || (x == active_[place].x && active_[place].moves)) break;
        if (x > active_[place].x) continue;
        const Edge& old = *active_[place].edge;
        if (edge.top.y > old.top.y ? edge.top.x < x_at(old, edge.top.y) : old.top.x > x_at(edge, old.top.y)) break;
    }
    active_.insert(active_.begin() + static_cast<std::ptrdiff_t>(place),
                   Active{&edge, x, edge.bottom.y, x, 0, {0, 0}, polygon, false});
    return place;
}

void OverlapSweep::insert_minimum(const Outline::Minimum& minimum, std::int32_t polygon) {
    const std::vector<Edge>& edges = outlines_[polygon]->edges();
    const Edge& right_edge = edges[static_cast<std::size_t>(minimum.right)];
    const std::size_t left = insert(edges[static_cast<std::size_t>(minimum.left)], polygon, 0);
    std::size_t right = left + 1;
    if (minimum.flat) {
        const std::int64_t x = active_[left].x;
        while (right < active_.size() && active_[right].x == x) ++right;
        active_.insert(active_.begin() + static_cast<std::ptrdiff_t>(right),
                       Active{&right_edge, x, minimum.y, x, 0, {0, 0}, polygon, true});
    } else {
        right = insert(right_edge, polygon, right);
    }
    update_sides(minimum.y);
    if (left > 0) share_vertex(left, left - 1, minimum.y);
    if (right > left + 1 && !minimum.flat) share_vertex(right, right - 1, minimum.y);
}

// Exchange the edges that cross between two scanlines. active_[i].x already holds the x at top_y.
void OverlapSweep::cross(std::int64_t bottom_y, std::int64_t top_y) {
    const auto n = static_cast<std::int32_t>(active_.size());
    const auto order = [this](std::int32_t place) -> std::int32_t& { return order_[static_cast<std::size_t>(place)]; };
    const auto place = [this](std::int32_t index) -> std::int32_t& { return place_[static_cast<std::size_t>(index)]; };
    const auto active = [this](std::int32_t index) -> Active& { return active_[static_cast<std::size_t>(index)]; };
    order_.resize(active_.size());
    place_.resize(active_.size());
    for (std::int32_t i = 0; i < n; ++i) order(i) = place(i) = i;

    // Bubble sort: each exchange of neighbours is one crossing.
    crossings_.clear();
    bool changed = true;
    for (std::int32_t end = n - 1; end > 0 && changed; --end) {
        changed = false;
        for (std::int32_t i = 0; i < end; ++i) {
            const Active &left = active(order(i)), &right = active(order(i + 1));
            if (left.x <= right.x) continue;
            const Vertex point = crossing_point(*left.edge, *right.edge, bottom_y, top_y, left.x);
            crossings_.push_back({order(i), order(i + 1), point.y, point.x});
            std::swap(order(i), order(i + 1));
            changed = true;
        }
    }
    const auto is_lower = [](const Crossing& a, const Crossing& b) { return a.y > b.y; };
    if (crossings_.size() > 1) std::stable_sort(crossings_.begin(), crossings_.end(), is_lower);

    for (std::int32_t i = 0; i < n; ++i) order(i) = i;
    for (std::size_t i = 0; i < crossings_.size(); ++i) {
        // Only neighbours can be exchanged: rounding may have put a crossing before one that must come first.
        std::size_t next = i;
        while (next < crossings_.size() && place(crossings_[next].right) - place(crossings_[next].left) != 1) ++next;
        if (next == crossings_.size()) break;
        std::swap(crossings_[i], crossings_[next]);
        const Crossing crossing = crossings_[i];
        const std::int32_t left_place = place(crossing.left);
        Active &left = active(crossing.left), &right = active(crossing.right);
        std::swap(order(left_place), order(left_place + 1));
        std::swap(place(crossing.left), place(crossing.right));
        right.winding[left.polygon] -= left.edge->direction;
        left.winding[right.polygon] += right.edge->direction;
        const bool begins = left.side == 0 && right.side == 0;
        update_side(left, crossing.y, crossing.x);
        update_side(right, crossing.y, crossing.x);
        if (!begins || right.side == 0 || left_place == 0) continue;
        // As share_vertex(), where the result begins at a crossing.
        Active& before = active(order(left_place - 1));
        if (before.side == 0 || before.edge->top.y >= crossing.y || right.edge->top.y >= crossing.y) continue;
        const std::int64_t x = x_at(*right.edge, crossing.y);
        if (x_at(*before.edge, crossing.y) == x && look_parallel(*before.edge, x, *right.edge, x, crossing.y))
            finish_piece(before, crossing.y, crossing.x);
    }
    scratch_.clear();
    for (const std::int32_t index : order_) scratch_.push_back(active_[static_cast<std::size_t>(index)]);
    active_.swap(scratch_);
}

std::int64_t OverlapSweep::twice_area(const Outline& first, const Outline& second) {
    outlines_[0] = &first;
    outlines_[1] = &second;
    twice_area_ = 0;
    active_.clear();
    if (first.minima().empty() || second.minima().empty()) return 0;
    origin_x_ = first.edges()[0].bottom.x;

    const Outline::Minimum* next_minimum[2] = {first.minima().data(), second.minima().data()};
    const Outline::Minimum* const last_minimum[2] = {next_minimum[0] + first.minima().size(),
                                                     next_minimum[1] + second.minima().size()};
    std::int64_t y = std::max(next_minimum[0]->y, next_minimum[1]->y);
    for (;;) {
        for (std::int32_t polygon = 0; polygon < 2; ++polygon) {
            const Outline::Minimum*& next = next_minimum[polygon];
            for (; next != last_minimum[polygon] && next->y == y; ++next) insert_minimum(*next, polygon);
        }
        finish_minima(y);

        // The scanbeam above goes up to the next vertex.
        constexpr std::int64_t none = INT64_MIN;
        std::int64_t top_y = none;
        for (const Active& active : active_) top_y = std::max<std::int64_t>(top_y, active.edge->top.y);
        for (int polygon = 0; polygon < 2; ++polygon)
            if (next_minimum[polygon] != last_minimum[polygon])
                top_y = std::max<std::int64_t>(top_y, next_minimum[polygon]->y);
        if (top_y == none) return twice_area_;
        bool sorted = true;
        for (std::size_t i = 0; i < active_.size(); ++i) {
            active_[i].x = x_at(*active_[i].edge, top_y);
            sorted = sorted && (i == 0 || active_[i - 1].x <= active_[i].x);
        }
        if (!sorted) cross(y, top_y);
        y = top_y;
        end_edges(y);
        continue_edges(y);
    }
}

}  // namespace cellrt
