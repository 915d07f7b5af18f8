// Vector instructions. One binary serves every processor: code is compiled for several instruction sets, and
// the widest one that the processor supports runs. The baseline is SSE2 on x86-64 and NEON on 64-bit ARM.
// Four tools:
//
//   run_simd           templates over the vector width (baseline, AVX2, AVX-512)
//   each_set.h         kernels written with the vectors of vectors.h (baseline, AVX2)
//   VIDSEG_AVX2        functions written with AVX2 intrinsics, called where `has_avx2()`
//   VIDSEG_VECTORIZED  plain loops that the compiler vectorizes, for the baseline, AVX2 and AVX-512
//
// The environment variable VIDSEG_SIMD=baseline|avx2|avx512 limits the first three, which allows comparing
// them. The fourth is resolved by the dynamic linker; its results do not depend on the choice. A build with
// -DVIDSEG_PORTABLE uses the baseline for all, as a processor without AVX2 does.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>

#include "common/check.h"

#define VIDSEG_INLINE inline __attribute__((always_inline))

// Without fma: a fused product and sum would round differently from the portable code.
#if defined(__x86_64__)
#define VIDSEG_AVX2 __attribute__((target("avx2,bmi2")))
#else
#define VIDSEG_AVX2
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#if defined(VIDSEG_PORTABLE)
#define VIDSEG_VECTORIZED __attribute__((target_clones("sse4.2", "default")))
#elif __GNUC__ >= 12
#define VIDSEG_VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "avx2", "sse4.2", "default")))
#else
#define VIDSEG_VECTORIZED __attribute__((target_clones("avx2", "sse4.2", "default")))
#endif
#else
#define VIDSEG_VECTORIZED
#endif

namespace vidseg {

enum class Simd { baseline, avx2, avx512 };

#if defined(__x86_64__)
// By CPUID: clang before 19 rejects "f16c" in __builtin_cpu_supports. The operating system's support for the
// registers is that of AVX2.
inline bool has_f16c() {
    unsigned int a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

// Not inlined: it would only lengthen the callers.
__attribute__((noinline)) inline Simd detect_simd() {
    Simd best = Simd::baseline;
#if defined(__x86_64__) && !defined(VIDSEG_PORTABLE)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
        has_f16c()) {
        best = Simd::avx2;
    }
    if (best == Simd::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        best = Simd::avx512;
    }
#endif
    const char* limit = std::getenv("VIDSEG_SIMD");
    if (limit == nullptr || *limit == '\0') return best;
    const std::string name = limit;
    const Simd wanted = name == "avx512" ? Simd::avx512 : name == "avx2" ? Simd::avx2 : Simd::baseline;
    require((wanted != Simd::baseline || name == "baseline") && wanted <= best, "VIDSEG_SIMD is ", name,
            ", must be baseline, avx2 or avx512 and supported by this processor");
    return wanted;
}

// The instruction set of this process. Throws if VIDSEG_SIMD names an unknown or unsupported one.
inline Simd simd_level() {
    static const Simd level = detect_simd();
    return level;
}

// Its name, for reports.
inline const char* simd_name() {
    if (simd_level() == Simd::avx512) return "avx512";
    if (simd_level() == Simd::avx2) return "avx2";
#if defined(__x86_64__)
    return "baseline (SSE2)";
#elif defined(__aarch64__)
    return "baseline (NEON)";
#else
    return "baseline";
#endif
}

inline bool has_avx2() { return simd_level() >= Simd::avx2; }

// A vector of T, and the same vector at an address that is aligned for T only.
template <class T, int Bytes>
struct VectorOf {
    typedef T type __attribute__((vector_size(Bytes)));
    typedef T unaligned __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
    static constexpr int lanes = Bytes / static_cast<int>(sizeof(T));
};

#if defined(__x86_64__)
#if defined(__clang__)  // has no such attribute, and would ignore the others with it
#define VIDSEG_PREFER_512
#else
#define VIDSEG_PREFER_512 ",prefer-vector-width=512"
#endif
template <class Body, class... Args>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi2" VIDSEG_PREFER_512))) void
run_avx512(Args... args) {
    Body::template run<64>(args...);
}
template <class Body, class... Args>
__attribute__((target("avx2,fma,f16c,bmi2"))) void run_avx2(Args... args) {
    Body::template run<32>(args...);
}
#endif
template <class Body, class... Args>
void run_baseline(Args... args) {
    Body::template run<16>(args...);
}

// Calls Body::run<Bytes>(args...) for vectors of `Bytes` bytes, of the instruction sets up to `Widest`. `run`
// must be VIDSEG_INLINE, so that it is compiled for each instruction set.
template <class Body, Simd Widest = Simd::avx512, class... Args>
void run_simd(Args... args) {
#if defined(__x86_64__)
    if constexpr (Widest == Simd::avx512) {
        if (simd_level() == Simd::avx512) return run_avx512<Body>(args...);
    }
    if (simd_level() >= Simd::avx2) return run_avx2<Body>(args...);
#endif
    run_baseline<Body>(args...);
}

}  // namespace vidseg
