// Inverse cosine transform of libjpeg's "islow" method, bit for bit, of two blocks at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vidseg {

// Two blocks of 8x8 coefficients, interleaved by rows: eight of the first block, then eight of the second.
struct BlockPair {
    alignas(32) int16_t coefficients[128 + 16];
    static constexpr int kSecond = 8;     // offset of the second block
    static constexpr int kNowhere = 128;  // target of values that are not coefficients
    static int place(int row, int column) { return 16 * row + column; }
};

// Both require `has_avx2()`.
#if defined(__x86_64__)
VIDSEG_AVX2 inline void clear(BlockPair& blocks) {
    for (int row = 0; row < 8; ++row) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(blocks.coefficients) + row, _mm256_setzero_si256());
    }
}
#else
inline void clear(BlockPair& blocks) { blocks = {}; }
#endif

// Quantization factors of a block, in row-major order.
using Quantizer = std::array<int16_t, 64>;

// Target of the 8 rows of 8 samples of a block.
struct BlockTarget {
    uint8_t* to;
    size_t stride;
    const Quantizer* quantizer;
};

// Dequantizes and transforms. Products and sums beyond 16 bits saturate or wrap as in libjpeg-turbo's vector
// code.
void inverse_dct(const BlockPair& blocks, const BlockTarget& first, const BlockTarget& second);

}  // namespace vidseg
