// convex_hull_3d: points (n, 3) -> half spaces (m, 4). Points are added one by one to a tetrahedron of four of them.
//
// A point outside sees some facets; their rim is joined to it by new ones. What it sees is decided exactly: in double
// precision where the determinant is larger than its error, else by the sum of all its products without rounding. So the
// facets always enclose a convex body, whatever the points are; of those in the plane of a facet none is seen from another.
#include "convex_hull_3d.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace cellrt {
namespace {

using Point = std::array<double, 3>;

// A sum of doubles without rounding: components of ascending magnitude that do not overlap (Shewchuk, Discrete &
// Computational Geometry 18, 1997).
class ExactSum {
public:
    void add(double value) {
        int n = 0;
        for (int i = 0; i < n_; ++i) {
            const double sum = value + parts_[i];
            const double shifted = sum - value;
            const double rest = (value - (sum - shifted)) + (parts_[i] - shifted);
            if (rest != 0) parts_[n++] = rest;
            value = sum;
        }
        if (value != 0) parts_[n++] = value;
        n_ = n;
    }
    void add_product(double a, double b, double sign) {
        const double product = a * b;
        add(sign * product);
        add(sign * std::fma(a, b, -product));
    }
    double leading() const { return n_ > 0 ? parts_[n_ - 1] : 0.0; }

private:
    double parts_[48] = {};  // at most one per double that was added
    int n_ = 0;
};

// Six times the volume of the tetrahedron of differences a, b, c, which are exact; the sign of what it returns is right.
double determinant(const Point& a, const Point& b, const Point& c) {
    const double z = b[1] * c[2] - b[2] * c[1];
    const double y = b[2] * c[0] - b[0] * c[2];
    const double x = b[0] * c[1] - b[1] * c[0];
    const double value = a[0] * z + a[1] * y + a[2] * x;
    const double magnitude = std::fabs(a[0]) * (std::fabs(b[1] * c[2]) + std::fabs(b[2] * c[1])) +
                             std::fabs(a[1]) * (std::fabs(b[2] * c[0]) + std::fabs(b[0] * c[2])) +
                             std::fabs(a[2]) * (std::fabs(b[0] * c[1]) + std::fabs(b[1] * c[0]));
    if (std::fabs(value) > 1e-15 * magnitude) return value;  // 7 roundings of 2^-53
    ExactSum sum;
    const auto add = [&](double u, double v, double w, double sign) {
        const double product = u * v;
        sum.add_product(product, w, sign);
        sum.add_product(std::fma(u, v, -product), w, sign);
    };
    for (int axis = 0; axis < 3; ++axis) {
        const int next = (axis + 1) % 3, last = (axis + 2) % 3;
        add(b[next], c[last], a[axis], 1.0);
        add(b[last], c[next], a[axis], -1.0);
    }
    return sum.leading();
}

Point difference(const Point& a, const Point& b) { return {a[0] - b[0], a[1] - b[1], a[2] - b[2]}; }

struct Facet {
    std::int32_t corners[3];  // the determinant with a point outside is positive
    bool is_seen;
};

class Hull {
public:
    explicit Hull(std::vector<Point> points) : points_(std::move(points)) {
        if (!start()) return;
        const auto n = static_cast<std::int32_t>(points_.size());
        for (std::int32_t i = 0; i < n; ++i) add(i);
    }
    const std::vector<Facet>& facets() const { return facets_; }
    const std::vector<Point>& points() const { return points_; }

private:
    double side(const Facet& facet, std::int32_t point) const {
        const Point& origin = points_[static_cast<std::size_t>(facet.corners[0])];
        return determinant(difference(points_[static_cast<std::size_t>(facet.corners[1])], origin),
                           difference(points_[static_cast<std::size_t>(facet.corners[2])], origin),
                           difference(points_[static_cast<std::size_t>(point)], origin));
    }
    bool start();
    void add(std::int32_t point);

