// The masks of a label image one by one: their pixels, where each is centred, and the piece that its centre is in.
#pragma once

#include <cstdint>
#include <vector>

#include "heat_plate_2d.hpp"

namespace cellrt {

struct Mask {
    std::int32_t label;
    std::int32_t centre_y, centre_x;  // the pixel from which heat spreads
    std::int64_t area;                // pixels
    Box box;
    Box piece;         // box of the pixels that are connected, over edges or corners, with the centre
    const Run* first;  // runs first..last, by rows
    const Run* last;
};

class MaskPieces {
public:
    // labels: n_y * n_x in 0..n_labels; dynamics: the rule for centres. Throws Failure.
    MaskPieces(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
               std::int32_t dynamics, int n_threads);

    // Those that occur, in ascending order of label.
    const std::vector<Mask>& masks() const noexcept { return masks_; }

private:
    std::vector<Run> runs_;
    std::vector<Mask> masks_;
};

}  // namespace cellrt
