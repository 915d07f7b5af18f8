#include "filters.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "common/functions.h"
#include "common/simd.h"

namespace vidseg {
namespace {

int mirrored(int position, int count) {
    if (position >= 0 && position < count) return position;
    if (count == 1) return 0;
    const int period = 2 * (count - 1);
    const int inside = ((position % period) + period) % period;
    return std::min(inside, period - inside);
}

// Copies one row with `before` mirrored samples on its left and `after` on its right.
void pad_row(const uint8_t* row, int width, int before, int after, uint8_t* padded) {
    for (int x = -before; x < 0; ++x) padded[x + before] = row[mirrored(x, width)];
    std::memcpy(padded + before, row, static_cast<size_t>(width));
    for (int x = width; x < width + after; ++x) padded[x + before] = row[mirrored(x, width)];
}

// `in` has taps - 1 more samples than `out`. The sums fit 16 bits.
VIDSEG_VECTORIZED
void sum_along(const uint8_t* in, const uint16_t* weights, int taps, int samples, uint16_t* __restrict out) {
    if (taps == 3 && weights[0] == weights[2]) {  // the blurs of the presets
        const uint16_t outer = weights[0], inner = weights[1];
        const uint8_t *here = in + 1, *right = in + 2;
        for (int i = 0; i < samples; ++i) {
            out[i] = static_cast<uint16_t>((in[i] + right[i]) * outer + here[i] * inner);
        }
        return;
    }
    for (int i = 0; i < samples; ++i) out[i] = static_cast<uint16_t>(in[i] * weights[0]);
    for (int tap = 1; tap < taps; ++tap) {
        const uint16_t weight = weights[tap];
        const uint8_t* from = in + tap;
        for (int i = 0; i < samples; ++i) out[i] = static_cast<uint16_t>(out[i] + from[i] * weight);
    }
}

VIDSEG_VECTORIZED
void add_row(const uint16_t* in, uint16_t weight, int samples, uint32_t* __restrict out) {
    for (int i = 0; i < samples; ++i) out[i] += static_cast<uint32_t>(in[i]) * weight;
}

VIDSEG_VECTORIZED
void round_gaussian(const uint32_t* in, int samples, uint8_t* __restrict out) {
    for (int i = 0; i < samples; ++i) out[i] = static_cast<uint8_t>((in[i] + 0x8000) >> 16);
}

VIDSEG_VECTORIZED
void gaussian_of_three(const uint16_t* above, const uint16_t* here, const uint16_t* below, uint16_t outer,
                       uint16_t inner, int samples, uint8_t* __restrict out) {
    for (int i = 0; i < samples; ++i) {
        const uint32_t sum =
            (static_cast<uint32_t>(above[i]) + below[i]) * outer + static_cast<uint32_t>(here[i]) * inner;
        out[i] = static_cast<uint8_t>((sum + 0x8000) >> 16);
    }
}

// (sum + offset) * factor with 16 fractional bits. Sums fit 16 bits.
VIDSEG_VECTORIZED
void scale_average(const uint32_t* in, uint32_t factor, uint32_t offset, int samples,
                   uint8_t* __restrict out) {
    for (int i = 0; i < samples; ++i) out[i] = static_cast<uint8_t>(((in[i] + offset) * factor) >> 16);
}

VIDSEG_VECTORIZED
void round_average(const uint32_t* in, float scale, int samples, uint8_t* __restrict out) {
    for (int i = 0; i < samples; ++i) {
        out[i] = static_cast<uint8_t>(static_cast<int32_t>(static_cast<float>(in[i]) * scale + 0.5f));
    }
}

constexpr uint32_t kHalfTap = 1U << (kTapBits - 1);

// The weighted sum of rows.
void add_taps_portable(const std::vector<const uint8_t*>& rows, const std::vector<int16_t>& weights,
                       int width, uint8_t* out) {
    for (int x = 0; x < width; ++x) {
        uint32_t sum = kHalfTap;
        for (size_t tap = 0; tap < rows.size(); ++tap)
            sum += static_cast<uint32_t>(rows[tap][x]) * weights[tap];
        out[x] = static_cast<uint8_t>(std::min(255U, sum >> kTapBits));
    }
}

}  // namespace
}  // namespace vidseg

#define VIDSEG_KERNELS "frames/taps_kernels.h"
#include "common/each_set.h"

