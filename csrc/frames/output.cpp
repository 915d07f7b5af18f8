#include "output.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/simd.h"
#include "packing.h"

namespace vidseg {
namespace {

constexpr size_t kPiece = 2048;  // pixels that fit into the first-level cache: each is read for every channel

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

uint8_t to_byte(float value) {
    return static_cast<uint8_t>(static_cast<int>(std::min(std::max(0.0F, value + 0.5F), 255.0F)));
}

float vector_at(uint32_t pixel, const std::array<float, 3>& row) {
    return as_float(pixel, 0) * row[0] + as_float(pixel, 8) * row[1] + row[2];
}

void write_vector_floats_portable(const uint32_t* pixels, size_t count, const std::array<float, 3>& row,
                                  float* out) {
    for (size_t i = 0; i < count; ++i) out[i] = vector_at(pixels[i], row);
}

}  // namespace
}  // namespace vidseg

#define VIDSEG_KERNELS "frames/output_kernels.h"
#include "common/each_set.h"

namespace vidseg {
namespace {

void write_floats(const uint32_t* pixels, size_t count, int shift, float scale, float offset, float* out) {
    static const auto write = VIDSEG_CHOOSE(write_floats);
    write(pixels, count, shift, scale, offset, out);
}

void write_vector_floats(const uint32_t* pixels, size_t count, const std::array<float, 3>& row, float* out) {
    static const auto write = VIDSEG_CHOOSE(write_vector_floats);
    write(pixels, count, row, out);
}

VIDSEG_VECTORIZED
void write_vector_bytes(const uint32_t* pixels, size_t count, const std::array<float, 3>& row, uint8_t* out) {
    const float red = row[0], green = row[1], offset = row[2];
    for (size_t i = 0; i < count; ++i) {
        out[i] = to_byte(as_float(pixels[i], 0) * red + as_float(pixels[i], 8) * green + offset);
    }
}

VIDSEG_VECTORIZED
void write_vector_bfloats(const uint32_t* pixels, size_t count, const std::array<float, 3>& row,
                          uint16_t* out) {
    const float red = row[0], green = row[1], offset = row[2];
    for (size_t i = 0; i < count; ++i) {
        out[i] = to_bfloat16(as_float(pixels[i], 0) * red + as_float(pixels[i], 8) * green + offset);
    }
}

// Writes channel `c` of vectors. Rows that depend on one channel of the pixel take the path of colors, whose
// samples are the same.
void write_vector_plane(const uint32_t* pixels, size_t count, SampleType type, const VectorMap& map, int c,
                        uint8_t* out) {
    const std::array<float, 3>& row = map[static_cast<size_t>(c)];
    const int source = row[0] == 0.0F ? 1 : 0;
    const float scale = row[static_cast<size_t>(source)], offset = row[2];
    const bool single = row[static_cast<size_t>(1 - source)] == 0.0F;
    switch (type) {
        case SampleType::kUint8:
            if (single && scale == 1.0F && offset == 0.0F) return write_bytes(pixels, count, 8 * source, out);
            return write_vector_bytes(pixels, count, row, out);
        case SampleType::kFloat16: {
            auto* halves = reinterpret_cast<uint16_t*>(out);
            if (single) return write_halves(pixels, count, 8 * source, scale, offset, halves);
            for (size_t i = 0; i < count; ++i) halves[i] = to_float16(vector_at(pixels[i], row));
            return;
        }
        case SampleType::kBfloat16:
            return write_vector_bfloats(pixels, count, row, reinterpret_cast<uint16_t*>(out));
        case SampleType::kFloat32:
            return write_vector_floats(pixels, count, row, reinterpret_cast<float*>(out));
    }
}

template <class Sample, class Convert>
void write_vectors_interleaved(const uint32_t* pixels, size_t count, const VectorMap& map,
                               const Convert& convert, Sample* out) {
    for (size_t i = 0; i < count; ++i) {
        out[2 * i] = convert(vector_at(pixels[i], map[0]));
        out[2 * i + 1] = convert(vector_at(pixels[i], map[1]));
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

void write_vectors(const uint32_t* pixels, size_t count, const OutputFormat& format, const VectorMap& map,
                   size_t plane_bytes, uint8_t* out) {
    if (!format.planar) {
        auto* halves = reinterpret_cast<uint16_t*>(out);
        switch (format.type) {
            case SampleType::kUint8:
                return write_vectors_interleaved(pixels, count, map, to_byte, out);
            case SampleType::kFloat16:
                return write_vectors_interleaved(pixels, count, map, to_float16, halves);
            case SampleType::kBfloat16:
                return write_vectors_interleaved(pixels, count, map, to_bfloat16, halves);
            case SampleType::kFloat32:
                return write_vectors_interleaved(
                    pixels, count, map, [](float value) { return value; }, reinterpret_cast<float*>(out));
        }
    }
    for (size_t begin = 0; begin < count; begin += kPiece) {
        const size_t piece = std::min(kPiece, count - begin);
        for (int c = 0; c < 2; ++c) {
            uint8_t* to = out + c * plane_bytes + begin * format.sample_bytes();
            write_vector_plane(pixels + begin, piece, format.type, map, c, to);
        }
    }
    end_streams();
}

void write_pixels(const uint32_t* pixels, size_t count, const OutputFormat& format, size_t plane_bytes,
                  uint8_t* out) {
    if (!format.planar) {
        switch (format.type) {
            case SampleType::kUint8:
                return pack_pixels(pixels, count, format.bgr, out);
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
    for (size_t begin = 0; begin < count; begin += kPiece) {
        const size_t piece = std::min(kPiece, count - begin);
        for (int c = 0; c < 3; ++c) {
            uint8_t* to = out + c * plane_bytes + begin * format.sample_bytes();
            write_plane(pixels + begin, piece, format, format.bgr ? 2 - c : c, to);
        }
    }
    end_streams();
}

}  // namespace vidseg
