// The parts of a sequential JPEG: its headers, and the intervals between restart markers. Whatever is unusual
// is refused: libjpeg shall judge such files.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// How much of the sources that shape a pixel lies beside it: chroma of half resolution is interpolated from
// its neighbors, two pixels of luma around a sample.
constexpr int kChromaMargin = 2;

constexpr uint8_t kHuffmanTables = 0xC4, kFirstRestart = 0xD0, kStartOfImage = 0xD8, kEndOfImage = 0xD9,
                  kQuantizers = 0xDB;

struct JpegLayout {
    struct Component {
        uint8_t name;
        int across, down;  // sampling factors, 1 or 2
        int quantizer, dc_table, ac_table;
    };
    // A segment of the headers: marker, length and content begin at `at`; the content ends before `end`.
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
    int restart_interval = 0;  // MCUs; 0: there are no markers
    bool adobe = false;
    size_t frame_header = 0;        // in the headers: where SOF begins
    size_t entropy = 0;             // in the file: where the first interval begins
    std::vector<uint8_t> headers;   // those that decoding needs
    std::vector<Segment> segments;  // of the headers

    int columns() const { return (width + mcu_width - 1) / mcu_width; }
    int rows() const { return (height + mcu_height - 1) / mcu_height; }

    // Reads what stands before the first scan, which must be the only one. False where it is not as expected.
    bool read(const uint8_t* data, size_t size);

  private:
    bool read_frame_header(const uint8_t* segment, int length);
    bool read_scan_header(const uint8_t* segment, int length);
};

// Steps from one restart marker to the next.
class IntervalReader {
  public:
    IntervalReader(const uint8_t* data, size_t size, size_t start)
        : position_(data + start), end_(data + size) {}

    // Reads interval `number`, which must be the one after that read last: its bytes, without the marker
    // behind it. The last of the picture ends with EOI.
    bool next(int64_t number, bool last, const uint8_t** bytes, size_t* count);

  private:
    const uint8_t* position_;
    const uint8_t* end_;
};

// Copies an interval without the zeros that stand behind bytes of 255; the end of the copy.
uint8_t* copy_unstuffed(const uint8_t* bytes, size_t count, uint8_t* out);

}  // namespace vidseg
