// Fills a batch from a plan: reads, decodes, resamples, recolors and writes the frames.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache.h"
#include "output.h"

namespace vidseg {

// B clips of T frames. The caller owns the arrays.
struct FillPlan {
    int64_t clips = 0;
    int64_t frames_per_clip = 0;
    int height = 0;
    int width = 0;
    bool frames_first = false;       // planar output is (T, C, H, W) instead of (C, T, H, W)
    int stack = 1;                   // adjacent frames whose channels are stacked; T counts all frames
    std::vector<std::string> paths;  // paths of B databases
    const int64_t* videos;           // (B), keys of the cache
    const int64_t* frames;           // (B, T), from 0
    const double* matrices;          // (B, 3, 3), output point to source point
    const int64_t* color_offsets;    // (B + 1)
    const int64_t* color_codes;      // (M)
    const double* color_parameters;  // (M, kColorParameters)
    const float* vectors = nullptr;  // (B, 2, 3), a `VectorMap` for each clip; null: colors
};

struct FillOptions {
    OutputFormat format;
    int threads = 1;
    double enlarge = 1.0;             // largest enlargement of a stored copy, 1 to 2
    uint32_t background = 0;          // pixel outside the frame
    bool replace = false;             // replaces a damaged frame by the nearest readable one
    Caches* caches = nullptr;         // null: no cache
    const uint8_t* cancel = nullptr;  // a value other than 0 stops between two frames
};

// Fills `out`, (B, C, T, H, W), (B, T, C, H, W) or (B, T, H, W, C), of 3 channels, or 2 for vectors, and
// `shown` (B, T) with the number of the frame at each position. Throws the error of the first unreadable
// frame in the order of the plan, for any number of threads. Returns false when canceled.
bool fill(const FillPlan& plan, const FillOptions& options, uint8_t* out, int64_t* shown);

}  // namespace vidseg
