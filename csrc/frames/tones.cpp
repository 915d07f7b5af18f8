#include "tones.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "common/functions.h"
#include "common/vectors.h"

namespace vidseg {
namespace {

// Number of samples of each level.
std::array<size_t, 256> histogram(const uint8_t* plane, size_t samples) {
    std::array<size_t, 256> counts{};
    for (size_t i = 0; i < samples; ++i) ++counts[plane[i]];
    return counts;
}

// The samples of a frame. Compilers vectorize loops over planes that do not overlap.
#define VIDSEG_PLANES uint8_t* __restrict red, uint8_t* __restrict green, uint8_t* __restrict blue

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
void hue_saturation_planes(int hue, int saturation, size_t count, VIDSEG_PLANES) {
    constexpr int kShift = 12, kHalf = 1 << (kShift - 1);
    for (size_t i = 0; i < count; ++i) {
        const int r = red[i], g = green[i], b = blue[i];
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
        red[i] = level(at_red);
        green[i] = level(at_green);
        blue[i] = level(at_blue);
    }
}

VIDSEG_VECTORIZED
void hue_planes(float sixths, size_t count, VIDSEG_PLANES) {
    for (size_t i = 0; i < count; ++i) {
        const float r = red[i], g = green[i], b = blue[i];
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
        red[i] = level(5.0f);
        green[i] = level(3.0f);
        blue[i] = level(1.0f);
    }
}

VIDSEG_VECTORIZED
void saturation_planes(float factor, float rest_factor, size_t count, VIDSEG_PLANES) {
    for (size_t i = 0; i < count; ++i) {
        const float rest = rest_factor * gray_of(red[i], green[i], blue[i]);
        red[i] = cut(factor * static_cast<float>(red[i]) + rest);
        green[i] = cut(factor * static_cast<float>(green[i]) + rest);
        blue[i] = cut(factor * static_cast<float>(blue[i]) + rest);
    }
}

VIDSEG_VECTORIZED
void enhance_planes(float factor, size_t count, VIDSEG_PLANES) {
    for (size_t i = 0; i < count; ++i) {
        const int gray = (red[i] * 19595 + green[i] * 38470 + blue[i] * 7471 + 0x8000) >> 16;
        const float level = static_cast<float>(gray);
        red[i] = cut(level + factor * static_cast<float>(red[i] - gray));
        green[i] = cut(level + factor * static_cast<float>(green[i] - gray));
        blue[i] = cut(level + factor * static_cast<float>(blue[i] - gray));
    }
}

VIDSEG_VECTORIZED
void gray_planes(size_t count, VIDSEG_PLANES) {
    for (size_t i = 0; i < count; ++i) {
        const int gray = (red[i] * 9798 + green[i] * 19235 + blue[i] * 3735 + 0x4000) >> 15;
        red[i] = green[i] = blue[i] = static_cast<uint8_t>(gray);
    }
}

constexpr size_t kPiece = 4096;  // samples whose sum fits 32 bits

VIDSEG_VECTORIZED
int32_t sum_of_gray(size_t count, const uint8_t* red, const uint8_t* green, const uint8_t* blue) {
    int32_t sum = 0;
    for (size_t i = 0; i < count; ++i) sum += static_cast<int32_t>(gray_of(red[i], green[i], blue[i]));
    return sum;
}

VIDSEG_VECTORIZED
void add_samples(const int16_t* field, size_t samples, uint8_t* __restrict out) {
    for (size_t i = 0; i < samples; ++i) {
        out[i] = static_cast<uint8_t>(std::min(255, std::max(0, out[i] + field[i])));
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
            const double step = (normal_tail(quantile) - tail) / normal_density(quantile);
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
void hash_positions(uint32_t first, uint32_t second, uint32_t start, size_t count, uint32_t* __restrict out) {
    for (size_t i = 0; i < count; ++i) {
        out[i] = mix(mix((start + static_cast<uint32_t>(i)) * 0x9e3779b9u + first) ^ second);
    }
}

void map_portable(const uint8_t* table, uint8_t* samples, size_t count) {
    for (size_t i = 0; i < count; ++i) samples[i] = table[samples[i]];
}

#if VIDSEG_SET_OF_X86
// A shuffle looks up in 16 entries. The four high bits of a sample choose among the 16 results.
VIDSEG_AVX2 void map_avx2(const uint8_t* table, uint8_t* samples, size_t count) {
    __m256i parts[16];
    for (int k = 0; k < 16; ++k) {
        parts[k] = _mm256_broadcastsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + ptrdiff_t{16} * k)));
    }
    const __m256i low = _mm256_set1_epi8(15);
    size_t i = 0;
    for (; i + 32 <= count; i += 32) {
        auto* at = reinterpret_cast<__m256i*>(samples + i);
        const __m256i value = _mm256_loadu_si256(at), index = _mm256_and_si256(value, low);
        __m256i found[16];
        for (int k = 0; k < 16; ++k) found[k] = _mm256_shuffle_epi8(parts[k], index);
        for (int bit = 4, left = 8; bit < 8; ++bit, left /= 2) {
            // the chosen bit becomes the highest one of its byte
            const __m256i high = _mm256_sll_epi16(value, _mm_cvtsi32_si128(7 - bit));
            for (int k = 0; k < left; ++k)
                found[k] = _mm256_blendv_epi8(found[2 * k], found[2 * k + 1], high);
        }
        _mm256_storeu_si256(at, found[0]);
    }
    map_portable(table, samples + i, count - i);
}

__attribute__((target("avx512f,avx512bw,avx512vbmi"))) void map_avx512(const uint8_t* table, uint8_t* samples,
                                                                       size_t count) {
    const __m512i first = _mm512_loadu_si512(table), second = _mm512_loadu_si512(table + 64),
                  third = _mm512_loadu_si512(table + 128), fourth = _mm512_loadu_si512(table + 192);
    size_t i = 0;
    for (; i + 64 <= count; i += 64) {
        const __m512i value = _mm512_loadu_si512(samples + i);
        const __m512i lower = _mm512_permutex2var_epi8(first, value, second),
                      upper = _mm512_permutex2var_epi8(third, value, fourth);
        _mm512_storeu_si512(samples + i, _mm512_mask_blend_epi8(_mm512_movepi8_mask(value), lower, upper));
    }
    map_portable(table, samples + i, count - i);
}
#elif VIDSEG_SET_OF_ARM
// A look-up in 64 entries gives 0, or leaves the result as it is, where the index is beyond them.
void map_neon(const uint8_t* table, uint8_t* samples, size_t count) {
    const uint8x16x4_t first = vld1q_u8_x4(table), second = vld1q_u8_x4(table + 64),
                       third = vld1q_u8_x4(table + 128), fourth = vld1q_u8_x4(table + 192);
    const uint8x16_t step = vdupq_n_u8(64);
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        uint8x16_t index = vld1q_u8(samples + i), found = vqtbl4q_u8(first, index);
        found = vqtbx4q_u8(found, second, index = vsubq_u8(index, step));
        found = vqtbx4q_u8(found, third, index = vsubq_u8(index, step));
        found = vqtbx4q_u8(found, fourth, vsubq_u8(index, step));
        vst1q_u8(samples + i, found);
    }
    map_portable(table, samples + i, count - i);
}
#endif

