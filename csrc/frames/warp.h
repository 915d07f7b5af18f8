// Bilinear look-ups at the places where a 3x3 matrix puts the pixels of an output frame.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "jpeg.h"

namespace vidseg {

// Work space of one thread.
struct WarpScratch {
    // Look-ups of one output row, point after point: the upper left of the four pixels around the place, as
    // an offset in the region, and the shares of the right and of the lower pixels, of 256, in the high 16
    // bits, with those of the others in the low ones.
    std::vector<int32_t> corners;
    std::vector<uint32_t> right_shares, lower_shares;
    // Place of each look-up in the region, in 1/256 of a pixel; 0 is the center of the first pixel.
    std::vector<int32_t> across, down;
    // Of each pixel of the row: 1 if all four pixels of all its look-ups are in the region.
    std::vector<uint8_t> inside;
    std::vector<uint16_t> sums;
    Region smooth;
};

// Number of pixels around a look-up that its result depends on.
constexpr int kWarpReach = 2;

// Writes (height, width) pixels, R, G, B and an unused byte each: bilinear look-ups in `region`. Pixels
// outside of the region are `background`.
//
// Where an output pixel covers more than one pixel of the region, these are averaged: `region` is smoothed so
// that a look-up has the variance of a mean of four look-ups within the output pixel or, from 2.5 pixels on,
// the mean of points x points look-ups is taken.
//
// `matrix` maps an output point to a point of the region's picture, in row-major order; its denominator is
// above 0 on the whole output. Places are rounded to 1/256 of a pixel. The results do not depend on the
// processor.
void warp(const Region& region, const std::array<double, 9>& matrix, uint32_t background, int width,
          int height, WarpScratch& scratch, uint32_t* out);

}  // namespace vidseg
