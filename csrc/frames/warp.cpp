#include "warp.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "common/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace vidseg {
namespace {

constexpr int kShareBits = 8;
constexpr int kOne = 1 << kShareBits;
constexpr int kSumBits = 2 * kShareBits - 1;  // fractional bits of a look-up
constexpr float kFar = 1 << 20;               // pixels; places beyond are outside in any case

typedef uint8_t Bytes4 __attribute__((vector_size(4)));
typedef uint8_t Bytes8 __attribute__((vector_size(8)));
typedef uint16_t Words8 __attribute__((vector_size(16)));
typedef uint16_t Words4 __attribute__((vector_size(8)));
typedef uint32_t Sum __attribute__((vector_size(16)));  // of R, G, B and the unused byte

// The places of one row of points: across = (across[0] x + across[1]) / (under[0] x + under[1]).
struct Line {
    float across[2], down[2], under[2];
};

// Rounds to 1/256 of a pixel.
VIDSEG_INLINE int32_t fixed(float place) {
    const float scaled = std::min(kFar, std::max(-kFar, place)) * kOne + 0.5F;
    const int32_t truncated = static_cast<int32_t>(scaled);
    return truncated - (static_cast<float>(truncated) > scaled ? 1 : 0);
}

VIDSEG_VECTORIZED
void locate(const Line& line, int width, int32_t* __restrict across, int32_t* __restrict down) {
    for (int x = 0; x < width; ++x) {
        const float at = static_cast<float>(x);
        const float under = line.under[0] * at + line.under[1];
        across[x] = fixed((line.across[0] * at + line.across[1]) / under);
        down[x] = fixed((line.down[0] * at + line.down[1]) / under);
    }
}

VIDSEG_VECTORIZED
void split(const int32_t* __restrict places, int width, uint32_t* __restrict shares) {
    for (int x = 0; x < width; ++x) {
        const uint32_t share = static_cast<uint32_t>(places[x]) & (kOne - 1);
        shares[x] = share << 16 | (kOne - share);
    }
}

// Offsets of the upper left pixels in a region of columns x rows pixels; clears `inside` where one of the four
// is not in it.
VIDSEG_VECTORIZED
void find_corners(const int32_t* __restrict across, const int32_t* __restrict down, int width, int columns,
                  int rows, int32_t* __restrict corners, uint8_t* __restrict inside) {
    for (int x = 0; x < width; ++x) {
        const int32_t column = across[x] >> kShareBits, row = down[x] >> kShareBits;
        const bool is_inside = (column >= 0) & (column < columns - 1) & (row >= 0) & (row < rows - 1);
        corners[x] = is_inside ? row * columns + column : 0;
        inside[x] = static_cast<uint8_t>(inside[x] & (is_inside ? 1 : 0));
    }
}

VIDSEG_INLINE uint32_t low(uint32_t shares) { return shares & 0xFFFF; }
VIDSEG_INLINE uint32_t high(uint32_t shares) { return shares >> 16; }

// One look-up from the pairs of upper and lower pixels, with kSumBits fractional bits.
VIDSEG_INLINE Sum blend(Bytes8 upper, Bytes8 lower, uint32_t right_shares, uint32_t lower_shares) {
    const Words8 both = (__builtin_convertvector(upper, Words8) * static_cast<uint16_t>(low(lower_shares)) +
                         __builtin_convertvector(lower, Words8) * static_cast<uint16_t>(high(lower_shares))) >>
                        1;
    Words4 left, right;
    std::memcpy(&left, &both, sizeof left);
    std::memcpy(&right, reinterpret_cast<const char*>(&both) + sizeof left, sizeof right);
    return __builtin_convertvector(left, Sum) * low(right_shares) +
           __builtin_convertvector(right, Sum) * high(right_shares);
}

// Rounds the mean of `count` look-ups.
VIDSEG_INLINE uint32_t mean(Sum sum, int count) {
    if (count == 1) {
        sum = (sum + (1U << (kSumBits - 1))) >> kSumBits;
    } else {
        typedef float Floats __attribute__((vector_size(16)));
        const float share = 1.0F / static_cast<float>(count << kSumBits);
        sum = __builtin_convertvector(__builtin_convertvector(sum, Floats) * share + 0.5F, Sum);
    }
    const Bytes4 bytes = __builtin_convertvector(sum, Bytes4);
    uint32_t pixel;
    std::memcpy(&pixel, &bytes, sizeof pixel);
    return pixel;
}

struct Row {
    const uint32_t* pixels;  // of the region
    int columns, rows;       // of the region
    int width;               // of the output
    int count;               // look-ups for each output pixel
    const WarpScratch& places;
};

// Output pixels `first` to `last` - 1, all inside.
void look_up_portable(const Row& row, int first, int last, uint32_t* out) {
    for (int x = first; x < last; ++x) {
        Sum sum = {};
        for (int i = x; i < row.count * row.width; i += row.width) {
            const uint32_t* corner = row.pixels + row.places.corners[i];
            Bytes8 upper, lower;
            std::memcpy(&upper, corner, sizeof upper);
            std::memcpy(&lower, corner + row.columns, sizeof lower);
            sum += blend(upper, lower, row.places.right_shares[i], row.places.lower_shares[i]);
        }
        out[x] = mean(sum, row.count);
    }
}

// One output pixel at the border of the region or outside of it.
uint32_t look_up_border(const Row& row, int x, uint32_t border) {
    Sum sum = {};
    for (int i = x; i < row.count * row.width; i += row.width) {
        const int column = row.places.across[i] >> kShareBits, line = row.places.down[i] >> kShareBits;
        uint32_t pixels[4];
        for (int k = 0; k < 4; ++k) {
            const int at = column + k % 2, of = line + k / 2;
            const bool is_inside = at >= 0 && at < row.columns && of >= 0 && of < row.rows;
            pixels[k] = is_inside ? row.pixels[static_cast<size_t>(of) * row.columns + at] : border;
        }
        Bytes8 upper, lower;
        std::memcpy(&upper, pixels, sizeof upper);
        std::memcpy(&lower, pixels + 2, sizeof lower);
        sum += blend(upper, lower, row.places.right_shares[i], row.places.lower_shares[i]);
    }
    return mean(sum, row.count);
}

#if defined(__x86_64__)
VIDSEG_AVX2 inline __m128i load_pairs(const uint32_t* one, const uint32_t* other) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(one));
    return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(other)));
}

