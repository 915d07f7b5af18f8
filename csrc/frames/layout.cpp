#include "layout.h"

#include <algorithm>
#include <cstring>

namespace vidseg {
namespace {

enum Marker : uint8_t {
    kSof0 = 0xC0,
    kSof1 = 0xC1,
    kSos = 0xDA,
    kDri = 0xDD,
    kApp0 = 0xE0,
    kApp14 = 0xEE,
};

constexpr int kAdobeBytes = 14;  // of the Adobe segment, with its length

int read_16(const uint8_t* bytes) { return bytes[0] << 8 | bytes[1]; }

}  // namespace

bool JpegLayout::read_frame_header(const uint8_t* segment, int length) {
    if (length < 8 || segment[4] != 8) return false;  // only 8-bit samples
    height = read_16(segment + 5);
    width = read_16(segment + 7);
    components = segment[9];
    if (width == 0 || height == 0) return false;
    if (components != 1 && components != 3) return false;
    if (length != 8 + 3 * components) return false;
    int across = 1, down = 1;
    for (int i = 0; i < components; ++i) {
        const uint8_t* entry = segment + 10 + 3 * i;
        component[i] = {entry[0], entry[1] >> 4, entry[1] & 15, entry[2], 0, 0};
        if (component[i].across < 1 || component[i].down < 1) return false;
        across = std::max(across, component[i].across);
        down = std::max(down, component[i].down);
    }
    if (across > 2 || down > 2) return false;
    if (components == 1 && (across != 1 || down != 1)) return false;
    mcu_width = 8 * across;
    mcu_height = 8 * down;
    return true;
}

bool JpegLayout::read_scan_header(const uint8_t* segment, int length) {
    if (width == 0 || length != 6 + 2 * components || segment[4] != components) return false;
    const uint8_t* spectral = segment + 5 + 2 * components;  // selection and approximation
    if (spectral[0] != 0 || spectral[1] != 63 || spectral[2] != 0) return false;
    for (int i = 0; i < components; ++i) {
        const uint8_t* entry = segment + 5 + 2 * i;
        if (entry[0] != component[i].name) return false;
        component[i].dc_table = entry[1] >> 4;
        component[i].ac_table = entry[1] & 15;
    }
    return true;
}

bool JpegLayout::read(const uint8_t* data, size_t size) {
    width = restart_interval = 0;
    jfif = adobe = false;
    segments.clear();
    if (size < 4 || data[0] != 0xFF || data[1] != kStartOfImage) return false;
    headers.assign(data, data + 2);
    size_t at = 2;
    while (at + 4 <= size) {
        if (data[at] != 0xFF) return false;
        const uint8_t marker = data[at + 1];
        const int length = read_16(data + at + 2);
        const size_t next = at + 2 + static_cast<size_t>(length);
        if (length < 2 || next > size) return false;
        const uint8_t* segment = data + at;
        at = next;
        switch (marker) {
            case kSof0:
            case kSof1:
                if (width != 0 || !read_frame_header(segment, length)) return false;
                frame_header = headers.size();
                break;
            case kDri:
                if (length != 4) return false;
                restart_interval = read_16(segment + 4);
                break;
            case kSos:
                if (!read_scan_header(segment, length)) return false;
                break;
            case kApp14:  // names the color space
                if (length < kAdobeBytes || std::memcmp(segment + 4, "Adobe", 5) != 0) return false;
                adobe = true;
                adobe_transform = segment[15];
                break;
            case kHuffmanTables:
            case kQuantizers:
                break;
            case kApp0:
                jfif = true;
                break;
            default:
                if (marker < kApp0) return false;  // progressive, arithmetic, a stray marker
                continue;
        }
        const size_t begin = headers.size();
        headers.insert(headers.end(), segment, data + next);
        segments.push_back({marker, begin, headers.size()});
        if (marker == kSos) {
            entropy = next;
            return true;
        }
    }
    return false;
}

bool IntervalReader::next(int64_t number, bool last, const uint8_t** bytes, size_t* count) {
    const uint8_t* start = position_;
    while (true) {
        const auto* found =
            static_cast<const uint8_t*>(std::memchr(position_, 0xFF, static_cast<size_t>(end_ - position_)));
        if (found == nullptr || found + 1 >= end_) return false;
        const uint8_t marker = found[1];
        position_ = found + 2;
        if (marker == 0) continue;  // a data byte of 255
        if (marker != (last ? kEndOfImage : static_cast<uint8_t>(kFirstRestart + (number & 7)))) return false;
        *bytes = start;
        *count = static_cast<size_t>(found - start);
        return true;
    }
}

uint8_t* copy_unstuffed(const uint8_t* bytes, size_t count, uint8_t* out) {
    const uint8_t* end = bytes + count;
    while (bytes < end) {
        const auto* found =
            static_cast<const uint8_t*>(std::memchr(bytes, 0xFF, static_cast<size_t>(end - bytes)));
        const uint8_t* stop = found == nullptr ? end : found + 1;
        std::memcpy(out, bytes, static_cast<size_t>(stop - bytes));
        out += stop - bytes;
        bytes = found == nullptr ? end : found + 2;
    }
    return out;
}

}  // namespace vidseg
