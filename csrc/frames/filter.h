// Weights of a separable filter along one dimension: bilinear, widened to an area average when shrinking. The
// filter reads pixels around a crop but none outside the frame, as Pillow's resize(box=...).
#pragma once

#include <cstdint>
#include <vector>

namespace vidseg {

constexpr int kWeightBits = 14;

// In pixels: tolerance for distances that are whole except for rounding.
constexpr double kWhole = 1e-9;

struct Filter {
    // Output i covers [start + i * step, start + (i + 1) * step) of the stored frame. The input has `inputs`
    // pixels of a copy with 1/divisor of the frame's side.
    void make(double step, double start, int divisor, int inputs, int outputs);

    // Returns the weights of `whole` for a plane with half as many samples. They include libjpeg's
    // interpolation to full size: 3/4 of the nearer sample and 1/4 of the other one.
    void halve(const Filter& whole);

    int lowest = 0, highest = 0;  // inputs that are used; highest is exclusive
    int begin = 0, end = 0;       // outputs that overlap the frame; end is exclusive
    bool copies = false;          // output i equals input lowest + i
    bool picks = false;           // each output equals one input
    int taps = 0;
    std::vector<int> first, count;  // per output; `first` is relative to `lowest`
    std::vector<int16_t> weights;   // (outputs, taps)

    // Weights in the layout of the pass over pixels of 4 samples: pairs, each repeated four times, for two
    // outputs at a time: (outputs / 2, pairs, 2, 4, 2).
    struct OfPixels {
        int pairs = 0;
        std::vector<int16_t> weights;
    };
    const OfPixels& of_pixels();

    // Weights in the layout of the pass over rows of samples, for eight outputs at a time, four in each half
    // of a vector. The two inputs of each pair are selected from a window of 8 adjacent ones, which serves
    // four outputs, or two if `wide`. If outputs are further apart (`far`), there are no windows. Outputs are
    // padded to a multiple of 16.
    struct OfSamples {
        int pairs = 0;
        bool wide = false, far = false;
        std::vector<int> first;         // (outputs)
        std::vector<int> windows;       // (outputs / 2), first input of each
        std::vector<uint8_t> controls;  // (outputs / 8, 1 or 2 windows, 32), see select_bytes
        std::vector<int16_t> weights;   // (outputs / 8, pairs, 8, 2)
    };
    const OfSamples& of_samples();

  private:
    void reset(double step, double start, int inputs, int outputs, int most_taps);
    void weigh(const double* exact, int low, int high, int output);
    void finish(int inputs);

    double step_ = 0.0, start_ = 0.0;  // arguments of the last call
    int inputs_ = 0;
    int most_ = 0;               // largest number of inputs per output
    std::vector<double> exact_;  // (outputs, taps)
    bool has_pixels_ = false, has_samples_ = false;
    OfPixels of_pixels_;
    OfSamples of_samples_;
};

}  // namespace vidseg
