#include "region.h"

#include <algorithm>

#include "layout.h"

namespace vidseg {
namespace {

void write_16(uint8_t* bytes, int value) {
    bytes[0] = static_cast<uint8_t>(value >> 8);
    bytes[1] = static_cast<uint8_t>(value & 255);
}

}  // namespace

Window Window::within(int picture_width, int picture_height) const {
    Window inside{std::clamp(left, 0, picture_width - 1), std::clamp(top, 0, picture_height - 1), 0, 0};
    inside.right = std::clamp(right, inside.left + 1, picture_width);
    inside.bottom = std::clamp(bottom, inside.top + 1, picture_height);
    return inside;
}

bool cut_region(const uint8_t* data, size_t size, const Window& wanted, std::vector<uint8_t>& out,
                Window* covered, int* restarts) {
    JpegLayout layout;
    if (!layout.read(data, size)) return false;
    const int columns = layout.columns(), rows = layout.rows();
    if (layout.restart_interval == 0 || columns % layout.restart_interval != 0) return false;
    const int step = layout.restart_interval * layout.mcu_width;  // pixels across an interval
    const int per_row = columns / layout.restart_interval;

    const int first_column = std::max(0, wanted.left - kChromaMargin) / step;
    const int last_column = (std::min(layout.width, wanted.right + kChromaMargin) - 1) / step;
    const int first_row = std::max(0, wanted.top - kChromaMargin) / layout.mcu_height;
    const int last_row = (std::min(layout.height, wanted.bottom + kChromaMargin) - 1) / layout.mcu_height;
    if (first_column > last_column || first_row > last_row) return false;
    *covered = {first_column * step, first_row * layout.mcu_height,
                std::min(layout.width, (last_column + 1) * step),
                std::min(layout.height, (last_row + 1) * layout.mcu_height)};
    out = layout.headers;
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
            out.push_back(static_cast<uint8_t>(kFirstRestart + (kept++ & 7)));
        }
    }
    out.push_back(0xFF);
    out.push_back(kEndOfImage);
    *restarts = kept;
    return true;
}

}  // namespace vidseg
