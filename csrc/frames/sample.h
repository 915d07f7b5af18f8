// Resampling of a region to an output frame by one 3x3 matrix.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "filter.h"
#include "jpeg.h"
#include "warp.h"

namespace vidseg {

// Maps pixels of an output frame to a stored frame. Coordinates are continuous: pixel i covers [i, i + 1).
//
// For matrices of translation, scale and mirroring, the filter is separable: bilinear, widened to an area
// average when shrinking. It reads pixels around the crop but none outside the frame, as Pillow's
// resize(box=...). Other matrices are bilinear look-ups (warp.h). Outside the frame is the
// background.
class Sampler {
  public:
    // `matrix`: maps an output point to a point of the stored frame, in row-major order. `background`: a
    // pixel. `channels`: 2 may leave blue undefined, which saves time.
    Sampler(const std::array<double, 9>& matrix, int width, int height, uint32_t background = 0,
            int channels = 3);

    // Number of pixels of the stored frame per output pixel, along the side that shrinks least and along the
    // other one.
    double least_shrink() const { return least_shrink_; }
    double most_shrink() const { return most_shrink_; }

    // Returns the part of a copy with 1/divisor of the side that `sample` reads; it may extend beyond the
    // frame.
    Window window(int divisor) const;

    // Writes (height, width) pixels, R, G, B and an unused byte each. `divisor`: stored size divided by the
    // region's full size.
    void sample(const Region& region, int divisor, uint32_t* out);

  private:
    void check_covers(const Region& region) const;
    void sample_pixels(const Region& region, uint32_t* out);
    void sample_planes(const Region& region, uint32_t* out);
    void sample_row(const Plane& plane, const std::array<int, 2>& corner, Filter& across, Filter& down, int y,
                    uint8_t* out);
    void sample_any(const Region& region, int divisor, uint32_t* out);

    std::array<double, 9> matrix_;
    int width_, height_;
    uint32_t background_;
    int channels_;
    bool separable_;
    double least_shrink_, most_shrink_;
    Filter across_, down_, chroma_across_, chroma_down_;
    Region pixels_;  // pixels of a planar region, if needed
    WarpScratch warp_;
    std::vector<int16_t> row_;
    std::vector<uint8_t> samples_;
    std::vector<const uint8_t*> rows_;
};

}  // namespace vidseg
