// One binary, three instruction sets: a kernel is written once, for vectors of `Bytes` bytes, and the widest
// that the processor has is chosen at the first call. VIDSEG_SIMD=baseline|avx2|avx512 forces a narrower one.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#define VIDSEG_INLINE inline __attribute__((always_inline))

namespace vidseg {

enum class Simd { baseline, avx2, avx512 };

inline Simd detect_simd() {
    Simd best = Simd::baseline;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Simd::avx2;
    if (best == Simd::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
        best = Simd::avx512;
    }
#endif
    const char* forced = std::getenv("VIDSEG_SIMD");
    if (forced == nullptr || *forced == '\0') return best;
    const std::string name = forced;
    const Simd wanted = name == "avx512" ? Simd::avx512 : name == "avx2" ? Simd::avx2 : Simd::baseline;
    if ((wanted == Simd::baseline && name != "baseline") || wanted > best) {
        throw std::invalid_argument("VIDSEG_SIMD is " + name +
                                    ", must be baseline, avx2 or avx512 and supported by this processor");
    }
    return wanted;
}

inline Simd simd_level() {
    static const Simd level = detect_simd();
    return level;
}

// Element-aligned vectors of T, loaded and stored through vector_at.
template <class T, int Bytes>
struct VectorOf {
    typedef T type __attribute__((vector_size(Bytes)));
    typedef T unaligned __attribute__((vector_size(Bytes), aligned(alignof(T)), may_alias));
    static constexpr int lanes = Bytes / static_cast<int>(sizeof(T));
};

#if defined(__x86_64__)
template <class Body, class... Args>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi2,prefer-vector-width=512"))) void
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

// Calls Body::run<Bytes>(args...), which must be VIDSEG_INLINE so that it is compiled for each instruction
// set.
template <class Body, class... Args>
void run_simd(Args... args) {
#if defined(__x86_64__)
    if (simd_level() == Simd::avx512) return run_avx512<Body>(args...);
    if (simd_level() == Simd::avx2) return run_avx2<Body>(args...);
#endif
    run_baseline<Body>(args...);
}

// parallel_for of kernels that call run_simd. An error inside a parallel region loses its message, so the
// instruction set is settled before.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
    simd_level();
    torch::stable::parallel_for(0, count, grain, body);
}

}  // namespace vidseg
