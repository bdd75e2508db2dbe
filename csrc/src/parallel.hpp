// parallel_for: split a range over threads. No OpenMP: it clashes with the host's own and with fork.
//
// The range is cut into grains that threads take from an atomic counter; the calling thread works too. Which thread
// runs a grain is not determined, so a body writes only to places that depend on the indices it is given: then the
// result does not depend on the number of threads. The first exception of a body stops the loop and is rethrown.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace cellrt {

// Cores this process may use; at least 1; found once per process. See cellrt_usable_cores().
int usable_cores() noexcept;

// 0 means every usable core.
inline int thread_count(int n_threads) noexcept { return n_threads > 0 ? n_threads : usable_cores(); }

// Calls body(begin, end) for consecutive pieces of [0, n) of at most `grain` elements each.
template <typename Body>
void parallel_for(std::int64_t n, std::int64_t grain, int n_threads, const Body& body) {
    if (n <= 0) return;
    grain = std::max<std::int64_t>(grain, 1);
    const std::int64_t n_grains = (n - 1) / grain + 1;
    const auto n_workers = static_cast<int>(std::min<std::int64_t>(thread_count(n_threads), n_grains));
    if (n_workers == 1) {
        for (std::int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(begin + grain, n));
        return;
    }

    std::atomic<std::int64_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const auto work = [&] {
        try {
            for (;;) {
                const std::int64_t index = next.fetch_add(1, std::memory_order_relaxed);
                if (index >= n_grains) return;
                const std::int64_t begin = index * grain;
                body(begin, std::min(begin + grain, n));
            }
        } catch (...) {
            next.store(n_grains, std::memory_order_relaxed);
            const std::lock_guard<std::mutex> lock(failure_mutex);
            if (!failure) failure = std::current_exception();
        }
    };

    std::vector<std::thread> workers;
    workers.reserve(static_cast<std::size_t>(n_workers - 1));
    for (int i = 1; i < n_workers; ++i) {
        try {
            workers.emplace_back(work);
        } catch (...) {  // threads that have started must be joined, so nothing may leave here
            break;       // no thread or no memory to be had: the ones that started, and this one, do the rest
        }
    }
    work();
    for (std::thread& worker : workers) worker.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace cellrt
