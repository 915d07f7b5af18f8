// Cutting a rectangle out of a JPEG without decoding it, by its restart markers.
//
// Where restart intervals divide the rows of MCUs evenly, the entropy-coded data is a grid of rectangles that
// can be decoded one without the other. The cut is itself a JPEG: the tables of the original, another size,
// and the intervals that cover the rectangle.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace vidseg {

// A rectangle of pixels, right and bottom excluded.
struct Window {
    int left = 0;
    int top = 0;
    int right = 0;
    int bottom = 0;
    int width() const { return right - left; }
    int height() const { return bottom - top; }
    // The part in a picture of this size; at least one pixel of it.
    Window within(int picture_width, int picture_height) const;
};

// libjpeg-turbo decodes an MCU slowly, and often twice, where a marker is near. The cut therefore has this
// many bytes of nothing before each restart marker. libjpeg skips them with a warning (JWRN_EXTRANEOUS_DATA)
// that counts them: any other count means that an interval is damaged. The last interval has none behind it,
// so that libjpeg notices itself when its data end early.
constexpr int kPaddingBytes = 8;

// Writes to `out` a JPEG of a part of `data` that holds `wanted` and the pixels around it that influence it,
// and to `covered` which part that is. False where it cannot be done: no restart markers, a progressive
// file, several scans, markers that are not where they should be. `wanted` must lie in the picture.
// `restarts`: how many restart markers the cut has.
bool cut_region(const uint8_t* data, size_t size, const Window& wanted, std::vector<uint8_t>& out,
                Window* covered, int* restarts);

}  // namespace vidseg
