#include "packing.h"

#include "common/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vidseg {
namespace {

void pack_portable(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out) {
    for (size_t i = 0; i < count; ++i, out += 3) {
        out[bgr ? 2 : 0] = static_cast<uint8_t>(pixels[i]);
        out[1] = static_cast<uint8_t>(pixels[i] >> 8);
        out[bgr ? 0 : 2] = static_cast<uint8_t>(pixels[i] >> 16);
    }
}

void unpack_portable(const uint8_t* rgb, size_t count, uint32_t* pixels) {
    for (size_t i = 0; i < count; ++i, rgb += 3)
        pixels[i] = static_cast<uint32_t>(rgb[0] | rgb[1] << 8 | rgb[2] << 16);
}

#if defined(__x86_64__)
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
#endif

}  // namespace

void pack_pixels(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out) {
    size_t done = 0;
#if defined(__x86_64__)
    static const bool fast = has_avx2();
    if (fast) done = pack_avx2(pixels, count, bgr, out);
#endif
    pack_portable(pixels + done, count - done, bgr, out + 3 * done);
}

void unpack_pixels(const uint8_t* rgb, size_t count, uint32_t* pixels) {
    size_t done = 0;
#if defined(__x86_64__)
    static const bool fast = has_avx2();
    if (fast) done = unpack_avx2(rgb, count, pixels);
#endif
    unpack_portable(rgb + 3 * done, count - done, pixels + done);
}

}  // namespace vidseg
