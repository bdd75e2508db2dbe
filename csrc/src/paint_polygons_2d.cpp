// paint_polygons_2d: coords (m, 2) y, x in pixels -> labels (Y, X).
//
// The rule is a point test (O'Rourke, Computational Geometry in C, 2nd edition, section 7.4; skimage.draw.polygon
// applies it to every pixel of the bounding box). It counts the edges that cross the pixel's row to its right and to
// its left, with different half-open rules at vertices: both odd is inside, one odd is on an edge.
//
// The counts change along a row only where an edge crosses it. So each edge notes its crossing in every row that it
// meets, each row is filled between its sorted crossings, and the point test is left with the pixels that lie so close
// to a crossing that rounding decides: at most one pixel per crossing. The pixels are exactly those of the point test.
#include "paint_polygons_2d.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr double largest_coordinate = 1099511627776.0;  // 2^40 pixels

// Half the width of the strip around a crossing in which the point test decides. Each of its operations and of ours
// rounds by 2^-53 of a length up to 2^42 (two coordinates and a pixel); 2^-5 is far above the sum of such errors, and
// above vertex_tolerance; and being below 1/2 it leaves one pixel per crossing.
constexpr double margin = 0.03125;

constexpr double vertex_tolerance = 1e-12;  // a pixel centre so close to a vertex in y and in x is on it

// Rounding of numbers below 2^62, inline where the library would be called.
std::int64_t floor_of(double value) {
    const auto towards_zero = static_cast<std::int64_t>(value);
    return towards_zero - (static_cast<double>(towards_zero) > value ? 1 : 0);
}
std::int64_t ceil_of(double value) { return -floor_of(-value); }
std::int64_t nearest_to(double value) { return floor_of(value + 0.5); }

// A polygon: (y, x) pairs of float32.
struct Polygon {
    const float* vertices;
    std::int64_t n;

    double y(std::int64_t i) const { return vertices[2 * i]; }
    double x(std::int64_t i) const { return vertices[2 * i + 1]; }
};

// The rule itself, operation by operation as skimage computes it, except for vertices: those are painted separately.
bool contains(const Polygon& polygon, double pixel_y, double pixel_x) {
    bool odd_right = false;
    bool odd_left = false;
    double x1 = polygon.x(polygon.n - 1) - pixel_x;
    double y1 = polygon.y(polygon.n - 1) - pixel_y;
    for (std::int64_t i = 0; i < polygon.n; ++i) {
        const double x0 = polygon.x(i) - pixel_x;
        const double y0 = polygon.y(i) - pixel_y;
        if ((y0 > 0) != (y1 > 0)) odd_right ^= (x0 * y1 - x1 * y0) / (y1 - y0) > 0;
        if ((y0 < 0) != (y1 < 0)) odd_left ^= (x0 * y1 - x1 * y0) / (y1 - y0) < 0;
        x1 = x0;
        y1 = y0;
    }
    return odd_right || odd_left;
}

// Rows or columns [begin, end).
struct Range {
    std::int64_t begin;
    std::int64_t end;
};

// Where an edge crosses a row, and which of the two counts change there.
struct Crossing {
    double x;
    int counts;  // 1: right, 2: left
};

// Paints polygons into a band of rows. Its scratch is reused from polygon to polygon.
class Painter {
public:
    Painter(std::int32_t* labels, std::int64_t n_x, const Range& band) : labels_(labels), n_x_(n_x), band_(band) {}

    // rows: those that the polygon touches, inside the band.
    void paint(const Polygon& polygon, const Range& rows, std::int32_t label) {
        constexpr std::int64_t rows_at_once = 256;  // bounds the scratch for polygons that fill the image
        for (std::int64_t begin = rows.begin; begin < rows.end; begin += rows_at_once) {
            const Range some{begin, std::min(begin + rows_at_once, rows.end)};
            collect_crossings(polygon, some);
            for (std::int64_t y = some.begin; y < some.end; ++y) {
                const auto row = static_cast<std::size_t>(y - some.begin);
                fill_row(polygon, y, crossings_.data() + first_[row], crossings_.data() + first_[row + 1], label);
            }
        }
        for (std::int64_t i = 0; i < polygon.n; ++i) paint_vertex(polygon.y(i), polygon.x(i), label);
    }

private:
    // Calls visit(row, counts) for the rows that an edge crosses.
    template <typename Visit>
    static void for_each_row(double y0, double y1, const Range& rows, const Visit& visit) {
        const double low = std::min(y0, y1);
        const double high = std::max(y0, y1);
        if (low == high) return;
        const std::int64_t begin = std::max(rows.begin, ceil_of(low));
        const std::int64_t end = std::min(rows.end, floor_of(high) + 1);
        for (std::int64_t row = begin; row < end; ++row) {
            const auto y = static_cast<double>(row);
            visit(row, (y < high ? 1 : 0) | (y > low ? 2 : 0));
        }
    }

