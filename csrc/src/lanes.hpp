// Four float32 numbers side by side: one instruction each where the compiler has vectors, the same results where not.
#pragma once

#include <cstdint>

namespace cellrt {

constexpr int lanes = 4;

#if defined(__GNUC__) || defined(__clang__)
typedef float Lanes __attribute__((vector_size(16)));
typedef std::int32_t WholeLanes __attribute__((vector_size(16)));

inline Lanes smaller_of(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes larger_of(Lanes a, Lanes b) { return a < b ? b : a; }
inline Lanes magnitude_of(Lanes a) { return a < 0.0F ? -a : a; }
inline Lanes with_sign_of(Lanes magnitude, Lanes a) { return a < 0.0F ? -magnitude : magnitude; }
inline Lanes all_lanes(float value) { return Lanes{value, value, value, value}; }
inline WholeLanes truncated(Lanes a) { return __builtin_convertvector(a, WholeLanes); }
#else
template <typename Number>
struct NumberLanes {
    Number values[lanes];
    Number operator[](int i) const { return values[i]; }
    Number& operator[](int i) { return values[i]; }
};
using Lanes = NumberLanes<float>;
using WholeLanes = NumberLanes<std::int32_t>;

template <typename Operation>
Lanes each_lane(const Operation& operation) {
    Lanes result;
    for (int i = 0; i < lanes; ++i) result[i] = operation(i);
    return result;
}
inline Lanes operator+(Lanes a, Lanes b) { return each_lane([&](int i) { return a[i] + b[i]; }); }
inline Lanes operator-(Lanes a, Lanes b) { return each_lane([&](int i) { return a[i] - b[i]; }); }
inline Lanes operator*(Lanes a, Lanes b) { return each_lane([&](int i) { return a[i] * b[i]; }); }
inline Lanes operator/(Lanes a, Lanes b) { return each_lane([&](int i) { return a[i] / b[i]; }); }
inline Lanes operator-(Lanes a) { return each_lane([&](int i) { return -a[i]; }); }
inline Lanes smaller_of(Lanes a, Lanes b) { return each_lane([&](int i) { return a[i] < b[i] ? a[i] : b[i]; }); }
inline Lanes larger_of(Lanes a, Lanes b) { return each_lane([&](int i) { return a[i] < b[i] ? b[i] : a[i]; }); }
inline Lanes magnitude_of(Lanes a) { return each_lane([&](int i) { return a[i] < 0 ? -a[i] : a[i]; }); }
inline Lanes with_sign_of(Lanes magnitude, Lanes a) {
    return each_lane([&](int i) { return a[i] < 0 ? -magnitude[i] : magnitude[i]; });
}
inline Lanes all_lanes(float value) {
    return each_lane([&](int) { return value; });
}
inline WholeLanes truncated(Lanes a) {
    WholeLanes result;
    for (int i = 0; i < lanes; ++i) result[i] = static_cast<std::int32_t>(a[i]);
    return result;
}
#endif

}  // namespace cellrt
