// Area of the intersection of two polygons with integer vertices, with the rounding of StarDist's polygon clipper.
//
// StarDist measures overlaps with a sweep-line clipper on the integer grid: crossing points are rounded to integers and
// the area is that of the polygons with the rounded corners, so it differs from the true area by a few pixels. Keeping
// or dropping a candidate hangs on that difference often enough that we reproduce it. The clipper is
// Clipper 6.4.2 (Angus Johnson, Boost Software License 1.0). This is not its code, but it follows its rules one by one:
// the rounding formulas, the order of edges at a scanline, and the vertices it adds where boundaries seem to run along
// each other. Only the area is computed, no polygon is built.
#pragma once

#include <cstdint>
#include <vector>

namespace cellrt {

struct Vertex {
    std::int32_t y, x;  // pixels
};

// A polygon prepared for the sweep: its edges that are not horizontal, each with the one that continues it upwards
// (towards smaller y). Self-crossing polygons are filled by the non-zero rule.
class Outline {
public:
    struct Edge {
        Vertex bottom, top;      // bottom.y > top.y
        double slope;            // x per y
        std::int32_t next;       // the edge that goes on upwards from where this one ends, or -1
        std::int32_t direction;  // +1 if the polygon runs along it upwards, else -1
        bool next_is_apart;      // a horizontal edge lies between this one and the next
    };
    // A lowest point of the polygon, or the left end of a lowest horizontal edge, and the two edges that go up from it.
    struct Minimum {
        std::int32_t left, right;
        std::int32_t y;
        bool flat;  // a horizontal edge lies between them
    };

    // n vertices in order, either way round; at least 1. Coordinates within +-2^31.
    void assign(const Vertex* vertices, int n);

    const std::vector<Edge>& edges() const noexcept { return edges_; }
    const std::vector<Minimum>& minima() const noexcept { return minima_; }  // by descending y, as the sweep meets them

private:
    std::vector<Edge> edges_;
    std::vector<Minimum> minima_;
    std::vector<Vertex> corners_;  // scratch
};

// Scratch of the sweep; one per thread.
class OverlapSweep {
public:
    // Twice the area of the intersection, in square pixels.
    std::int64_t twice_area(const Outline& first, const Outline& second);

private:
    struct Active {
        const Outline::Edge* edge;
        std::int64_t x;        // the edge at the scanline, rounded
        std::int64_t begin_y;  // where its current piece of the result's boundary began
        std::int64_t begin_x;
        std::int32_t side;     // +1: the result begins to the right of it, -1: it ends there, 0: no boundary
        std::int32_t winding[2];  // of both polygons, to the left of it
        std::int32_t polygon;  // 0 or 1
        bool moves;            // x is the near end of a horizontal edge that leads to `edge`
    };
    struct Crossing {
        std::int32_t left, right;  // indices into active_ of before the scanbeam
        std::int64_t y, x;
    };

    void finish_piece(Active& active, std::int64_t y, std::int64_t x);
    void update_side(Active& active, std::int64_t y, std::int64_t x);
    void update_sides(std::int64_t y);
    void share_vertex(std::size_t here, std::size_t neighbour, std::int64_t y);
    void move(std::size_t here);
    void end_edges(std::int64_t y);
    void continue_edges(std::int64_t y);
    std::size_t insert(const Outline::Edge& edge, std::int32_t polygon, std::size_t from);
    void insert_minimum(const Outline::Minimum& minimum, std::int32_t polygon);
    void finish_minima(std::int64_t y);
    void cross(std::int64_t bottom_y, std::int64_t top_y);

    const Outline* outlines_[2] = {nullptr, nullptr};
    std::vector<Active> active_;  // from left to right
    std::vector<Active> scratch_;
    std::vector<const Outline::Edge*> moving_;
    std::vector<Crossing> crossings_;
    std::vector<std::int32_t> order_, place_;  // of active_ within a scanbeam
    std::int64_t twice_area_ = 0;
    std::int64_t origin_x_ = 0;
};

}  // namespace cellrt
