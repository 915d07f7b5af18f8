// The transform of idct.h for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

// One dimension of eight columns in each half: v[k] is coefficient k before and sample k after. Algorithm of
// Loeffler, Ligtenberg and Moschytz (ICASSP 1989), with the multiplications grouped as in libjpeg.
template <int Shift>
VIDSEG_TARGET inline void transform_columns(Words (&v)[8]) {
    const Sums even2 = weigh(v[2], v[6], k0541, k0541 - k1847);
    const Sums even3 = weigh(v[2], v[6], k0541 + k0765, k0541);
    const Sums even0 = widen_shifted<kConstBits>(v[0] + v[4]);
    const Sums even1 = widen_shifted<kConstBits>(v[0] - v[4]);
    const Sums sum0 = even0 + even3, sum3 = even0 - even3;
    const Sums sum1 = even1 + even2, sum2 = even1 - even2;

    const Words z3 = v[7] + v[3], z4 = v[5] + v[1];
    const Sums turn3 = weigh(z3, z4, k1175 - k1961, k1175);
    const Sums turn4 = weigh(z3, z4, k1175, k1175 - k0390);
    const Sums odd0 = weigh(v[7], v[1], k0298 - k0899, -k0899) + turn3;
    const Sums odd1 = weigh(v[5], v[3], k2053 - k2562, -k2562) + turn4;
    const Sums odd2 = weigh(v[5], v[3], -k2562, k3072 - k2562) + turn3;
    const Sums odd3 = weigh(v[7], v[1], -k0899, k1501 - k0899) + turn4;

    v[0] = narrow_rounded<Shift>(sum0 + odd3);
    v[7] = narrow_rounded<Shift>(sum0 - odd3);
    v[1] = narrow_rounded<Shift>(sum1 + odd2);
    v[6] = narrow_rounded<Shift>(sum1 - odd2);
    v[2] = narrow_rounded<Shift>(sum2 + odd1);
    v[5] = narrow_rounded<Shift>(sum2 - odd1);
    v[3] = narrow_rounded<Shift>(sum3 + odd0);
    v[4] = narrow_rounded<Shift>(sum3 - odd0);
}

// Transforms one block for each half of a vector.
VIDSEG_TARGET inline void transform_blocks(const int16_t* coefficients, const BlockTarget& first,
                                           const BlockTarget& second) {
    Words v[8];
    for (int row = 0; row < 8; ++row) {
        const Words steps =
            load_halves(first.quantizer->data() + 8 * row, second.quantizer->data() + 8 * row);
        v[row] = load_words(coefficients + 16 * row) * steps;
    }
    transform_columns<kConstBits - kPassBits>(v);
    transpose(v);
    transform_columns<kConstBits + kPassBits + 3>(v);
    transpose(v);
    for (int row = 0; row < 8; row += 2) {
        const size_t place = static_cast<size_t>(row);
        store_rows(v[row], v[row + 1], first.to + place * first.stride, first.stride,
                   second.to + place * second.stride, second.stride);
    }
}

VIDSEG_TARGET inline void inverse_both(const BlockPair& blocks, const BlockTarget& first,
                                       const BlockTarget& second) {
    if constexpr (kHalves == 1) {
        transform_blocks(blocks.coefficients, first, first);
        transform_blocks(blocks.coefficients + BlockPair::kSecond, second, second);
    } else {
        transform_blocks(blocks.coefficients, first, second);
    }
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
