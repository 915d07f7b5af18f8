// Passes of a separable filter over the rows of a picture.
#pragma once

#include <cstddef>
#include <cstdint>

#include "filter.h"

namespace vidseg {

constexpr int kRowBits = 6;  // fractional bits between the passes

// Number of values after the end of a blended row that are read and must exist; their values do not matter.
inline size_t behind_pixels(const Filter& filter) { return static_cast<size_t>(filter.taps + 2) * 4; }
inline size_t behind_samples(const Filter& filter) { return static_cast<size_t>(filter.taps) + 16; }

struct Passes {
    // Computes one output row from `count` input rows of `bytes` bytes: sums of 8-bit samples times 14-bit
    // weights, with 6 fractional bits.
    void (*blend_rows)(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                       int16_t* out);
    // Filters one blended row to a row of pixels of 4 samples.
    void (*filter_pixels)(const int16_t* row, const int* first, const Filter::OfPixels& of, int width,
                          uint32_t* out);
    // Filters one blended row to a row of samples. Writes up to a multiple of 16 samples.
    void (*filter_samples)(const int16_t* row, const Filter::OfSamples& of, int width, uint8_t* out);
};

// Returns the passes for this processor.
const Passes& passes();

}  // namespace vidseg
