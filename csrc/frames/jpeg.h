// JPEG through libjpeg-turbo: frames to JPEG, JPEG to RGB, and lossless re-coding of existing JPEGs.
//
// libjpeg reports fatal errors through a function that must not return. It leaves by longjmp to the function
// that called libjpeg, which then throws. Those functions have no objects with destructors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "planes.h"
#include "region.h"

namespace vidseg {

struct EncodeOptions {
    int quality = 90;  // 1 to 100
    int restart_interval =
        0;  // MCUs between restart markers; 0: none, -1: chosen from the width (see restart_interval_for)
    bool optimize = false;  // Huffman tables optimized per frame: smaller files, slower
};

// Returns the options.
// Throws std::invalid_argument if one is out of range.
EncodeOptions encode_options(int64_t quality, int64_t restart_interval, bool optimize);

struct Image {
    int width = 0;
    int height = 0;
    std::vector<uint8_t> rgb;  // (height, width, 3)
};

// A part of a picture, decoded at 1/denominator of its size, as pixels or as planes.
struct Region {
    int denominator = 1;
    int full_width = 0;  // whole picture at this scale
    int full_height = 0;
    Window window;                 // decoded part at this scale
    std::vector<uint32_t> pixels;  // of the window: R, G, B and an unused byte
    bool planar = false;           // planes instead of pixels; they begin at `left`, `top`
    Planes planes;
    int left = 0;
    int top = 0;

    const uint32_t* row(int y) const { return pixels.data() + static_cast<size_t>(y) * window.width(); }
    size_t bytes() const {
        return pixels.size() * sizeof pixels[0] + planes.y.pixels.size() + planes.cb.pixels.size() +
               planes.cr.pixels.size();
    }
};

// Returns a restart interval that divides a row of MCUs evenly, so that every interval is a rectangle of
// MCUs: the smallest divisor of 2 to 6, else the row if it is short, else 1. For channels without chroma, the
// smallest divisor of 4 to 8, else the row if it is short, else 6.
int restart_interval_for(int width, Chroma chroma);

class JpegEncoder {
  public:
    JpegEncoder();
    ~JpegEncoder();
    JpegEncoder(const JpegEncoder&) = delete;
    JpegEncoder& operator=(const JpegEncoder&) = delete;

    // Appends one JPEG to `out`.
    void encode(const Planes& planes, const EncodeOptions& options, std::vector<uint8_t>& out);

  private:
    void create();

    struct State;
    std::unique_ptr<State> state_;
};

// Appends the JPEG of a frame and of `levels` copies, each of half the sides of the one before, to `out`, and
// calls `encoded(level)` after each. Leaves the last copy in `planes`.
template <class Encoded>
void encode_levels(JpegEncoder& encoder, Planes& planes, const EncodeOptions& options, int levels,
                   std::vector<uint8_t>& out, Encoded encoded) {
    Planes half;
    for (int level = 0; level <= levels; ++level) {
        if (level > 0) {
            halve(planes, half);
            std::swap(planes, half);
        }
        encoder.encode(planes, options, out);
        encoded(level);
    }
}

class JpegDecoder {
  public:
    JpegDecoder();
    ~JpegDecoder();
    JpegDecoder(const JpegDecoder&) = delete;
    JpegDecoder& operator=(const JpegDecoder&) = delete;

    // Decodes a whole JPEG to RGB. Gray becomes RGB. CMYK and damaged data throw.
    void decode(const uint8_t* data, size_t size, Image& out);

    // Decodes at least the pixels of `wanted`, given at full size, which may extend beyond the picture, and
    // reads as little of the file as possible. Every pixel equals that of a decode of the whole picture at
    // 1/denominator (1, 2, 4, 8). With `allow_planar` the region may be planar. `channels`: 2 may leave the
    // third plane of a picture without color conversion undefined.
    void decode_region(const uint8_t* data, size_t size, const Window& wanted, int denominator, Region& out,
                       bool allow_planar = false, int channels = 3);

    // Reads the header only.
    void read_size(const uint8_t* data, size_t size, int* width, int* height);

  private:
    // Reads the header of `data` and keeps it for the next step. Throws on invalid or excessive headers.
    void open(const uint8_t* data, size_t size);
    bool decode_cut(const uint8_t* data, size_t size, const Window& inside, Region& out);
    void decode_window(const uint8_t* data, size_t size, const Window& inside, Region& out);
    void reserve(const Window& window, int width, Region& out);

    struct State;
    std::unique_ptr<State> state_;
};

// Appends the same picture to `out`, bit for bit, as a baseline JPEG with other restart intervals.
void recode(const uint8_t* data, size_t size, int restart_interval, bool optimize, std::vector<uint8_t>& out);

}  // namespace vidseg
