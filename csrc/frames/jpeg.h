// JPEG through libjpeg-turbo: frames to JPEG, JPEG to RGB, and lossless re-coding of existing JPEGs.
//
// libjpeg reports a fatal error through a function that must not return; it leaves here by longjmp into the
// function that called libjpeg, which then throws. No C++ object with a destructor lives in those functions'
// frames.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "planes.h"
#include "region.h"

namespace vidseg {

struct EncodeOptions {
    int quality = 90;  // 1 to 100
    int restart_interval =
        0;  // MCUs between restart markers; 0: none, -1: chosen from the width (see restart_interval_for)
    bool optimize = false;  // Huffman tables made for each frame: smaller, slower
};

struct Image {
    int width = 0;
    int height = 0;
    std::vector<uint8_t> rgb;  // (height, width, 3)
};

// A part of a picture, decoded at 1/denominator of its size: pixels, or planes that they can be made of.
struct Region {
    int denominator = 1;
    int full_width = 0;  // of the whole picture at this size
    int full_height = 0;
    Window window;                 // the part that is here, at this size
    std::vector<uint32_t> pixels;  // of the window: R, G, B and a byte that means nothing
    bool planar = false;           // there are no pixels, but planes, which begin at `left`, `top`
    Planes planes;
    int left = 0;
    int top = 0;

    const uint32_t* row(int y) const { return pixels.data() + static_cast<size_t>(y) * window.width(); }
    size_t bytes() const {
        return pixels.size() * sizeof pixels[0] + planes.y.pixels.size() + planes.cb.pixels.size() +
               planes.cr.pixels.size();
    }
};

// A restart interval that divides an MCU row evenly, so that every interval is a rectangle of MCUs: the
// smallest of 2 to 6 that does, else the row if it is short, else 1.
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

class JpegDecoder {
  public:
    JpegDecoder();
    ~JpegDecoder();
    JpegDecoder(const JpegDecoder&) = delete;
    JpegDecoder& operator=(const JpegDecoder&) = delete;

    // Decodes a whole JPEG to RGB. Gray becomes RGB; CMYK is refused. Damaged data throws, never yields a
    // partial image.
    void decode(const uint8_t* data, size_t size, Image& out);

    // Decodes at least the pixels of `wanted` (of the picture at full size; may reach beyond it), reading no
    // more of the file than it must. Every pixel equals that of a decode of the whole picture at
    // 1/denominator (1, 2, 4, 8). With `planes_do` the region may be planar.
    void decode_region(const uint8_t* data, size_t size, const Window& wanted, int denominator, Region& out,
                       bool planes_do = false);

    // Reads the header alone.
    void read_size(const uint8_t* data, size_t size, int* width, int* height);

  private:
    // Reads the header of `data` and keeps it for the next step; throws where there is none or it asks too
    // much.
    void open(const uint8_t* data, size_t size);
    bool decode_cut(const uint8_t* data, size_t size, const Window& inside, Region& out);
    void decode_window(const uint8_t* data, size_t size, const Window& inside, Region& out);
    void reserve(const Window& window, int width, Region& out);

    struct State;
    std::unique_ptr<State> state_;
};

// Appends to `out` the same picture, bit for bit, with other restart intervals (and always as baseline JPEG).
void recode(const uint8_t* data, size_t size, int restart_interval, bool optimize, std::vector<uint8_t>& out);

}  // namespace vidseg
