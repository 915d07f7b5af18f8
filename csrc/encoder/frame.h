// What the C interface of the encoder takes and returns.
#pragma once

#include <cstdint>

namespace vidseg {
constexpr int kMostLevels = 8;
}

extern "C" {

// Arguments and result of `vidseg_encode_planes`; vidseg/frames/plane_encoder.py has the same structure.
struct VidsegFrame {
    const uint8_t* planes[3];  // Y, Cb, Cr
    int64_t sizes[3];          // bytes that are readable
    int64_t strides[3];        // bytes of a row
    int64_t width;             // of the luma plane
    int64_t height;
    int64_t chroma;  // 420 or 444
    double luma_weights[2];
    int64_t full_range;
    int64_t quality;
    int64_t restart_interval;
    int64_t optimize;
    int64_t levels;
    const uint8_t* data;  // result: the JPEGs, one after another, valid until the next call of this thread
    int64_t ends[vidseg::kMostLevels + 1];  // result: the end of each JPEG
};

}  // extern "C"
