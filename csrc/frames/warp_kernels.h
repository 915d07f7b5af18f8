// The look-ups of warp.cpp for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

// One look-up for each half of a vector, of adjacent output pixels.
VIDSEG_TARGET inline Ints blend_places(const Row& row, size_t i) {
    const uint32_t* one = row.pixels + row.places.corners[i];
    const uint32_t* other = row.pixels + row.places.corners[i + kHalves - 1];
    const Words upper = widen_eight(one, other);
    const Words lower = widen_eight(one + row.columns, other + row.columns);
    const Words weight = high_words(repeat_in_halves(&row.places.lower_shares[i]));
    // upper * (256 - weight) + lower * weight, modulo 2^16
    const Words change = (lower - upper) * weight;
    const Words both = shift_right_unsigned<1>(shift_left<kShareBits>(upper) + change);
    // The left and right value of each color side by side.
    return pair_sums(interleave_quarters(both), repeat_in_halves(&row.places.right_shares[i]));
}

// Output pixels `first` to `last` - 1, all inside.
template <bool One>
VIDSEG_TARGET void look_up_inside(const Row& row, int first, int last, uint32_t* out) {
    const Ints half = ints(1 << (kSumBits - 1));
    const Floats share = floats(1.0F / static_cast<float>(row.count << kSumBits)), round = floats(0.5F);
    int x = first;
    for (; x + kHalves <= last; x += kHalves) {
        Ints sum;
        if (One) {
            sum = shift_right<kSumBits>(blend_places(row, static_cast<size_t>(x)) + half);
        } else {
            sum = ints(0);
            for (int i = x; i < row.count * row.width; i += row.width)
                sum = sum + blend_places(row, static_cast<size_t>(i));
            sum = truncate(to_floats(sum) * share + round);
        }
        store_fours(sum, out + x);
    }
    look_up_portable(row, x, last, out);
}

VIDSEG_TARGET void look_up(const Row& row, int first, int last, uint32_t* out) {
    row.count == 1 ? look_up_inside<true>(row, first, last, out)
                   : look_up_inside<false>(row, first, last, out);
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
