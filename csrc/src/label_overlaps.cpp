// label_overlaps: two label images -> pairs of labels (n, 2) that share pixels, ascending, and how many pixels each.
//
// Pieces of the images count on their own, run by run: a hash table is asked only where one of the two labels changes.
// All counts are integers, so adding the pieces together gives the same result however many there are.
#include "label_overlaps.hpp"

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

struct Overlap {
    std::uint64_t pair = 0;  // the true label in the upper half, the predicted one in the lower
    std::int64_t count = 0;  // 0: an empty slot of the table
};

// Counts by pair. Open addressing, at most half full, so that a search ends after a few slots.
class OverlapTable {
public:
    void add(std::uint64_t pair, std::int64_t count) {
        if (2 * n_used_ >= slots_.size()) grow();
        Overlap& slot = slot_of(pair);
        if (slot.count == 0) ++n_used_;
        slot.pair = pair;
        slot.count += count;
    }

    void append_to(std::vector<Overlap>& found) const {
        for (const Overlap& slot : slots_) {
            if (slot.count > 0) found.push_back(slot);
        }
    }

private:
    Overlap& slot_of(std::uint64_t pair) {
        // Two rounds of multiplying and folding: labels differ in a few low bits of either half, slots should in all.
        std::uint64_t hash = pair;
        for (int round = 0; round < 2; ++round) hash = (hash ^ (hash >> 32)) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 32;
        std::size_t at = static_cast<std::size_t>(hash) & (slots_.size() - 1);
        while (slots_[at].count != 0 && slots_[at].pair != pair) at = (at + 1) & (slots_.size() - 1);
        return slots_[at];
    }

    void grow() {
        std::vector<Overlap> smaller(std::max<std::size_t>(2 * slots_.size(), 1024));
        smaller.swap(slots_);
        for (const Overlap& old : smaller) {
            if (old.count > 0) slot_of(old.pair) = old;
        }
    }

    std::vector<Overlap> slots_;  // a power of 2
    std::size_t n_used_ = 0;
};

// Sorts by pair and adds up what several pieces counted of the same one.
void merge(std::vector<Overlap>& overlaps) {
    std::sort(overlaps.begin(), overlaps.end(), [](const Overlap& a, const Overlap& b) { return a.pair < b.pair; });
    std::size_t n = 0;
    for (const Overlap& overlap : overlaps) {
        if (n > 0 && overlaps[n - 1].pair == overlap.pair) {
            overlaps[n - 1].count += overlap.count;
        } else {
            overlaps[n++] = overlap;
        }
    }
    overlaps.resize(n);
}

}  // namespace

void label_overlaps(const std::int32_t* truth, const std::int32_t* predicted, std::int64_t n_pixels,
                    std::int64_t capacity, int n_threads, std::int64_t* n_pairs, std::int32_t* pairs,
                    std::int64_t* counts) {
    std::vector<Overlap> overlaps;
    std::mutex overlaps_mutex;
    constexpr std::int64_t pixels_worthwhile = 1 << 18;  // of a thread: the tables are merged one after the other
    const std::int64_t per_thread = (n_pixels - 1) / thread_count(n_threads) + 1;
    parallel_for(n_pixels, std::max(per_thread, pixels_worthwhile), n_threads, [&](std::int64_t begin, std::int64_t end) {
        OverlapTable table;
        for (std::int64_t i = begin; i < end;) {
            const std::int32_t true_label = truth[i], predicted_label = predicted[i];
            require(true_label >= 0 && predicted_label >= 0);
            const std::int64_t run_begin = i;
            do ++i;
            while (i < end && truth[i] == true_label && predicted[i] == predicted_label);
            const auto high = static_cast<std::uint64_t>(true_label), low = static_cast<std::uint64_t>(predicted_label);
            table.add(high << 32 | low, i - run_begin);
        }
        const std::lock_guard<std::mutex> lock(overlaps_mutex);
        table.append_to(overlaps);
    });
    merge(overlaps);

    *n_pairs = static_cast<std::int64_t>(overlaps.size());
    require(*n_pairs <= capacity, CELLRT_ERROR_CAPACITY);
    for (std::size_t i = 0; i < overlaps.size(); ++i) {
        pairs[2 * i] = static_cast<std::int32_t>(overlaps[i].pair >> 32);
        pairs[2 * i + 1] = static_cast<std::int32_t>(overlaps[i].pair & UINT32_MAX);
        counts[i] = overlaps[i].count;
    }
}

}  // namespace cellrt
