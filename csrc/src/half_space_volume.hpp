// The volume of an intersection of half spaces.
#pragma once

#include <cstdint>
#include <vector>

#include "convex_hull_3d.hpp"

namespace cellrt {

// Volumes of intersections of half spaces around a point inside of all of them. Its scratch is reused from call to call.
class HalfSpaceVolume {
public:
    // The volume of what is behind all half spaces (h[0] * z + h[1] * y + h[2] * x + h[3] <= 0), which is bounded, or any
    // number above `enough` if it is more than that. -1 if the point is not inside of all. Adds to `work` how many pairs
    // of half spaces were looked at.
    double measure(const std::vector<HalfSpace>& one, const std::vector<HalfSpace>& other, const double* inside,
                   double enough, std::int64_t* work);

private:
    struct Corner {
        double u, v;
    };
    double area_of(std::size_t facet, std::int64_t* work);

    std::vector<HalfSpace> planes_;  // of unit length, from the point inside, the closest first
    std::vector<Corner> polygon_, clipped_;
    std::vector<double> values_;
};

}  // namespace cellrt