// The shares of two look-ups, each repeated in four lanes.
VIDSEG_AVX2 inline __m256i load_shares(const uint32_t* shares) {
    const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(shares));
    return _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(both),
                                       _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

// The same for two output pixels at a time.
VIDSEG_AVX2 void look_up_avx2(const Row& row, int first, int last, uint32_t* out) {
    // The left and right value of each color side by side.
    const __m256i beside = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8, 9,
                                            2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    const __m256i half = _mm256_set1_epi32(1 << (kSumBits - 1));
    const float share = 1.0F / static_cast<float>(row.count << kSumBits);
    const __m256 shares = _mm256_set1_ps(share), half_level = _mm256_set1_ps(0.5F);
    const int32_t* corners = row.places.corners.data();
    int x = first;
    for (; x + 2 <= last; x += 2) {
        __m256i sum = _mm256_setzero_si256();
        for (int i = x; i < row.count * row.width; i += row.width) {
            const uint32_t *one = row.pixels + corners[i], *other = row.pixels + corners[i + 1];
            const __m256i upper = _mm256_cvtepu8_epi16(load_pairs(one, other));
            const __m256i lower = _mm256_cvtepu8_epi16(load_pairs(one + row.columns, other + row.columns));
            __m256i weight = _mm256_srli_epi32(load_shares(&row.places.lower_shares[static_cast<size_t>(i)]), 16);
            weight = _mm256_or_si256(weight, _mm256_slli_epi32(weight, 16));
            // upper * (256 - weight) + lower * weight, modulo 2^16
            const __m256i change = _mm256_mullo_epi16(_mm256_sub_epi16(lower, upper), weight);
            const __m256i both = _mm256_srli_epi16(_mm256_add_epi16(_mm256_slli_epi16(upper, kShareBits), change), 1);
            sum = _mm256_add_epi32(
                sum, _mm256_madd_epi16(_mm256_shuffle_epi8(both, beside),
                                       load_shares(&row.places.right_shares[static_cast<size_t>(i)])));
        }
        if (row.count == 1) {
            sum = _mm256_srli_epi32(_mm256_add_epi32(sum, half), kSumBits);
        } else {
            const __m256 means = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), shares), half_level);
            sum = _mm256_cvttps_epi32(means);
        }
        const __m256i words = _mm256_packus_epi32(sum, sum), bytes = _mm256_packus_epi16(words, words);
        out[x] = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(bytes)));
        out[x + 1] = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm256_extracti128_si256(bytes, 1)));
    }
    look_up_portable(row, x, last, out);
}
#endif

