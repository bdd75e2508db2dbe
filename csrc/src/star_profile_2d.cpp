// What is CELLRT_INLINE here is compiled twice, once for every machine and once for AVX2, and written so that compilers
// turn its loops into vector instructions. Vertices, boxes and areas come out the same; profiles only lead to bounds.
#include "star_profile_2d.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "instruction_set.hpp"

#if defined(CELLRT_HAS_AVX2)
#include <immintrin.h>
#endif

namespace cellrt {
namespace {

constexpr std::int32_t lanes = StarProfile::lanes;
constexpr std::int32_t most_profile_rows = 256;   // taller polygons have no profile: it would take too much memory
constexpr std::int32_t widest_octagon = 1 << 11;  // pixels: no sum overflows, and coordinates fit in 16 bits
constexpr std::int32_t widest_profile = 1 << 14;  // pixels: sums of profiles stay exact to far below a pixel

constexpr std::int32_t whole_lanes(std::int32_t n) { return (n + lanes - 1) / lanes * lanes; }

// Vertices, the first one again up to whole lanes, and their box.
CELLRT_INLINE VertexBox trace_star(const float* dist, std::int32_t centre_y, std::int32_t centre_x,
                                   const RayDirections& rays, std::int32_t* y, std::int32_t* x) {
    const auto n = static_cast<std::int32_t>(rays.sine.size());
    const float* const sine = rays.sine.data();
    const float* const cosine = rays.cosine.data();
    const auto from_y = static_cast<float>(centre_y), from_x = static_cast<float>(centre_x);
    for (std::int32_t k = 0; k < n; ++k) {
        // The conversion truncates towards zero, as the original's does. |y| < 2^30 + 2^21: it fits.
        y[k] = static_cast<std::int32_t>(from_y + dist[k] * sine[k]);
        x[k] = static_cast<std::int32_t>(from_x + dist[k] * cosine[k]);
    }
    const std::int32_t n_padded = whole_lanes(n);
    for (std::int32_t k = n; k <= n_padded; ++k) {
        y[k] = y[0];
        x[k] = x[0];
    }
    VertexBox box{y[0], x[0], y[0], x[0]};
    for (std::int32_t k = 0; k < n_padded; ++k) {
        box.y_first = std::min(box.y_first, y[k]);
        box.x_first = std::min(box.x_first, x[k]);
        box.y_last = std::max(box.y_last, y[k]);
        box.x_last = std::max(box.x_last, x[k]);
    }
    return box;
}

// What is to know about a small polygon; coordinates relative to its centre.
struct Measures {
    // Of the edges that are not horizontal: summed |dy|, summed |dx|, summed max(0, |dx| - |dy|).
    std::int32_t rise, run, shallow_run;
    std::int32_t sum_first, sum_last, difference_first, difference_last;  // of y + x and y - x
    std::int32_t twice_area;                                              // with a sign
};

CELLRT_INLINE Measures measure_star(const std::int32_t* y, const std::int32_t* x, std::int32_t n, std::int32_t centre_y,
                                    std::int32_t centre_x) {
    std::int32_t rise = 0, run = 0, shallow_run = 0, twice_area = 0;
    std::int32_t sum_first = INT32_MAX, sum_last = INT32_MIN, difference_first = INT32_MAX, difference_last = INT32_MIN;
    // Without conditions, which compilers take for branches.
    for (std::int32_t k = 0; k < n; ++k) {
        const std::int32_t from_y = y[k] - centre_y, from_x = x[k] - centre_x;
        const std::int32_t dy = y[k + 1] - y[k], dx = x[k + 1] - x[k];
        const std::int32_t is_flat = dy == 0, height = std::abs(dy), width = std::abs(dx) * (1 - is_flat);
        rise += height;
        run += width;
        shallow_run += std::max(width - height, 0);
        twice_area += from_x * dy - from_y * dx;
        sum_first = std::min(sum_first, from_y + from_x);
        sum_last = std::max(sum_last, from_y + from_x);
        difference_first = std::min(difference_first, from_y - from_x);
        difference_last = std::max(difference_last, from_y - from_x);
    }
    return {rise, run, shallow_run, sum_first, sum_last, difference_first, difference_last, twice_area};
}

// The summed x (y' - y) - y (x' - x) of neighbours: twice the area.
CELLRT_INLINE std::int32_t sum_of_crosses(const std::int32_t* y, const std::int32_t* x, std::int32_t n) {
    std::int32_t sum = 0;
    for (std::int32_t k = 0; k < n; ++k) sum += x[k] * (y[k + 1] - y[k]) - y[k] * (x[k + 1] - x[k]);
    return sum;
}

// What a profile needs to know about all edges.
struct Edges {
    float *x, *slope;             // in the middle of the topmost row, relative to the centre; per row
    std::int32_t *row, *height;   // the topmost row, from the box's first; number of rows, 0 if horizontal
    // Of those that are not horizontal: summed |dy|, summed |dx|, summed max(0, |dx| - |dy|).
    std::int32_t rise, run, shallow_run;
    std::int32_t top, bottom;  // the first of the highest vertices and the last of the lowest
};

CELLRT_INLINE void measure_edges(const std::int32_t* y, const std::int32_t* x, std::int32_t n,
                                 const StarSummary& summary, Edges& edges) {
    std::int32_t rise = 0, run = 0, shallow_run = 0;
    std::int32_t first_key = INT32_MAX, last_key = -1;  // row * 1024 + index: rows are at most 256, vertices 1024
    const std::int32_t y_first = summary.box.y_first, centre_x = summary.x;
    float* __restrict const edge_x = edges.x;
    float* __restrict const edge_slope = edges.slope;
    std::int32_t* __restrict const edge_row = edges.row;
    std::int32_t* __restrict const edge_height = edges.height;
    // Without conditions, which compilers take for branches.
    for (std::int32_t k = 0; k < n; ++k) {
        const std::int32_t y_here = y[k], y_next = y[k + 1], x_next = x[k + 1];
        const std::int32_t dy = y_next - y_here, dx = x_next - x[k];
        const std::int32_t is_flat = dy == 0, goes_down = dy > 0;
        const std::int32_t height = std::abs(dy), width = std::abs(dx) * (1 - is_flat);
        rise += height;
        run += width;
        shallow_run += std::max(width - height, 0);
        const float slope = static_cast<float>(dx) / static_cast<float>(dy + is_flat);
        edge_slope[k] = slope;
        edge_x[k] = static_cast<float>(x_next - dx * goes_down - centre_x) + 0.5F * slope;
        edge_row[k] = std::min(y_here, y_next) - y_first;
        edge_height[k] = height;
    }
    // Vertices behind the last are the first one again.
    for (std::int32_t k = 0; k < n; ++k) {
        const std::int32_t key = (y[k] - y_first) * 1024 + k;
        first_key = std::min(first_key, key);
        last_key = std::max(last_key, key);
    }
    edges.rise = rise;
    edges.run = run;
    edges.shallow_run = shallow_run;
    edges.top = first_key % 1024;
    edges.bottom = last_key % 1024;
}

// Writes an edge's x in each of its rows and, for the sake of vectors, in up to `lanes` rows below.
inline void draw_edge(const Edges& edges, std::int32_t k, float* side) {
    float* row = side + edges.row[k];
    const float slope = edges.slope[k];
    float x = edges.x[k];
    for (std::int32_t n_left = edges.height[k];; n_left -= lanes) {
        for (std::int32_t lane = 0; lane < lanes; ++lane) row[lane] = x + slope * static_cast<float>(lane);
        if (n_left <= lanes) return;
        row += lanes;
        x += slope * static_cast<float>(lanes);
    }
}

// A polygon that goes once down and once up, the usual case, has two edges in every row. Each side is drawn from the
// top, so that an edge overwrites what the one before it wrote too much.
template <void (*draw)(const Edges&, std::int32_t, float*)>
CELLRT_INLINE void draw_sides_with(const Edges& edges, std::int32_t n, std::int32_t n_rows, float* left, float* right) {
    for (std::int32_t k = edges.top; k != edges.bottom;) {
        draw(edges, k, left);
        if (++k == n) k = 0;
    }
    for (std::int32_t k = edges.top; k != edges.bottom;) {
        if (--k < 0) k = n - 1;
        draw(edges, k, right);
    }
    for (std::int32_t row = 0; row < n_rows; row += lanes)
        for (std::int32_t lane = row; lane < row + lanes; ++lane) {
            const float one = left[lane], other = right[lane];
            left[lane] = std::min(one, other);
            right[lane] = std::max(one, other);
        }
}

inline void draw_sides(const Edges& edges, std::int32_t n, std::int32_t n_rows, float* left, float* right) {
    draw_sides_with<draw_edge>(edges, n, n_rows, left, right);
}

// The summed lengths of what the polygons' intervals have in common in each row. Behind the last row stands anything.
inline double sum_of_common(const StarProfile& a, const StarProfile& b, float b_shift, std::int32_t n_rows) {
    float sums[lanes] = {};
    for (std::int32_t row = 0; row < n_rows; ++row) {
        const float left = std::max(a.left[row], b.left[row] + b_shift);
        const float right = std::min(a.right[row], b.right[row] + b_shift);
        sums[row % lanes] += std::max(0.0F, right - left);
    }
    double sum = 0;
    for (const float lane_sum : sums) sum += static_cast<double>(lane_sum);
    return sum;
}

#if defined(CELLRT_HAS_AVX2)
CELLRT_TARGET_AVX2 VertexBox trace_star_avx2(const float* dist, std::int32_t centre_y, std::int32_t centre_x,
                                             const RayDirections& rays, std::int32_t* y, std::int32_t* x) {
    return trace_star(dist, centre_y, centre_x, rays, y, x);
}
CELLRT_TARGET_AVX2 Measures measure_star_avx2(const std::int32_t* y, const std::int32_t* x, std::int32_t n,
                                              std::int32_t centre_y, std::int32_t centre_x) {
    return measure_star(y, x, n, centre_y, centre_x);
}
CELLRT_TARGET_AVX2 std::int32_t sum_of_crosses_avx2(const std::int32_t* y, const std::int32_t* x, std::int32_t n) {
    return sum_of_crosses(y, x, n);
}
CELLRT_TARGET_AVX2 void measure_edges_avx2(const std::int32_t* y, const std::int32_t* x, std::int32_t n,
                                           const StarSummary& summary, Edges& edges) {
    measure_edges(y, x, n, summary, edges);
}
CELLRT_TARGET_AVX2 inline void draw_edge_avx2(const Edges& edges, std::int32_t k, float* side) {
    float* row = side + edges.row[k];
    const __m256 slope = _mm256_set1_ps(edges.slope[k]);
    const __m256 steps = _mm256_mul_ps(slope, _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7));
    __m256 x = _mm256_add_ps(_mm256_set1_ps(edges.x[k]), steps);
    for (std::int32_t n_left = edges.height[k];; n_left -= lanes) {
        _mm256_storeu_ps(row, x);
        if (n_left <= lanes) return;
        row += lanes;
        x = _mm256_add_ps(x, _mm256_mul_ps(slope, _mm256_set1_ps(lanes)));
    }
}
CELLRT_TARGET_AVX2 void draw_sides_avx2(const Edges& edges, std::int32_t n, std::int32_t n_rows, float* left,
                                        float* right) {
    draw_sides_with<draw_edge_avx2>(edges, n, n_rows, left, right);
}

CELLRT_TARGET_AVX2 double sum_of_common_avx2(const StarProfile& a, const StarProfile& b, float b_shift,
                                             std::int32_t n_rows) {
    const __m256 shift = _mm256_set1_ps(b_shift);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 sums = _mm256_setzero_ps();
    for (std::int32_t row = 0; row < n_rows; row += lanes) {
        const __m256 left =
            _mm256_max_ps(_mm256_loadu_ps(a.left + row), _mm256_add_ps(_mm256_loadu_ps(b.left + row), shift));
        const __m256 right =
            _mm256_min_ps(_mm256_loadu_ps(a.right + row), _mm256_add_ps(_mm256_loadu_ps(b.right + row), shift));
        const __m256 length = _mm256_max_ps(_mm256_sub_ps(right, left), _mm256_setzero_ps());
        const __m256i is_row = _mm256_cmpgt_epi32(_mm256_set1_epi32(n_rows - row), lane);
        sums = _mm256_add_ps(sums, _mm256_and_ps(length, _mm256_castsi256_ps(is_row)));
    }
    const __m256d four = _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(sums)),
                                       _mm256_cvtps_pd(_mm256_extractf128_ps(sums, 1)));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
