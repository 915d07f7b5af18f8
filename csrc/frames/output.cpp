#include "output.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vidseg {
namespace {

float as_float(uint32_t pixel, int shift) {
    return static_cast<float>(static_cast<int>(pixel >> shift & 255));
}

// Round to nearest, ties to even; the samples are finite.
uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// The same for IEEE half precision. Overflow becomes infinity; small numbers become subnormal.
uint16_t to_float16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
    if (bits < 0x38800000) {
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5F;  // shifts the subnormal's bits into place and rounds them
        std::memcpy(&bits, &magnitude, sizeof bits);
        return static_cast<uint16_t>(sign | (bits - 0x3F000000));
    }
    return static_cast<uint16_t>(sign | ((bits + 0xFFF + (bits >> 13 & 1) - 0x38000000) >> 13));
}

VIDSEG_VECTORIZED
void write_bytes(const uint32_t* pixels, size_t count, int shift, uint8_t* out) {
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<uint8_t>(pixels[i] >> shift);
}

void write_floats_portable(const uint32_t* pixels, size_t count, int shift, float scale, float offset,
                           float* out) {
    for (size_t i = 0; i < count; ++i) out[i] = as_float(pixels[i], shift) * scale + offset;
}

#if defined(__x86_64__)
// Non-temporal stores: a batch exceeds the caches and is not read soon.
VIDSEG_AVX2 void write_floats_avx2(const uint32_t* pixels, size_t count, int shift, float scale, float offset,
                                   float* out) {
    const size_t before = std::min(count, (32 - reinterpret_cast<uintptr_t>(out) % 32) % 32 / sizeof(float));
    write_floats_portable(pixels, before, shift, scale, offset, out);
    const __m256 scales = _mm256_set1_ps(scale), offsets = _mm256_set1_ps(offset);
    const __m256i low = _mm256_set1_epi32(255);
    size_t i = before;
    for (; i + 8 <= count; i += 8) {
        const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pixels + i));
        const __m256 values = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(eight, shift), low));
        _mm256_stream_ps(out + i, _mm256_add_ps(_mm256_mul_ps(values, scales), offsets));
    }
    write_floats_portable(pixels + i, count - i, shift, scale, offset, out + i);
}
#endif

void write_floats(const uint32_t* pixels, size_t count, int shift, float scale, float offset, float* out) {
#if defined(__x86_64__)
    static const bool fast = has_avx2();
    if (fast) return write_floats_avx2(pixels, count, shift, scale, offset, out);
#endif
    write_floats_portable(pixels, count, shift, scale, offset, out);
}

VIDSEG_VECTORIZED
void write_bfloats(const uint32_t* pixels, size_t count, int shift, float scale, float offset,
                   uint16_t* out) {
    for (size_t i = 0; i < count; ++i) out[i] = to_bfloat16(as_float(pixels[i], shift) * scale + offset);
}

// With 256 different samples, a table is cheaper than converting each sample.
void write_halves(const uint32_t* pixels, size_t count, int shift, float scale, float offset, uint16_t* out) {
    uint16_t table[256];
    for (int value = 0; value < 256; ++value)
        table[value] = to_float16(static_cast<float>(value) * scale + offset);
    for (size_t i = 0; i < count; ++i) out[i] = table[pixels[i] >> shift & 255];
}

template <class Sample, class Convert>
void write_interleaved(const uint32_t* pixels, size_t count, const OutputFormat& format,
                       const Convert& convert, Sample* out) {
    for (size_t i = 0; i < count; ++i) {
        for (int c = 0; c < 3; ++c) {
            const int color = format.bgr ? 2 - c : c;
            out[3 * i + c] =
                convert(as_float(pixels[i], 8 * color) * format.scale[color] + format.offset[color]);
        }
    }
}

// Writes the samples of one channel; 0 is red.
void write_plane(const uint32_t* pixels, size_t count, const OutputFormat& format, int color, uint8_t* out) {
    const int shift = 8 * color;
    const float scale = format.scale[color], offset = format.offset[color];
    switch (format.type) {
        case SampleType::kUint8:
            return write_bytes(pixels, count, shift, out);
        case SampleType::kFloat16:
            return write_halves(pixels, count, shift, scale, offset, reinterpret_cast<uint16_t*>(out));
        case SampleType::kBfloat16:
            return write_bfloats(pixels, count, shift, scale, offset, reinterpret_cast<uint16_t*>(out));
        case SampleType::kFloat32:
            return write_floats(pixels, count, shift, scale, offset, reinterpret_cast<float*>(out));
    }
}

}  // namespace

size_t OutputFormat::sample_bytes() const {
    switch (type) {
        case SampleType::kUint8:
            return 1;
        case SampleType::kFloat16:
        case SampleType::kBfloat16:
            return 2;
        case SampleType::kFloat32:
            return 4;
    }
    fail("internal error: unknown type of sample");
}

void write_pixels(const uint32_t* pixels, size_t count, const OutputFormat& format, size_t plane_bytes,
                  uint8_t* out) {
    if (!format.planar) {
        switch (format.type) {
            case SampleType::kUint8:
                for (size_t i = 0; i < count; ++i) {
                    for (int c = 0; c < 3; ++c) {
                        out[3 * i + c] = static_cast<uint8_t>(pixels[i] >> 8 * (format.bgr ? 2 - c : c));
                    }
                }
                return;
            case SampleType::kFloat16:
                return write_interleaved(pixels, count, format, to_float16, reinterpret_cast<uint16_t*>(out));
            case SampleType::kBfloat16:
                return write_interleaved(pixels, count, format, to_bfloat16,
                                         reinterpret_cast<uint16_t*>(out));
            case SampleType::kFloat32:
                return write_interleaved(
                    pixels, count, format, [](float value) { return value; }, reinterpret_cast<float*>(out));
        }
    }
    // In pieces that fit into the first-level cache, as each is read three times.
    constexpr size_t kPiece = 2048;
    for (size_t begin = 0; begin < count; begin += kPiece) {
        const size_t piece = std::min(kPiece, count - begin);
        for (int c = 0; c < 3; ++c) {
            uint8_t* to = out + c * plane_bytes + begin * format.sample_bytes();
            write_plane(pixels + begin, piece, format, format.bgr ? 2 - c : c, to);
        }
    }
#if defined(__x86_64__)
    _mm_sfence();  // makes non-temporal stores visible to other threads
#endif
}

}  // namespace vidseg
