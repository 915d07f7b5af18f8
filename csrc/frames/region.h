// Cuts a rectangle out of a JPEG without decoding it, along its restart markers.
//
// If restart intervals divide the rows of MCUs evenly, the entropy-coded data is a grid of independent
// rectangles. The cut is itself a JPEG: the tables of the original, another size, and the intervals that
// cover the rectangle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// A rectangle of pixels; right and bottom are exclusive.
struct Window {
    int left = 0;
    int top = 0;
    int right = 0;
    int bottom = 0;
    int width() const { return right - left; }
    int height() const { return bottom - top; }
    // Returns the part inside a picture of this size; at least one pixel of it.
    Window within(int picture_width, int picture_height) const;
};

// libjpeg-turbo decodes an MCU slowly, and often twice, near a marker. The cut therefore has this many
// padding bytes before each restart marker. libjpeg skips them with a warning (JWRN_EXTRANEOUS_DATA) that
// counts them; any other count indicates a damaged interval. The last interval has no padding, so that
// libjpeg detects a premature end.
constexpr int kPaddingBytes = 8;

// Writes a JPEG to `out` that contains `wanted` and the pixels around it that influence it, and its rectangle
// to `covered`. Returns false if that is impossible: no restart markers, a progressive file, several scans,
// markers at unexpected positions. `wanted` must lie in the picture. `restarts`: number of restart markers of
// the cut.
bool cut_region(const uint8_t* data, size_t size, const Window& wanted, std::vector<uint8_t>& out,
                Window* covered, int* restarts);

}  // namespace vidseg
