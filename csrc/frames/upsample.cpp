#include "upsample.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common/simd.h"

namespace vidseg {
namespace {

constexpr int kShift = 16;
constexpr int kHalf = 1 << (kShift - 1);

constexpr int fixed(double value) { return static_cast<int>(value * (1 << kShift) + 0.5); }

constexpr int kRedCr = fixed(1.402), kBlueCb = fixed(1.772), kGreenCb = -fixed(0.34414),
              kGreenCr = -fixed(0.71414);

uint32_t clamp(int value) { return static_cast<uint32_t>(std::min(255, std::max(0, value))); }

void color_row_portable(const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, int width, uint32_t* out) {
    for (int x = 0; x < width; ++x) {
        const int blue = cb[x] - 128, red = cr[x] - 128;
        out[x] = clamp(luma[x] + ((kRedCr * red + kHalf) >> kShift)) |
                 clamp(luma[x] + ((kGreenCb * blue + kGreenCr * red + kHalf) >> kShift)) << 8 |
                 clamp(luma[x] + ((kBlueCb * blue + kHalf) >> kShift)) << 16;
    }
}

// Channels without color conversion.
VIDSEG_VECTORIZED
void channel_row(const uint8_t* first, const uint8_t* second, const uint8_t* third, int width,
                 uint32_t* out) {
    for (int x = 0; x < width; ++x) {
        out[x] = first[x] | static_cast<uint32_t>(second[x]) << 8 | static_cast<uint32_t>(third[x]) << 16;
    }
}

// Computes 3 * near + far.
VIDSEG_VECTORIZED
void add_rows(const uint8_t* near, const uint8_t* far, int count, int16_t* out) {
    for (int x = 0; x < count; ++x) out[x] = static_cast<int16_t>(3 * near[x] + far[x]);
}

// Computes two samples per sum; each sum has a neighbor on both sides.
void spread_portable(const int16_t* sums, int count, uint8_t* out) {
    for (int x = 0; x < count; ++x) {
        const int inner = 3 * sums[x];
        out[2 * x] = static_cast<uint8_t>((inner + sums[x - 1] + 8) >> 4);
        out[2 * x + 1] = static_cast<uint8_t>((inner + sums[x + 1] + 7) >> 4);
    }
}

}  // namespace
}  // namespace vidseg

#define VIDSEG_KERNELS "frames/upsample_kernels.h"
#include "common/each_set.h"

namespace vidseg {
namespace {

// Conversion of a row of luma and chroma to pixels, and of a row of sums to chroma.
struct Rows {
    void (*color)(const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, int width, uint32_t* out);
    void (*spread)(const int16_t* sums, int count, uint8_t* out);
};

const Rows& rows() {
    static const Rows chosen{VIDSEG_CHOOSE(color_row), VIDSEG_CHOOSE(spread)};
    return chosen;
}

// Rows of chroma at the size of luma, for luma columns `first` to `last` - 1. In a halved plane the nearer
// row has weight 3/4 and the other one 1/4, and columns likewise. libjpeg alternates between two roundings;
// even columns get the larger one.
class ChromaRows {
  public:
    ChromaRows(const Plane& plane, Chroma chroma, int first, int last)
        : plane_(plane), halved_(chroma == Chroma::k420), first_(first) {
        if (!halved_) return;
        begin_ = first / 2;
        end_ = (last - 1) / 2 + 1;
        sums_.resize(static_cast<size_t>(end_ - begin_) + 2);
        row_.resize(2 * static_cast<size_t>(end_ - begin_));
    }

    const uint8_t* row(int y) {
        if (!halved_) return plane_.row(y) + first_;
        const int inner = y / 2;
        const int outer = std::clamp(y % 2 == 0 ? inner - 1 : inner + 1, 0, plane_.height - 1);
        const int low = std::max(0, begin_ - 1), high = std::min(plane_.width, end_ + 1);
        // the sum of column `begin_` is at index 1
        add_rows(plane_.row(inner) + low, plane_.row(outer) + low, high - low,
                 &sums_[size_t(low - begin_ + 1)]);
        const size_t count = static_cast<size_t>(end_ - begin_);
        if (begin_ == 0) sums_[0] = sums_[1];
        if (end_ == plane_.width) sums_[count + 1] = sums_[count];
        rows().spread(&sums_[1], end_ - begin_, row_.data());
        return row_.data() + (first_ - 2 * begin_);
    }

  private:
    const Plane& plane_;
    bool halved_;
    int first_, begin_ = 0, end_ = 0;  // begin_ and end_ in columns of the halved plane
    std::vector<int16_t> sums_;
    std::vector<uint8_t> row_;
};

}  // namespace

void color_row(Chroma chroma, const uint8_t* luma, const uint8_t* cb, const uint8_t* cr, int width,
               uint32_t* out) {
    if (chroma == Chroma::kNone) return channel_row(luma, cb, cr, width, out);
    rows().color(luma, cb, cr, width, out);
}

void planes_to_pixels(const Region& planar, const Window& wanted, Region& out) {
    const Planes& planes = planar.planes;
    const Window& there = planar.window;
    const Window part = Window{wanted.left - there.left, wanted.top - there.top, wanted.right - there.left,
                               wanted.bottom - there.top}
                            .within(there.width(), there.height());
    out.denominator = planar.denominator;
    out.full_width = planar.full_width;
    out.full_height = planar.full_height;
    out.planar = false;
    out.window = {there.left + part.left, there.top + part.top, there.left + part.right,
                  there.top + part.bottom};
    const int left = out.window.left - planar.left, top = out.window.top - planar.top;
    const size_t width = static_cast<size_t>(part.width());
    out.pixels.resize(width * static_cast<size_t>(part.height()));
    ChromaRows cb(planes.cb, planes.chroma, left, left + part.width());
    ChromaRows cr(planes.cr, planes.chroma, left, left + part.width());
    uint32_t* to = out.pixels.data();
    for (int y = top; y < top + part.height(); ++y, to += width) {
        color_row(planes.chroma, planes.y.row(y) + left, cb.row(y), cr.row(y), part.width(), to);
    }
}

}  // namespace vidseg
