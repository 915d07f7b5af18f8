// The passes of a separable filter over the rows of a picture. Each exists twice, with equal results:
// portable, and with AVX2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "filter.h"

namespace vidseg {

constexpr int kRowBits = 6;  // fractional bits between the passes

// How many values behind the end of a blended row may be read: they must be there, and mean nothing.
inline size_t behind_pixels(const Filter& filter) { return static_cast<size_t>(filter.taps + 2) * 4; }
inline size_t behind_samples(const Filter& filter) { return static_cast<size_t>(filter.taps) + 16; }

struct Passes {
    // One output row from `count` input rows of `bytes` bytes: sums of 8-bit samples times 14-bit weights,
    // kept with 6 fractional bits.
    void (*blend_rows)(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                       int16_t* out);
    // One row of pixels of 4 samples from one blended row.
    void (*filter_pixels)(const int16_t* row, const int* first, const Filter::OfPixels& of, int width,
                          uint32_t* out);
    // One row of samples from one blended row; null where the portable pass serves. Writes up to a multiple
    // of 16.
    void (*filter_samples)(const int16_t* row, const Filter::OfSamples& of, int width, uint8_t* out);
};

// Those for this processor.
const Passes& passes();

void filter_samples_portable(const int16_t* row, const Filter& filter, int width, uint8_t* out);

}  // namespace vidseg
