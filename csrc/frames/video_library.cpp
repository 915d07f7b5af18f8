// Operator of torch.ops.vidseg_frames for frames of a video decoder.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "color.h"
#include "frame_size.h"
#include "output_tensors.h"
#include "sample.h"
#include "video_frame.h"

namespace vidseg {
namespace {

PlaneView view_of(const Tensor& plane, int64_t stride, const char* name) {
    return {values_of<uint8_t>(plane, name), plane.numel(), stride};
}

// State of one thread, reused from frame to frame.
class PlaneFiller {
  public:
    // Resamples a frame. `matrix`: output point to point of the frame as displayed.
    const std::vector<uint32_t>& sample(const VideoFrame& frame, const std::array<double, 9>& matrix,
                                        FrameSize size) {
        if (!sampler_ || matrix != matrix_ || size.height != size_.height || size.width != size_.width) {
            sampler_.reset();
            sampler_.emplace(matrix, size.width, size.height);
            matrix_ = matrix;
            size_ = size;
        }
        importer_.import(frame, sampler_->window(1), region_);
        pixels_.resize(size.pixels());
        sampler_->sample(region_, 1, pixels_.data());
        return pixels_;
    }

    void recolor(const int64_t* codes, const double* parameters, int64_t count) {
        change_colors(codes, parameters, count, size_, colors_, scratch_, pixels_.data());
    }

  private:
    std::optional<Sampler> sampler_;
    std::array<double, 9> matrix_{};
    FrameSize size_{0, 0};
    FrameImporter importer_;
    Region region_;
    std::vector<uint32_t> pixels_;
    ColorFrame colors_;
    ColorScratch scratch_;
};

// Writes one frame to positions of a clip, (3, T, H, W) or (T, H, W, 3): crop, resize, warp, colors and
// normalization in one call, without an RGB picture of the whole frame.
void fill_planes(Tensor out, Tensor positions, Tensor y, Tensor cb, Tensor cr, int64_t y_stride,
                 int64_t cb_stride, int64_t cr_stride, int64_t width, int64_t height, int64_t sampling,
                 int64_t step, int64_t orientation, double kr, double kb, bool full_range, Tensor matrix,
                 Tensor color_codes, Tensor color_parameters, Tensor normalization, bool planar, bool bgr) {
    require(kr > 0.0 && kb > 0.0 && kr + kb < 1.0, "kr ", kr, " and kb ", kb,
            ": must be positive with a sum below 1");
    require(sampling == 420 || sampling == 422 || sampling == 444 || sampling == 400, "sampling is ",
            sampling, ", must be 420, 422, 444 or 400");
    require(step == 1 || step == 2, "step is ", step, ", must be 1 or 2");
    require(orientation >= 1 && orientation <= 8, "orientation is ", orientation, ", must be 1 to 8");
    require_frame_size(height, width);
    require(out.is_cpu() && out.dim() == 4 && out.size(planar ? 0 : 3) == 3,
            "out must be a CPU tensor of the shape (3, T, H, W) or (T, H, W, 3)");
    const int64_t frames = out.size(planar ? 1 : 0), out_height = out.size(planar ? 2 : 1),
                  out_width = out.size(planar ? 3 : 2);
    require_frame_size(out_height, out_width);
    require(planar ? out.stride(3) == 1 && out.stride(2) == out_width
                   : out.stride(3) == 1 && out.stride(2) == 3 && out.stride(1) == 3 * out_width,
            "frames of out must be contiguous");
    const OutputFormat format = output_format(out, normalization, planar, bgr);
    const int64_t* places = values_of<int64_t>(positions, "positions", {-1});
    for (int64_t i = 0; i < positions.numel(); ++i) {
        require(places[i] >= 0 && places[i] < frames, "position ", places[i], " of a clip of ", frames,
                " frames");
    }
    const int64_t* codes = values_of<int64_t>(color_codes, "color_codes", {-1});
    const int64_t operations = color_codes.numel();
    const double* parameters =
        values_of<double>(color_parameters, "color_parameters", {operations, kColorParameters});
    std::array<double, 9> values;
    std::copy_n(values_of<double>(matrix, "matrix", {3, 3}), 9, values.begin());

    VideoFrame frame;
    frame.y = view_of(y, y_stride, "y");
    frame.cb = view_of(cb, cb_stride, "cb");
    frame.cr = view_of(cr, cr_stride, "cr");
    frame.width = static_cast<int>(width);
    frame.height = static_cast<int>(height);
    frame.sampling = static_cast<Sampling>(sampling);
    frame.step = static_cast<int>(step);
    frame.orientation = static_cast<int>(orientation);
    frame.encoding = {kr, kb, full_range};

    thread_local PlaneFiller filler;
    const std::vector<uint32_t>& pixels =
        filler.sample(frame, values, {static_cast<int>(out_height), static_cast<int>(out_width)});
    filler.recolor(codes, parameters, operations);
    auto* to = static_cast<uint8_t*>(out.mutable_data_ptr());
    const auto bytes = static_cast<int64_t>(format.sample_bytes());
    const int64_t frame_bytes = out.stride(planar ? 1 : 0) * bytes;
    const int64_t plane_bytes = planar ? out.stride(0) * bytes : 0;
    for (int64_t i = 0; i < positions.numel(); ++i) {
        write_pixels(pixels.data(), pixels.size(), format, static_cast<size_t>(plane_bytes),
                     to + places[i] * frame_bytes);
    }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vidseg_frames, m) {
    m.def(
        "fill_planes(Tensor(a!) out, Tensor positions, Tensor y, Tensor cb, Tensor cr, int y_stride, int "
        "cb_stride, int cr_stride, int width, int height, int sampling, int step, int orientation, float kr, "
        "float kb, bool full_range, Tensor matrix, Tensor color_codes, Tensor color_parameters, Tensor "
        "normalization, bool planar, bool bgr) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(vidseg_frames, CompositeExplicitAutograd, m) {
    m.impl("fill_planes", TORCH_BOX(&fill_planes));
}

}  // namespace vidseg