#define CELLRT_CALL(function, ...) (use_avx2() ? function##_avx2(__VA_ARGS__) : function(__VA_ARGS__))
#else
#define CELLRT_CALL(function, ...) function(__VA_ARGS__)
#endif

// extra_rise: how much further than once down and once up the outline goes, in rows.
float slack_of(std::int32_t run, std::int32_t shallow_run, std::int64_t extra_rise) {
    return 0.125F * static_cast<float>(run) + 0.5F * static_cast<float>(shallow_run) +
           6.0F * static_cast<float>(extra_rise);
}

// Edges cross each other between rows' borders, and the clipper rounds: see bound_overlap().
AreaBounds bounds_around(double sum, std::int32_t n_rows, float slack_below, float slack_above) {
    return {sum - (3.0 * n_rows + 0.5) - static_cast<double>(slack_below),
            sum + (5.0 * n_rows + 0.5) + static_cast<double>(slack_above)};
}

}  // namespace

RayDirections::RayDirections(std::int32_t n_rays) : sine(static_cast<std::size_t>(n_rays)), cosine(sine.size()) {
    const auto step = static_cast<float>(2 * 3.14159265358979323846 / n_rays);
    for (std::size_t k = 0; k < sine.size(); ++k) {
        const float angle = step * static_cast<float>(k);
        sine[k] = static_cast<float>(std::sin(static_cast<double>(angle)));
        cosine[k] = static_cast<float>(std::cos(static_cast<double>(angle)));
    }
}

