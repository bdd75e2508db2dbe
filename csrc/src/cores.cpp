// usable_cores: how many cores this process may use, not how many the machine has.
//
// Finding out reads a handful of files, as long as the suppression of a small image takes: it is done once.
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#endif
#if defined(__linux__)
#include <sched.h>

#include <cstdio>
#include <string>
#endif

#include <algorithm>
#include <thread>

#include "parallel.hpp"

namespace cellrt {
namespace {

int machine_cores() noexcept {
#if defined(_WIN32)
    const int count = static_cast<int>(GetActiveProcessorCount(ALL_PROCESSOR_GROUPS));
#else
    const int count = static_cast<int>(std::thread::hardware_concurrency());
#endif
    return std::max(count, 1);
}

#if defined(__linux__)

// The cores in the affinity mask; 0 if the system does not tell. A machine may have more than a cpu_set_t holds.
int affinity_cores() {
    for (int n_cores = 1024; n_cores <= (1 << 20); n_cores *= 4) {
        cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(n_cores));
        if (set == nullptr) return 0;
        const std::size_t size = CPU_ALLOC_SIZE(static_cast<std::size_t>(n_cores));
        const bool is_known = sched_getaffinity(0, size, set) == 0;
        const int count = is_known ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (is_known) return count;
    }
    return 0;
}

// The first line of a file, or nothing.
std::string first_line(const std::string& path) {
    std::FILE* const file = std::fopen(path.c_str(), "r");
    if (file == nullptr) return "";
    char line[4096] = "";
    const bool is_read = std::fgets(line, sizeof line, file) != nullptr;
    std::fclose(file);
    return is_read ? std::string(line) : "";
}

// A quota of `quota` microseconds in each `period` as whole cores, rounded up; 0 for no quota.
int cores_of_quota(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return 0;
    return static_cast<int>(std::min<long long>((quota - 1) / period + 1, 1 << 20));
}

// The quota of one control group (version 2: "max 100000" or "50000 100000"); 0 for no quota.
int group_quota_v2(const std::string& folder) {
    long long quota = 0;
    long long period = 0;
    const std::string line = first_line(folder + "/cpu.max");
    return std::sscanf(line.c_str(), "%lld %lld", &quota, &period) == 2 ? cores_of_quota(quota, period) : 0;
}

// The same for version 1: -1 is no quota.
int group_quota_v1(const std::string& folder) {
    long long quota = 0;
    long long period = 0;
    const bool is_read = std::sscanf(first_line(folder + "/cpu.cfs_quota_us").c_str(), "%lld", &quota) == 1 &&
                         std::sscanf(first_line(folder + "/cpu.cfs_period_us").c_str(), "%lld", &period) == 1;
    return is_read ? cores_of_quota(quota, period) : 0;
}

// The smallest quota of a control group and all the groups around it; 0 for none. Inside a container the path may be
// that of the host, which is not there; the container's own group is then the root.
int smallest_quota(const std::string& root, std::string path, int (*group_quota)(const std::string&)) {
    int smallest = 0;
    for (;;) {
        const int quota = group_quota(root + path);
        if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
        const std::size_t slash = path.rfind('/');
        if (slash == std::string::npos) return smallest;
        path.resize(slash);
    }
}

// The container's CPU quota in whole cores; 0 for none. `groups` is a file that lists the process's control groups,
// as /proc/self/cgroup does, `root` the folder where they are mounted.
int quota_cores(const std::string& groups, const std::string& root) {
    int smallest = 0;
    const auto consider = [&smallest](int quota) {
        if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
    };
    std::FILE* const file = std::fopen(groups.c_str(), "r");
    if (file == nullptr) return 0;
    // Lines "0::/path" (version 2) and "4:cpu,cpuacct:/path" (version 1).
    char line[4096];
    while (std::fgets(line, sizeof line, file) != nullptr) {
        const std::string text(line, std::string(line).find_last_not_of("\n") + 1);
        const std::size_t first = text.find(':');
        const std::size_t second = first == std::string::npos ? first : text.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + text.substr(first + 1, second - first - 1) + ",";
        const std::string path = text.substr(second + 1);
        if (controllers == ",,") consider(smallest_quota(root, path, group_quota_v2));
        if (controllers.find(",cpu,") != std::string::npos) {
            consider(smallest_quota(root + "/cpu", path, group_quota_v1));
        }
    }
    std::fclose(file);
    return smallest;
}

#endif

int find_usable_cores() noexcept {
    int count = machine_cores();
#if defined(__linux__)
    try {
        const int affinity = affinity_cores();
        const int quota = quota_cores("/proc/self/cgroup", "/sys/fs/cgroup");
        if (affinity > 0) count = affinity;
        if (quota > 0) count = std::min(count, quota);
    } catch (...) {
        return count;  // no memory for a path: the machine's count will do
    }
#endif
    return count;
}

}  // namespace

int usable_cores() noexcept {
    static const int count = find_usable_cores();
    return count;
}

}  // namespace cellrt
