// The weights of a separable filter along one dimension: bilinear, widened to an area average when shrinking,
// which may see pixels around a crop but none outside the frame (as Pillow's resize(box=...)).
#pragma once

#include <cstdint>
#include <vector>

namespace vidseg {

constexpr int kWeightBits = 14;

// Of pixels: what rounding may leave of a distance that is whole.
constexpr double kWhole = 1e-9;

struct Filter {
    // Output i covers [start + i * step, start + (i + 1) * step) of the stored frame; there are `inputs`
    // pixels of a copy with 1/divisor of its side.
    void make(double step, double start, int divisor, int inputs, int outputs);

    // The weights of `whole` for a plane with half as many samples, which libjpeg would interpolate to pixels
    // first: 3/4 of the nearer and 1/4 of the other one.
    void halve(const Filter& whole);

    int lowest = 0, highest = 0;  // the inputs that are used, the last one excluded
    int begin = 0, end = 0;       // the outputs that see the frame, the last one excluded
    bool copies = false;          // output i is input lowest + i
    bool picks = false;           // each output is one input
    int taps = 0;
    std::vector<int> first, count;  // for each output; `first` counts from `lowest`
    std::vector<int16_t> weights;   // (outputs, taps)

    // The weights two by two, as the pass over pixels of 4 samples takes them: each pair four times, outputs
    // two by two: (outputs / 2, pairs, 2, 4, 2).
    struct OfPixels {
        int pairs = 0;
        std::vector<int16_t> weights;
    };
    const OfPixels& of_pixels();

    // For the pass over a row of samples, eight outputs at a time: four in each half of a vector. The two
    // inputs of each pair are picked from 8 neighboring ones: a window of them for four outputs, or for two
    // (`wide`); where outputs lie further apart, `far`, there is nothing here. Outputs are filled up to 16.
    struct OfSamples {
        int pairs = 0;
        bool wide = false, far = false;
        std::vector<int> windows;       // (outputs / 2): where each begins
        std::vector<uint8_t> controls;  // (outputs / 8, 1 or 2 windows, 32): for vpshufb
        std::vector<int16_t> weights;   // (outputs / 8, pairs, 8, 2)
    };
    const OfSamples& of_samples();

  private:
    void reset(double step, double start, int inputs, int outputs, int most_taps);
    void weigh(const double* exact, int low, int high, int output);
    void finish(int inputs);

    double step_ = 0.0, start_ = 0.0;  // of which it was made
    int inputs_ = 0;
    int most_ = 0;               // inputs of an output
    std::vector<double> exact_;  // (outputs, taps)
    bool has_pixels_ = false, has_samples_ = false;
    OfPixels of_pixels_;
    OfSamples of_samples_;
};

}  // namespace vidseg
