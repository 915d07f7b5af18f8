#include "packing.h"

#include <cstring>

#include "common/vectors.h"

namespace vidseg {
namespace {

void pack_portable(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out) {
    size_t i = 0;
    for (; i + 3 <= count; i += 2) {  // two pixels at a time: 8 bytes are written for 6
        uint64_t two;
        std::memcpy(&two, pixels + i, sizeof two);
        if (bgr) {
            two =
                __builtin_bswap64(two);  // the second pixel is the lower one, and its unused byte the lowest
            two = two >> 40 | (two >> 8 & 0xFFFFFF) << 24;
        } else {
            two = (two & 0xFFFFFF) | (two >> 32 & 0xFFFFFF) << 24;
        }
        std::memcpy(out + 3 * i, &two, sizeof two);
    }
    for (; i < count; ++i) {
        out[3 * i + (bgr ? 2 : 0)] = static_cast<uint8_t>(pixels[i]);
        out[3 * i + 1] = static_cast<uint8_t>(pixels[i] >> 8);
        out[3 * i + (bgr ? 0 : 2)] = static_cast<uint8_t>(pixels[i] >> 16);
    }
}

void unpack_portable(const uint8_t* rgb, size_t count, uint32_t* pixels) {
    size_t i = 0;
    for (; i + 1 < count; ++i) {  // 4 bytes are read for 3
        uint32_t pixel;
        std::memcpy(&pixel, rgb + 3 * i, sizeof pixel);
        pixels[i] = pixel & 0xFFFFFF;
    }
    if (i < count) pixels[i] = static_cast<uint32_t>(rgb[3 * i] | rgb[3 * i + 1] << 8 | rgb[3 * i + 2] << 16);
}

#if VIDSEG_SET_OF_X86
// Four pixels at a time. 16 bytes are read or written for 12, so the last ones are left to the portable code.
VIDSEG_AVX2 size_t pack_avx2(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out) {
    const __m128i order = bgr ? _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1)
                              : _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    size_t i = 0;
    for (; i + 6 <= count; i += 4) {
        const __m128i four = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels + i));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * i), _mm_shuffle_epi8(four, order));
    }
    return i;
}

VIDSEG_AVX2 size_t unpack_avx2(const uint8_t* rgb, size_t count, uint32_t* pixels) {
    const __m128i order = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
    size_t i = 0;
    for (; i + 6 <= count; i += 4) {
        const __m128i twelve = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rgb + 3 * i));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(pixels + i), _mm_shuffle_epi8(twelve, order));
    }
    return i;
}
#elif VIDSEG_SET_OF_ARM
size_t pack_neon(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const uint8x16x4_t from = vld4q_u8(reinterpret_cast<const uint8_t*>(pixels + i));
        const uint8x16x3_t to = {{from.val[bgr ? 2 : 0], from.val[1], from.val[bgr ? 0 : 2]}};
        vst3q_u8(out + 3 * i, to);
    }
    return i;
}

size_t unpack_neon(const uint8_t* rgb, size_t count, uint32_t* pixels) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const uint8x16x3_t from = vld3q_u8(rgb + 3 * i);
        const uint8x16x4_t to = {{from.val[0], from.val[1], from.val[2], vdupq_n_u8(0)}};
        vst4q_u8(reinterpret_cast<uint8_t*>(pixels + i), to);
    }
    return i;
}
#endif

}  // namespace

void pack_pixels(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out) {
    size_t done = 0;
#if VIDSEG_SET_OF_X86
    static const bool fast = has_avx2();
    if (fast) done = pack_avx2(pixels, count, bgr, out);
#elif VIDSEG_SET_OF_ARM
    done = pack_neon(pixels, count, bgr, out);
#endif
    pack_portable(pixels + done, count - done, bgr, out + 3 * done);
}

void unpack_pixels(const uint8_t* rgb, size_t count, uint32_t* pixels) {
    size_t done = 0;
#if VIDSEG_SET_OF_X86
    static const bool fast = has_avx2();
    if (fast) done = unpack_avx2(rgb, count, pixels);
#elif VIDSEG_SET_OF_ARM
    done = unpack_neon(rgb, count, pixels);
#endif
    unpack_portable(rgb + 3 * done, count - done, pixels + done);
}

}  // namespace vidseg
