// Loops that run once for every sample of every frame are compiled for AVX2 as well, chosen when the library
// loads.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define VIDSEG_VECTORIZED __attribute__((target_clones("avx2", "default")))
#else
#define VIDSEG_VECTORIZED
#endif

#if defined(__x86_64__)
#define VIDSEG_AVX2 __attribute__((target("avx2,bmi2")))
#else
#define VIDSEG_AVX2
#endif

namespace vidseg {

// Whether code written for AVX2 may run: the processor has it, and VIDSEG_SIMD=baseline, which is there to
// compare, does not forbid it.
inline bool prefers_avx2() {
#if defined(__x86_64__)
    const char* forced = std::getenv("VIDSEG_SIMD");
    return (forced == nullptr || std::strcmp(forced, "baseline") != 0) && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
}

}  // namespace vidseg