void StarShape::trace(const float* dist, std::int32_t y, std::int32_t x, const RayDirections& rays) {
    n_vertices_ = static_cast<std::int32_t>(rays.sine.size());
    const auto size = static_cast<std::size_t>(whole_lanes(n_vertices_));
    if (y_.size() != size + 1) {
        y_.resize(size + 1);
        x_.resize(size + 1);
    }
    const VertexBox box = CELLRT_CALL(trace_star, dist, y, x, rays, y_.data(), x_.data());
    summary.box = box;
    summary.y = y;
    summary.x = x;
    summary.has_profile = false;
    summary.has_octagon = box.height() <= most_profile_rows && box.width() <= widest_octagon;
    if (summary.has_octagon) {
        const Measures measures = CELLRT_CALL(measure_star, y_.data(), x_.data(), whole_lanes(n_vertices_), y, x);
        summary.sum_first = static_cast<std::int16_t>(measures.sum_first);
        summary.sum_last = static_cast<std::int16_t>(measures.sum_last);
        summary.difference_first = static_cast<std::int16_t>(measures.difference_first);
        summary.difference_last = static_cast<std::int16_t>(measures.difference_last);
        summary.twice_area = std::abs(measures.twice_area);
        const std::int64_t extra_rise = measures.rise - 2 * box.height();
        summary.slack_above = slack_of(measures.run, measures.shallow_run, extra_rise);
        summary.octagon_slack_below = summary.slack_above + 0.5F * static_cast<float>(extra_rise * box.width());
    }

    // The original adds up float32 values of the integers x y' - y x'. While the sum of their magnitudes is below 2^24
    // every partial sum is exact and any way to the same area will do: each of the n terms equals
    // x (y' - y) - y (x' - x), at most the farthest coordinate times the two sides of the box.
    const std::int32_t farthest = std::max(std::max(std::abs(box.y_first), std::abs(box.y_last)),
                                           std::max(std::abs(box.x_first), std::abs(box.x_last)));
    // The first comparison keeps the product, of factors below 2^24, 2^23 and 2^11, from overflowing.
    if (farthest < 16777216 && farthest * (box.height() + box.width()) * n_vertices_ < 16777216) {
        const std::int32_t twice_area =
            summary.has_octagon
                ? summary.twice_area
                : std::abs(CELLRT_CALL(sum_of_crosses, y_.data(), x_.data(), whole_lanes(n_vertices_)));
        summary.area = 0.5F * static_cast<float>(twice_area);
    } else {
        float twice_area = 0;
        for (std::size_t k = 0; k < static_cast<std::size_t>(n_vertices_); ++k)
            twice_area += static_cast<float>(std::int64_t{x_[k]} * y_[k + 1] - std::int64_t{y_[k]} * x_[k + 1]);
        summary.area = static_cast<float>(0.5 * std::fabs(static_cast<double>(twice_area)));
    }
}

