// Resampling of RGB images: bilinear, widened to an area average when shrinking (as Pillow and torch's
// antialias=True).
#pragma once

#include <cstdint>

#include "jpeg.h"

namespace vidseg {

// Writes (height, width, 3) to `out`; a plain copy where the size is already right.
void resize_rgb(const Image& in, int width, int height, uint8_t* out);

}  // namespace vidseg
