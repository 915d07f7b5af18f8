// Inverse cosine transform of libjpeg's "islow" method, bit for bit, of two blocks at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/simd.h"

namespace vidseg {

// Two blocks of 8x8 coefficients, interleaved by rows: eight of the first block, then eight of the second.
struct BlockPair {
    alignas(32) int16_t coefficients[128 + 16];
    static constexpr int kSecond = 8;     // offset of the second block
    static constexpr int kNowhere = 128;  // target of values that are not coefficients
    static int place(int row, int column) { return 16 * row + column; }

    template <int Bytes>
    VIDSEG_INLINE void clear() {
        using Vector = typename VectorOf<int16_t, Bytes>::unaligned;
        for (int i = 0; i < 128; i += VectorOf<int16_t, Bytes>::lanes)
            *reinterpret_cast<Vector*>(coefficients + i) = Vector{};
    }
};

// Quantization factors of a block, in row-major order.
using Quantizer = std::array<int16_t, 64>;

// Target of the 8 rows of 8 samples of a block.
struct BlockTarget {
    uint8_t* to;
    size_t stride;
    const Quantizer* quantizer;
};

// Dequantizes and transforms with the instruction set whose vectors have this many bytes, see run_simd.
// Products and sums beyond 16 bits saturate or wrap as in libjpeg-turbo's vector code.
template <int Bytes>
void inverse_dct(const BlockPair& blocks, const BlockTarget& first, const BlockTarget& second);

}  // namespace vidseg
