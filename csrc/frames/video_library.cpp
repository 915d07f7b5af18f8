// Operator of torch.ops.vidseg_frames for frames of a video decoder.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "frame_size.h"
#include "sample.h"
#include "tensors.h"
#include "upsample.h"

namespace vidseg {
namespace {

PlaneView view_of(const Tensor& plane, int64_t stride, const char* name) {
    return {values_of<uint8_t>(plane, name), plane.numel(), stride};
}

Tensor sample_planes(Tensor y, Tensor cb, Tensor cr, int64_t y_stride, int64_t cb_stride, int64_t cr_stride,
                     int64_t width, int64_t height, int64_t chroma, double kr, double kb, bool full_range,
                     Tensor matrix, int64_t out_height, int64_t out_width) {
    require(kr > 0.0 && kb > 0.0 && kr + kb < 1.0, "kr ", kr, " and kb ", kb,
            ": must be positive with a sum below 1");
    require(chroma == 420 || chroma == 444, "chroma is ", chroma, ", must be 420 or 444");
    require_frame_size(height, width);
    require_frame_size(out_height, out_width);
    std::array<double, 9> values;
    std::copy_n(values_of<double>(matrix, "matrix", {3, 3}), 9, values.begin());
    thread_local Region region;
    region.planar = true;
    region.full_width = region.window.right = static_cast<int>(width);
    region.full_height = region.window.bottom = static_cast<int>(height);
    region.planes.resize(region.full_width, region.full_height, static_cast<Chroma>(chroma));
    import_planes(view_of(y, y_stride, "y"), view_of(cb, cb_stride, "cb"), view_of(cr, cr_stride, "cr"),
                  {kr, kb, full_range}, region.planes);
    Sampler sampler(values, static_cast<int>(out_width), static_cast<int>(out_height));
    std::vector<uint32_t> pixels(static_cast<size_t>(out_height) * static_cast<size_t>(out_width));
    sampler.sample(region, 1, pixels.data());
    Tensor out = make_tensor({out_height, out_width, 3}, ScalarType::Byte);
    uint8_t* to = out.mutable_data_ptr<uint8_t>();
    for (const uint32_t pixel : pixels) {
        for (int c = 0; c < 3; ++c) *to++ = static_cast<uint8_t>(pixel >> 8 * c);
    }
    return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vidseg_frames, m) {
    m.def(
        "sample_planes(Tensor y, Tensor cb, Tensor cr, int y_stride, int cb_stride, int cr_stride, int "
        "width, "
        "int height, int chroma, float kr, float kb, bool full_range, Tensor matrix, int out_height, int "
        "out_width) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(vidseg_frames, CompositeExplicitAutograd, m) {
    m.impl("sample_planes", TORCH_BOX(&sample_planes));
}

}  // namespace vidseg
