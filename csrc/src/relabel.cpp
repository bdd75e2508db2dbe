// relabel: mark the labels that occur, number them in ascending order, replace every pixel.
#include "relabel.hpp"

#include <algorithm>
#include <mutex>
#include <vector>

#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {

void relabel(const std::int32_t* labels, std::int64_t n_pixels, std::int32_t max_label, int n_threads,
             std::int32_t* table, std::int32_t* relabelled, std::int32_t* n_labels) {
    const auto n_entries = static_cast<std::int64_t>(max_label) + 1;
    std::fill(table, table + n_entries, 0);

    // Every piece marks in a bitmap of its own: not worth it for fewer pixels than entries.
    std::mutex table_mutex;
    const std::int64_t per_thread = (n_pixels - 1) / thread_count(n_threads) + 1;
    parallel_for(n_pixels, std::max(per_thread, n_entries), n_threads, [&](std::int64_t begin, std::int64_t end) {
        std::vector<bool> occurs(static_cast<std::size_t>(n_entries));
        std::int32_t last = 0;  // neighbours are mostly equal
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int32_t label = labels[i];
            if (label == last) continue;
            require(label >= 0 && label <= max_label);
            occurs[static_cast<std::size_t>(label)] = true;
            last = label;
        }
        const std::lock_guard<std::mutex> lock(table_mutex);
        for (std::int64_t label = 1; label < n_entries; ++label) {
            if (occurs[static_cast<std::size_t>(label)]) table[label] = 1;
        }
    });

    std::int32_t count = 0;
    for (std::int64_t label = 1; label < n_entries; ++label) {
        if (table[label] != 0) table[label] = ++count;
    }
    *n_labels = count;

    constexpr std::int64_t pixels_per_grain = 1 << 16;
    parallel_for(n_pixels, pixels_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) relabelled[i] = table[labels[i]];
    });
}

}  // namespace cellrt