    std::vector<Point> points_;
    std::vector<Facet> facets_;
    struct Edge {
        std::int32_t from, to;
    };
    std::vector<Edge> edges_;
};

// Four points that are not in one plane; false if there are none.
bool Hull::start() {
    const auto n = static_cast<std::int32_t>(points_.size());
    const auto at = [&](std::int32_t i) -> const Point& { return points_[static_cast<std::size_t>(i)]; };
    std::int32_t second = 1;
    while (second < n && at(second) == at(0)) ++second;
    // Three in a line: every fourth is in a plane with them. Exact for differences of 2^-30 units, up to 2^22 of them.
    const auto is_on_line = [&](std::int32_t i) {
        const Point a = difference(at(second), at(0)), b = difference(at(i), at(0));
        const Point axes[3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
        for (const Point& axis : axes)
            if (determinant(a, b, axis) != 0) return false;
        return true;
    };
    std::int32_t third = second + 1;
    while (third < n && is_on_line(third)) ++third;
    std::int32_t fourth = third + 1;
    Facet facet{{0, second, third}, false};
    double volume = 0;
    while (fourth < n && (volume = side(facet, fourth)) == 0) ++fourth;
    if (fourth >= n) return false;
    if (volume > 0) std::swap(facet.corners[1], facet.corners[2]);
    const auto [a, b, c] = facet.corners;
    facets_ = {facet, {{fourth, b, a}, false}, {{fourth, c, b}, false}, {{fourth, a, c}, false}};
    return true;
}

void Hull::add(std::int32_t point) {
    bool is_outside = false;
    for (Facet& facet : facets_) {
        facet.is_seen = side(facet, point) > 0;
        is_outside |= facet.is_seen;
    }
    if (!is_outside) return;
    // An edge of the rim belongs to one facet that is seen, the others to two, once in each direction.
    edges_.clear();
    std::size_t n_unseen = 0;
    for (const Facet& facet : facets_) {
        if (!facet.is_seen) {
            facets_[n_unseen++] = facet;
            continue;
        }
        for (int corner = 0; corner < 3; ++corner)
            edges_.push_back({facet.corners[corner], facet.corners[(corner + 1) % 3]});
    }
    facets_.resize(n_unseen);
    std::sort(edges_.begin(), edges_.end(), [](const Edge& a, const Edge& b) {
        return std::minmax(a.from, a.to) < std::minmax(b.from, b.to);
    });
    for (std::size_t i = 0; i < edges_.size(); ++i) {
        const Edge& edge = edges_[i];
        if (i + 1 < edges_.size() && edges_[i + 1].from == edge.to && edges_[i + 1].to == edge.from) {
            ++i;
            continue;
        }
        facets_.push_back({{edge.from, edge.to, point}, false});
    }
}

}  // namespace

std::vector<HalfSpace> convex_hull_3d(const float* points, std::int32_t n) {
    constexpr double units = 1073741824.0;  // 2^30 per voxel: differences are exact in double precision
    std::vector<Point> exact(static_cast<std::size_t>(n));
    for (std::int32_t i = 0; i < n; ++i)
        for (int axis = 0; axis < 3; ++axis)
            exact[static_cast<std::size_t>(i)][static_cast<std::size_t>(axis)] =
                std::nearbyint(points[3 * i + axis] * units) / units;
    const Hull hull(std::move(exact));
    std::vector<HalfSpace> half_spaces;
    for (const Facet& facet : hull.facets()) {
        const Point& origin = hull.points()[static_cast<std::size_t>(facet.corners[0])];
        const Point a = difference(hull.points()[static_cast<std::size_t>(facet.corners[1])], origin);
        const Point b = difference(hull.points()[static_cast<std::size_t>(facet.corners[2])], origin);
        const double z = a[1] * b[2] - a[2] * b[1], y = a[2] * b[0] - a[0] * b[2], x = a[0] * b[1] - a[1] * b[0];
        half_spaces.push_back({z, y, x, -(z * origin[0] + y * origin[1] + x * origin[2])});
    }
    return half_spaces;
}

}  // namespace cellrt
