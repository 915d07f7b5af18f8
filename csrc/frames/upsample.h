// Conversion of planar pictures to RGB with the arithmetic of libjpeg.
#pragma once

#include "jpeg.h"
#include "planes.h"

namespace vidseg {

// Converts the pixels of `wanted` that a planar region has, at least one. Halved chroma is interpolated as in
// libjpeg.
void planes_to_pixels(const Region& planar, const Window& wanted, Region& out);

// Converts one row of samples of full size to pixels; without chroma they are the pixels' R, G and B.
void color_row(Chroma chroma, const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, int width,
               uint32_t* out);

}  // namespace vidseg