void StarShape::trace_profile() {
    if (summary.box.height() > most_profile_rows || summary.box.width() > widest_profile) return;
    const auto n_rows = static_cast<std::int32_t>(summary.box.height());
    const auto n_values = static_cast<std::size_t>(n_rows + lanes);
    if (left_.size() < n_values) {
        left_.resize(n_values);
        right_.resize(n_values);
    }
    const std::int32_t n_edges = whole_lanes(n_vertices_);
    if (edge_x_.size() != static_cast<std::size_t>(n_edges)) {
        edge_x_.resize(static_cast<std::size_t>(n_edges));
        edge_slope_.resize(edge_x_.size());
        edge_row_.resize(edge_x_.size());
        edge_height_.resize(edge_x_.size());
    }
    Edges edges{edge_x_.data(), edge_slope_.data(), edge_row_.data(), edge_height_.data(), 0, 0, 0, 0, 0};
    CELLRT_CALL(measure_edges, y_.data(), x_.data(), n_edges, summary, edges);
    float hollow = 0;
    if (edges.rise == 2 * n_rows)
        CELLRT_CALL(draw_sides, edges, n_edges, n_rows, left_.data(), right_.data());
    else
        hollow = draw_outermost(n_edges, n_rows);
    summary.slack_above = slack_of(edges.run, edges.shallow_run, edges.rise - 2 * n_rows);
    summary.slack_below = summary.slack_above + hollow;
    summary.has_profile = true;
}

