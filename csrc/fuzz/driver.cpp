// A stand-in for libFuzzer: feeds a target `count` random inputs (always the same ones), or the files that are named.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size);

int main(int n_arguments, char** arguments) {
    char* end = nullptr;
    const long count = n_arguments == 2 ? std::strtol(arguments[1], &end, 10) : 0;
    if (end != nullptr && *end == '\0') {
        std::mt19937 random(1);
        for (long i = 0; i < count; ++i) {
            std::vector<std::uint8_t> bytes(random() % 4096);
            for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
            LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
        }
        return 0;
    }
    for (int i = 1; i < n_arguments; ++i) {
        std::ifstream file(arguments[i], std::ios::binary);
        if (!file) {
            std::fprintf(stderr, "expected a number of inputs or files, got %s\n", arguments[i]);
            return 1;
        }
        const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    }
    return 0;
}
