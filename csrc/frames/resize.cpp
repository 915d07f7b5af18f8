#include "resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace vidseg {
namespace {

// The largest number of bits for 32-bit sums of 8-bit samples, because an area average adds hundreds of
// rounded weights.
constexpr int kBits = 22;

// For each output position: the first input position and the fixed-point weights of the inputs from there,
// which sum to 1.
struct Filter {
    int taps = 0;
    std::vector<int> first;
    std::vector<int> weights;  // (outputs, taps)
};

Filter make_filter(int inputs, int outputs) {
    const double scale = static_cast<double>(inputs) / outputs;
    const double reach = std::max(1.0, scale);
    Filter filter;
    filter.taps = std::min(inputs, static_cast<int>(std::ceil(reach)) * 2 + 1);
    filter.first.resize(static_cast<size_t>(outputs));
    filter.weights.resize(static_cast<size_t>(outputs) * filter.taps);
    std::vector<double> exact(static_cast<size_t>(filter.taps));
    for (int i = 0; i < outputs; ++i) {
        const double center = (i + 0.5) * scale;
        const int first = std::clamp(static_cast<int>(std::floor(center - reach)), 0, inputs - filter.taps);
        double total = 0.0;
        for (int k = 0; k < filter.taps; ++k) {
            exact[k] = std::max(0.0, 1.0 - std::abs(first + k + 0.5 - center) / reach);
            total += exact[k];
        }
        int* weights = &filter.weights[static_cast<size_t>(i) * filter.taps];
        int sum = 0, largest = 0;
        for (int k = 0; k < filter.taps; ++k) {
            weights[k] = static_cast<int>(std::lround(exact[k] / total * (1 << kBits)));
            sum += weights[k];
            if (weights[k] > weights[largest]) largest = k;
        }
        weights[largest] += (1 << kBits) - sum;  // keeps the brightness of flat areas
        filter.first[i] = first;
    }
    return filter;
}

void filter_columns(const Image& in, const Filter& filter, int width, std::vector<uint8_t>& out) {
    out.resize(static_cast<size_t>(in.height) * width * 3);
    for (int y = 0; y < in.height; ++y) {
        const uint8_t* row = in.rgb.data() + static_cast<size_t>(y) * in.width * 3;
        uint8_t* to = out.data() + static_cast<size_t>(y) * width * 3;
        for (int x = 0; x < width; ++x, to += 3) {
            const uint8_t* from = row + static_cast<size_t>(filter.first[x]) * 3;
            const int* weights = &filter.weights[static_cast<size_t>(x) * filter.taps];
            int sum[3] = {1 << (kBits - 1), 1 << (kBits - 1), 1 << (kBits - 1)};
            for (int k = 0; k < filter.taps; ++k, from += 3) {
                for (int c = 0; c < 3; ++c) sum[c] += from[c] * weights[k];
            }
            for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>(sum[c] >> kBits);
        }
    }
}

void filter_rows(const std::vector<uint8_t>& in, const Filter& filter, int width, int height, uint8_t* out) {
    const size_t row_bytes = static_cast<size_t>(width) * 3;
    std::vector<int> sums(row_bytes);
    for (int y = 0; y < height; ++y) {
        std::fill(sums.begin(), sums.end(), 1 << (kBits - 1));
        for (int k = 0; k < filter.taps; ++k) {
            const int weight = filter.weights[static_cast<size_t>(y) * filter.taps + k];
            if (weight == 0) continue;
            const uint8_t* row = in.data() + static_cast<size_t>(filter.first[y] + k) * row_bytes;
            for (size_t i = 0; i < row_bytes; ++i) sums[i] += row[i] * weight;
        }
        uint8_t* to = out + static_cast<size_t>(y) * row_bytes;
        for (size_t i = 0; i < row_bytes; ++i) to[i] = static_cast<uint8_t>(sums[i] >> kBits);
    }
}

}  // namespace

void resize_rgb(const Image& in, int width, int height, uint8_t* out) {
    if (in.width == width && in.height == height) {
        std::memcpy(out, in.rgb.data(), in.rgb.size());
        return;
    }
    std::vector<uint8_t> columns;
    filter_columns(in, make_filter(in.width, width), width, columns);
    filter_rows(columns, make_filter(in.height, height), width, height, out);
}

}  // namespace vidseg
