#include "upsample.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vidseg {
namespace {

constexpr int kShift = 16;
constexpr int kHalf = 1 << (kShift - 1);

int fixed(double value) { return static_cast<int>(value * (1 << kShift) + 0.5); }

uint32_t clamp(int value) { return static_cast<uint32_t>(std::min(255, std::max(0, value))); }

// A row of chroma at the width of luma. The nearer row of the halved plane weighs 3/4, the other 1/4, and
// across the same; of two roundings that libjpeg takes in turn, the even columns have the larger one.
void interpolate(const uint8_t* near, const uint8_t* far, int columns, int first, int last, uint8_t* out) {
    const auto sum = [&](int x) { return 3 * near[x] + far[x]; };
    for (int x = first; x < last; ++x) {
        const int inner = x / 2;
        const int outer = x % 2 == 0 ? inner - 1 : inner + 1;
        const int rounding = x % 2 == 0 ? 8 : 7;
        const int other = outer < 0 || outer >= columns ? sum(inner) : sum(outer);
        out[x - first] = static_cast<uint8_t>((3 * sum(inner) + other + rounding) >> 4);
    }
}

void chroma_row(const Plane& plane, Chroma chroma, int y, int first, int last, uint8_t* out) {
    if (chroma == Chroma::k444) {
        std::copy(plane.row(y) + first, plane.row(y) + last, out);
        return;
    }
    const int inner = y / 2;
    const int outer = std::clamp(y % 2 == 0 ? inner - 1 : inner + 1, 0, plane.height - 1);
    interpolate(plane.row(inner), plane.row(outer), plane.width, first, last, out);
}

}  // namespace

void planes_to_region(const Planes& planes, const Window& wanted, Region& out) {
    Window window;
    window.left = std::clamp(wanted.left, 0, planes.width - 1);
    window.top = std::clamp(wanted.top, 0, planes.height - 1);
    window.right = std::clamp(wanted.right, window.left + 1, planes.width);
    window.bottom = std::clamp(wanted.bottom, window.top + 1, planes.height);
    out.denominator = 1;
    out.full_width = planes.width;
    out.full_height = planes.height;
    out.window = window;
    const size_t width = static_cast<size_t>(window.width());
    out.pixels.resize(width * static_cast<size_t>(window.height()));
    std::vector<uint8_t> cb(width), cr(width);
    const int red_cr = fixed(1.402), blue_cb = fixed(1.772), green_cb = -fixed(0.34414),
              green_cr = -fixed(0.71414);
    uint32_t* to = out.pixels.data();
    for (int y = window.top; y < window.bottom; ++y) {
        chroma_row(planes.cb, planes.chroma, y, window.left, window.right, cb.data());
        chroma_row(planes.cr, planes.chroma, y, window.left, window.right, cr.data());
        const uint8_t* luma = planes.y.row(y) + window.left;
        for (size_t x = 0; x < width; ++x) {
            const int blue = cb[x] - 128, red = cr[x] - 128;
            *to++ = clamp(luma[x] + ((red_cr * red + kHalf) >> kShift)) |
                    clamp(luma[x] + ((green_cb * blue + green_cr * red + kHalf) >> kShift)) << 8 |
                    clamp(luma[x] + ((blue_cb * blue + kHalf) >> kShift)) << 16;
        }
    }
}

}  // namespace vidseg
