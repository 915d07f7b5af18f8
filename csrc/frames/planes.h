// Pictures as JPEG stores them: full-range BT.601 YCbCr, or three channels of another meaning, in three
// planes, padded so that an encoder can read whole MCUs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// kNone: no YCbCr but three channels at full resolution, which every decoder returns unchanged as R, G and B.
// Optical flow is stored in this form.
enum class Chroma { k420 = 420, k444 = 444, kNone = 0 };

// One plane. Rows 0 to height - 1 and columns 0 to width - 1 are the picture; the rest, up to `stride` and
// `rows`, repeats its edge.
struct Plane {
    int width = 0;
    int height = 0;
    int stride = 0;
    int rows = 0;
    std::vector<uint8_t> pixels;

    void resize(int new_width, int new_height, int alignment);
    void pad_edges();
    uint8_t* row(int y) { return pixels.data() + static_cast<std::size_t>(y) * stride; }
    const uint8_t* row(int y) const { return pixels.data() + static_cast<std::size_t>(y) * stride; }
};

struct Planes {
    int width = 0;
    int height = 0;
    Chroma chroma = Chroma::k420;
    Plane y, cb, cr;

    void resize(int new_width, int new_height, Chroma new_chroma);
};

// A plane in foreign memory, such as that of a decoded video frame; `size` bytes are readable.
struct PlaneView {
    const uint8_t* pixels;
    int64_t size;
    int64_t stride;
};

// Color encoding of the source: luma weights of red and blue, and full or limited range.
struct ColorEncoding {
    double kr;
    double kb;
    bool full_range;
};

// Copies a video frame into `out` and converts its range and matrix to those of JPEG (full range, BT.601).
void import_planes(const PlaneView& y, const PlaneView& cb, const PlaneView& cr,
                   const ColorEncoding& encoding, Planes& out);

// Converts (height, width, 3) RGB, tightly packed, into `out`. Subsampled chroma is averaged.
void import_rgb(const uint8_t* rgb, Planes& out);

// Copies (count, height, width) channels, tightly packed, into `out`, whose chroma is kNone. A third channel
// that is not given becomes `missing`.
void import_channels(const uint8_t* channels, int count, uint8_t missing, Planes& out);

// Halves both sides, rounding up, by averaging 2x2 pixels.
void halve(const Planes& in, Planes& out);

}  // namespace vidseg
