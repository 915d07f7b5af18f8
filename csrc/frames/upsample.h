// Decoded video pictures to RGB, as they would look when stored as JPEGs, without the loss.
#pragma once

#include "jpeg.h"
#include "planes.h"

namespace vidseg {

// Pixels of a planar region: those of `wanted` that are there, at least one. Halved chroma is interpolated
// and turned into RGB with libjpeg's arithmetic.
void planes_to_pixels(const Region& planar, const Window& wanted, Region& out);

// One row of pixels from samples of full size.
void color_row(const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, int width, uint32_t* out);

}  // namespace vidseg
