#include "passes.h"

#include <algorithm>

namespace vidseg {
namespace {

void blend_rows_portable(const uint8_t* const* rows, const int16_t* weights, int count, size_t bytes,
                         int16_t* out) {
    constexpr int kShift = kWeightBits - kRowBits;
    for (size_t i = 0; i < bytes; ++i) {
        int sum = 1 << (kShift - 1);
        for (int k = 0; k < count; ++k) sum += rows[k][i] * weights[k];
        out[i] = static_cast<int16_t>(sum >> kShift);
    }
}

void filter_pixels_from(int start, const int16_t* row, const int* first, const int16_t* packed, int pairs,
                        int width, uint32_t* out) {
    constexpr int kShift = kWeightBits + kRowBits;
    for (int x = start; x < width; ++x) {
        const int16_t* from = row + size_t{4} * first[x];
        const int16_t* weights = packed + (size_t(x / 2) * pairs * 2 + x % 2) * 8;
        uint32_t pixel = 0;
        // One sum after another: GCC 12 for ARM drops half of the pairs where it vectorizes four at once.
        for (int c = 0; c < 4; ++c) {
            int sum = 1 << (kShift - 1);
            for (int k = 0; k < pairs; ++k)
                sum += from[8 * k + c] * weights[16 * k] + from[8 * k + 4 + c] * weights[16 * k + 1];
            pixel |= static_cast<uint32_t>(std::clamp(sum >> kShift, 0, 255)) << (8 * c);
        }
        out[x] = pixel;
    }
}

}  // namespace
}  // namespace vidseg

#define VIDSEG_KERNELS "frames/passes_kernels.h"
#include "common/each_set.h"

namespace vidseg {

const Passes& passes() {
    static const Passes chosen{VIDSEG_CHOOSE(blend_rows), VIDSEG_CHOOSE(filter_pixels),
                               VIDSEG_CHOOSE(filter_samples)};
    return chosen;
}

}  // namespace vidseg
