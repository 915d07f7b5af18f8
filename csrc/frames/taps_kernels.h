// The sum of taps of filters.cpp for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

constexpr int kTapsStep = 8 * kHalves;  // samples of a vector

// `Count` vectors of samples from sample x on.
template <int Count>
VIDSEG_TARGET inline void add_taps_at(const std::vector<const uint8_t*>& rows,
                                      const std::vector<int16_t>& weights, int x, uint8_t* out) {
    const Ints half = ints(kHalfTap);
    Sums sums[Count];
    for (Sums& sum : sums) sum = {half, half};
    for (size_t tap = 0; tap < rows.size(); tap += 2) {
        const uint8_t *one = rows[tap] + x, *other = rows[tap + 1] + x;
        for (int i = 0; i < Count; ++i) {
            const Words a = widen_bytes(one + kTapsStep * i), b = widen_bytes(other + kTapsStep * i);
            sums[i] = sums[i] + weigh(a, b, &weights[tap]);
        }
    }
    for (int i = 0; i < Count; ++i) store_bytes(narrow_shifted<kTapBits>(sums[i]), out + x + kTapsStep * i);
}

// The number of taps is even. `out` is none of the rows.
VIDSEG_TARGET void add_taps(const std::vector<const uint8_t*>& rows, const std::vector<int16_t>& weights,
                            int width, uint8_t* out) {
    if (width < kTapsStep) return add_taps_portable(rows, weights, width, out);
    int x = 0;
    for (; x + 2 * kTapsStep <= width; x += 2 * kTapsStep) add_taps_at<2>(rows, weights, x, out);
    for (; x < width; x += kTapsStep)  // the last ones may overlap those before
        add_taps_at<1>(rows, weights, std::min(x, width - kTapsStep), out);
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
