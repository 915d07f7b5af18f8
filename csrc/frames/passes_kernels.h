// The passes of passes.h for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

VIDSEG_TARGET void blend_rows(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                              int16_t* out) {
    constexpr int kShift = kWeightBits - kRowBits;
    constexpr size_t kStep = 16 * kHalves;
    if (bytes < kStep) return blend_rows_portable(rows, weights, count, bytes, out);
    const Ints half = ints(1 << (kShift - 1));
    for (size_t begin = 0; begin < bytes; begin += kStep) {
        const size_t i = std::min(begin, bytes - kStep);  // the last ones may overlap those before
        Sums sums[2] = {{half, half}, {half, half}};
        for (int k = 0; k < count; k += 2) {
            const bool odd = k + 1 == count;
            add_bytes(rows[k] + i, rows[odd ? k : k + 1] + i, weights[k], odd ? 0 : weights[k + 1], sums);
        }
        store_parts(narrow_shifted<kShift>(sums[0]), narrow_shifted<kShift>(sums[1]), out + i);
    }
}

// One output pixel for each half of a vector: 4 sums each.
template <int Pairs>
VIDSEG_TARGET inline Ints filter_pixel(const int16_t* left, const int16_t* right, const int16_t* weights,
                                       int pairs) {
    constexpr int kShift = kWeightBits + kRowBits;
    Ints sum = ints(1 << (kShift - 1));
    for (int k = 0; k < (Pairs > 0 ? Pairs : pairs); ++k) {
        // of two neighboring pixels R G B X R G B X: R R G G B B X X
        const Words both = interleave_quarters(load_halves(left + 8 * k, right + 8 * k));
        sum = sum + pair_sums(both, load_words(weights + 16 * k));
    }
    return shift_right<kShift>(sum);
}

template <int Pairs>
VIDSEG_TARGET void filter_pixels_of(const int16_t* row, const int* first, const int16_t* packed, int pairs,
                                    int width, uint32_t* out) {
    const size_t step = size_t{16} * (Pairs > 0 ? Pairs : pairs);  // of two output pixels
    int x = 0;
    for (; x + 4 <= width; x += 4, packed += 2 * step) {
        Ints sums[4 / kHalves];
        for (int i = 0; i < 4; i += kHalves) {
            const int16_t* weights = packed + i / 2 * step + i % 2 * 8;
            sums[i / kHalves] = filter_pixel<Pairs>(row + 4 * first[x + i],
                                                    row + 4 * first[x + i + kHalves - 1], weights, pairs);
        }
        store_sixteen(sums, out + x);
    }
    if (x < width) filter_pixels_from(0, row, first + x, packed, pairs, width - x, out + x);
}

VIDSEG_TARGET void filter_pixels(const int16_t* row, const int* first, const Filter::OfPixels& of, int width,
                                 uint32_t* out) {
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

// Output i of a row of samples reads pairs of inputs from of.first[i] on. They are loaded one by one, or
// selected from one window that is loaded for four outputs, or from two windows.
enum class From { kPairs, kWindow, kWindows };

// Four outputs of a row of samples, from output x on, for each half of a vector: 32-bit sums.
template <From Source, int Pairs>
VIDSEG_TARGET inline Ints filter_fours(const int16_t* row, const Filter::OfSamples& of, int x) {
    constexpr int kShift = kWeightBits + kRowBits;
    const int pairs = Pairs > 0 ? Pairs : of.pairs, group = x / 8, part = x % 8 / 4;
    const int16_t* weights = of.weights.data() + size_t{16} * group * pairs + 8 * part;
    Ints sum = ints(1 << (kShift - 1));
    for (int k = 0; k < pairs; ++k) {
        Words inputs;
        if constexpr (Source == From::kPairs) {
            inputs = gather_pairs(row + 2 * k, of.first.data() + x);
        } else {
            const int* windows = of.windows.data() + x / 2;
            const uint8_t* controls =
                of.controls.data() + (Source == From::kWindows ? 64 : 32) * group + 16 * part;
            const int16_t* from = row + 2 * k;
            inputs = select_bytes(load_halves(from + windows[0], from + windows[2 * kHalves - 2]), controls);
            if constexpr (Source == From::kWindows) {
                const Words others = load_halves(from + windows[1], from + windows[2 * kHalves - 1]);
                inputs = inputs | select_bytes(others, controls + 32);
            }
        }
        sum = sum + pair_sums(inputs, load_words(weights + 16 * k));
    }
    return shift_right<kShift>(sum);
}

template <From Source, int Pairs>
VIDSEG_TARGET void filter_samples_of(const int16_t* row, const Filter::OfSamples& of, int width,
                                     uint8_t* out) {
    for (int x = 0; x < width; x += 16) {
        Ints sums[4 / kHalves];
        for (int i = 0; i < 4 / kHalves; ++i)
            sums[i] = filter_fours<Source, Pairs>(row, of, x + 4 * kHalves * i);
        store_sixteen(sums, out + x);
    }
}

template <From Source>
VIDSEG_TARGET void filter_samples_from(const int16_t* row, const Filter::OfSamples& of, int width,
                                       uint8_t* out) {
    switch (of.pairs) {
        case 1:
            return filter_samples_of<Source, 1>(row, of, width, out);
        case 2:
            return filter_samples_of<Source, 2>(row, of, width, out);
        case 3:
            return filter_samples_of<Source, 3>(row, of, width, out);
        default:
            return filter_samples_of<Source, 0>(row, of, width, out);
    }
}

VIDSEG_TARGET void filter_samples(const int16_t* row, const Filter::OfSamples& of, int width, uint8_t* out) {
    if constexpr (kSelectsBytes) {
        if (!of.far && of.wide) return filter_samples_from<From::kWindows>(row, of, width, out);
        if (!of.far) return filter_samples_from<From::kWindow>(row, of, width, out);
    }
    filter_samples_from<From::kPairs>(row, of, width, out);
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
