// The convex hull of points in space, as half spaces.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace cellrt {

// A point (z, y, x) is inside where h[0] * z + h[1] * y + h[2] * x + h[3] <= 0.
using HalfSpace = std::array<double, 4>;

// The half spaces of the facets of the convex hull of n points (n, 3); magnitudes at most 2^21, taken to multiples of
// 2^-30. Points in one plane have no hull with an inside: none. O(n^2) time at most; never fails otherwise.
std::vector<HalfSpace> convex_hull_3d(const float* points, std::int32_t n);

}  // namespace cellrt
