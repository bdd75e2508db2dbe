// The quota of a container, from files as Linux has them. The source is included: what is tested is not for others.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "../src/cores.cpp"
#include "check.h"

#if defined(__linux__)

namespace {

void write(const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
}

// The quota of a process in the groups that `groups` lists, in whole cores.
int quota(const std::filesystem::path& root, const std::string& groups) {
    write(root / "groups", groups);
    return cellrt::quota_cores(root / "groups", root);
}

}  // namespace

int main() {
    std::string folder = (std::filesystem::temp_directory_path() / "cellrt_cores_XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) return 1;
    const std::filesystem::path root = folder;

    // Version 2: the smallest quota of the group and those around it, rounded up to whole cores.
    write(root / "pod/cpu.max", "350000 100000\n");
    write(root / "pod/box/cpu.max", "max 100000\n");
    CHECK(quota(root, "0::/pod/box\n") == 4);
    write(root / "pod/box/cpu.max", "150000 100000\n");
    CHECK(quota(root, "0::/pod/box\n") == 2);
    CHECK(quota(root, "0::/pod\n") == 4);
    CHECK(quota(root, "0::/\n") == 0);
    // Inside a container its own group is the root, whatever path the host has for it.
    write(root / "cpu.max", "50000 100000\n");
    CHECK(quota(root, "0::/not/here\n") == 1);
    std::filesystem::remove(root / "cpu.max");

    // Version 1: -1 is no quota; only the line of the controller "cpu" counts.
    write(root / "cpu/box/cpu.cfs_quota_us", "-1\n");
    write(root / "cpu/box/cpu.cfs_period_us", "100000\n");
    CHECK(quota(root, "4:cpu,cpuacct:/box\n") == 0);
    write(root / "cpu/box/cpu.cfs_quota_us", "250000\n");
    CHECK(quota(root, "4:cpu,cpuacct:/box\n") == 3);
    CHECK(quota(root, "5:cpuset:/box\n7:memory:/box\n") == 0);
    CHECK(quota(root, "4:cpu,cpuacct:/box\n0::/pod/box\n") == 2);

    // What is no such file says nothing.
    write(root / "cpu/box/cpu.cfs_quota_us", "lots\n");
    CHECK(quota(root, "4:cpu:/box\nnonsense\n:\n") == 0);
    CHECK(cellrt::quota_cores(root / "missing", root) == 0);

    CHECK(cellrt::affinity_cores() >= 1);
    std::filesystem::remove_all(root);
    return n_failed != 0;
}

#else

int main() { return cellrt::usable_cores() >= 1 ? 0 : 1; }

#endif
