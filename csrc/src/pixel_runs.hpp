// Pixel runs: visit every pixel of a strided image once, in the order of memory as far as possible.
//
// A planar image, a view of interleaved RGB, a flipped or a transposed one: all become long runs of pixels at a
// constant step. For work in which the order of the pixels does not matter, such as a histogram.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace cellrt {

// An image at arbitrary strides: n[k] >= 1 pixels at stride[k] elements along each of channel, y and x.
template <typename Pixel>
struct StridedImage {
    const Pixel* first;
    std::int64_t n[3];
    std::int64_t stride[3];
};

template <typename Pixel>
class PixelRuns {
public:
    explicit PixelRuns(const StridedImage<Pixel>& image) : first_(image.first) {
        for (int axis = 0; axis < 3; ++axis) {
            n_[axis] = image.n[axis];
            stride_[axis] = n_[axis] == 1 ? 0 : image.stride[axis];
            if (stride_[axis] < 0) {  // start at the other end
                first_ += (n_[axis] - 1) * stride_[axis];
                stride_[axis] = -stride_[axis];
            }
        }
        // Slowest axis first, those of one pixel out of the way in front.
        const auto order = [this](int a, int b) {
            const bool is_later = n_[a] > 1 && (n_[b] == 1 || stride_[a] < stride_[b]);
            if (is_later) {
                std::swap(n_[a], n_[b]);
                std::swap(stride_[a], stride_[b]);
            }
        };
        order(0, 1);
        order(1, 2);
        order(0, 1);
        // An axis that continues where the next faster one ends is the same run.
        merge(1, 2);
        merge(0, 1);
        merge(1, 2);
    }

    std::int64_t size() const { return n_[0] * n_[1] * n_[2]; }

    // Calls visit(pixels, count, step) for runs that make up the pixels begin..end of the image in memory order.
    template <typename Visit>
    void for_each(std::int64_t begin, std::int64_t end, const Visit& visit) const {
        while (begin < end) {
            const std::int64_t fast = begin % n_[2];
            const std::int64_t middle = begin / n_[2] % n_[1];
            const std::int64_t slow = begin / n_[2] / n_[1];
            const std::int64_t count = std::min(n_[2] - fast, end - begin);
            visit(first_ + slow * stride_[0] + middle * stride_[1] + fast * stride_[2], count, stride_[2]);
            begin += count;
        }
    }

private:
    void merge(int slow, int fast) {
        if (n_[slow] == 1 || (n_[fast] > 1 && stride_[slow] != n_[fast] * stride_[fast])) return;
        if (n_[fast] == 1) stride_[fast] = stride_[slow];
        n_[fast] *= n_[slow];
        n_[slow] = 1;
    }

    const Pixel* first_;
    std::int64_t n_[3];
    std::int64_t stride_[3];
};

}  // namespace cellrt
