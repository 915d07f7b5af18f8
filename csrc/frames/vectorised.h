// Loops that run once for every sample of every frame are compiled for AVX2 as well, chosen when the library
// loads.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define VIDSEG_VECTORISED __attribute__((target_clones("avx2", "default")))
#else
#define VIDSEG_VECTORISED
#endif
