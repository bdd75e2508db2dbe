// Seeds of masks: the order in which they are painted, and the labels of what they became.
#include "mask_seeds.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace cellrt {
namespace {

const Seed* median_of(const Seed* a, const Seed* b, const Seed* c) {
    if (a->count < b->count) return b->count < c->count ? b : a->count < c->count ? c : a;
    return a->count < c->count ? a : b->count < c->count ? c : b;
}

// The partitions of introsort (Musser, 1997) down to pieces of 16.
void split(Seed* begin, Seed* end, int depth) {
    while (end - begin > 16 && depth-- > 0) {
        std::iter_swap(begin, begin + (median_of(begin + 1, begin + (end - begin) / 2, end - 1) - begin));
        const std::int32_t pivot = begin->count;
        Seed* low = begin + 1;
        Seed* high = end;
        for (;; ++low) {
            while (low->count < pivot) ++low;
            do --high;
            while (high->count > pivot);
            if (low >= high) break;
            std::iter_swap(low, high);
        }
        split(low, end, depth);
        end = low;
    }
}

// The labels of masks in the order in which they appear, 0 for those of more than `most_pixels`. masks: n numbers of
// masks, 0 for none, in the order of the pixels.
std::int32_t number_masks(const std::vector<std::int32_t>& masks, std::size_t n_masks, double most_pixels,
                          std::vector<std::int32_t>& label_of_mask) {
    std::vector<std::int64_t> areas(n_masks + 1);
    std::vector<std::int32_t> order;
    for (std::size_t begin = 0; begin < masks.size();) {
        const std::int32_t mask = masks[begin];
        std::size_t end = begin;
        do ++end;
        while (end < masks.size() && masks[end] == mask);
        std::int64_t& area = areas[static_cast<std::size_t>(mask)];
        if (area == 0 && mask != 0) order.push_back(mask);
        area += static_cast<std::int64_t>(end - begin);
        begin = end;
    }
    std::int32_t n_labels = 0;
    label_of_mask.assign(n_masks + 1, 0);
    for (const std::int32_t mask : order) {
        const auto index = static_cast<std::size_t>(mask);
        if (static_cast<double>(areas[index]) <= most_pixels) label_of_mask[index] = ++n_labels;
    }
    return n_labels;
}

}  // namespace

// By ascending count, so that a larger one overwrites.
//
// Which of equal seeds comes later shows where they touch, and upstream leaves that to torch's argsort: for fewer than
// 2^15 numbers the std::sort of GNU's C++ library, from there on a stable radix sort (torch 2.13 on a Linux CPU). That
// std::sort is an introsort whose last step, insertion, is stable, so doing the same partitions before a stable sort
// gives the same order, and does so everywhere. Where the partitions go too deep it changes over to a heap, which is
// left out: it takes counts arranged against it.
void sort_seeds(std::vector<Seed>& seeds) {
    constexpr std::size_t fewest_of_radix_sort = 1 << 15;
    if (seeds.size() > 1 && seeds.size() < fewest_of_radix_sort) {
        int depth = 0;  // twice the logarithm, rounded down
        for (std::size_t size = seeds.size(); size > 1; size /= 2) depth += 2;
        split(seeds.data(), seeds.data() + seeds.size(), depth);
    }
    std::stable_sort(seeds.begin(), seeds.end(), [](const Seed& a, const Seed& b) { return a.count < b.count; });
}

std::int32_t write_masks(const std::vector<std::int32_t>& masks, std::size_t n_masks, const std::int64_t* pixels,
                         std::int64_t n_pixels, double max_size_fraction, int n_threads, std::int32_t* labels) {
    constexpr std::int64_t pixels_per_grain = 1 << 16;
    std::vector<std::int32_t> label_of_mask;
    const double most_pixels = static_cast<double>(n_pixels) * max_size_fraction;
    const std::int32_t n_labels = number_masks(masks, n_masks, most_pixels, label_of_mask);

    // Each piece writes its pixels and what lies before them, the last also the rest.
    const auto n = static_cast<std::int64_t>(masks.size());
    parallel_for(n, pixels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::int64_t next = begin == 0 ? 0 : pixels[begin - 1] + 1;
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t pixel = pixels[i];
            if (next < pixel) std::fill(labels + next, labels + pixel, 0);
            labels[pixel] = label_of_mask[static_cast<std::size_t>(masks[static_cast<std::size_t>(i)])];
            next = pixel + 1;
        }
        if (end == n) std::fill(labels + next, labels + n_pixels, 0);
    });
    return n_labels;
}

}  // namespace cellrt