    // crossings_[first_[r]] .. crossings_[first_[r + 1] - 1] become the crossings of row r of `rows`, sorted by x.
    void collect_crossings(const Polygon& polygon, const Range& rows) {
        const auto n_rows = static_cast<std::size_t>(rows.end - rows.begin);
        first_.assign(n_rows + 2, 0);  // one place further while filling: it ends up where it belongs
        for (std::int64_t i = 0, before = polygon.n - 1; i < polygon.n; before = i++) {
            for_each_row(polygon.y(before), polygon.y(i), rows, [&](std::int64_t row, int) {
                ++first_[static_cast<std::size_t>(row - rows.begin) + 2];
            });
        }
        for (std::size_t row = 2; row < first_.size(); ++row) first_[row] += first_[row - 1];
        crossings_.resize(first_.back());
        for (std::int64_t i = 0, before = polygon.n - 1; i < polygon.n; before = i++) {
            const double y0 = polygon.y(before);
            const double x0 = polygon.x(before);
            const double height = polygon.y(i) - y0;
            const double width = polygon.x(i) - x0;
            for_each_row(y0, polygon.y(i), rows, [&](std::int64_t row, int counts) {
                const double x = x0 + (static_cast<double>(row) - y0) / height * width;
                crossings_[first_[static_cast<std::size_t>(row - rows.begin) + 1]++] = {x, counts};
            });
        }
        for (std::size_t row = 0; row < n_rows; ++row) {
            std::sort(crossings_.begin() + first_[row], crossings_.begin() + first_[row + 1],
                      [](const Crossing& a, const Crossing& b) { return a.x < b.x; });
        }
    }

    void fill_row(const Polygon& polygon, std::int64_t y, const Crossing* crossing, const Crossing* end,
                  std::int32_t label) {
        std::int32_t* const row = labels_ + y * n_x_;
        std::int64_t next = 0;  // pixels before it are done
        int odd = 0;            // which counts are odd right of the crossings so far
        for (; crossing < end; ++crossing) {
            const std::int64_t column = nearest_to(crossing->x);
            if (column >= n_x_) break;
            if (column >= 0) {
                const double offset = static_cast<double>(column) - crossing->x;
                const bool is_close = std::abs(offset) <= margin;
                // The pixels left of the crossing, less one that is close.
                const std::int64_t left_end = is_close || offset > 0 ? column : column + 1;
                if (odd != 0 && left_end > next) std::fill(row + next, row + left_end, label);
                next = std::max(next, left_end);
                if (is_close && next == column) {
                    if (contains(polygon, static_cast<double>(y), static_cast<double>(column))) row[column] = label;
                    ++next;
                }
            }
            odd ^= crossing->counts;
        }
        if (odd != 0 && next < n_x_) std::fill(row + next, row + n_x_, label);
    }

    void paint_vertex(double y, double x, std::int32_t label) {
        const std::int64_t row = nearest_to(y);
        const std::int64_t column = nearest_to(x);
        const bool is_on_pixel = std::abs(y - static_cast<double>(row)) < vertex_tolerance &&
                                 std::abs(x - static_cast<double>(column)) < vertex_tolerance;
        if (is_on_pixel && row >= band_.begin && row < band_.end && column >= 0 && column < n_x_) {
            labels_[row * n_x_ + column] = label;
        }
    }

    std::int32_t* labels_;
    std::int64_t n_x_;
    Range band_;
    std::vector<std::size_t> first_;
    std::vector<Crossing> crossings_;
};

// The rows of the image that a polygon touches.
Range rows_of(const Polygon& polygon, std::int64_t n_y) {
    double low = largest_coordinate;
    double high = -largest_coordinate;
    for (std::int64_t i = 0; i < polygon.n; ++i) {
        // Written so that NaN fails.
        require(std::abs(polygon.y(i)) <= largest_coordinate, CELLRT_ERROR_DATA);
        require(std::abs(polygon.x(i)) <= largest_coordinate, CELLRT_ERROR_DATA);
        low = std::min(low, polygon.y(i));
        high = std::max(high, polygon.y(i));
    }
    return {std::max<std::int64_t>(0, floor_of(low)),
            std::min(n_y, ceil_of(high) + 1)};
}

}  // namespace

void paint_polygons_2d(const float* coords, const std::int64_t* offsets, const std::int64_t* order, std::int64_t n,
                       std::int64_t n_y, std::int64_t n_x, int n_threads, std::int32_t* labels) {
    const auto polygon_at = [&](std::int64_t i) {
        return Polygon{coords + 2 * offsets[i], offsets[i + 1] - offsets[i]};
    };
    std::vector<Range> rows(static_cast<std::size_t>(n));
    constexpr std::int64_t polygons_per_grain = 1024;
    parallel_for(n, polygons_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) rows[static_cast<std::size_t>(i)] = rows_of(polygon_at(i), n_y);
    });

    // Each band paints all of its polygons in order, so no two threads meet in a pixel. A few bands per thread balance
    // the load; more would look at every polygon once more.
    const int n_workers = thread_count(n_threads);
    const std::int64_t n_bands = n_workers == 1 ? 1 : 4 * static_cast<std::int64_t>(n_workers);
    const std::int64_t rows_per_band = std::max<std::int64_t>(64, (n_y - 1) / n_bands + 1);
    parallel_for(n_y, rows_per_band, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::fill(labels + begin * n_x, labels + end * n_x, 0);
        Painter painter(labels, n_x, {begin, end});
        for (std::int64_t position = 0; position < n; ++position) {
            const std::int64_t i = order[position];
            const Range& touched = rows[static_cast<std::size_t>(i)];
            const Range inside{std::max(touched.begin, begin), std::min(touched.end, end)};
            if (inside.begin < inside.end) painter.paint(polygon_at(i), inside, static_cast<std::int32_t>(i + 1));
        }
    });
}

}  // namespace cellrt
