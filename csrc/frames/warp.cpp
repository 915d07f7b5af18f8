#include "warp.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"
#include "common/simd.h"

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
    int columns, rows;  // of the region
};

// Rounds to 1/256 of a pixel.
VIDSEG_INLINE int32_t fixed(float place) {
    const float scaled = std::min(kFar, std::max(-kFar, place)) * kOne + 0.5F;
    const int32_t truncated = static_cast<int32_t>(scaled);
    return truncated - (static_cast<float>(truncated) > scaled ? 1 : 0);
}

VIDSEG_INLINE uint32_t shares_of(int32_t place) {
    const uint32_t share = static_cast<uint32_t>(place) & (kOne - 1);
    return share << 16 | (kOne - share);
}

// Computes the look-ups of a row, and clears `inside` where one of the four pixels is not in the region.
template <bool Perspective>
VIDSEG_INLINE void locate(const Line& line, int width, int32_t* __restrict across, int32_t* __restrict down,
                          int32_t* __restrict corners, uint32_t* __restrict right_shares,
                          uint32_t* __restrict lower_shares, uint8_t* __restrict inside) {
    const Line to = line;
    for (int x = 0; x < width; ++x) {
        const float at = static_cast<float>(x);
        const float share = Perspective ? 1.0F / (to.under[0] * at + to.under[1]) : 1.0F;
        const int32_t right = fixed((to.across[0] * at + to.across[1]) * share);
        const int32_t lower = fixed((to.down[0] * at + to.down[1]) * share);
        const int32_t column = right >> kShareBits, row = lower >> kShareBits;
        const bool is_inside = (column >= 0) & (column < to.columns - 1) & (row >= 0) & (row < to.rows - 1);
        across[x] = right;
        down[x] = lower;
        corners[x] = is_inside ? row * to.columns + column : 0;
        right_shares[x] = shares_of(right);
        lower_shares[x] = shares_of(lower);
        inside[x] = static_cast<uint8_t>(inside[x] & (is_inside ? 1 : 0));
    }
}

VIDSEG_VECTORIZED
void locate_affine(const Line& line, int width, int32_t* across, int32_t* down, int32_t* corners,
                   uint32_t* right_shares, uint32_t* lower_shares, uint8_t* inside) {
    locate<false>(line, width, across, down, corners, right_shares, lower_shares, inside);
}

VIDSEG_VECTORIZED
void locate_perspective(const Line& line, int width, int32_t* across, int32_t* down, int32_t* corners,
                        uint32_t* right_shares, uint32_t* lower_shares, uint8_t* inside) {
    locate<true>(line, width, across, down, corners, right_shares, lower_shares, inside);
}

VIDSEG_INLINE uint32_t low(uint32_t shares) { return shares & 0xFFFF; }
VIDSEG_INLINE uint32_t high(uint32_t shares) { return shares >> 16; }

// One look-up from the pairs of upper and lower pixels, with kSumBits fractional bits.
VIDSEG_INLINE Sum blend(Bytes8 upper, Bytes8 lower, uint32_t right_shares, uint32_t lower_shares) {
    const Words8 both =
        (__builtin_convertvector(upper, Words8) * static_cast<uint16_t>(low(lower_shares)) +
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
uint32_t look_up_border(const Row& row, int x, uint32_t background) {
    Sum sum = {};
    for (int i = x; i < row.count * row.width; i += row.width) {
        const int column = row.places.across[i] >> kShareBits, line = row.places.down[i] >> kShareBits;
        uint32_t pixels[4];
        for (int k = 0; k < 4; ++k) {
            const int at = column + k % 2, of = line + k / 2;
            const bool is_inside = at >= 0 && at < row.columns && of >= 0 && of < row.rows;
            pixels[k] = is_inside ? row.pixels[static_cast<size_t>(of) * row.columns + at] : background;
        }
        Bytes8 upper, lower;
        std::memcpy(&upper, pixels, sizeof upper);
        std::memcpy(&lower, pixels + 2, sizeof lower);
        sum += blend(upper, lower, row.places.right_shares[i], row.places.lower_shares[i]);
    }
    return mean(sum, row.count);
}

}  // namespace
}  // namespace vidseg

#define VIDSEG_KERNELS "frames/warp_kernels.h"
#include "common/each_set.h"

