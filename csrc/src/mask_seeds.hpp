// Seeds of masks: what is the same in two and three dimensions. See flow_masks_2d.cpp.
#pragma once

#include <cstdint>
#include <vector>

namespace cellrt {

constexpr std::int64_t margin_of_histogram = 20;  // upstream's: positions further out are moved to its edge
constexpr std::int32_t smallest_seed = 11;        // pixels that must end in a bin to make it a seed
constexpr std::int32_t smallest_grown = 3;        // and in one that a seed grows into

struct Seed {
    std::int32_t count;
    std::int64_t bin;
};

// Puts seeds, given in row-major order, into the order in which they are painted.
void sort_seeds(std::vector<Seed>& seeds);

// Writes the labels of all pixels of an image or a volume, and returns how many there are: masks in the order in which
// they appear, without those of more than the fraction. masks: the number of the mask, 1..n_masks, that each of
// `pixels` (ascending flat indices) is in, or 0.
std::int32_t write_masks(const std::vector<std::int32_t>& masks, std::size_t n_masks, const std::int64_t* pixels,
                         std::int64_t n_pixels, double max_size_fraction, int n_threads, std::int32_t* labels);

}  // namespace cellrt
