// Color and noise on one RGB frame. The operations are in color_operations.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "color_operations.h"

namespace vidseg {

// A prepared operation: either tables, (3, 256), which map the samples, or `change`.
struct ColorStep {
    std::vector<uint8_t> tables;
    FrameChange change;
};

// Work space of one thread. It keeps the steps prepared for the last list of operations, which all frames of
// a clip share.
struct ColorScratch {
    std::vector<int64_t> codes;
    std::vector<double> parameters;
    FrameSize size{0, 0};
    std::vector<ColorStep> steps;
    FilterScratch filter;
};

// Prepares `count` operations for frames of this size and returns whether they change a frame. `parameters`
// has the shape (count, kColorParameters), unused ones 0. Throws std::invalid_argument on an unknown code, on
// a parameter that breaks a rule of the table and on a wrong frame size.
bool prepare_colors(const int64_t* codes, const double* parameters, int64_t count, FrameSize size,
                    ColorScratch& scratch);

// Applies the prepared operations in their order, in place, to a frame of the size that they were prepared
// for.
void apply_colors(ColorFrame& frame, ColorScratch& scratch);

// Prepares and applies operations to pixels of R, G, B and an unused byte each. `frame` is work space.
void change_colors(const int64_t* codes, const double* parameters, int64_t count, FrameSize size,
                   ColorFrame& frame, ColorScratch& scratch, uint32_t* pixels);

// The table of operations as JSON: {"max_parameters": 8, "operations": [{"name", "reads", "parameters":
// [{"name", "low", "high", "kind", "axis"}]}]}. The position of an operation is its code.
std::string describe_colors();

}  // namespace vidseg
