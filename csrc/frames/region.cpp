#include "region.h"

#include <algorithm>
#include <cstring>

namespace vidseg {
namespace {

// Chroma of half resolution is interpolated from its neighbours: two pixels of luma around a sample.
constexpr int kMargin = 2;

enum Marker : uint8_t {
    kSof0 = 0xC0,
    kSof1 = 0xC1,
    kDht = 0xC4,
    kRst0 = 0xD0,
    kRst7 = 0xD7,
    kSoi = 0xD8,
    kEoi = 0xD9,
    kSos = 0xDA,
    kDqt = 0xDB,
    kDri = 0xDD,
    kApp0 = 0xE0,
    kApp14 = 0xEE,
};

int read_16(const uint8_t* bytes) { return bytes[0] << 8 | bytes[1]; }

void write_16(uint8_t* bytes, int value) {
    bytes[0] = static_cast<uint8_t>(value >> 8);
    bytes[1] = static_cast<uint8_t>(value & 255);
}

struct Layout {
    int width = 0;
    int height = 0;
    int components = 0;
    int mcu_width = 0;
    int mcu_height = 0;
    int restart_interval = 0;
    size_t frame_header = 0;  // in the copied headers: where SOF begins
    size_t entropy = 0;       // in the data: where the first interval begins
};

bool read_frame_header(const uint8_t* segment, int length, Layout& layout) {
    if (length < 8 || segment[4] != 8) return false;  // 8 bits a sample
    layout.height = read_16(segment + 5);
    layout.width = read_16(segment + 7);
    layout.components = segment[9];
    if (layout.width == 0 || layout.height == 0) return false;
    if (layout.components != 1 && layout.components != 3) return false;
    if (length < 8 + 3 * layout.components) return false;
    int horizontal = 1, vertical = 1;
    for (int i = 0; i < layout.components; ++i) {
        const uint8_t factors = segment[11 + 3 * i];
        horizontal = std::max(horizontal, factors >> 4);
        vertical = std::max(vertical, factors & 15);
    }
    if (horizontal > 2 || vertical > 2) return false;
    if (layout.components == 1 && (horizontal != 1 || vertical != 1)) return false;
    layout.mcu_width = 8 * horizontal;
    layout.mcu_height = 8 * vertical;
    return true;
}

// Walks over the segments up to the first scan and copies those that decoding needs.
bool read_layout(const uint8_t* data, size_t size, Layout& layout, std::vector<uint8_t>& headers) {
    if (size < 4 || data[0] != 0xFF || data[1] != kSoi) return false;
    headers.assign(data, data + 2);
    size_t at = 2;
    while (at + 4 <= size) {
        if (data[at] != 0xFF) return false;
        const uint8_t marker = data[at + 1];
        const int length = read_16(data + at + 2);
        if (length < 2 || at + 2 + static_cast<size_t>(length) > size) return false;
        const uint8_t* segment = data + at;
        switch (marker) {
            case kSof0:
            case kSof1:
                if (layout.width != 0 || !read_frame_header(segment, length, layout)) return false;
                layout.frame_header = headers.size();
                break;
            case kDri:
                if (length != 4) return false;
                layout.restart_interval = read_16(segment + 4);
                break;
            case kSos:
                if (layout.width == 0 || length < 3 || segment[4] != layout.components) return false;
                break;
            case kDht:
            case kDqt:
            case kApp0:   // JFIF: says that three components are YCbCr
            case kApp14:  // Adobe: says which colours they are
                break;
            default:
                if (marker < kApp0) return false;  // progressive, arithmetic, a stray marker
                at += 2 + static_cast<size_t>(length);
                continue;
        }
        headers.insert(headers.end(), segment, segment + 2 + length);
        at += 2 + static_cast<size_t>(length);
        if (marker == kSos) {
            layout.entropy = at;
            return true;
        }
    }
    return false;
}

// Steps from one restart marker to the next.
class IntervalReader {
  public:
    IntervalReader(const uint8_t* data, size_t size, size_t start)
        : position_(data + start), end_(data + size), start_(position_) {}

    // Reads interval `number`, which must be the one after that read last: its bytes, without the marker
    // behind it. The last of the picture ends with EOI.
    bool next(int64_t number, bool last, const uint8_t** bytes, size_t* count) {
        start_ = position_;
        while (true) {
            const auto* found = static_cast<const uint8_t*>(
                std::memchr(position_, 0xFF, static_cast<size_t>(end_ - position_)));
            if (found == nullptr || found + 1 >= end_) return false;
            const uint8_t marker = found[1];
            position_ = found + 2;
            if (marker == 0) continue;  // a data byte of 255
            if (marker != (last ? static_cast<uint8_t>(kEoi) : static_cast<uint8_t>(kRst0 + (number & 7))))
                return false;
            *bytes = start_;
            *count = static_cast<size_t>(found - start_);
            return true;
        }
    }

  private:
    const uint8_t* position_;
    const uint8_t* end_;
    const uint8_t* start_;
};

}  // namespace

bool cut_region(const uint8_t* data, size_t size, const Window& wanted, std::vector<uint8_t>& out,
                Window* covered, int* restarts) {
    Layout layout;
    if (!read_layout(data, size, layout, out)) return false;
    const int columns = (layout.width + layout.mcu_width - 1) / layout.mcu_width;
    const int rows = (layout.height + layout.mcu_height - 1) / layout.mcu_height;
    if (layout.restart_interval == 0 || columns % layout.restart_interval != 0) return false;
    const int step = layout.restart_interval * layout.mcu_width;  // pixels across an interval
    const int per_row = columns / layout.restart_interval;

    const int first_column = std::max(0, wanted.left - kMargin) / step;
    const int last_column = (std::min(layout.width, wanted.right + kMargin) - 1) / step;
    const int first_row = std::max(0, wanted.top - kMargin) / layout.mcu_height;
    const int last_row = (std::min(layout.height, wanted.bottom + kMargin) - 1) / layout.mcu_height;
    if (first_column > last_column || first_row > last_row) return false;
    *covered = {first_column * step, first_row * layout.mcu_height,
                std::min(layout.width, (last_column + 1) * step),
                std::min(layout.height, (last_row + 1) * layout.mcu_height)};
    write_16(&out[layout.frame_header + 5], covered->height());
    write_16(&out[layout.frame_header + 7], covered->width());

    IntervalReader intervals(data, size, layout.entropy);
    const int64_t last = int64_t{rows} * per_row - 1;
    int kept = 0;
    for (int row = 0; row <= last_row; ++row) {
        for (int column = 0; column < per_row; ++column) {
            const int64_t number = int64_t{row} * per_row + column;
            const uint8_t* bytes = nullptr;
            size_t count = 0;
            if (!intervals.next(number, number == last, &bytes, &count)) return false;
            if (row < first_row || column < first_column || column > last_column) continue;
            out.insert(out.end(), bytes, bytes + count);
            if (row == last_row && column == last_column) break;
            out.insert(out.end(), kPaddingBytes, 0);
            out.push_back(0xFF);
            out.push_back(static_cast<uint8_t>(kRst0 + (kept++ & 7)));
        }
    }
    out.push_back(0xFF);
    out.push_back(kEoi);
    *restarts = kept;
    return true;
}

}  // namespace vidseg
