#include "planes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"
#include "frame_size.h"
#include "common/simd.h"

namespace vidseg {
namespace {

constexpr int kShift = 14;
constexpr int kHalf = 1 << (kShift - 1);

int fixed(double value) { return static_cast<int>(std::lround(value * (1 << kShift))); }

uint8_t clamp(int value) { return static_cast<uint8_t>(std::min(255, std::max(0, value))); }

int round_up(int value, int alignment) { return (value + alignment - 1) / alignment * alignment; }

// YCbCr of one encoding to full-range BT.601. Both share the gray axis, so chroma never depends on luma:
//   Y' = luma * (Y - black) + luma_cb * Cb + luma_cr * Cr,  Cb' = cb_cb * Cb + cb_cr * Cr,  Cr' = cr_cb * Cb
//   + cr_cr * Cr
// All factors are below 2 and have kShift fractional bits, which fits 16 bits.
struct Transfer {
    int16_t black, luma, luma_cb, luma_cr, cb_cb, cb_cr, cr_cb, cr_cr;
    bool identity, same_matrix;
};

Transfer make_transfer(const ColorEncoding& from) {
    const double to_kr = 0.299, to_kb = 0.114, to_kg = 1.0 - to_kr - to_kb;
    const double kg = 1.0 - from.kr - from.kb;
    const double luma_scale = from.full_range ? 1.0 : 255.0 / 219.0;
    const double chroma_scale = from.full_range ? 1.0 : 255.0 / 224.0;
    // R - Y, B - Y and G - Y of the source, per unit of its Cb and Cr
    const double r_cr = 2.0 * (1.0 - from.kr), b_cb = 2.0 * (1.0 - from.kb);
    const double g_cb = -from.kb * b_cb / kg, g_cr = -from.kr * r_cr / kg;
    const double y_cb = to_kg * g_cb + to_kb * b_cb, y_cr = to_kr * r_cr + to_kg * g_cr;
    const double to_cb = 1.0 / (2.0 * (1.0 - to_kb)), to_cr = 1.0 / (2.0 * (1.0 - to_kr));
    Transfer t;
    const auto narrow = [](double value) { return static_cast<int16_t>(fixed(value)); };
    t.black = from.full_range ? 0 : 16;
    t.luma = narrow(luma_scale);
    t.luma_cb = narrow(y_cb * chroma_scale);
    t.luma_cr = narrow(y_cr * chroma_scale);
    t.cb_cb = narrow((b_cb - y_cb) * to_cb * chroma_scale);
    t.cb_cr = narrow((0.0 - y_cr) * to_cb * chroma_scale);
    t.cr_cb = narrow((0.0 - y_cb) * to_cr * chroma_scale);
    t.cr_cr = narrow((r_cr - y_cr) * to_cr * chroma_scale);
    t.same_matrix = std::abs(from.kr - to_kr) < 1e-4 && std::abs(from.kb - to_kb) < 1e-4;
    t.identity = t.same_matrix && from.full_range;
    return t;
}

void check_view(const char* name, const PlaneView& view, const Plane& plane) {
    check(view.stride >= plane.width, name, ": a row of ", view.stride, " bytes is shorter than its ",
          plane.width, " pixels");
    const int64_t needed = (static_cast<int64_t>(plane.height) - 1) * view.stride + plane.width;
    check(view.size >= needed, name, ": ", view.size, " bytes given, ", needed, " needed");
}

// Returns value * factor with 5 fractional bits, in 16-bit arithmetic, so that compilers use 16-bit vector
// multiplication.
constexpr int kFraction = 5;
constexpr int16_t kRound = 1 << (kFraction - 1);
int16_t scaled(int value, int16_t factor) {
    return static_cast<int16_t>((static_cast<int16_t>(value * 128) * factor) >> 16);
}

// Returns a value of `scaled`, or a sum of two, without its fraction, as a sample. In 16 bits throughout, for
// the same reason.
uint8_t sample_of(int16_t value) {
    const int16_t rounded = static_cast<int16_t>(static_cast<int16_t>(value + kRound) >> kFraction);
    return static_cast<uint8_t>(std::min<int16_t>(255, std::max<int16_t>(0, rounded)));
}

// `offset`: the contribution of chroma to each luma sample, from `scaled`; unused if the matrices agree.
VIDSEG_VECTORIZED
void convert_luma(const uint8_t* in, const int16_t* offset, const Transfer& transfer, int width,
                  uint8_t* out) {
    const Transfer t = transfer;
    if (t.same_matrix) {
        for (int x = 0; x < width; ++x) out[x] = sample_of(scaled(in[x] - t.black, t.luma));
    } else {
        for (int x = 0; x < width; ++x) {
            out[x] = sample_of(static_cast<int16_t>(scaled(in[x] - t.black, t.luma) + offset[x]));
        }
    }
}

// Computes one value per chroma sample and repeats it for the `step` luma samples that share it.
VIDSEG_VECTORIZED
void luma_offset(const uint8_t* cb, const uint8_t* cr, const Transfer& transfer, int step, int samples,
                 int16_t* __restrict sum, int16_t* __restrict offset) {
    const Transfer t = transfer;
    int16_t* const to = step == 1 ? offset : sum;
    for (int x = 0; x < samples; ++x) {
        to[x] = static_cast<int16_t>(scaled(cb[x] - 128, t.luma_cb) + scaled(cr[x] - 128, t.luma_cr));
    }
    if (step == 1) return;
    for (int x = 0; x < samples; ++x) offset[2 * x] = offset[2 * x + 1] = sum[x];
}

VIDSEG_VECTORIZED
void convert_chroma(const uint8_t* cb, const uint8_t* cr, const Transfer& transfer, int width,
                    uint8_t* out_cb, uint8_t* out_cr) {
    const Transfer t = transfer;
    constexpr int16_t kCenter = 128 << kFraction;
    if (t.same_matrix) {
        for (int x = 0; x < width; ++x)
            out_cb[x] = sample_of(static_cast<int16_t>(scaled(cb[x] - 128, t.cb_cb) + kCenter));
        for (int x = 0; x < width; ++x)
            out_cr[x] = sample_of(static_cast<int16_t>(scaled(cr[x] - 128, t.cr_cr) + kCenter));
        return;
    }
    for (int x = 0; x < width; ++x) {
        const int b = cb[x] - 128, r = cr[x] - 128;
        out_cb[x] = sample_of(static_cast<int16_t>(scaled(b, t.cb_cb) + scaled(r, t.cb_cr) + kCenter));
        out_cr[x] = sample_of(static_cast<int16_t>(scaled(b, t.cr_cb) + scaled(r, t.cr_cr) + kCenter));
    }
}

VIDSEG_VECTORIZED
void halve_plane(const Plane& in, Plane& out, int width, int height, int alignment) {
    out.resize(width, height, alignment);
    for (int y = 0; y < height; ++y) {
        const uint8_t* above = in.row(std::min(2 * y, in.height - 1));
        const uint8_t* below = in.row(std::min(2 * y + 1, in.height - 1));
        uint8_t* __restrict to = out.row(y);
        // the padding of `in` repeats the last column, so 2x + 1 is valid for odd widths too
        for (int x = 0; x < width; ++x) {
            to[x] = static_cast<uint8_t>(
                (above[2 * x] + above[2 * x + 1] + below[2 * x] + below[2 * x + 1] + 2) >> 2);
        }
    }
    out.pad_edges();
}

}  // namespace

void Plane::resize(int new_width, int new_height, int alignment) {
    width = new_width;
    height = new_height;
    stride = round_up(new_width + 1, alignment);  // at least one column of padding, for halve_plane
    rows = round_up(new_height, alignment);
    pixels.resize(static_cast<size_t>(stride) * rows);
}

void Plane::pad_edges() {
    for (int y = 0; y < height; ++y)
        std::memset(row(y) + width, row(y)[width - 1], static_cast<size_t>(stride - width));
    for (int y = height; y < rows; ++y) std::memcpy(row(y), row(height - 1), static_cast<size_t>(stride));
}

void Planes::resize(int new_width, int new_height, Chroma new_chroma) {
    check(new_width > 0 && new_height > 0 && new_width <= kMaxSide && new_height <= kMaxSide, "a frame of ",
          new_width, "x", new_height, " pixels cannot be a JPEG: each side must be 1 to ", kMaxSide);
    width = new_width;
    height = new_height;
    chroma = new_chroma;
    const bool halved = chroma == Chroma::k420;
    y.resize(width, height, halved ? 16 : 8);
    for (Plane* plane : {&cb, &cr})
        plane->resize(halved ? (width + 1) / 2 : width, halved ? (height + 1) / 2 : height, 8);
}

void import_planes(const PlaneView& y, const PlaneView& cb, const PlaneView& cr,
                   const ColorEncoding& encoding, Planes& out) {
    check_view("luma plane", y, out.y);
    check_view("Cb plane", cb, out.cb);
    check_view("Cr plane", cr, out.cr);
    const Transfer t = make_transfer(encoding);
    const int step = out.chroma == Chroma::k420 ? 2 : 1;
    std::vector<int16_t> sum(static_cast<size_t>(out.cb.width)),
        offset(static_cast<size_t>(out.cb.width) * step);
    for (int line = 0; line < out.height; ++line) {
        const uint8_t* from = y.pixels + line * y.stride;
        if (t.identity) {
            std::memcpy(out.y.row(line), from, static_cast<size_t>(out.width));
            continue;
        }
        if (!t.same_matrix && line % step == 0) {
            const int64_t c = line / step;
            luma_offset(cb.pixels + c * cb.stride, cr.pixels + c * cr.stride, t, step, out.cb.width,
                        sum.data(), offset.data());
        }
        convert_luma(from, offset.data(), t, out.width, out.y.row(line));
    }
    for (int line = 0; line < out.cb.height; ++line) {
        const uint8_t* from_cb = cb.pixels + line * cb.stride;
        const uint8_t* from_cr = cr.pixels + line * cr.stride;
        if (t.identity) {
            std::memcpy(out.cb.row(line), from_cb, static_cast<size_t>(out.cb.width));
            std::memcpy(out.cr.row(line), from_cr, static_cast<size_t>(out.cr.width));
        } else {
            convert_chroma(from_cb, from_cr, t, out.cb.width, out.cb.row(line), out.cr.row(line));
        }
    }
    for (Plane* plane : {&out.y, &out.cb, &out.cr}) plane->pad_edges();
}

void import_rgb(const uint8_t* rgb, Planes& out) {
    const int yr = fixed(0.299), yg = fixed(0.587), yb = fixed(0.114);
    const double to_cb = 0.5 / (1.0 - 0.114), to_cr = 0.5 / (1.0 - 0.299);
    const int cb_r = fixed(-0.299 * to_cb), cb_g = fixed(-0.587 * to_cb), cb_b = fixed(0.5);
    const int cr_r = fixed(0.5), cr_g = fixed(-0.587 * to_cr), cr_b = fixed(-0.114 * to_cr);
    const size_t row_bytes = static_cast<size_t>(out.width) * 3;
    for (int y = 0; y < out.height; ++y) {
        const uint8_t* p = rgb + y * row_bytes;
        uint8_t* to = out.y.row(y);
        for (int x = 0; x < out.width; ++x, p += 3)
            to[x] = clamp((p[0] * yr + p[1] * yg + p[2] * yb + kHalf) >> kShift);
    }
    const int step = out.chroma == Chroma::k420 ? 2 : 1;
    for (int y = 0; y < out.cb.height; ++y) {
        const uint8_t* above = rgb + static_cast<size_t>(step * y) * row_bytes;
        const uint8_t* below =
            rgb + static_cast<size_t>(std::min(step * y + step - 1, out.height - 1)) * row_bytes;
        for (int x = 0; x < out.cb.width; ++x) {
            const size_t left = static_cast<size_t>(step * x) * 3;
            const size_t right = static_cast<size_t>(std::min(step * x + step - 1, out.width - 1)) * 3;
            int sum[3];
            for (int k = 0; k < 3; ++k)
                sum[k] = above[left + k] + above[right + k] + below[left + k] + below[right + k];
            const int round = kHalf << 2;  // sums are of four pixels
            out.cb.row(y)[x] =
                clamp(128 + ((sum[0] * cb_r + sum[1] * cb_g + sum[2] * cb_b + round) >> (kShift + 2)));
            out.cr.row(y)[x] =
                clamp(128 + ((sum[0] * cr_r + sum[1] * cr_g + sum[2] * cr_b + round) >> (kShift + 2)));
        }
    }
    for (Plane* plane : {&out.y, &out.cb, &out.cr}) plane->pad_edges();
}

void import_channels(const uint8_t* channels, int count, uint8_t missing, Planes& out) {
    check(out.chroma == Chroma::kNone, "internal error: channels for planes of YCbCr");
    const size_t row_bytes = static_cast<size_t>(out.width);
    for (Plane* plane : {&out.y, &out.cb, &out.cr}) {
        for (int y = 0; y < out.height; ++y) {
            if (count > 0) {
                std::memcpy(plane->row(y), channels + y * row_bytes, row_bytes);
            } else {
                std::memset(plane->row(y), missing, row_bytes);
            }
        }
        plane->pad_edges();
        channels += out.height * row_bytes;
        --count;
    }
}

void halve(const Planes& in, Planes& out) {
    const bool halved = in.chroma == Chroma::k420;
    out.width = (in.width + 1) / 2;
    out.height = (in.height + 1) / 2;
    out.chroma = in.chroma;
    halve_plane(in.y, out.y, out.width, out.height, halved ? 16 : 8);
    const int chroma_width = halved ? (out.width + 1) / 2 : out.width;
    const int chroma_height = halved ? (out.height + 1) / 2 : out.height;
    halve_plane(in.cb, out.cb, chroma_width, chroma_height, 8);
    halve_plane(in.cr, out.cr, chroma_width, chroma_height, 8);
}

}  // namespace vidseg
