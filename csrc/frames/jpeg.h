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

// A restart interval that divides an MCU row evenly, so that every interval is a rectangle of MCUs: the
// smallest of 2 to 6 that does, else 1.
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

    // Decodes a whole JPEG to RGB. Grey becomes RGB; CMYK is refused. Damaged data throws, never yields a
    // partial image.
    void decode(const uint8_t* data, size_t size, Image& out);

    // Reads the header alone.
    void read_size(const uint8_t* data, size_t size, int* width, int* height);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

// Appends to `out` the same picture, bit for bit, with other restart intervals (and always as baseline JPEG).
void recode(const uint8_t* data, size_t size, int restart_interval, bool optimize, std::vector<uint8_t>& out);

}  // namespace vidseg
