#include "passes.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/simd.h"

namespace vidseg {
namespace {

void blend_rows_portable(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                         int16_t* out) {
    constexpr int kShift = kWeightBits - kRowBits;
    for (size_t i = 0; i < bytes; ++i) {
        int sum = 1 << (kShift - 1);
        for (int k = 0; k < count; ++k) sum += rows[k][i] * weights[k];
        out[i] = static_cast<int16_t>(sum >> kShift);
    }
}

void filter_pixels_from(int start, const int16_t* row, const int* first, const int16_t* packed, int pairs,
                        int width, uint32_t* out) {
    constexpr int kShift = kWeightBits + kRowBits;
    for (int x = start; x < width; ++x) {
        const int16_t* from = row + size_t{4} * first[x];
        const int16_t* weights = packed + (size_t(x / 2) * pairs * 2 + x % 2) * 8;
        int sum[4] = {1 << (kShift - 1), 1 << (kShift - 1), 1 << (kShift - 1), 1 << (kShift - 1)};
        for (int k = 0; k < pairs; ++k, from += 8, weights += 16) {
            for (int c = 0; c < 4; ++c) sum[c] += from[c] * weights[0] + from[4 + c] * weights[1];
        }
        uint32_t pixel = 0;
        for (int c = 0; c < 4; ++c)
            pixel |= static_cast<uint32_t>(std::clamp(sum[c] >> kShift, 0, 255)) << (8 * c);
        out[x] = pixel;
    }
}

void filter_pixels_portable(const int16_t* row, const int* first, const Filter::OfPixels& of, int width,
                            uint32_t* out) {
    filter_pixels_from(0, row, first, of.weights.data(), of.pairs, width, out);
}

#if defined(__x86_64__)
VIDSEG_AVX2 __m256i load_32(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
VIDSEG_AVX2 __m128i load_16(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

VIDSEG_AVX2 void blend_rows_avx2(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                                 int16_t* out) {
    constexpr int kShift = kWeightBits - kRowBits;
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (kShift - 1));
    if (bytes < 32) return blend_rows_portable(rows, weights, count, bytes, out);
    for (size_t begin = 0; begin < bytes; begin += 32) {
        const size_t i = std::min(begin, bytes - 32);  // the last 32 may overlap those before
        __m256i sum[4] = {half, half, half, half};
        for (int k = 0; k < count; k += 2) {
            const bool odd = k + 1 == count;
            const int second = odd ? 0 : weights[k + 1];
            const __m256i pair = _mm256_set1_epi32(static_cast<uint16_t>(weights[k]) | second << 16);
            const __m256i a = load_32(rows[k] + i), b = odd ? zero : load_32(rows[k + 1] + i);
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), pair));
            sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), pair));
            sum[2] = _mm256_add_epi32(sum[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), pair));
            sum[3] = _mm256_add_epi32(sum[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), pair));
        }
        for (__m256i& part : sum) part = _mm256_srai_epi32(part, kShift);
        const __m256i even = _mm256_packs_epi32(sum[0], sum[1]);  // samples 0 to 7 and 16 to 23
        const __m256i uneven = _mm256_packs_epi32(sum[2], sum[3]);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                            _mm256_permute2x128_si256(even, uneven, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i + 16),
                            _mm256_permute2x128_si256(even, uneven, 0x31));
    }
}

// Two output pixels, one in each half: 4 sums each.
template <int Pairs>
VIDSEG_AVX2 __m256i filter_two(const int16_t* left, const int16_t* right, const int16_t* weights, int pairs) {
    constexpr int kShift = kWeightBits + kRowBits;
    // of two neighboring pixels R G B X R G B X: R R G G B B X X
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    __m256i sum = _mm256_set1_epi32(1 << (kShift - 1));
    for (int k = 0; k < (Pairs > 0 ? Pairs : pairs); ++k) {
        const __m256i both =
            _mm256_inserti128_si256(_mm256_castsi128_si256(load_16(left + 8 * k)), load_16(right + 8 * k), 1);
        sum = _mm256_add_epi32(
            sum, _mm256_madd_epi16(_mm256_shuffle_epi8(both, order), load_32(weights + 16 * k)));
    }
    return _mm256_srai_epi32(sum, kShift);
}

template <int Pairs>
VIDSEG_AVX2 void filter_pixels_of(const int16_t* row, const int* first, const int16_t* packed, int pairs,
                                  int width, uint32_t* out) {
    const size_t step = size_t{16} * (Pairs > 0 ? Pairs : pairs);
    int x = 0;
    for (; x + 4 <= width; x += 4, packed += 2 * step) {
        const __m256i one = filter_two<Pairs>(row + 4 * first[x], row + 4 * first[x + 1], packed, pairs);
        const __m256i two =
            filter_two<Pairs>(row + 4 * first[x + 2], row + 4 * first[x + 3], packed + step, pairs);
        const __m256i samples = _mm256_packs_epi32(one, two);  // pixels 0 2, 1 3
        const __m256i bytes = _mm256_packus_epi16(samples, samples);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(out + x),
            _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
    }
    if (x < width) filter_pixels_from(0, row, first + x, packed, pairs, width - x, out + x);
}

