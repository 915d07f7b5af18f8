// Color and noise on one RGB frame. `vidseg/clips/color.py` has the same list of operations for Python.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "filters.h"

namespace vidseg {

constexpr int kColorParameters = 8;

// The position of an operation is its code in a plan. Lists of three are for red, green and blue.
enum class ColorCode : int64_t {
    kGaussianBlur,    // sigma in pixels
    kAdd,             // three values
    kAverageBlur,     // side of the window
    kMultiply,        // three factors
    kGamma,           // three exponents
    kHueSaturation,   // steps of 1/255 of the hue's circle, steps of 1/255 of saturation
    kLinearContrast,  // three factors of the distance from 127
    kGaussianNoise,   // standard deviation, number of the field, 1 for separate fields of the three colors
    kEnhanceColor,    // factor of the distance from gray
    kMotionBlur,      // side of the window, degrees, direction
    kBrightness,      // factor
    kContrast,        // factor of the distance from the frame's mean gray
    kSaturation,      // factor of the distance from gray
    kHue,             // part of the hue's circle
    kErase,           // top, left, height, width, and three values
    kGrayscale,       // none
    kCount,
};

// An operation with what it needs prepared: tables, filters, noise.
struct ColorStep {
    ColorCode code;
    std::array<double, kColorParameters> values;
    std::vector<uint8_t> tables;  // (3, 256); steps that are tables alone follow each other as one
    SeparableFilter filter;
    std::vector<Tap> taps;
    std::vector<int16_t> field;  // (H, W) or (H, W, 3)
};

// Work space of one thread. It keeps what it prepared for the last list of operations, which the frames of a
// clip share.
struct ColorScratch {
    std::vector<int64_t> codes;
    std::vector<double> parameters;
    int height = 0;
    int width = 0;
    std::vector<ColorStep> steps;
    FilterScratch filter;
};

// Applies `count` operations, in this order, to a tightly packed frame (H, W, 3) in place. `parameters`:
// (count, 8). Fails on an unknown code, on a parameter out of its range and on an empty frame.
void apply_colors(const int64_t* codes, const double* parameters, int64_t count, uint8_t* rgb, int height,
                  int width, ColorScratch& scratch);

}  // namespace vidseg