// The outermost edges of each row of any polygon. Returns the area between them that may not belong to the polygon.
float StarShape::draw_outermost(std::int32_t n_edges, std::int32_t n_rows) {
    std::fill_n(left_.begin(), n_rows, 2.0F * widest_profile);
    std::fill_n(right_.begin(), n_rows, -2.0F * widest_profile);
    edges_in_row_.assign(static_cast<std::size_t>(n_rows), 0);
    for (std::size_t k = 0; k < static_cast<std::size_t>(n_edges); ++k) {
        float x = edge_x_[k];
        for (auto row = static_cast<std::size_t>(edge_row_[k]), end = row + static_cast<std::size_t>(edge_height_[k]);
             row < end; ++row, x += edge_slope_[k]) {
            left_[row] = std::min(left_[row], x);
            right_[row] = std::max(right_[row], x);
            ++edges_in_row_[row];
        }
    }
    float hollow = 0;
    for (std::size_t row = 0; row < edges_in_row_.size(); ++row)
        if (edges_in_row_[row] > 2) hollow += right_[row] - left_[row];
    return hollow;
}

// Below: what both polygons have together, less the octagon around their union, is what they have in common at least.
// What a polygon fills by the non-zero rule is no less than the area by its outline, except in rows with more than two
// edges: with 2 m of them it winds around a point m times at most, and m - 1 times the box's width is what the area by
// the outline may count too often. Summed over the rows, that is half the extra rise times the width.
// Above: they have no more in common than their boxes have, and their boxes turned by 45 degrees.
// What the sweep's rounding adds to it is as for profiles, in bound_overlap().
AreaBounds bound_by_octagons(const StarSummary& a, const StarSummary& b) {
    struct Span {
        std::int64_t first, last;
        std::int64_t length() const { return last - first; }
    };
    const auto around = [](const Span& one, const Span& other) {
        return Span{std::min(one.first, other.first), std::max(one.last, other.last)};
    };
    const auto common_length = [](const Span& one, const Span& other) {
        return std::max<std::int64_t>(std::min(one.last, other.last) - std::max(one.first, other.first), 0);
    };
    // Relative to the centre of a.
    const std::int64_t shift_y = std::int64_t{b.y} - a.y, shift_x = std::int64_t{b.x} - a.x;
    const Span a_y{std::int64_t{a.box.y_first} - a.y, std::int64_t{a.box.y_last} - a.y};
    const Span b_y{std::int64_t{b.box.y_first} - a.y, std::int64_t{b.box.y_last} - a.y};
    const Span a_x{std::int64_t{a.box.x_first} - a.x, std::int64_t{a.box.x_last} - a.x};
    const Span b_x{std::int64_t{b.box.x_first} - a.x, std::int64_t{b.box.x_last} - a.x};
    const Span a_sum{a.sum_first, a.sum_last};
    const Span b_sum{b.sum_first + shift_y + shift_x, b.sum_last + shift_y + shift_x};
    const Span a_difference{a.difference_first, a.difference_last};
    const Span b_difference{b.difference_first + shift_y - shift_x, b.difference_last + shift_y - shift_x};

    // The box around both, less the triangles at its corners; each side of the octagon touches a polygon, so that the
    // triangles do not touch each other.
    const Span y = around(a_y, b_y), x = around(a_x, b_x), sum = around(a_sum, b_sum);
    const Span difference = around(a_difference, b_difference);
    std::int64_t twice_octagon = 2 * y.length() * x.length();
    for (const std::int64_t leg : {y.last + x.last - sum.last, sum.first - y.first - x.first,
                                   y.last - x.first - difference.last, difference.first - y.first + x.last})
        twice_octagon -= leg * leg;
    const std::int64_t n_rows = common_length(a_y, b_y);
    const double below = 0.5 * static_cast<double>(std::int64_t{a.twice_area} + b.twice_area - twice_octagon);
    const double above = std::min(static_cast<double>(n_rows * common_length(a_x, b_x)),
                                  0.5 * static_cast<double>(common_length(a_sum, b_sum) *
                                                            common_length(a_difference, b_difference)));
    const auto rows = static_cast<std::int32_t>(n_rows);
    return {bounds_around(below, rows, a.octagon_slack_below + b.octagon_slack_below, 0).below,
            bounds_around(above, rows, 0, a.slack_above + b.slack_above).above};
}

