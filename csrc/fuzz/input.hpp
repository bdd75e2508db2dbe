// Input: turns the bytes of a fuzzer into numbers, arrays and parameters. Reads zeros once the bytes are used up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

class Input {
public:
    Input(const std::uint8_t* bytes, std::size_t size) : bytes_(bytes), left_(size) {}

    template <typename Number>
    Number any() {
        Number value{};
        const std::size_t n = std::min(left_, sizeof value);
        if (n > 0) std::memcpy(&value, bytes_, n);
        bytes_ += n;
        left_ -= n;
        return value;
    }

    // An integer in [smallest, largest].
    std::int64_t between(std::int64_t smallest, std::int64_t largest) {
        return smallest + any<std::uint16_t>() % (largest - smallest + 1);
    }

    // One time in 64 any bits at all (NaN, infinity, huge), else a multiple of 1/16 in [smallest, smallest + span].
    float number(int smallest, int span) {
        const auto kind = any<std::uint8_t>();
        if (kind % 64 == 0) return any<float>();
        return static_cast<float>(smallest) + static_cast<float>(any<std::uint16_t>() % (16 * span + 1)) / 16.0f;
    }

    std::vector<float> numbers(std::int64_t n, int smallest, int span) {
        std::vector<float> values(static_cast<std::size_t>(n));
        for (float& value : values) value = number(smallest, span);
        return values;
    }

private:
    const std::uint8_t* bytes_;
    std::size_t left_;
};

// Ends the program where the fuzzer sees it.
inline void expect(bool condition) {
    if (!condition) std::abort();
}
