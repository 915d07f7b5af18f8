// Conversion of RGB pixels to samples of a batch: layout, color order, type, normalization.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace vidseg {

enum class SampleType { kUint8, kFloat16, kBfloat16, kFloat32 };

// Linear map of the first two channels of a pixel to the two channels of a vector: sample c is
// map[c][0] * red + map[c][1] * green + map[c][2].
using VectorMap = std::array<std::array<float, 3>, 2>;

struct OutputFormat {
    SampleType type = SampleType::kUint8;
    bool planar = true;  // (C, T, H, W) instead of (T, H, W, C)
    bool bgr = false;
    std::array<float, 3> scale{1, 1, 1};  // sample = value * scale + offset, in RGB order; not for uint8
    std::array<float, 3> offset{0, 0, 0};

    size_t sample_bytes() const;
};

// Writes `count` pixels (R, G, B and an unused byte each). Planar: the three channels go to `out`, `out +
// plane_bytes` and `out + 2 * plane_bytes`; otherwise they are interleaved.
void write_pixels(const uint32_t* pixels, size_t count, const OutputFormat& format, size_t plane_bytes,
                  uint8_t* out);

// The same for vectors of two channels, in red and green. Of the format, type and `planar` apply. Samples of
// uint8 are rounded and limited to 0 to 255.
void write_vectors(const uint32_t* pixels, size_t count, const OutputFormat& format, const VectorMap& map,
                   size_t plane_bytes, uint8_t* out);

}  // namespace vidseg
