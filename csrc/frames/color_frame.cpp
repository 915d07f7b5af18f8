#include "color_frame.h"

#include <algorithm>

#include "common/simd.h"
#include "packing.h"

namespace vidseg {
namespace {

constexpr size_t kPiece = 2048;  // pixels that fit into the first-level cache

VIDSEG_VECTORIZED
void take_byte(const uint32_t* __restrict pixels, size_t count, int shift, uint8_t* __restrict plane) {
    for (size_t i = 0; i < count; ++i) plane[i] = static_cast<uint8_t>(pixels[i] >> shift);
}

VIDSEG_VECTORIZED
void join_bytes(const uint8_t* __restrict red, const uint8_t* __restrict green,
                const uint8_t* __restrict blue, size_t count, uint32_t* __restrict pixels) {
    for (size_t i = 0; i < count; ++i) {
        pixels[i] = static_cast<uint32_t>(red[i]) | static_cast<uint32_t>(green[i]) << 8 |
                    static_cast<uint32_t>(blue[i]) << 16;
    }
}

}  // namespace

void ColorFrame::resize(FrameSize size) {
    size_ = size;
    planes_.resize(3 * size.pixels());
}

void ColorFrame::split(const uint32_t* pixels) {
    for (int channel = 0; channel < 3; ++channel)
        take_byte(pixels, size_.pixels(), 8 * channel, plane(channel));
}

void ColorFrame::join(uint32_t* pixels) const {
    join_bytes(plane(0), plane(1), plane(2), size_.pixels(), pixels);
}

void ColorFrame::split_rgb(const uint8_t* rgb) {
    uint32_t pixels[kPiece];
    for (size_t begin = 0; begin < size_.pixels(); begin += kPiece) {
        const size_t count = std::min(kPiece, size_.pixels() - begin);
        unpack_pixels(rgb + 3 * begin, count, pixels);
        for (int channel = 0; channel < 3; ++channel)
            take_byte(pixels, count, 8 * channel, plane(channel) + begin);
    }
}

void ColorFrame::join_rgb(uint8_t* rgb) const {
    uint32_t pixels[kPiece];
    for (size_t begin = 0; begin < size_.pixels(); begin += kPiece) {
        const size_t count = std::min(kPiece, size_.pixels() - begin);
        join_bytes(plane(0) + begin, plane(1) + begin, plane(2) + begin, count, pixels);
        pack_pixels(pixels, count, false, rgb + 3 * begin);
    }
}

}  // namespace vidseg
