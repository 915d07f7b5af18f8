// The passes of passes.h for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

// Rows are read in pairs: the last one twice if there is no other, with weight 0.
template <int Pairs>
VIDSEG_TARGET void blend_pairs(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                               int16_t* out) {
    constexpr int kShift = kWeightBits - kRowBits;
    constexpr size_t kStep = 16 * kHalves;
    const Ints half = ints(1 << (kShift - 1));
    const int pairs = Pairs > 0 ? Pairs : (count + 1) / 2;
    for (size_t begin = 0; begin < bytes; begin += kStep) {
        const size_t i = std::min(begin, bytes - kStep);  // the last ones may overlap those before
        Sums sums[2] = {{half, half}, {half, half}};
        for (int k = 0; k < 2 * pairs; k += 2) {
            const bool both = k + 1 < count;
            const int weight = both ? weights[k + 1] : 0;
            add_bytes(rows[k] + i, rows[both ? k + 1 : k] + i, weights[k], weight, sums);
        }
        store_parts(narrow_shifted<kShift>(sums[0]), narrow_shifted<kShift>(sums[1]), out + i);
    }
}

VIDSEG_TARGET void blend_rows(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                              int16_t* out) {
    if (bytes < 16 * kHalves) return blend_rows_portable(rows, weights, count, bytes, out);
    switch (count) {
        case 1:
        case 2:
            return blend_pairs<1>(rows, weights, count, bytes, out);
        case 3:
        case 4:
            return blend_pairs<2>(rows, weights, count, bytes, out);
        case 5:
        case 6:
            return blend_pairs<3>(rows, weights, count, bytes, out);
        default:
            return blend_pairs<0>(rows, weights, count, bytes, out);
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

// The parts of Filter::OfSamples for the next 16 outputs.
struct Part {
    const int *first, *windows;
    const uint8_t* controls;
    const int16_t* weights;
};

// Four outputs of a row of samples for each half of a vector, of which the first is output 4 * `four`: 32-bit
// sums.
template <From Source, int Pairs>
VIDSEG_TARGET inline Ints filter_fours(const int16_t* row, const Part& part, int four, int pairs) {
    constexpr int kShift = kWeightBits + kRowBits;
    const int group = four / 2, half = four % 2;
    const int16_t* weights = part.weights + size_t{16} * group * pairs + 8 * half;
    const int* windows = part.windows + 2 * four;
    const uint8_t* controls = part.controls + (Source == From::kWindows ? 64 : 32) * group + 16 * half;
    Ints sum = ints(1 << (kShift - 1));
    for (int k = 0; k < (Pairs > 0 ? Pairs : pairs); ++k) {
        const int16_t* from = row + 2 * k;
        Words inputs;
        if (Source == From::kPairs) {
            inputs = gather_pairs(from, part.first + 4 * four);
        } else {
            inputs = select_bytes(load_halves(from + windows[0], from + windows[2 * kHalves - 2]), controls);
        }
        if (Source == From::kWindows) {
            const Words others = load_halves(from + windows[1], from + windows[2 * kHalves - 1]);
            inputs = inputs | select_bytes(others, controls + 32);
        }
        sum = sum + pair_sums(inputs, load_words(weights + 16 * k));
    }
    return shift_right<kShift>(sum);
}

template <From Source, int Pairs>
VIDSEG_TARGET void filter_samples_of(const int16_t* row, const Filter::OfSamples& of, int width,
                                     uint8_t* out) {
    const int pairs = Pairs > 0 ? Pairs : of.pairs;
    Part part{of.first.data(), of.windows.data(), of.controls.data(), of.weights.data()};
    for (int x = 0; x < width; x += 16) {
        Ints sums[4 / kHalves];
        for (int i = 0; i < 4; i += kHalves)
            sums[i / kHalves] = filter_fours<Source, Pairs>(row, part, i, pairs);
        store_sixteen(sums, out + x);
        part.weights += size_t{32} * pairs;
        if (Source == From::kPairs) {
            part.first += 16;
        } else {
            part.windows += 8;
            part.controls += Source == From::kWindows ? 128 : 64;
        }
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
