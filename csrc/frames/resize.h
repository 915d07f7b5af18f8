// Resampling of RGB images: bilinear, widened to an area average when shrinking, as in Pillow and torch
// (antialias=True).
#pragma once

#include <cstdint>

#include "jpeg.h"

namespace vidseg {

// Writes (height, width, 3) to `out`; a copy if the size does not change.
void resize_rgb(const Image& in, int width, int height, uint8_t* out);

}  // namespace vidseg