// The sum over all rows of what the two intervals in the middle of the row have in common, give or take
//   - 1/8 of the summed |dx| of the edges, because the common part is not linear within a row where two edges cross:
//     the integral of |a - b| over a row with a crossing in its middle is a quarter of the difference of the slopes;
//   - below only, all of the rows in which a polygon has more than two edges, since it may be hollow there ("hollow");
//   - what the sweep's rounding moves. It keeps the edges in the order of their x rounded at every scanline, so an edge
//     that stands for its neighbour is within 1 pixel of it, and a piece of the boundary ends within 1.5 pixels of its
//     edge, or for an unclamped crossing of an edge of slope s within (1 + s) / 2. The result's left and right boundary
//     hence lose at most 1.5 pixels each per row and gain at most 2.5, plus max(0, |dx| - |dy|) / 2 for each shallow
//     edge; each further pair of edges in a row adds 2 * 2.5 pixels and what it takes from the rows counted with two,
//     together below 6 per edge and row.
// The argument treats one crossing at a time; several within one scanbeam are covered by trials, not by a proof.
AreaBounds bound_overlap(const StarSummary& a, const StarProfile& a_profile, const StarSummary& b,
                         const StarProfile& b_profile) {
    const std::int32_t row_begin = std::max(a.box.y_first, b.box.y_first);
    const std::int32_t row_end = std::min(a.box.y_last, b.box.y_last);
    const std::int32_t n_rows = std::max(row_end - row_begin, 0);
    const double sum = CELLRT_CALL(sum_of_common, a_profile.from(row_begin - a.box.y_first),
                                   b_profile.from(row_begin - b.box.y_first), static_cast<float>(b.x - a.x), n_rows);
    return bounds_around(sum, n_rows, a.slack_below + b.slack_below, a.slack_above + b.slack_above);
}

AreaBounds bound_enclosed(const StarSummary& small, const StarProfile& small_profile) {
    const auto n_rows = static_cast<std::int32_t>(small.box.height());
    double sum = 0;
    for (std::int32_t row = 0; row < n_rows; ++row)
        sum += static_cast<double>(small_profile.right[row] - small_profile.left[row]);
    return bounds_around(sum, n_rows, small.slack_below, small.slack_above);
}

Location locate(const VertexBox& box, const StarShape& polygon) {
    const std::int32_t* const y = polygon.vertices_y();
    const std::int32_t* const x = polygon.vertices_x();
    std::int32_t winding = 0;
    for (std::int32_t k = 0; k < polygon.n_vertices(); ++k) {
        // Farther than what rounding moves on either side; coordinates are below 2^30 + 2^21.
        const VertexBox edge{std::min(y[k], y[k + 1]) - 2, std::min(x[k], x[k + 1]) - 2, std::max(y[k], y[k + 1]) + 2,
                             std::max(x[k], x[k + 1]) + 2};
        if (edge.touches(box)) return Location::at_outline;
        // Edges that cross the line to the left of the box's first corner; those that reach it lie beside the box.
        const std::int32_t level = box.y_first;
        if ((y[k] <= level) == (y[k + 1] <= level)) continue;
        const std::int64_t rise = std::int64_t{y[k + 1]} - y[k], run = std::int64_t{x[k + 1]} - x[k];
        const std::int64_t side = (std::int64_t{box.x_first} - x[k]) * rise - run * (std::int64_t{level} - y[k]);
        if ((side > 0) == (rise > 0) && side != 0) winding += rise > 0 ? 1 : -1;
    }
    return winding != 0 ? Location::inside : Location::outside;
}

}  // namespace cellrt
