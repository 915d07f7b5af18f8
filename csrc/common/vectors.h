// Vectors of integers and floats for kernels that are compiled once for each instruction set (each_set.h).
// Each set has the same types and functions, in a namespace of its own:
//
//   baseline   vectors of 16 bytes: SSE2 on x86-64, NEON on 64-bit ARM, plain C++ elsewhere
//   avx2       vectors of 32 bytes: two halves of 16 bytes, to each of which the operations apply
//
// All sets give the same bits. -DVIDSEG_PLAIN_VECTORS compiles the plain C++ on every processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/simd.h"

#if defined(VIDSEG_PLAIN_VECTORS)
#define VIDSEG_SET_OF_X86 0
#define VIDSEG_SET_OF_ARM 0
#elif defined(__x86_64__)
#define VIDSEG_SET_OF_X86 1
#define VIDSEG_SET_OF_ARM 0
#include <immintrin.h>
#elif defined(__aarch64__)
#define VIDSEG_SET_OF_X86 0
#define VIDSEG_SET_OF_ARM 1
#include <arm_neon.h>
#else
#define VIDSEG_SET_OF_X86 0
#define VIDSEG_SET_OF_ARM 0
#endif

#define VIDSEG_SET baseline
#define VIDSEG_TARGET
#if VIDSEG_SET_OF_X86
#define VIDSEG_HALVES 1
#include "common/vectors_x86.h"
#undef VIDSEG_HALVES
#elif VIDSEG_SET_OF_ARM
#include "common/vectors_neon.h"
#else
#include "common/vectors_plain.h"
#endif
#undef VIDSEG_SET
#undef VIDSEG_TARGET

#if VIDSEG_SET_OF_X86
#define VIDSEG_SET avx2
#define VIDSEG_TARGET VIDSEG_AVX2
#define VIDSEG_HALVES 2
#include "common/vectors_x86.h"
#undef VIDSEG_HALVES
#undef VIDSEG_SET
#undef VIDSEG_TARGET
#endif

namespace vidseg {

// Makes what `stream` wrote visible to other threads.
inline void end_streams() {
#if VIDSEG_SET_OF_X86
    _mm_sfence();
#endif
}

}  // namespace vidseg

// VIDSEG_CHOOSE(name): `name` of the widest set that this processor supports and VIDSEG_SIMD permits.
#if VIDSEG_SET_OF_X86
#define VIDSEG_CHOOSE(name) (::vidseg::has_avx2() ? avx2::name : baseline::name)
#else
#define VIDSEG_CHOOSE(name) (baseline::name)
#endif
