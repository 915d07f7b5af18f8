// Blurs of one RGB frame. Beyond the edges a frame is mirrored without repeating its last row or column, as
// OpenCV does by default.
#pragma once

#include <cstdint>
#include <vector>

namespace vidseg {

// Work space of the filters, kept by whoever calls them again.
struct FilterScratch {
    std::vector<uint8_t> padded;
    std::vector<uint16_t> sums;
    std::vector<uint32_t> line;
};

// A filter that is a row of weights times the same column of weights: pixel x takes pixels x + first, x +
// first + 1, ...
struct SeparableFilter {
    std::vector<uint16_t> weights;
    int first = 0;

    bool is_identity() const { return weights.size() == 1; }
};

// One weight of a filter without structure; the weights of a filter sum to 1 << kTapBits.
struct Tap {
    int dx, dy;
    uint16_t weight;
};
constexpr int kTapBits = 14;

// 8-bit weights as OpenCV's for 8-bit pictures, in the window that imgaug 0.4.0 chooses for sigma.
SeparableFilter gaussian_filter(double sigma);

// The mean over k x k pixels; where k is even, the window reaches one pixel further to the left and above.
SeparableFilter average_filter(int k);

// The line of imgaug's MotionBlur: k x k, rotated by `angle` degrees, its weight moving from one end
// (direction -1) to the other (1).
std::vector<Tap> motion_filter(int k, double angle, double direction);

void blur_gaussian(const SeparableFilter& filter, uint8_t* rgb, int height, int width,
                   FilterScratch& scratch);
void blur_average(const SeparableFilter& filter, uint8_t* rgb, int height, int width, FilterScratch& scratch);
void convolve(const std::vector<Tap>& taps, uint8_t* rgb, int height, int width, FilterScratch& scratch);

}  // namespace vidseg
