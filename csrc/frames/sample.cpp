#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "error.h"
#include "vectorised.h"

namespace vidseg {
namespace {

constexpr int kWeightBits = 14;
constexpr int kRowBits = 6;  // fractional bits between the two passes
constexpr double kWhole = 1e-9;

// Both passes below exist twice, with equal results: portable, and with AVX2, chosen when the library is
// first used.
struct Passes {
    // One output row from `count` input rows of `bytes` bytes: sums of 8-bit samples times 14-bit weights,
    // kept with 6 fractional bits.
    void (*blend_rows)(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                       int16_t* out);
    // One output row from one blended row: for each output pixel `pairs` pairs of pixels of 4 samples, from
    // first[x] on. `packed` has the weights of a pair four times, pixels two by two: (width / 2, pairs, 2, 4,
    // 2).
    void (*filter_row)(const int16_t* row, const int* first, const int16_t* packed, int pairs, int width,
                       uint32_t* out);
};

void blend_rows_from(size_t start, const uint8_t* const* rows, const int16_t* weights, int count,
                     size_t bytes, int16_t* out) {
    constexpr int kShift = kWeightBits - kRowBits;
    for (size_t i = start; i < bytes; ++i) {
        int sum = 1 << (kShift - 1);
        for (int k = 0; k < count; ++k) sum += rows[k][i] * weights[k];
        out[i] = static_cast<int16_t>(sum >> kShift);
    }
}

void filter_row_from(int start, const int16_t* row, const int* first, const int16_t* packed, int pairs,
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

void blend_rows_portable(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                         int16_t* out) {
    blend_rows_from(0, rows, weights, count, bytes, out);
}

void filter_row_portable(const int16_t* row, const int* first, const int16_t* packed, int pairs, int width,
                         uint32_t* out) {
    filter_row_from(0, row, first, packed, pairs, width, out);
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
    size_t i = 0;
    for (; i + 32 <= bytes; i += 32) {
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
    blend_rows_from(i, rows, weights, count, bytes, out);
}

// Two output pixels, one in each half: 4 sums each.
template <int Pairs>
VIDSEG_AVX2 __m256i filter_two(const int16_t* left, const int16_t* right, const int16_t* weights, int pairs) {
    constexpr int kShift = kWeightBits + kRowBits;
    // of two neighbouring pixels R G B X R G B X: R R G G B B X X
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
VIDSEG_AVX2 void filter_row_of(const int16_t* row, const int* first, const int16_t* packed, int pairs,
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
    if (x < width) filter_row_from(0, row, first + x, packed, pairs, width - x, out + x);
}

VIDSEG_AVX2 void filter_row_avx2(const int16_t* row, const int* first, const int16_t* packed, int pairs,
                                 int width, uint32_t* out) {
    switch (pairs) {
        case 1:
            return filter_row_of<1>(row, first, packed, pairs, width, out);
        case 2:
            return filter_row_of<2>(row, first, packed, pairs, width, out);
        case 3:
            return filter_row_of<3>(row, first, packed, pairs, width, out);
        default:
            return filter_row_of<0>(row, first, packed, pairs, width, out);
    }
}
#endif

Passes choose_passes() {
#if defined(__x86_64__)
    if (prefers_avx2()) return {blend_rows_avx2, filter_row_avx2};
#endif
    return {blend_rows_portable, filter_row_portable};
}

const Passes& passes() {
    static const Passes chosen = choose_passes();
    return chosen;
}

typedef float Four __attribute__((vector_size(16)));
typedef uint8_t FourBytes __attribute__((vector_size(4)));

Four pixel_at(const Region& region, int x, int y) {
    const Window& window = region.window;
    if (x < window.left || y < window.top || x >= window.right || y >= window.bottom) return Four{};
    FourBytes bytes;
    std::memcpy(&bytes, region.row(y - window.top) + (x - window.left), sizeof bytes);
    return __builtin_convertvector(bytes, Four);
}

Four bilinear(const Region& region, double x, double y) {
    const double left = std::floor(x - 0.5), top = std::floor(y - 0.5);
    const float right_share = static_cast<float>(x - 0.5 - left),
                lower_share = static_cast<float>(y - 0.5 - top);
    const int column = static_cast<int>(left), row = static_cast<int>(top);
    const Four upper =
        pixel_at(region, column, row) * (1 - right_share) + pixel_at(region, column + 1, row) * right_share;
    const Four lower = pixel_at(region, column, row + 1) * (1 - right_share) +
                       pixel_at(region, column + 1, row + 1) * right_share;
    return upper * (1 - lower_share) + lower * lower_share;
}

}  // namespace

Sampler::Sampler(const std::array<double, 9>& matrix, int width, int height)
    : matrix_(matrix), width_(width), height_(height) {
    const std::array<double, 9>& m = matrix_;
    for (const double value : m) check(std::isfinite(value), "the matrix holds a number that is not finite");
    check(m[8] != 0.0, "the matrix has no last element");
    for (double& value : matrix_) value /= matrix[8];
    separable_ = m[1] == 0.0 && m[3] == 0.0 && m[6] == 0.0 && m[7] == 0.0;
    if (separable_) {
        check(m[0] != 0.0 && m[4] != 0.0, "the matrix maps the output to a line");
        least_shrink_ = std::min(std::abs(m[0]), std::abs(m[4]));
        most_shrink_ = std::max(std::abs(m[0]), std::abs(m[4]));
        return;
    }
    for (const double x : {0.0, static_cast<double>(width)}) {
        for (const double y : {0.0, static_cast<double>(height)}) {
            check(m[6] * x + m[7] * y + m[8] > 1e-6,
                  "the perspective puts a corner of the output at infinity");
        }
    }
    const double x = width / 2.0, y = height / 2.0, w = m[6] * x + m[7] * y + m[8];
    const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
    const double across = std::hypot((m[0] - u * m[6]) / w, (m[3] - v * m[6]) / w);
    const double down = std::hypot((m[1] - u * m[7]) / w, (m[4] - v * m[7]) / w);
    least_shrink_ = std::min(across, down);
    most_shrink_ = std::max(across, down);
}

Window Sampler::window(int divisor) const {
    const std::array<double, 9>& m = matrix_;
    double left = 1e30, top = 1e30, right = -1e30, bottom = -1e30;
    for (const double x : {0.0, static_cast<double>(width_)}) {
        for (const double y : {0.0, static_cast<double>(height_)}) {
            const double w = m[6] * x + m[7] * y + m[8];
            const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
            left = std::min(left, u);
            right = std::max(right, u);
            top = std::min(top, v);
            bottom = std::max(bottom, v);
        }
    }
    double reach_across = divisor, reach_down = divisor;  // a look-up between two pixels of the copy
    if (separable_) {
        const double across = std::abs(m[0]), down = std::abs(m[4]);
        reach_across = std::max(reach_across, across) - across / 2;
        reach_down = std::max(reach_down, down) - down / 2;
        // No resampling: each pixel needs itself alone.
        const auto whole = [](double value) { return std::abs(value - std::round(value)) < kWhole; };
        if (std::abs(across - 1.0) < kWhole && whole(left)) reach_across = 0.0;
        if (std::abs(down - 1.0) < kWhole && whole(top)) reach_down = 0.0;
    }
    const auto low = [&](double value) {
        return static_cast<int>(std::floor(std::clamp(value + kWhole, -1e6, 1e6) / divisor));
    };
    const auto high = [&](double value) {
        return static_cast<int>(std::ceil(std::clamp(value - kWhole, -1e6, 1e6) / divisor));
    };
    return {low(left - reach_across), low(top - reach_down), high(right + reach_across),
            high(bottom + reach_down)};
}

void Sampler::Filter::make(double new_step, double new_start, int divisor, int new_inputs, int outputs) {
    if (new_step == step && new_start == start && new_inputs == inputs) return;
    step = new_step;
    start = new_start;
    inputs = new_inputs;
    // A copy that is enlarged is interpolated between its own pixels.
    const double reach = std::max(static_cast<double>(divisor), std::abs(step));
    taps = static_cast<int>(std::ceil(2 * reach / divisor)) + 2;
    first.assign(static_cast<size_t>(outputs), 0);
    count.assign(static_cast<size_t>(outputs), 0);
    weights.assign(static_cast<size_t>(outputs) * taps, 0);
    std::vector<double> exact(static_cast<size_t>(taps));
    int used = 0;
    for (int i = 0; i < outputs; ++i) {
        const double centre = start + (i + 0.5) * step;
        if (centre < 0.0 || centre > static_cast<double>(inputs) * divisor) continue;  // weights of 0: black
        // Of the stored frame; an input is the mean of `divisor` of its pixels, and weighs as much as they
        // would.
        const int begin = static_cast<int>(std::floor(centre - reach - 0.5 + kWhole)) + 1;
        const int end = static_cast<int>(std::ceil(centre + reach - 0.5 - kWhole));
        int low = std::max(begin, 0) / divisor;
        int high = std::min(inputs, (std::max(end, 1) - 1) / divisor + 1);
        if (low >= high) low = std::clamp(static_cast<int>(centre) / divisor, 0, inputs - 1), high = low + 1;
        double total = 0.0;
        for (int k = low; k < high; ++k) {
            exact[k - low] = 0.0;
            for (int pixel = k * divisor; pixel < (k + 1) * divisor; ++pixel) {
                exact[k - low] += std::max(0.0, 1.0 - std::abs(pixel + 0.5 - centre) / reach);
            }
            total += exact[k - low];
        }
        int16_t* to = &weights[static_cast<size_t>(i) * taps];
        int sum = 0, largest = 0;
        for (int k = 0; k < high - low; ++k) {
            to[k] = static_cast<int16_t>(std::lround(exact[k] / total * (1 << kWeightBits)));
            sum += to[k];
            if (to[k] > to[largest]) largest = k;
        }
        to[largest] =
            static_cast<int16_t>(to[largest] + (1 << kWeightBits) - sum);  // flat areas keep their brightness
        first[i] = low;
        count[i] = high - low;
        used = std::max(used, high - low);
    }
    lowest = inputs;
    highest = 0;
    for (int i = 0; i < outputs; ++i) {
        if (count[i] == 0) continue;
        lowest = std::min(lowest, first[i]);
        highest = std::max(highest, first[i] + count[i]);
    }
    lowest = std::min(lowest, highest);
    copies = highest - lowest == outputs;
    for (int i = 0; i < outputs; ++i) {
        first[i] = count[i] == 0 ? 0 : first[i] - lowest;
        copies = copies && count[i] == 1 && first[i] == i;
    }
    pairs = std::max(1, (used + 1) / 2);
    packed.assign(static_cast<size_t>(outputs + 3) / 2 * pairs * 16, 0);
    for (int i = 0; i < outputs; ++i) {
        for (int k = 0; k < count[i]; ++k) {
            int16_t* to = &packed[(static_cast<size_t>(i / 2) * pairs * 2 + k / 2 * 2 + i % 2) * 8 + k % 2];
            for (int copy = 0; copy < 4; ++copy) to[2 * copy] = weights[static_cast<size_t>(i) * taps + k];
        }
    }
}

void Sampler::sample(const Region& region, int divisor, uint32_t* out) {
    if (separable_) {
        sample_separable(region, divisor, out);
    } else {
        sample_any(region, divisor, out);
    }
}

void Sampler::sample_separable(const Region& region, int divisor, uint32_t* out) {
    across_.make(matrix_[0], matrix_[2], divisor, region.full_width, width_);
    down_.make(matrix_[4], matrix_[5], divisor, region.full_height, height_);
    if (across_.lowest == across_.highest || down_.lowest == down_.highest) {  // nothing of the frame is seen
        std::fill(out, out + static_cast<size_t>(width_) * height_, 0U);
        return;
    }
    const Window& window = region.window;
    check(across_.lowest >= window.left && across_.highest <= window.right && down_.lowest >= window.top &&
              down_.highest <= window.bottom,
          "internal error: a region that ends at ", window.right, ", ", window.bottom, " instead of ",
          across_.highest, ", ", down_.highest);
    const size_t bytes = static_cast<size_t>(across_.highest - across_.lowest) * 4;
    row_.resize(bytes + static_cast<size_t>(across_.taps + 2) * 4);  // may be read, times 0, beyond its end
    std::fill(row_.begin() + static_cast<std::ptrdiff_t>(bytes), row_.end(), int16_t{0});
    rows_.resize(static_cast<size_t>(down_.taps));
    for (int y = 0; y < height_; ++y, out += width_) {
        const int count = down_.count[y];
        for (int k = 0; k < count; ++k) {
            const uint32_t* row = region.row(down_.lowest + down_.first[y] + k - window.top);
            rows_[k] = reinterpret_cast<const uint8_t*>(row + (across_.lowest - window.left));
        }
        if (count == 0) {
            std::fill(out, out + width_, 0U);
        } else if (count == 1 && across_.copies) {
            std::memcpy(out, rows_[0], static_cast<size_t>(width_) * 4);
        } else {
            const int16_t* weights = &down_.weights[static_cast<size_t>(y) * down_.taps];
            passes().blend_rows(rows_.data(), weights, count, bytes, row_.data());
            passes().filter_row(row_.data(), across_.first.data(), across_.packed.data(), across_.pairs,
                                width_, out);
        }
    }
}

void Sampler::sample_any(const Region& region, int divisor, uint32_t* out) const {
    const std::array<double, 9>& m = matrix_;
    const int points = std::clamp(static_cast<int>(std::ceil(most_shrink_ / divisor - 0.1)), 1, 8);
    const float share = 1.0F / static_cast<float>(points * points);
    for (int y = 0; y < height_; ++y) {
        for (int x = 0; x < width_; ++x) {
            Four sum = {};
            for (int i = 0; i < points * points; ++i) {
                const double px = x + (i % points + 0.5) / points, py = y + (i / points + 0.5) / points;
                const double w = (m[6] * px + m[7] * py + m[8]) * divisor;
                sum +=
                    bilinear(region, (m[0] * px + m[1] * py + m[2]) / w, (m[3] * px + m[4] * py + m[5]) / w);
            }
            const Four rounded = sum * share + 0.5F;
            const FourBytes bytes = __builtin_convertvector(rounded, FourBytes);
            std::memcpy(out++, &bytes, sizeof bytes);
        }
    }
}

}  // namespace vidseg
