// Blurs of one frame. The border is mirrored without repeating the edge, as OpenCV's default.
#pragma once

#include <cstdint>
#include <vector>

#include "color_frame.h"

namespace vidseg {

// Work space of the filters, reused between calls.
struct FilterScratch {
    std::vector<uint8_t> padded;
    std::vector<uint16_t> sums;
    std::vector<uint32_t> line;
};

// A separable filter with equal weights along rows and columns: pixel x reads pixels x + first, x + first +
// 1, ...
struct SeparableFilter {
    std::vector<uint16_t> weights;
    int first = 0;

    bool is_identity() const { return weights.size() == 1; }
};

// One weight of a non-separable filter. The weights of a filter sum to 1 << kTapBits.
struct Tap {
    int dx, dy;
    uint16_t weight;
};
constexpr int kTapBits = 14;

// Returns the 8-bit weights of OpenCV's GaussianBlur, with the window size of imgaug 0.4.0 for sigma.
SeparableFilter gaussian_filter(double sigma);

// Returns the mean over k x k pixels. For even k the window extends one pixel further to the left and to the
// top.
SeparableFilter average_filter(int k);

// Returns the kernel of imgaug's MotionBlur: a k x k line, rotated by `angle` degrees, with its weight at one
// end (direction -1), at the other end (1) or in between.
std::vector<Tap> motion_filter(int k, double angle, double direction);

void blur_gaussian(const SeparableFilter& filter, ColorFrame& frame, FilterScratch& scratch);
void blur_average(const SeparableFilter& filter, ColorFrame& frame, FilterScratch& scratch);
void convolve(const std::vector<Tap>& taps, ColorFrame& frame, FilterScratch& scratch);

// As PIL.ImageEnhance.Sharpness: a blend with a 3x3 average that has five times the weight in its center; the
// pixels at the border stay as they are.
void sharpen(float factor, ColorFrame& frame, FilterScratch& scratch);

}  // namespace vidseg
