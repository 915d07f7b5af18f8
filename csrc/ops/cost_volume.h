// The parts of `correlation` and `spatial_correlation` that do not depend on the device.
//
// out[b, pj, pi, oy, ox] = scale * sum over kj, ki, c of f1[b, c, y, x] * f2[b, c, y + dy, x + dx]
//     y  = origin + oy * stride + kj * dilation        dy = first + pj * step
//     x  = origin + ox * stride + ki * dilation        dx = first + pi * step
// where factors outside their image are zero.
#pragma once

#include "checks.h"

namespace vidseg {

struct CostVolume {
    int64_t batch, channels, height, width;
    int64_t patch, first, step;
    int64_t kernel, dilation, stride, origin;
    int64_t out_height, out_width;
    double scale;
};

// Number of outputs along an axis. `extent`: length of the padded axis minus that of the first output's
// kernel and displacements, plus 1.
inline int64_t outputs(const char* op, const char* name, int64_t size, int64_t extent, int64_t stride) {
    require(extent >= 0, op, ": ", name, " is ", size, ", ", -extent,
            " too small for this kernel, displacement and padding");
    return extent == 0 ? 0 : (extent - 1) / stride + 1;
}

inline CostVolume images(const char* op, const Tensor& f1, const Tensor& f2) {
    require_dim(op, "f1", f1, 4, "(B, C, H, W)");
    require_dim(op, "f2", f2, 4, "(B, C, H, W)");
    require_float(op, "f1", f1);
    require_type(op, "f2", f2, f1.scalar_type(), "like f1");
    require_same_device(op, "f2", f2, f1);
    CostVolume v{};
    for (int64_t d = 0; d < 4; ++d) {
        require(f1.size(d) == f2.size(d), op, ": f2 has shape ", Shape{f2}, ", must be that of f1, ",
                Shape{f1});
        require(f1.size(d) <= kMaxSize, op, ": f1 has shape ", Shape{f1}, ", each size must be at most ",
                kMaxSize);
    }
    v.batch = f1.size(0);
    v.channels = f1.size(1);
    v.height = f1.size(2);
    v.width = f1.size(3);
    return v;
}

inline CostVolume correlation_geometry(const char* op, const Tensor& f1, const Tensor& f2,
                                       int64_t max_displacement, int64_t pad_size, int64_t kernel_size,
                                       int64_t stride1, int64_t stride2) {
    CostVolume v = images(op, f1, f2);
    require_range(op, "max_displacement", max_displacement, 0, kMaxSize);
    require_range(op, "pad_size", pad_size, 0, kMaxSize);
    require_range(op, "kernel_size", kernel_size, 1, kMaxSize);
    require(kernel_size % 2 == 1, op, ": kernel_size is ", kernel_size, ", must be odd");
    require_range(op, "stride1", stride1, 1, kMaxSize);
    require_range(op, "stride2", stride2, 1, kMaxSize);
    const int64_t radius = kernel_size / 2;
    const int64_t displacements = max_displacement / stride2;
    v.patch = 2 * displacements + 1;
    v.first = -displacements * stride2;
    v.step = stride2;
    v.kernel = kernel_size;
    v.dilation = 1;
    v.stride = stride1;
    v.origin = max_displacement - pad_size - radius;
    const int64_t border = 2 * pad_size - 2 * (max_displacement + radius);
    v.out_height = outputs(op, "f1.size(2)", v.height, v.height + border, stride1);
    v.out_width = outputs(op, "f1.size(3)", v.width, v.width + border, stride1);
    const double terms =
        static_cast<double>(kernel_size) * static_cast<double>(kernel_size) * static_cast<double>(v.channels);
    v.scale = v.channels == 0 ? 0.0 : 1.0 / terms;
    checked_numel(op, {v.batch, v.patch * v.patch, v.out_height, v.out_width});
    return v;
}

inline CostVolume spatial_geometry(const char* op, const Tensor& f1, const Tensor& f2, int64_t patch_size,
                                   int64_t kernel_size, int64_t stride, int64_t padding, int64_t dilation,
                                   int64_t dilation_patch) {
    CostVolume v = images(op, f1, f2);
    require_range(op, "patch_size", patch_size, 1, kMaxSize);
    require_range(op, "kernel_size", kernel_size, 1, kMaxSize);
    require(kernel_size % 2 == 1, op, ": kernel_size is ", kernel_size, ", must be odd");
    require_range(op, "stride", stride, 1, kMaxSize);
    require_range(op, "padding", padding, 0, kMaxSize);
    require_range(op, "dilation", dilation, 1, kMaxSize);
    require_range(op, "dilation_patch", dilation_patch, 1, kMaxSize);
    v.patch = patch_size;
    v.first = -((patch_size - 1) / 2) * dilation_patch;
    v.step = dilation_patch;
    v.kernel = kernel_size;
    v.dilation = dilation;
    v.stride = stride;
    v.origin = -padding;
    const int64_t border = 2 * padding - (kernel_size - 1) * dilation;
    v.out_height = outputs(op, "f1.size(2)", v.height, v.height + border, stride);
    v.out_width = outputs(op, "f1.size(3)", v.width, v.width + border, stride);
    v.scale = 1.0;
    checked_numel(op, {v.batch, v.patch, v.patch, v.out_height, v.out_width});
    return v;
}

// Strides of the gradient of an output, (B, P * P, OH, OW) or (B, P, P, OH, OW), seen as (B, P, P, OH, OW).
struct GradientStrides {
    int64_t batch, pj, pi, row, column;
};

inline GradientStrides gradient_strides(const char* op, const CostVolume& v, const Tensor& grad,
                                        const Tensor& other, bool flat) {
    require_dim(op, "grad", grad, flat ? 4 : 5, flat ? "(B, P * P, OH, OW)" : "(B, P, P, OH, OW)");
    require_type(op, "grad", grad, other.scalar_type(), "like the images");
    require_same_device(op, "grad", grad, other);
    const int64_t last = grad.dim() - 1;
    const bool fits =
        grad.size(0) == v.batch && grad.size(last - 1) == v.out_height && grad.size(last) == v.out_width &&
        (flat ? grad.size(1) == v.patch * v.patch : grad.size(1) == v.patch && grad.size(2) == v.patch);
    require(fits, op, ": grad has shape ", Shape{grad}, ", must be that of the output: B = ", v.batch,
            ", P = ", v.patch, ", OH = ", v.out_height, ", OW = ", v.out_width);
    return {grad.stride(0), flat ? v.patch * grad.stride(1) : grad.stride(1), grad.stride(last - 2),
            grad.stride(last - 1), grad.stride(last)};
}

// Range of displacements of `pj` (or `pi`) that can meet an image of `size`; empty if low > high.
struct Range {
    int64_t low, high;
    int64_t count() const { return high >= low ? high - low + 1 : 0; }
};

inline Range reachable(int64_t first, int64_t step, int64_t count, int64_t size) {
    // -size < first + p * step < size
    Range range{0, count - 1};
    if (first <= -size) range.low = (-size - first) / step + 1;
    if (first + (count - 1) * step >= size) range.high = first >= size ? -1 : (size - 1 - first) / step;
    return range;
}

// Defined for each device by its own source file.
Tensor run_forward(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2,
                   std::vector<int64_t> sizes);
Tensor run_backward(const char* op, const CostVolume& v, const Tensor& grad, const GradientStrides& strides,
                    const Tensor& other, bool second);

inline Tensor correlation(const Tensor& f1, const Tensor& f2, int64_t max_displacement, int64_t pad_size,
                          int64_t kernel_size, int64_t stride1, int64_t stride2) {
    const char* op = "correlation";
    const CostVolume v =
        correlation_geometry(op, f1, f2, max_displacement, pad_size, kernel_size, stride1, stride2);
    return run_forward(op, v, f1, f2, {v.batch, v.patch * v.patch, v.out_height, v.out_width});
}

inline Tensor correlation_backward(const Tensor& grad, const Tensor& other, int64_t max_displacement,
                                   int64_t pad_size, int64_t kernel_size, int64_t stride1, int64_t stride2,
                                   bool second) {
    const char* op = "correlation_backward";
    const CostVolume v =
        correlation_geometry(op, other, other, max_displacement, pad_size, kernel_size, stride1, stride2);
    return run_backward(op, v, grad, gradient_strides(op, v, grad, other, true), other, second);
}

inline Tensor spatial_correlation(const Tensor& f1, const Tensor& f2, int64_t patch_size, int64_t kernel_size,
                                  int64_t stride, int64_t padding, int64_t dilation, int64_t dilation_patch) {
    const char* op = "spatial_correlation";
    const CostVolume v =
        spatial_geometry(op, f1, f2, patch_size, kernel_size, stride, padding, dilation, dilation_patch);
    return run_forward(op, v, f1, f2, {v.batch, v.patch, v.patch, v.out_height, v.out_width});
}

inline Tensor spatial_correlation_backward(const Tensor& grad, const Tensor& other, int64_t patch_size,
                                           int64_t kernel_size, int64_t stride, int64_t padding,
                                           int64_t dilation, int64_t dilation_patch, bool second) {
    const char* op = "spatial_correlation_backward";
    const CostVolume v = spatial_geometry(op, other, other, patch_size, kernel_size, stride, padding,
                                          dilation, dilation_patch);
    return run_backward(op, v, grad, gradient_strides(op, v, grad, other, false), other, second);
}

}  // namespace vidseg
