// Pixels of three bytes, as arrays of RGB have them, and of four, as the loader samples them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vidseg {

// Writes R, G and B of `count` pixels of four bytes, or with `bgr` B, G and R.
void pack_pixels(const uint32_t* pixels, size_t count, bool bgr, uint8_t* out);

// Reads `count` pixels of R, G and B. The fourth byte is 0.
void unpack_pixels(const uint8_t* rgb, size_t count, uint32_t* pixels);

}  // namespace vidseg
