// One batch from one plan: the only loop over the pixels of training.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cache.h"
#include "output.h"

namespace vidseg {

// B clips of T frames; arrays belong to the caller.
struct FillPlan {
    int64_t clips = 0;
    int64_t frames_per_clip = 0;
    int height = 0;
    int width = 0;
    bool frames_first = false;       // planar output is (T, C, H, W) instead of (C, T, H, W)
    std::vector<std::string> paths;  // B databases
    const int64_t* videos;           // (B), numbers that the cache knows them by
    const int64_t* frames;           // (B, T), from 0
    const double* matrices;          // (B, 3, 3), output point to source point
    const int64_t* color_offsets;    // (B + 1)
    const int64_t* color_codes;      // (M)
    const double* color_parameters;  // (M, kColorParameters)
};

struct FillOptions {
    OutputFormat format;
    int threads = 1;
    double enlarge = 1.0;             // by how much a stored copy may be enlarged, 1 to 2
    bool replace = false;             // a damaged frame by the nearest one that can be read
    Caches* caches = nullptr;         // null: none
    const uint8_t* cancel = nullptr;  // stops between two frames when it becomes other than 0
};

// Fills `out`, (B, C, T, H, W), (B, T, C, H, W) or (B, T, H, W, C), and `shown` (B, T) with the number of the
// frame that each position shows. Throws the error of the first unreadable frame in the order of the plan,
// for any number of threads; returns false when canceled.
bool fill(const FillPlan& plan, const FillOptions& options, uint8_t* out, int64_t* shown);

}  // namespace vidseg
