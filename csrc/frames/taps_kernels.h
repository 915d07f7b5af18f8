// The sum of taps of filters.cpp for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

// The number of taps is even.
VIDSEG_TARGET void add_taps(const std::vector<const uint8_t*>& rows, const std::vector<int16_t>& weights,
                            int width, uint8_t* out) {
    const Ints half = ints(kHalfTap);
    int x = 0;
    for (; x + 8 * kHalves <= width; x += 8 * kHalves) {
        Sums sums = {half, half};
        for (size_t tap = 0; tap < rows.size(); tap += 2) {
            const Words one = widen_bytes(rows[tap] + x), other = widen_bytes(rows[tap + 1] + x);
            sums = sums + weigh(one, other, &weights[tap]);
        }
        store_bytes(narrow_shifted<kTapBits>(sums), out + x);
    }
    add_taps_portable(rows, weights, x, width, out);
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
