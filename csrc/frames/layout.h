// Structure of a sequential JPEG: its headers and the intervals between restart markers. Unusual files are
// refused and left to libjpeg.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// Margin in pixels around a window: chroma of half resolution is interpolated from adjacent samples, and a
// sample covers two pixels of luma.
constexpr int kChromaMargin = 2;

constexpr uint8_t kHuffmanTables = 0xC4, kFirstRestart = 0xD0, kStartOfImage = 0xD8, kEndOfImage = 0xD9,
                  kQuantizers = 0xDB;

struct JpegLayout {
    struct Component {
        uint8_t name;
        int across, down;  // sampling factors, 1 or 2
        int quantizer, dc_table, ac_table;
    };
    // A segment of the headers. Marker, length and content begin at `at`; the content ends before `end`.
    struct Segment {
        uint8_t marker;
        size_t at, end;
    };
    int width = 0;
    int height = 0;
    int components = 0;  // 1 or 3
    std::array<Component, 3> component{};
    int mcu_width = 0;
    int mcu_height = 0;
    int restart_interval = 0;       // in MCUs; 0: no markers
    bool jfif = false;              // has a JFIF marker: three components are YCbCr
    bool adobe = false;             // has an Adobe marker
    int adobe_transform = 0;        // its content; 0: three components are RGB
    size_t frame_header = 0;        // offset of SOF in the headers
    size_t entropy = 0;             // offset of the first interval in the file
    std::vector<uint8_t> headers;   // headers that decoding needs
    std::vector<Segment> segments;  // of the headers

    int columns() const { return (width + mcu_width - 1) / mcu_width; }
    int rows() const { return (height + mcu_height - 1) / mcu_height; }

    // Reads the headers before the first scan, which must be the only one. Returns false for unexpected
    // headers.
    bool read(const uint8_t* data, size_t size);

  private:
    bool read_frame_header(const uint8_t* segment, int length);
    bool read_scan_header(const uint8_t* segment, int length);
};

// Iterates over restart markers.
class IntervalReader {
  public:
    IntervalReader(const uint8_t* data, size_t size, size_t start)
        : position_(data + start), end_(data + size) {}

    // Reads interval `number`, which must follow the one that was read last: its bytes, without the marker
    // after it. The last interval of the picture ends with EOI.
    bool next(int64_t number, bool last, const uint8_t** bytes, size_t* count);

  private:
    const uint8_t* position_;
    const uint8_t* end_;
};

// Copies an interval without the stuffing zeros after bytes of 255. Returns the end of the copy.
uint8_t* copy_unstuffed(const uint8_t* bytes, size_t count, uint8_t* out);

}  // namespace vidseg
