// The sizes that a frame may have.
#pragma once

#include <cstdint>

#include "common/check.h"

namespace vidseg {

constexpr int kMaxSide = 65500;  // pixels; libjpeg's limit

inline void require_frame_size(int64_t height, int64_t width) {
    require(height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide, "frame size ", width, "x",
            height, ": each side must be 1 to ", kMaxSide);
}

}  // namespace vidseg
