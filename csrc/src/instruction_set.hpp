// Which instructions the hot loops may use on this machine. Every choice gives the same bytes.
#pragma once

#include <cstdlib>
#include <cstring>

// Where functions for AVX2 can be compiled beside the others: each carries CELLRT_TARGET_AVX2, in files that include
// <immintrin.h> under this condition. Not on Windows, where GCC does not align vectors on the stack.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(_WIN32)
#define CELLRT_HAS_AVX2 1
#define CELLRT_TARGET_AVX2 __attribute__((target("avx2,fma")))
#endif

// A function that becomes part of each caller, and so is compiled for the instructions that the caller may use.
#if defined(__GNUC__) || defined(__clang__)
#define CELLRT_INLINE inline __attribute__((always_inline))
#else
#define CELLRT_INLINE inline
#endif

namespace cellrt {

// Whether the processor has AVX2 and fused multiply-add, and functions are compiled for them; found once per process.
// CELLRT_SIMD=baseline in the environment says no, so that tests see what machines without them compute.
inline bool use_avx2() noexcept {
#if defined(CELLRT_HAS_AVX2)
    static const bool use = [] {
        const char* const wanted = std::getenv("CELLRT_SIMD");
        if (wanted != nullptr && std::strcmp(wanted, "baseline") == 0) return false;
        return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    }();
    return use;
#else
    return false;
#endif
}

}  // namespace cellrt