namespace vidseg {
namespace {

// How much of the region an output pixel covers.
struct Footprint {
    double largest;       // pixels of the region per output pixel, along the side that shrinks most
    double across, down;  // weight of the left and right, and of the upper and lower neighbor when smoothing
    int points;           // look-ups along each side
};

constexpr double kPixel = 1.1, kMostSmoothed = 2.5;

Footprint footprint_of(const std::array<double, 9>& m, int width, int height) {
    // derivatives at the center of the output
    const double x = width / 2.0, y = height / 2.0, w = m[6] * x + m[7] * y + m[8];
    const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
    const double ux = (m[0] - u * m[6]) / w, uy = (m[1] - u * m[7]) / w;
    const double vx = (m[3] - v * m[6]) / w, vy = (m[4] - v * m[7]) / w;
    const double largest = std::sqrt(std::max(ux * ux + vx * vx, uy * uy + vy * vy));
    const int points =
        largest <= kMostSmoothed ? 1 : std::clamp(static_cast<int>(std::ceil(largest - 0.1)), 1, 8);
    // Four look-ups at the centers of the quarters of a pixel of side s have the variance s^2 / 16, a filter
    // with the weights a, 1 - 2a, a has 2a.
    return {largest, std::min(0.25, (ux * ux + uy * uy) / 32), std::min(0.25, (vx * vx + vy * vy) / 32),
            points};
}

// Weighs the rows above and below with `outer`, of 256.
VIDSEG_VECTORIZED
void smooth_down(const uint8_t* above, const uint8_t* here, const uint8_t* below, uint16_t outer, int samples,
                 uint16_t* __restrict out) {
    const auto inner = static_cast<uint16_t>(kOne - 2 * outer);
    for (int i = 0; i < samples; ++i)
        out[i] = static_cast<uint16_t>((above[i] + below[i]) * outer + here[i] * inner);
}

// Weighs the pixels on the left and on the right; `in` has one pixel more on both sides.
VIDSEG_VECTORIZED
void smooth_across(const uint16_t* in, uint16_t outer, int samples, uint8_t* __restrict out) {
    const uint32_t beside = outer, inner = kOne - 2 * beside;
    const uint16_t *here = in + 4, *right = in + 8;
    for (int i = 0; i < samples; ++i) {
        const uint32_t sum = (static_cast<uint32_t>(in[i]) + right[i]) * beside + here[i] * inner;
        out[i] = static_cast<uint8_t>((sum + 0x8000) >> 16);
    }
}

void smooth(const Region& region, const Footprint& footprint, WarpScratch& scratch) {
    const int width = region.window.width(), height = region.window.height(), samples = 4 * width;
    const auto across = static_cast<uint16_t>(std::lround(footprint.across * kOne));
    const auto down = static_cast<uint16_t>(std::lround(footprint.down * kOne));
    Region& out = scratch.smooth;
    out.window = region.window;
    out.pixels.resize(static_cast<size_t>(width) * height);
    scratch.sums.resize(static_cast<size_t>(samples) + 8);
    uint16_t* sums = scratch.sums.data();
    const auto row_of = [&](int y) {
        return reinterpret_cast<const uint8_t*>(region.row(std::clamp(y, 0, height - 1)));
    };
    for (int y = 0; y < height; ++y) {
        smooth_down(row_of(y - 1), row_of(y), row_of(y + 1), down, samples, sums + 4);
        std::copy_n(sums + 4, 4, sums);
        std::copy_n(sums + samples, 4, sums + samples + 4);
        auto* to = reinterpret_cast<uint8_t*>(out.pixels.data() + static_cast<size_t>(y) * width);
        smooth_across(sums, across, samples, to);
    }
}

}  // namespace

void warp(const Region& region, const std::array<double, 9>& m, uint32_t background, int width, int height,
          WarpScratch& scratch, uint32_t* out) {
    const Footprint footprint = footprint_of(m, width, height);
    const Region* from = &region;
    if (footprint.points == 1 && footprint.largest > kPixel) {
        smooth(region, footprint, scratch);
        from = &scratch.smooth;
    }
    const int columns = from->window.width(), rows = from->window.height();
    const int points = footprint.points, count = points * points;
    check(static_cast<int64_t>(columns) * rows < (int64_t{1} << 31), "the region is too large to be warped");
    const size_t lookups = static_cast<size_t>(count) * width;
    for (auto* values : {&scratch.across, &scratch.down, &scratch.corners}) values->resize(lookups);
    for (auto* values : {&scratch.right_shares, &scratch.lower_shares}) values->resize(lookups);
    const bool perspective = m[6] != 0.0 || m[7] != 0.0;
    // A place in the region is a point of the picture minus its first pixel's center.
    const double left = from->window.left + 0.5, top = from->window.top + 0.5;
    const Row row{from->pixels.data(), columns, rows, width, count, scratch};
    static const auto look_up = VIDSEG_CHOOSE(look_up);
    for (int y = 0; y < height; ++y, out += width) {
        scratch.inside.assign(static_cast<size_t>(width), 1);
        for (int i = 0; i < count; ++i) {
            const double px = (i % points + 0.5) / points, py = y + (i / points + 0.5) / points;
            const double under = m[6] * px + m[7] * py + m[8], share = perspective ? 1.0 : 1.0 / under;
            const auto set = [&](double slope, double start, float* to) {
                to[0] = static_cast<float>(slope * share);
                to[1] = static_cast<float>(start * share);
            };
            Line line{{}, {}, {}, columns, rows};
            set(m[0] - left * m[6], m[0] * px + m[1] * py + m[2] - left * under, line.across);
            set(m[3] - top * m[6], m[3] * px + m[4] * py + m[5] - top * under, line.down);
            set(m[6], under, line.under);
            const size_t at = static_cast<size_t>(i) * width;
            const auto run = perspective ? locate_perspective : locate_affine;
            run(line, width, &scratch.across[at], &scratch.down[at], &scratch.corners[at],
                &scratch.right_shares[at], &scratch.lower_shares[at], scratch.inside.data());
        }
        for (int x = 0; x < width;) {
            const void* outside =
                std::memchr(&scratch.inside[static_cast<size_t>(x)], 0, static_cast<size_t>(width - x));
            const int last =
                outside == nullptr
                    ? width
                    : static_cast<int>(static_cast<const uint8_t*>(outside) - scratch.inside.data());
            look_up(row, x, last, out);
            for (x = last; x < width && scratch.inside[static_cast<size_t>(x)] == 0; ++x)
                out[x] = look_up_border(row, x, background);
        }
    }
}

}  // namespace vidseg