namespace vidseg {
namespace {

// The first and the last sample stay as they are.
VIDSEG_VECTORIZED
void sharpen_row(const uint8_t* above, const uint8_t* middle, const uint8_t* below, float factor, int width,
                 uint8_t* __restrict out) {
    for (int x = 1; x < width - 1; ++x) {
        int sum = 4 * middle[x];
        for (const uint8_t* row : {above, middle, below}) sum += row[x - 1] + row[x] + row[x + 1];
        const auto smooth = static_cast<float>((2 * sum + 13) / 26);  // sum / 13, rounded
        const float value = smooth + factor * (static_cast<float>(middle[x]) - smooth);
        out[x] = static_cast<uint8_t>(std::min(255.0f, std::max(0.0f, value)));
    }
}

// Sums along every row of a plane. `finish(y, row_of, out)` then sums along the columns.
template <typename Finish>
void separable(const SeparableFilter& filter, uint8_t* plane, FrameSize size, FilterScratch& scratch,
               const Finish& finish) {
    const int taps = static_cast<int>(filter.weights.size()), width = size.width;
    const int before = -filter.first, after = taps - 1 + filter.first;
    scratch.padded.resize(static_cast<size_t>(width) + taps);
    scratch.sums.resize(size.pixels());
    for (int y = 0; y < size.height; ++y) {
        const size_t start = static_cast<size_t>(y) * width;
        pad_row(plane + start, width, before, after, scratch.padded.data());
        sum_along(scratch.padded.data(), filter.weights.data(), taps, width, scratch.sums.data() + start);
    }
    const auto row_of = [&](int y) {
        return scratch.sums.data() + static_cast<size_t>(mirrored(y, size.height)) * width;
    };
    for (int y = 0; y < size.height; ++y) finish(y, row_of, plane + static_cast<size_t>(y) * width);
}

template <typename RowOf>
const uint32_t* sum_rows(const SeparableFilter& filter, int y, const RowOf& row_of, int samples,
                         std::vector<uint32_t>& line) {
    line.assign(samples, 0);
    for (size_t tap = 0; tap < filter.weights.size(); ++tap) {
        add_row(row_of(y + filter.first + static_cast<int>(tap)), filter.weights[tap], samples, line.data());
    }
    return line.data();
}

}  // namespace

SeparableFilter gaussian_filter(double sigma) {
    const double reach = sigma < 3.0 ? 3.3 : sigma < 5.0 ? 2.9 : 2.6;
    int size = std::max(static_cast<int>(reach * sigma), 5);
    if (size % 2 == 0) ++size;
    const int radius = size / 2;
    std::vector<double> exact(radius + 1);  // from the outermost weight to the middle
    double total = 0.0;
    for (int i = 0; i <= radius; ++i) {
        const double distance = radius - i;
        exact[i] = exponential(-distance * distance / (2.0 * sigma * sigma));
        total += i == radius ? exact[i] : 2.0 * exact[i];
    }
    // The rounding error of a weight is added to the next one; the middle weight completes the sum of 256.
    std::vector<uint16_t> weights;
    double lost = 0.0;
    int sum = 0;
    for (int i = 0; i < radius; ++i) {
        const double wanted = exact[i] / total * 256.0 + lost;
        const int weight = static_cast<int>(std::nearbyint(wanted));
        lost = wanted - weight;
        sum += 2 * weight;
        if (weight != 0 || !weights.empty()) weights.push_back(static_cast<uint16_t>(weight));
    }
    SeparableFilter filter;
    filter.first = -static_cast<int>(weights.size());
    filter.weights = weights;
    filter.weights.push_back(static_cast<uint16_t>(256 - sum));
    filter.weights.insert(filter.weights.end(), weights.rbegin(), weights.rend());
    return filter;
}

SeparableFilter average_filter(int k) {
    SeparableFilter filter;
    filter.weights.assign(k, 1);
    filter.first = -(k / 2);
    return filter;
}

std::vector<Tap> motion_filter(int k, double angle, double direction) {
    // A column of brightness 0 to 255, as imgaug draws it, rotated about the center of the k x k picture.
    const double start = (std::clamp(direction, -1.0, 1.0) + 1.0) / 2.0;
    std::vector<double> column(k);
    for (int y = 0; y < k; ++y) {
        const double value = static_cast<float>(start + (1.0 - 2.0 * start) * y / (k - 1));
        column[y] = static_cast<int>(static_cast<float>(value) * 255.0f);
    }
    const int middle = k / 2;
    const auto brightness = [&](int y, int x) { return x == middle && y >= 0 && y < k ? column[y] : 0.0; };
    const auto [cosine, sine] = direction_of(angle);
    std::vector<double> turned(static_cast<size_t>(k) * k);
    double sum = 0.0;
    for (int y = 0; y < k; ++y) {
        for (int x = 0; x < k; ++x) {
            const double from_x = cosine * (x - middle) + sine * (y - middle) + middle;
            const double from_y = -sine * (x - middle) + cosine * (y - middle) + middle;
            const int left = static_cast<int>(std::floor(from_x)), top = static_cast<int>(std::floor(from_y));
            const double across = from_x - left, down = from_y - top;
            const double value =
                (1 - down) * ((1 - across) * brightness(top, left) + across * brightness(top, left + 1)) +
                down * ((1 - across) * brightness(top + 1, left) + across * brightness(top + 1, left + 1));
            turned[static_cast<size_t>(y) * k + x] = std::floor(value + 0.5);
            sum += turned[static_cast<size_t>(y) * k + x];
        }
    }
    std::vector<Tap> taps;
    for (int y = 0; y < k; ++y) {
        for (int x = 0; x < k; ++x) {
            const double weight =
                std::nearbyint(turned[static_cast<size_t>(y) * k + x] / sum * (1 << kTapBits));
            if (weight > 0.0) taps.push_back({x - middle, y - middle, static_cast<uint16_t>(weight)});
        }
    }
    return taps;
}

void blur_gaussian(const SeparableFilter& filter, ColorFrame& frame, FilterScratch& scratch) {
    const int width = frame.size().width;
    const auto finish = [&](int y, const auto& row_of, uint8_t* out) {
        if (filter.weights.size() == 3) {
            gaussian_of_three(row_of(y - 1), row_of(y), row_of(y + 1), filter.weights[0], filter.weights[1],
                              width, out);
        } else {
            round_gaussian(sum_rows(filter, y, row_of, width, scratch.line), width, out);
        }
    };
    for (int channel = 0; channel < 3; ++channel)
        separable(filter, frame.plane(channel), frame.size(), scratch, finish);
}

void blur_average(const SeparableFilter& filter, ColorFrame& frame, FilterScratch& scratch) {
    const int width = frame.size().width;
    const uint32_t area = static_cast<uint32_t>(filter.weights.size() * filter.weights.size());
    // OpenCV divides small sums by multiplication with an integer: rounded up, or rounded down with the sum
    // increased by one. Its means of an even number of pixels are therefore above the exact ones.
    const bool up = 65536 % area * 2 >= area;
    const uint32_t factor = 65536 / area + (up ? 1 : 0), offset = area / 2 + (up ? 0 : 1);
    const auto finish = [&](int y, const auto& row_of, uint8_t* out) {
        const uint32_t* sums = sum_rows(filter, y, row_of, width, scratch.line);
        if (area <= 256) {
            scale_average(sums, factor, offset, width, out);
        } else {
            round_average(sums, 1.0f / static_cast<float>(area), width, out);
        }
    };
    for (int channel = 0; channel < 3; ++channel)
        separable(filter, frame.plane(channel), frame.size(), scratch, finish);
}

void convolve(const std::vector<Tap>& taps, ColorFrame& frame, FilterScratch& scratch) {
    int reach = 0;
    for (const Tap& tap : taps) reach = std::max({reach, std::abs(tap.dx), std::abs(tap.dy)});
    const int height = frame.size().height, width = frame.size().width, stride = width + 2 * reach;
    const size_t count = taps.size() + taps.size() % 2;  // the last one may be repeated with weight 0
    std::vector<const uint8_t*> rows(count);
    std::vector<int16_t> weights(count, 0);
    for (size_t i = 0; i < taps.size(); ++i) weights[i] = static_cast<int16_t>(taps[i].weight);
    scratch.padded.resize(static_cast<size_t>(stride) * height);
    static const auto add_taps = VIDSEG_CHOOSE(add_taps);
    for (int channel = 0; channel < 3; ++channel) {
        uint8_t* plane = frame.plane(channel);
        for (int y = 0; y < height; ++y) {
            pad_row(plane + static_cast<size_t>(y) * width, width, reach, reach,
                    scratch.padded.data() + static_cast<size_t>(y) * stride);
        }
        for (int y = 0; y < height; ++y) {
            for (size_t i = 0; i < count; ++i) {
                const Tap& tap = taps[std::min(i, taps.size() - 1)];
                const size_t row = static_cast<size_t>(mirrored(y + tap.dy, height));
                rows[i] = scratch.padded.data() + row * stride + reach + tap.dx;
            }
            add_taps(rows, weights, width, plane + static_cast<size_t>(y) * width);
        }
    }
}

void sharpen(float factor, ColorFrame& frame, FilterScratch& scratch) {
    const int height = frame.size().height, width = frame.size().width;
    if (height < 3 || width < 3) return;
    for (int channel = 0; channel < 3; ++channel) {
        uint8_t* plane = frame.plane(channel);
        scratch.padded.assign(plane, plane + frame.size().pixels());
        for (int y = 1; y + 1 < height; ++y) {
            const size_t start = static_cast<size_t>(y) * width;
            const uint8_t* middle = scratch.padded.data() + start;
            sharpen_row(middle - width, middle, middle + width, factor, width, plane + start);
        }
    }
}

}  // namespace vidseg