using Map = void (*)(const uint8_t* table, uint8_t* samples, size_t count);

Map choose_map() {
#if VIDSEG_SET_OF_X86
    if (simd_level() == Simd::avx512 && __builtin_cpu_supports("avx512vbmi")) return map_avx512;
    if (has_avx2()) return map_avx2;
#elif VIDSEG_SET_OF_ARM
    return map_neon;
#endif
    return map_portable;
}

}  // namespace

void look_up(const uint8_t* tables, ColorFrame& frame) {
    static const Map map = choose_map();
    for (int channel = 0; channel < 3; ++channel)
        map(tables + ptrdiff_t{256} * channel, frame.plane(channel), frame.size().pixels());
}

void shift_hue_saturation(int hue, int saturation, ColorFrame& frame) {
    const int steps = static_cast<int>(static_cast<float>(hue) / 255.0f * 180.0f);
    const int forward = ((steps % 180) + 180) % 180;
    hue_saturation_planes(forward, saturation, frame.size().pixels(), frame.plane(0), frame.plane(1),
                          frame.plane(2));
}

std::vector<int16_t> noise_field(double scale, uint64_t field, size_t samples) {
    static const std::array<float, kQuantiles> quantiles = make_quantiles();
    const uint32_t first = mix(static_cast<uint32_t>(field) + 0x9e3779b9u);
    const uint32_t second = mix(static_cast<uint32_t>(field >> 32) ^ first);
    // The sum of two independent values fills the gaps between the table's values and has a wider range.
    const float factor = static_cast<float>(scale / std::sqrt(2.0));
    std::vector<int16_t> noise(samples);
    uint32_t hashes[kPiece];
    for (size_t done = 0; done < samples; done += kPiece) {
        const size_t count = std::min(kPiece, samples - done);
        hash_positions(first, second, static_cast<uint32_t>(done), count, hashes);
        for (size_t i = 0; i < count; ++i) {
            const float value =
                factor * (quantiles[hashes[i] >> 20] + quantiles[hashes[i] & (kQuantiles - 1)]);
            noise[done + i] =
                static_cast<int16_t>(std::nearbyint(std::min(255.0f, std::max(-255.0f, value))));
        }
    }
    return noise;
}

