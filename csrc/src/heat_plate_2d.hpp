// Heat on a piece of a mask, pixel by pixel: where it is, and how one step of diffusion spreads it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace cellrt {

// Pixels x_begin..x_end of a row.
struct Run {
    std::int32_t y, x_begin, x_end;
};

// Pixels y_begin..y_end of rows, x_begin..x_end of columns; half open.
struct Box {
    std::int32_t y_begin, x_begin, y_end, x_end;

    std::int64_t height() const noexcept { return std::int64_t{y_end} - y_begin; }
    std::int64_t width() const noexcept { return std::int64_t{x_end} - x_begin; }
    bool is_empty() const noexcept { return y_begin >= y_end || x_begin >= x_end; }
    bool contains(std::int32_t y, std::int32_t x) const noexcept {
        return y >= y_begin && y < y_end && x >= x_begin && x < x_end;
    }
};

// The pixels of both boxes.
inline Box intersection(const Box& a, const Box& b) noexcept {
    return {std::max(a.y_begin, b.y_begin), std::max(a.x_begin, b.x_begin), std::min(a.y_end, b.y_end),
            std::min(a.x_end, b.x_end)};
}

// The pixels of `outer` within `distance` rows and columns of `inner`, which lies inside it.
inline Box expanded(const Box& inner, std::int64_t distance, const Box& outer) noexcept {
    const auto clamped = [](std::int64_t value, std::int32_t low, std::int32_t high) {
        return static_cast<std::int32_t>(std::min(std::max(value, std::int64_t{low}), std::int64_t{high}));
    };
    return {clamped(inner.y_begin - distance, outer.y_begin, outer.y_end),
            clamped(inner.x_begin - distance, outer.x_begin, outer.x_end),
            clamped(inner.y_end + distance, outer.y_begin, outer.y_end),
            clamped(inner.x_end + distance, outer.x_begin, outer.x_end)};
}

// The heat of every pixel of a box, in double precision, with a margin of one pixel or more that stays 0.
//
//   a row:  | 4 of margin | width, rounded up to a multiple of 4 |, then the next row, whose margin closes this one
//   rows:   | 1 of margin | height, rounded up to a multiple of 2 | 1 of margin |
class HeatField {
public:
    // A field of this box, with the same memory if it is large enough. Nothing is set to 0: see clear().
    void reset(const Box& box);

    // Rows y_begin..y_end become 0, and those of the margin that are next to them.
    void clear(std::int32_t y_begin, std::int32_t y_end);
    void clear() { clear(box_.y_begin, box_.y_end); }

    // Copies the pixels of a box that both fields have.
    void copy_from(const HeatField& other, const Box& box);

    const Box& box() const noexcept { return box_; }
    std::int64_t pitch() const noexcept { return pitch_; }
    static std::int64_t pitch_of(const Box& box) noexcept { return (box.width() + 3) / 4 * 4 + 4; }
    double* at(std::int32_t y, std::int32_t x) noexcept { return first_ + offset(y, x); }
    const double* at(std::int32_t y, std::int32_t x) const noexcept { return first_ + offset(y, x); }

private:
    std::int64_t offset(std::int32_t y, std::int32_t x) const noexcept {
        return (std::int64_t{y} - box_.y_begin + 1) * pitch_ + (std::int64_t{x} - box_.x_begin + 4);
    }

    Box box_{};
    std::int64_t n_rows_ = 0;  // with the margin
    std::int64_t pitch_ = 0;
    std::size_t capacity_ = 0;
    std::unique_ptr<double[]> storage_;
    double* first_ = nullptr;  // at a multiple of 32 bytes
};

// How a step averages 3 x 3 pixels: the two differ in the last bit.
enum class Average { times_a_ninth, divided_by_nine };

// The pixels of a mask inside a box, arranged for speed: in blocks of 2 rows by 4 pixels, of which at least one is in
// the mask, those near the middle first. A step takes time for these blocks, not for the box.
class HeatPlate {
public:
    HeatPlate() = default;  // no pixels

    // runs first..last: of one mask, by rows; what lies outside the box is left out. `middle` lies in the box, which
    // has at most 2^24 pixels.
    HeatPlate(const Run* first, const Run* last, const Box& box, const Box& middle, Average average);

    // One step, for all pixels within `distance` rows and columns of the middle at least: next = the average over 3 x 3
    // pixels of heat where the mask is; 0 elsewhere in its blocks. Both fields have the box of the plate.
    void step(const HeatField& heat, HeatField& next, std::int64_t distance) const;

    struct Block {
        std::int32_t offset;     // of its first pixel in a field, from the first pixel of the box on
        std::uint8_t inside[2];  // which pixels of each row are in the mask: a bit each, the first the lowest
    };

private:
    static constexpr std::int32_t n_rings = 32;

    Average average_ = Average::times_a_ninth;
    std::int32_t ring_width_ = 1;                          // pixels; blocks are sorted by rings around the middle
    std::array<std::int32_t, n_rings + 1> ring_ends_ = {};  // blocks up to the end of each ring; the last: of all
    std::vector<Block> blocks_;
};

}  // namespace cellrt
