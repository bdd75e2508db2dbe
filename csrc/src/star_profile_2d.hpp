// One star-convex polygon as suppression looks at it: integer vertices, box, octagon around it, area, and a profile by
// rows. Two octagons and two areas bound the area of an intersection from below and above, and two profiles do so
// closer, all for a fraction of what it takes to compute it.
#pragma once

#include <cstdint>
#include <vector>

#include "star_overlap_2d.hpp"

namespace cellrt {

// Directions of the rays in float32, as the original computes them; sin and cos in double and rounded once, so that
// they are the same on every platform.
struct RayDirections {
    std::vector<float> sine, cosine;
    explicit RayDirections(std::int32_t n_rays);
};

// The pixels' corners y_first..y_last and x_first..x_last, both ends included.
struct VertexBox {
    std::int32_t y_first, x_first, y_last, x_last;

    std::int64_t height() const noexcept { return std::int64_t{y_last} - y_first; }
    std::int64_t width() const noexcept { return std::int64_t{x_last} - x_first; }
    bool touches(const VertexBox& other) const noexcept {
        return y_first <= other.y_last && other.y_first <= y_last && x_first <= other.x_last && other.x_first <= x_last;
    }
};

// What the comparison of two polygons needs to know about each, besides its profile.
struct StarSummary {
    VertexBox box;
    std::int32_t y, x;   // centre
    float area;          // float32 as the original sums it
    bool has_profile;    // not before it is traced, nor if the box is too large for one
    bool has_octagon;    // not if the box is too large
    float slack_below;   // of one with a profile: how far that may be from the polygon, see bound_overlap()
    float slack_above;   // the same; and of one with an octagon, see bound_by_octagons()
    // Of one with an octagon: that, by y + x and y - x less the centre's; the area by its outline, exactly; and how far
    // less the area may be that the sweep finds.
    std::int16_t sum_first, sum_last, difference_first, difference_last;
    std::int32_t twice_area;
    float octagon_slack_below;
};

// Where a polygon's leftmost and rightmost edges cross the middle of each row [y, y + 1] of its box, relative to the
// centre. All vertices lie on rows' borders, so edges are straight within a row.
struct StarProfile {
    static constexpr std::int32_t lanes = 8;  // rows at a time: that many values can be read from any row on

    const float *left, *right;  // box.height() values

    StarProfile from(std::int32_t row) const noexcept { return {left + row, right + row}; }
};

// The shape of one candidate at a time; scratch of one thread.
class StarShape {
public:
    StarSummary summary{};

    // dist (n_rays) in pixels, at most 2^20; |y| and |x| at most 2^30. There is no profile before trace_profile().
    void trace(const float* dist, std::int32_t y, std::int32_t x, const RayDirections& rays);
    void trace_profile();

    StarProfile profile() const noexcept { return {left_.data(), right_.data()}; }
    std::int32_t n_vertices() const noexcept { return n_vertices_; }
    // n_vertices values, and the first once more
    const std::int32_t* vertices_y() const noexcept { return y_.data(); }
    const std::int32_t* vertices_x() const noexcept { return x_.data(); }

private:
    float draw_outermost(std::int32_t n_edges, std::int32_t n_rows);

    std::int32_t n_vertices_ = 0;
    std::vector<std::int32_t> y_, x_;  // vertices, then the first one again up to a multiple of StarProfile::lanes
    std::vector<float> left_, right_;
    // Of each edge: its x in the middle of its topmost row, x per row, which row that is, and in how many rows it lies.
    std::vector<float> edge_x_, edge_slope_;
    std::vector<std::int32_t> edge_row_, edge_height_, edges_in_row_;
};

struct AreaBounds {
    double below, above;
};

// Bounds of the area that OverlapSweep computes for two polygons that both have an octagon.
AreaBounds bound_by_octagons(const StarSummary& a, const StarSummary& b);

// The same, closer, for two that both have a profile.
AreaBounds bound_overlap(const StarSummary& a, const StarProfile& a_profile, const StarSummary& b,
                         const StarProfile& b_profile);

// The same where `small` lies in a part of the plane that the other polygon fills, and its outline nowhere near.
AreaBounds bound_enclosed(const StarSummary& small, const StarProfile& small_profile);

// How a box lies to a polygon: outside of it, in a part that it fills by the non-zero rule, or near its outline.
enum class Location { outside, inside, at_outline };
Location locate(const VertexBox& box, const StarShape& polygon);

}  // namespace cellrt