void add_field(const std::vector<int16_t>& field, ColorFrame& frame) {
    const size_t pixels = frame.size().pixels();
    const size_t step = field.size() == pixels ? 0 : pixels;
    for (int channel = 0; channel < 3; ++channel)
        add_samples(field.data() + step * channel, pixels, frame.plane(channel));
}

void enhance_color(float factor, ColorFrame& frame) {
    enhance_planes(factor, frame.size().pixels(), frame.plane(0), frame.plane(1), frame.plane(2));
}

void scale_contrast(double factor, ColorFrame& frame) {
    const size_t pixels = frame.size().pixels();
    int64_t sum = 0;
    for (size_t done = 0; done < pixels; done += kPiece) {
        sum += sum_of_gray(std::min(kPiece, pixels - done), frame.plane(0) + done, frame.plane(1) + done,
                           frame.plane(2) + done);
    }
    const float mean = static_cast<float>(static_cast<double>(sum) / static_cast<double>(pixels));
    const float scale = static_cast<float>(factor), rest = static_cast<float>(1.0 - factor) * mean;
    std::array<uint8_t, 3 * 256> tables;
    for (int value = 0; value < 256; ++value) {
        tables[value] = tables[256 + value] = tables[512 + value] =
            cut(scale * static_cast<float>(value) + rest);
    }
    look_up(tables.data(), frame);
}

void scale_saturation(double factor, ColorFrame& frame) {
    saturation_planes(static_cast<float>(factor), static_cast<float>(1.0 - factor), frame.size().pixels(),
                      frame.plane(0), frame.plane(1), frame.plane(2));
}

void shift_hue(float part, ColorFrame& frame) {
    hue_planes(6.0f * part, frame.size().pixels(), frame.plane(0), frame.plane(1), frame.plane(2));
}

void stretch_contrast(double cutoff, ColorFrame& frame) {
    const size_t pixels = frame.size().pixels();
    std::vector<uint8_t> tables(3 * 256);
    for (int channel = 0; channel < 3; ++channel) {
        const auto count = histogram(frame.plane(channel), pixels);
        const auto cut = static_cast<size_t>(std::floor(static_cast<double>(pixels) * cutoff / 100.0));
        int low = 0, high = 255;
        for (size_t left = cut; low < 255 && count[low] <= left; ++low) left -= count[low];
        for (size_t left = cut; high > 0 && count[high] <= left; --high) left -= count[high];
        uint8_t* table = tables.data() + size_t{256} * channel;
        const double scale = 255.0 / std::max(1, high - low), offset = -low * scale;
        for (int value = 0; value < 256; ++value) {
            const double level = high <= low ? value : value * scale + offset;
            table[value] = static_cast<uint8_t>(std::min(255.0, std::max(0.0, level)));
        }
    }
    look_up(tables.data(), frame);
}

void equalize_tones(ColorFrame& frame) {
    const size_t pixels = frame.size().pixels();
    std::vector<uint8_t> tables(3 * 256);
    for (int channel = 0; channel < 3; ++channel) {
        const auto count = histogram(frame.plane(channel), pixels);
        int last = 255;
        while (last > 0 && count[last] == 0) --last;
        const size_t step = (pixels - count[last]) / 255;
        size_t sum = step / 2;
        for (int value = 0; value < 256; ++value) {
            const size_t level = step == 0 ? static_cast<size_t>(value) : sum / step;
            tables[size_t{256} * channel + value] = static_cast<uint8_t>(std::min<size_t>(255, level));
            sum += count[value];
        }
    }
    look_up(tables.data(), frame);
}

void make_gray(ColorFrame& frame) {
    gray_planes(frame.size().pixels(), frame.plane(0), frame.plane(1), frame.plane(2));
}

}  // namespace vidseg
