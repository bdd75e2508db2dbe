// half_space_volume: half spaces (n, 4) around a point -> volume of what is behind all of them.
//
// The body is a cone over each of its facets, with its tip at the point inside: a third of the facet's area times its
// distance. A facet is its plane, cut by the other half spaces, the closest first; those farther away than its farthest
// corner cannot cut it. Facets do not depend on each other, so there is nothing that rounding could tear apart.
#include "half_space_volume.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace cellrt {
namespace {

constexpr double same_direction = 1e-20;  // squared difference of unit normals
constexpr double same_distance = 1e-10;   // relative

}  // namespace

double HalfSpaceVolume::measure(const std::vector<HalfSpace>& one, const std::vector<HalfSpace>& other,
                                const double* inside, double enough, std::int64_t* work) {
    planes_.clear();
    for (const std::vector<HalfSpace>* some : {&one, &other})
        for (const HalfSpace& h : *some) {
            const double length = std::sqrt(h[0] * h[0] + h[1] * h[1] + h[2] * h[2]);
            const double value = h[0] * inside[0] + h[1] * inside[1] + h[2] * inside[2] + h[3];
            if (!(value < -1e-14 * (std::fabs(h[3]) + length))) return -1;
            planes_.push_back({h[0] / length, h[1] / length, h[2] / length, -value / length});
        }
    std::sort(planes_.begin(), planes_.end(), [](const HalfSpace& a, const HalfSpace& b) { return a[3] < b[3]; });
    double volume = 0;
    for (std::size_t facet = 0; facet < planes_.size() && volume <= enough; ++facet)
        volume += area_of(facet, work) * planes_[facet][3] / 3;
    return volume;
}

double HalfSpaceVolume::area_of(std::size_t facet, std::int64_t* work) {
    const HalfSpace& plane = planes_[facet];
    // Two directions in the plane, at right angles.
    const int least = std::fabs(plane[0]) <= std::fabs(plane[1]) && std::fabs(plane[0]) <= std::fabs(plane[2]) ? 0
                      : std::fabs(plane[1]) <= std::fabs(plane[2])                                             ? 1
                                                                                                               : 2;
    double u[3] = {-plane[0] * plane[static_cast<std::size_t>(least)], -plane[1] * plane[static_cast<std::size_t>(least)],
                   -plane[2] * plane[static_cast<std::size_t>(least)]};
    u[least] += 1;
    const double length = std::sqrt(u[0] * u[0] + u[1] * u[1] + u[2] * u[2]);
    for (double& component : u) component /= length;
    const double v[3] = {plane[1] * u[2] - plane[2] * u[1], plane[2] * u[0] - plane[0] * u[2],
                         plane[0] * u[1] - plane[1] * u[0]};

    constexpr double far = 16777216.0;  // 2^24 voxels: beyond everything
    polygon_ = {{-far, -far}, {far, -far}, {far, far}, {-far, far}};
    const double squared_distance = plane[3] * plane[3];
    double squared_reach = 2 * far * far + squared_distance;
    for (std::size_t i = 0; i < planes_.size(); ++i) {
        const HalfSpace& other = planes_[i];
        if (other[3] * other[3] >= squared_reach) break;
        if (i == facet) continue;
        ++*work;
        const double cosine = plane[0] * other[0] + plane[1] * other[1] + plane[2] * other[2];
        if (2 - 2 * cosine < 1e-12) {
            const double dz = plane[0] - other[0], dy = plane[1] - other[1], dx = plane[2] - other[2];
            const bool is_same = dz * dz + dy * dy + dx * dx < same_direction &&
                                 std::fabs(plane[3] - other[3]) <= same_distance * plane[3];
            if (is_same && i < facet) return 0;  // once is enough
            if (is_same) continue;
        }
        const double by_u = other[0] * u[0] + other[1] * u[1] + other[2] * u[2];
        const double by_v = other[0] * v[0] + other[1] * v[1] + other[2] * v[2];
        const double at_0 = cosine * plane[3] - other[3];
        const std::size_t n = polygon_.size();
        values_.resize(n);
        bool is_cut = false;
        for (std::size_t k = 0; k < n; ++k) {
            values_[k] = by_u * polygon_[k].u + by_v * polygon_[k].v + at_0;
            is_cut |= values_[k] > 0;
        }
        if (!is_cut) continue;
        clipped_.clear();
        for (std::size_t k = 0, before = n - 1; k < n; before = k++) {
            if ((values_[k] > 0) != (values_[before] > 0)) {
                const double part = values_[before] / (values_[before] - values_[k]);
                clipped_.push_back({polygon_[before].u + part * (polygon_[k].u - polygon_[before].u),
                                    polygon_[before].v + part * (polygon_[k].v - polygon_[before].v)});
            }
            if (!(values_[k] > 0)) clipped_.push_back(polygon_[k]);
        }
        polygon_.swap(clipped_);
        if (polygon_.size() < 3) return 0;
        squared_reach = 0;
        for (const Corner& corner : polygon_)
            squared_reach = std::max(squared_reach, corner.u * corner.u + corner.v * corner.v);
        squared_reach += squared_distance;
    }
    double twice_area = 0;
    const Corner& origin = polygon_[0];
    for (std::size_t k = 1; k + 1 < polygon_.size(); ++k)
        twice_area += (polygon_[k].u - origin.u) * (polygon_[k + 1].v - origin.v) -
                      (polygon_[k].v - origin.v) * (polygon_[k + 1].u - origin.u);
    return std::fabs(twice_area) / 2;
}

}  // namespace cellrt
