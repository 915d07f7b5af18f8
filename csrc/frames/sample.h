// From the pixels of a region to those of an output frame, through one 3x3 matrix, resampled once.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "filter.h"
#include "jpeg.h"

namespace vidseg {

// Where the pixels of an output frame lie in a stored frame. Coordinates are continuous: pixel i covers [i, i
// + 1).
//
// A matrix that only moves, scales and mirrors is a separable filter: bilinear, widened to an area average
// when shrinking, which may see pixels around the crop but none outside the frame (as Pillow's
// resize(box=...)). Any other matrix is a bilinear look-up, averaged over n x n points of each output pixel
// when shrinking; outside the frame is black.
class Sampler {
  public:
    // matrix: output point -> point of the stored frame, row by row.
    Sampler(const std::array<double, 9>& matrix, int width, int height);

    // Pixels of the stored frame to a pixel of the output: along the side that shrinks least, and most.
    double least_shrink() const { return least_shrink_; }
    double most_shrink() const { return most_shrink_; }

    // The part of a copy with 1/divisor of the side that `sample` reads; may reach beyond the frame.
    Window window(int divisor) const;

    // Writes (height, width) pixels, R G B and a fourth byte each. `divisor`: stored size over the region's
    // full size.
    void sample(const Region& region, int divisor, uint32_t* out);

  private:
    void check_covers(const Region& region) const;
    void sample_pixels(const Region& region, uint32_t* out);
    void sample_planes(const Region& region, uint32_t* out);
    void sample_row(const Plane& plane, const std::array<int, 2>& corner, Filter& across, Filter& down, int y,
                    uint8_t* out);
    void sample_any(const Region& region, int divisor, uint32_t* out) const;

    std::array<double, 9> matrix_;
    int width_, height_;
    bool separable_;
    double least_shrink_, most_shrink_;
    Filter across_, down_, chroma_across_, chroma_down_;
    Region pixels_;  // of a planar region, where pixels are needed
    std::vector<int16_t> row_;
    std::vector<uint8_t> samples_;
    std::vector<const uint8_t*> rows_;
};

}  // namespace vidseg
