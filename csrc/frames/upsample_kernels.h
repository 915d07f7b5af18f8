// Rows of upsample.cpp for one instruction set; see common/each_set.h.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

// Returns (a * factor + kHalf) >> kShift for 16-bit a and |a| < 2^14.
VIDSEG_TARGET inline Words share(Words a, int factor) {
    return shift_right<1>(high_product(a + a, words(factor)) + words(1));
}

// color_row_portable in 16 bits: whole multiples of chroma are separated from the factors, so that these fit.
VIDSEG_TARGET void color_row(const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, int width,
                             uint32_t* out) {
    constexpr int kOne = 1 << kShift, kStep = 8 * kHalves;
    const Words center = words(128);
    if (width < kStep) return color_row_portable(luma, cb, cr, width, out);
    for (int begin = 0; begin < width; begin += kStep) {
        const int x = std::min(begin, width - kStep);  // the last ones may overlap those before
        const Words y = widen_bytes(luma + x);
        const Words blue = widen_bytes(cb + x) - center, red = widen_bytes(cr + x) - center;
        const Words r = clamp_words(y + red + share(red, kRedCr - kOne), 0, 255);
        const Words b = clamp_words(y + (blue + blue) + share(blue, kBlueCb - 2 * kOne), 0, 255);
        const Words both = narrow_rounded<kShift>(weigh(blue, red, kGreenCb, kGreenCr + kOne));
        const Words g = clamp_words(y - red + both, 0, 255);
        const Words red_green = r | shift_left<8>(g);
        store_parts(interleave_low(red_green, b), interleave_high(red_green, b), out + x);
    }
}

VIDSEG_TARGET void spread(const int16_t* sums, int count, uint8_t* out) {
    constexpr int kStep = 8 * kHalves;
    const Words eight = words(8), seven = words(7);
    if (count < kStep) return spread_portable(sums, count, out);
    for (int begin = 0; begin < count; begin += kStep) {
        const int x = std::min(begin, count - kStep);
        const Words sum = load_words(sums + x), inner = sum + (sum + sum);
        const Words left = shift_right_unsigned<4>(inner + load_words(sums + x - 1) + eight);
        const Words right = shift_right_unsigned<4>(inner + load_words(sums + x + 1) + seven);
        store_words(left | shift_left<8>(right), out + 2 * x);
    }
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