void look_up(const Row& row, int first, int last, uint32_t* out) {
#if defined(__x86_64__)
    static const bool fast = has_avx2();
    if (fast) return look_up_avx2(row, first, last, out);
#endif
    look_up_portable(row, first, last, out);
}

}  // namespace

void warp(const Region& region, const std::array<double, 9>& m, int points, uint32_t border, int width,
          int height, WarpScratch& scratch, uint32_t* out) {
    const int columns = region.window.width(), rows = region.window.height(), count = points * points;
    check(static_cast<int64_t>(columns) * rows < (int64_t{1} << 31), "the region is too large to be warped");
    const size_t lookups = static_cast<size_t>(count) * width;
    for (auto* values : {&scratch.across, &scratch.down, &scratch.corners}) values->resize(lookups);
    for (auto* values : {&scratch.right_shares, &scratch.lower_shares}) values->resize(lookups);
    // A place in the region is a point of the picture minus its first pixel's center.
    const double left = region.window.left + 0.5, top = region.window.top + 0.5;
    const Row row{region.pixels.data(), columns, rows, width, count, scratch};
    for (int y = 0; y < height; ++y, out += width) {
        scratch.inside.assign(static_cast<size_t>(width), 1);
        for (int i = 0; i < count; ++i) {
            const double px = (i % points + 0.5) / points, py = y + (i / points + 0.5) / points;
            const double under = m[6] * px + m[7] * py + m[8];
            const double across = m[0] * px + m[1] * py + m[2] - left * under;
            const double down = m[3] * px + m[4] * py + m[5] - top * under;
            const auto line = [](double slope, double start, float* to) {
                to[0] = static_cast<float>(slope);
                to[1] = static_cast<float>(start);
            };
            Line places{};
            line(m[0] - left * m[6], across, places.across);
            line(m[3] - top * m[6], down, places.down);
            line(m[6], under, places.under);
            const size_t at = static_cast<size_t>(i) * width;
            locate(places, width, &scratch.across[at], &scratch.down[at]);
            split(&scratch.across[at], width, &scratch.right_shares[at]);
            split(&scratch.down[at], width, &scratch.lower_shares[at]);
            find_corners(&scratch.across[at], &scratch.down[at], width, columns, rows, &scratch.corners[at],
                         scratch.inside.data());
        }
        for (int x = 0; x < width;) {
            int last = x;
            while (last < width && scratch.inside[static_cast<size_t>(last)] != 0) ++last;
            look_up(row, x, last, out);
            for (x = last; x < width && scratch.inside[static_cast<size_t>(x)] == 0; ++x)
                out[x] = look_up_border(row, x, border);
        }
    }
}

}  // namespace vidseg
