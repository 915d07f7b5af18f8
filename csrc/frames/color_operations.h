// The table of color operations. Python reads names, parameters and rules from it
// (vidseg/clips/operations.py).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "color_frame.h"
#include "filters.h"

namespace vidseg {

constexpr int kColorParameters = 8;  // size of a row of parameters in a plan

using ColorValues = std::array<double, kColorParameters>;

struct ColorParameter {
    enum class Kind { kReal, kWhole, kOdd };
    // Parameters of one axis are positions and lengths in pixels: their sum must not exceed the frame's side.
    enum class Axis { kNone, kHeight, kWidth };

    const char* name;
    double low, high;  // both are allowed
    Kind kind = Kind::kReal;
    Axis axis = Axis::kNone;
};

// Changes a frame in place. Empty: the frame stays as it is.
using FrameChange = std::function<void(ColorFrame& frame, FilterScratch& scratch)>;

struct ColorOperation {
    // What an output pixel depends on: the same pixel, its neighbors, or the whole frame (also the position
    // in it).
    enum class Reads { kPixel, kNeighbors, kFrame };

    const char* name;
    std::vector<ColorParameter> parameters;
    Reads reads;
    // One of two. `level`: the new value of a sample, before clamping to 0..255 and truncation, from its
    // value and the parameter of its channel (the last one where there are fewer than three). `prepare`: the
    // change for checked parameters and a frame size; called once for all frames of a clip.
    float (*level)(float value, double parameter) = nullptr;
    FrameChange (*prepare)(const ColorValues& values, FrameSize size) = nullptr;
};

// The position of an operation is its code in a plan.
const std::vector<ColorOperation>& color_operations();

}  // namespace vidseg