VIDSEG_AVX2 void filter_pixels_avx2(const int16_t* row, const int* first, const Filter::OfPixels& of,
                                    int width, uint32_t* out) {
    const int16_t* weights = of.weights.data();
    switch (of.pairs) {
        case 1:
            return filter_pixels_of<1>(row, first, weights, of.pairs, width, out);
        case 2:
            return filter_pixels_of<2>(row, first, weights, of.pairs, width, out);
        case 3:
            return filter_pixels_of<3>(row, first, weights, of.pairs, width, out);
        default:
            return filter_pixels_of<0>(row, first, weights, of.pairs, width, out);
    }
}

VIDSEG_AVX2 inline __m256i load_two(const int16_t* row, int window, int other) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_16(row + window)), load_16(row + other), 1);
}

// Eight outputs of a row of samples: 32-bit sums.
template <bool Wide, int Pairs>
VIDSEG_AVX2 inline __m256i filter_eight(const int16_t* row, const int* windows, const uint8_t* controls,
                                        const int16_t* weights, int pairs) {
    constexpr int kShift = kWeightBits + kRowBits;
    __m256i sum = _mm256_set1_epi32(1 << (kShift - 1));
    for (int k = 0; k < (Pairs > 0 ? Pairs : pairs); ++k) {
        __m256i inputs =
            _mm256_shuffle_epi8(load_two(row + 2 * k, windows[0], windows[2]), load_32(controls));
        if (Wide) {
            const __m256i others = load_two(row + 2 * k, windows[1], windows[3]);
            inputs = _mm256_or_si256(inputs, _mm256_shuffle_epi8(others, load_32(controls + 32)));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(inputs, load_32(weights + 16 * k)));
    }
    return _mm256_srai_epi32(sum, kShift);
}

template <bool Wide, int Pairs>
VIDSEG_AVX2 void filter_samples_of(const int16_t* row, const Filter::OfSamples& of, int width, uint8_t* out) {
    constexpr int kControls = Wide ? 64 : 32;
    const int* windows = of.windows.data();
    const uint8_t* controls = of.controls.data();
    const int16_t* weights = of.weights.data();
    const size_t step = size_t{16} * (Pairs > 0 ? Pairs : of.pairs);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    for (int x = 0; x < width; x += 16) {
        const __m256i one = filter_eight<Wide, Pairs>(row, windows, controls, weights, of.pairs);
        const __m256i two =
            filter_eight<Wide, Pairs>(row, windows + 4, controls + kControls, weights + step, of.pairs);
        const __m256i both = _mm256_packs_epi32(one, two);  // outputs 0 to 3, 8 to 11; 4 to 7, 12 to 15
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(both, both), order);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + x), _mm256_castsi256_si128(bytes));
        windows += 8;
        controls += 2 * kControls;
        weights += 2 * step;
    }
}

template <bool Wide>
VIDSEG_AVX2 void filter_samples_in(const int16_t* row, const Filter::OfSamples& of, int width, uint8_t* out) {
    switch (of.pairs) {
        case 1:
            return filter_samples_of<Wide, 1>(row, of, width, out);
        case 2:
            return filter_samples_of<Wide, 2>(row, of, width, out);
        case 3:
            return filter_samples_of<Wide, 3>(row, of, width, out);
        default:
            return filter_samples_of<Wide, 0>(row, of, width, out);
    }
}

VIDSEG_AVX2 void filter_samples_avx2(const int16_t* row, const Filter::OfSamples& of, int width,
                                     uint8_t* out) {
    of.wide ? filter_samples_in<true>(row, of, width, out) : filter_samples_in<false>(row, of, width, out);
}
#endif

Passes choose_passes() {
#if defined(__x86_64__)
    if (has_avx2()) return {blend_rows_avx2, filter_pixels_avx2, filter_samples_avx2};
#endif
    return {blend_rows_portable, filter_pixels_portable, nullptr};
}

}  // namespace

const Passes& passes() {
    static const Passes chosen = choose_passes();
    return chosen;
}

void filter_samples_portable(const int16_t* row, const Filter& filter, int width, uint8_t* out) {
    constexpr int kShift = kWeightBits + kRowBits;
    for (int x = 0; x < width; ++x) {
        const int16_t* weights = &filter.weights[static_cast<size_t>(x) * filter.taps];
        int sum = 1 << (kShift - 1);
        for (int k = 0; k < filter.count[x]; ++k) sum += row[filter.first[x] + k] * weights[k];
        out[x] = static_cast<uint8_t>(std::clamp(sum >> kShift, 0, 255));
    }
}

}  // namespace vidseg
