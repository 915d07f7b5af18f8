#include "tones.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/simd.h"

namespace vidseg {
namespace {

// The three channels of a run of pixels in separate arrays, so that compilers vectorize the loops over them.
constexpr int kRun = 1024;
struct Run {
    alignas(64) uint8_t red[kRun];
    alignas(64) uint8_t green[kRun];
    alignas(64) uint8_t blue[kRun];
};

VIDSEG_VECTORIZED
void split(const uint8_t* rgb, int count, Run& run) {
    for (int i = 0; i < count; ++i) {
        run.red[i] = rgb[3 * i];
        run.green[i] = rgb[3 * i + 1];
        run.blue[i] = rgb[3 * i + 2];
    }
}

VIDSEG_VECTORIZED
void join(const Run& run, int count, uint8_t* __restrict rgb) {
    for (int i = 0; i < count; ++i) {
        rgb[3 * i] = run.red[i];
        rgb[3 * i + 1] = run.green[i];
        rgb[3 * i + 2] = run.blue[i];
    }
}

template <typename Change>
void each_run(uint8_t* rgb, size_t pixels, const Change& change) {
    Run run;
    for (size_t done = 0; done < pixels; done += kRun) {
        const int count = static_cast<int>(std::min<size_t>(kRun, pixels - done));
        split(rgb + 3 * done, count, run);
        change(run, count);
        join(run, count, rgb + 3 * done);
    }
}

// Number of pixels of each level of each channel.
std::array<std::array<size_t, 256>, 3> histograms(const uint8_t* rgb, size_t pixels) {
    std::array<std::array<size_t, 256>, 3> counts{};
    for (size_t i = 0; i < pixels; ++i) {
        for (size_t channel = 0; channel < 3; ++channel) ++counts[channel][rgb[3 * i + channel]];
    }
    return counts;
}

inline uint8_t cut(float value) {
    return static_cast<uint8_t>(static_cast<int32_t>(std::min(255.0f, std::max(0.0f, value))));
}

// torchvision's weights, which sum to 0.9999
inline float gray_of(uint8_t red, uint8_t green, uint8_t blue) {
    const float sum = 0.2989f * static_cast<float>(red) + 0.587f * static_cast<float>(green) +
                      0.114f * static_cast<float>(blue);
    return static_cast<float>(static_cast<int32_t>(sum));
}

VIDSEG_VECTORIZED
void hue_saturation_run(int hue, int saturation, int count, Run& run) {
    constexpr int kShift = 12, kHalf = 1 << (kShift - 1);
    for (int i = 0; i < count; ++i) {
        const int r = run.red[i], g = run.green[i], b = run.blue[i];
        const int value = std::max(r, std::max(g, b)), span = value - std::min(r, std::min(g, b));
        // OpenCV's fixed-point reciprocals. Where the divisor is 0, the other factor is 0 too.
        const float value_or_one = static_cast<float>(std::max(value, 1)),
                    span_or_one = static_cast<float>(std::max(span, 1));
        const int of_value = static_cast<int>(1044480.0f / value_or_one + 0.5f);  // (255 << 12) / value
        const int of_span = static_cast<int>(122880.0f / span_or_one + 0.5f);     // (180 << 12) / 6 / span
        const int turn = value == r ? g - b : value == g ? b - r + 2 * span : r - g + 4 * span;
        int h = (turn * of_span + kHalf) >> kShift;
        h += (h < 0 ? 180 : 0) + hue;
        h -= h >= 180 ? 180 : 0;
        const int s = std::min(255, std::max(0, ((span * of_value + kHalf) >> kShift) + saturation));
        // Each channel is the value minus a part of value * saturation; the part is a trapezoid of the hue, 0
        // to 30.
        int at_red = h + 150, at_green = h + 90, at_blue = h + 30;
        at_red -= at_red >= 180 ? 180 : 0;
        at_green -= at_green >= 180 ? 180 : 0;
        at_blue -= at_blue >= 180 ? 180 : 0;
        const auto part = [](int at) { return std::max(0, std::min(30, std::min(at, 120 - at))); };
        // OpenCV truncates. Half a step of the exact result, 1 / (255 * 30), is added first.
        const float most = static_cast<float>(value * s) * (1.0f / 7650.0f);
        const auto level = [&](int at) {
            return static_cast<uint8_t>(static_cast<int32_t>(
                static_cast<float>(value) - most * static_cast<float>(part(at)) + 0.5f / 7650.0f));
        };
        run.red[i] = level(at_red);
        run.green[i] = level(at_green);
        run.blue[i] = level(at_blue);
    }
}

VIDSEG_VECTORIZED
void hue_run(float sixths, int count, Run& run) {
    for (int i = 0; i < count; ++i) {
        const float r = run.red[i], g = run.green[i], b = run.blue[i];
        const float value = std::max(r, std::max(g, b)), span = value - std::min(r, std::min(g, b));
        const float divisor = span > 0.0f ? span : 1.0f;
        const float turn = value == r   ? (g - b) / divisor
                           : value == g ? 2.0f + (b - r) / divisor
                                        : 4.0f + (r - g) / divisor;
        float h = turn + sixths;  // -4 to 8
        h += h < 0.0f ? 6.0f : 0.0f;
        h -= h >= 6.0f ? 6.0f : 0.0f;
        const auto level = [&](float offset) {
            float at = h + offset;
            at -= at >= 6.0f ? 6.0f : 0.0f;
            const float part = std::max(0.0f, std::min(1.0f, std::min(at, 4.0f - at)));
            return cut((value - span * part) * (255.999f / 255.0f));
        };
        run.red[i] = level(5.0f);
        run.green[i] = level(3.0f);
        run.blue[i] = level(1.0f);
    }
}

VIDSEG_VECTORIZED
void saturation_run(float factor, float rest_factor, int count, Run& run) {
    for (int i = 0; i < count; ++i) {
        const float rest = rest_factor * gray_of(run.red[i], run.green[i], run.blue[i]);
        run.red[i] = cut(factor * static_cast<float>(run.red[i]) + rest);
        run.green[i] = cut(factor * static_cast<float>(run.green[i]) + rest);
        run.blue[i] = cut(factor * static_cast<float>(run.blue[i]) + rest);
    }
}

VIDSEG_VECTORIZED
void enhance_run(float factor, int count, Run& run) {
    for (int i = 0; i < count; ++i) {
        const int gray = (run.red[i] * 19595 + run.green[i] * 38470 + run.blue[i] * 7471 + 0x8000) >> 16;
        const float level = static_cast<float>(gray);
        run.red[i] = cut(level + factor * static_cast<float>(run.red[i] - gray));
        run.green[i] = cut(level + factor * static_cast<float>(run.green[i] - gray));
        run.blue[i] = cut(level + factor * static_cast<float>(run.blue[i] - gray));
    }
}

VIDSEG_VECTORIZED
void gray_run(int count, Run& run) {
    for (int i = 0; i < count; ++i) {
        const int gray = (run.red[i] * 9798 + run.green[i] * 19235 + run.blue[i] * 3735 + 0x4000) >> 15;
        run.red[i] = run.green[i] = run.blue[i] = static_cast<uint8_t>(gray);
    }
}

VIDSEG_VECTORIZED
int64_t sum_of_gray(int count, const Run& run) {
    int32_t sum = 0;  // kRun * 255 at most
    for (int i = 0; i < count; ++i)
        sum += static_cast<int32_t>(gray_of(run.red[i], run.green[i], run.blue[i]));
    return sum;
}

VIDSEG_VECTORIZED
void add_samples(const int16_t* field, size_t samples, uint8_t* __restrict out) {
    for (size_t i = 0; i < samples; ++i) {
        out[i] = static_cast<uint8_t>(std::min(255, std::max(0, out[i] + field[i])));
    }
}

VIDSEG_VECTORIZED
void add_pixels(const int16_t* field, int count, Run& run) {
    for (int i = 0; i < count; ++i) {
        run.red[i] = static_cast<uint8_t>(std::min(255, std::max(0, run.red[i] + field[i])));
        run.green[i] = static_cast<uint8_t>(std::min(255, std::max(0, run.green[i] + field[i])));
        run.blue[i] = static_cast<uint8_t>(std::min(255, std::max(0, run.blue[i] + field[i])));
    }
}

// Quantiles of the normal distribution at the centers of 4096 equal parts, scaled to variance 1.
constexpr int kQuantiles = 4096;
std::array<float, kQuantiles> make_quantiles() {
    std::array<double, kQuantiles / 2> upper;
    double quantile = 0.0, squares = 0.0;
    for (int i = 0; i < kQuantiles / 2; ++i) {
        const double tail = 0.5 - (i + 0.5) / kQuantiles;  // the probability of a larger value
        for (int round = 0; round < 30; ++round) {
            const double density = std::exp(-0.5 * quantile * quantile) / std::sqrt(2.0 * M_PI);
            const double step = (0.5 * std::erfc(quantile / std::sqrt(2.0)) - tail) / density;
            quantile += step;
            if (std::abs(step) < 1e-12) break;
        }
        upper[i] = quantile;
        squares += quantile * quantile;
    }
    const double scale = 1.0 / std::sqrt(squares / (kQuantiles / 2));
    std::array<float, kQuantiles> quantiles;
    for (int i = 0; i < kQuantiles / 2; ++i) {
        quantiles[kQuantiles / 2 + i] = static_cast<float>(upper[i] * scale);
        quantiles[kQuantiles / 2 - 1 - i] = static_cast<float>(-upper[i] * scale);
    }
    return quantiles;
}

// MurmurHash3's finalizer: every bit of the result depends on every bit of the argument.
inline uint32_t mix(uint32_t value) {
    value = (value ^ (value >> 16)) * 0x85ebca6bu;
    value = (value ^ (value >> 13)) * 0xc2b2ae35u;
    return value ^ (value >> 16);
}

VIDSEG_VECTORIZED
void hash_positions(uint32_t first, uint32_t second, uint32_t start, int count, uint32_t* __restrict out) {
    for (int i = 0; i < count; ++i) {
        out[i] = mix(mix((start + static_cast<uint32_t>(i)) * 0x9e3779b9u + first) ^ second);
    }
}

}  // namespace

void look_up(const uint8_t* tables, uint8_t* rgb, size_t pixels) {
    const uint8_t *red = tables, *green = tables + 256, *blue = tables + 512;
    for (uint8_t *pixel = rgb, *end = rgb + 3 * pixels; pixel != end; pixel += 3) {
        pixel[0] = red[pixel[0]];
        pixel[1] = green[pixel[1]];
        pixel[2] = blue[pixel[2]];
    }
}

void shift_hue_saturation(int hue, int saturation, uint8_t* rgb, size_t pixels) {
    const int steps = static_cast<int>(static_cast<float>(hue) / 255.0f * 180.0f);
    const int forward = ((steps % 180) + 180) % 180;
    each_run(rgb, pixels, [&](Run& run, int count) { hue_saturation_run(forward, saturation, count, run); });
}

std::vector<int16_t> noise_field(double scale, uint64_t field, size_t samples) {
    static const std::array<float, kQuantiles> quantiles = make_quantiles();
    const uint32_t first = mix(static_cast<uint32_t>(field) + 0x9e3779b9u);
    const uint32_t second = mix(static_cast<uint32_t>(field >> 32) ^ first);
    // The sum of two independent values fills the gaps between the table's values and has a wider range.
    const float factor = static_cast<float>(scale / std::sqrt(2.0));
    std::vector<int16_t> noise(samples);
    uint32_t hashes[kRun];
    for (size_t done = 0; done < samples; done += kRun) {
        const int count = static_cast<int>(std::min<size_t>(kRun, samples - done));
        hash_positions(first, second, static_cast<uint32_t>(done), count, hashes);
        for (int i = 0; i < count; ++i) {
            const float value =
                factor * (quantiles[hashes[i] >> 20] + quantiles[hashes[i] & (kQuantiles - 1)]);
            noise[done + i] =
                static_cast<int16_t>(std::nearbyint(std::min(255.0f, std::max(-255.0f, value))));
        }
    }
    return noise;
}

void add_field(const int16_t* field, bool per_channel, uint8_t* rgb, size_t pixels) {
    if (per_channel) return add_samples(field, 3 * pixels, rgb);
    each_run(rgb, pixels, [&](Run& run, int count) {
        add_pixels(field, count, run);
        field += count;
    });
}

void enhance_color(float factor, uint8_t* rgb, size_t pixels) {
    each_run(rgb, pixels, [&](Run& run, int count) { enhance_run(factor, count, run); });
}

void scale_contrast(double factor, uint8_t* rgb, size_t pixels) {
    Run run;
    int64_t sum = 0;
    for (size_t done = 0; done < pixels; done += kRun) {
        const int count = static_cast<int>(std::min<size_t>(kRun, pixels - done));
        split(rgb + 3 * done, count, run);
        sum += sum_of_gray(count, run);
    }
    const float mean = static_cast<float>(static_cast<double>(sum) / static_cast<double>(pixels));
    const float scale = static_cast<float>(factor), rest = static_cast<float>(1.0 - factor) * mean;
    std::array<uint8_t, 3 * 256> tables;
    for (int value = 0; value < 256; ++value) {
        tables[value] = tables[256 + value] = tables[512 + value] =
            cut(scale * static_cast<float>(value) + rest);
    }
    look_up(tables.data(), rgb, pixels);
}

void scale_saturation(double factor, uint8_t* rgb, size_t pixels) {
    each_run(rgb, pixels, [&](Run& run, int count) {
        saturation_run(static_cast<float>(factor), static_cast<float>(1.0 - factor), count, run);
    });
}

void shift_hue(float part, uint8_t* rgb, size_t pixels) {
    each_run(rgb, pixels, [&](Run& run, int count) { hue_run(6.0f * part, count, run); });
}

void stretch_contrast(double cutoff, uint8_t* rgb, size_t pixels) {
    const auto counts = histograms(rgb, pixels);
    std::vector<uint8_t> tables(3 * 256);
    for (size_t channel = 0; channel < 3; ++channel) {
        const auto& count = counts[channel];
        const auto cut = static_cast<size_t>(std::floor(static_cast<double>(pixels) * cutoff / 100.0));
        int low = 0, high = 255;
        for (size_t left = cut; low < 255 && count[low] <= left; ++low) left -= count[low];
        for (size_t left = cut; high > 0 && count[high] <= left; --high) left -= count[high];
        uint8_t* table = tables.data() + 256 * channel;
        const double scale = 255.0 / std::max(1, high - low), offset = -low * scale;
        for (int value = 0; value < 256; ++value) {
            const double level = high <= low ? value : value * scale + offset;
            table[value] = static_cast<uint8_t>(std::min(255.0, std::max(0.0, level)));
        }
    }
    look_up(tables.data(), rgb, pixels);
}

void equalize_tones(uint8_t* rgb, size_t pixels) {
    const auto counts = histograms(rgb, pixels);
    std::vector<uint8_t> tables(3 * 256);
    for (size_t channel = 0; channel < 3; ++channel) {
        const auto& count = counts[channel];
        int last = 255;
        while (last > 0 && count[last] == 0) --last;
        const size_t step = (pixels - count[last]) / 255;
        size_t sum = step / 2;
        for (int value = 0; value < 256; ++value) {
            const size_t level = step == 0 ? static_cast<size_t>(value) : sum / step;
            tables[256 * channel + value] = static_cast<uint8_t>(std::min<size_t>(255, level));
            sum += count[value];
        }
    }
    look_up(tables.data(), rgb, pixels);
}

void make_gray(uint8_t* rgb, size_t pixels) {
    each_run(rgb, pixels, [&](Run& run, int count) { gray_run(count, run); });
}

}  // namespace vidseg
