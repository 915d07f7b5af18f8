// Schemas of the operators. Python (vidseg.ops) adds defaults, names, fake kernels, autograd and autocast,
// and the schemas of nms_1d and soft_nms_1d: their tags need torch 2.12 in C++.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(vidseg, m) {
    m.def(
        "correlation(Tensor f1, Tensor f2, int max_displacement, int pad_size, int kernel_size, int stride1, "
        "int stride2) -> Tensor");
    m.def(
        "correlation_backward(Tensor grad, Tensor other, int max_displacement, int pad_size, int "
        "kernel_size, "
        "int stride1, int stride2, bool second) -> Tensor");
    m.def(
        "spatial_correlation(Tensor f1, Tensor f2, int patch_size, int kernel_size, int stride, int padding, "
        "int dilation, int dilation_patch) -> Tensor");
    m.def(
        "spatial_correlation_backward(Tensor grad, Tensor other, int patch_size, int kernel_size, int "
        "stride, "
        "int padding, int dilation, int dilation_patch, bool second) -> Tensor");
    // f1 (B, C, H, W), f2 (B, C, h, w), coords (B, 2, H, W) -> (B, (2 * radius + 1)^2, H, W)
    m.def("correlation_lookup(Tensor f1, Tensor f2, Tensor coords, int radius) -> Tensor");
    m.def("correlation_lookup_backward_f1(Tensor grad, Tensor f2, Tensor coords, int radius) -> Tensor");
    m.def(
        "correlation_lookup_backward_f2(Tensor grad, Tensor f1, Tensor coords, int radius, SymInt height, "
        "SymInt width) -> Tensor");
    // x (B, T, ...) -> (B, N, length, ...); frames: x (B, T, H, W, C) uint8 -> (B, N, C, length, H, W) dtype
    m.def("window_gather(Tensor x, Tensor starts, SymInt length, int dilation) -> Tensor");
    m.def(
        "window_gather_frames(Tensor x, Tensor starts, SymInt length, int dilation, float[] mean, float[] "
        "std, "
        "ScalarType dtype) -> Tensor");
    // reduce: 0 mean, 1 sum, 2 first, 3 last
    m.def("window_scatter(Tensor windows, Tensor starts, SymInt total, int dilation, int reduce) -> Tensor");
    m.def(
        "window_scatter_backward(Tensor grad, Tensor starts, SymInt length, int dilation, int reduce) -> "
        "Tensor");
    // x (B, C, T), rois (R, 3) -> (R, C, output_size)
    m.def("align1d(Tensor x, Tensor rois, int output_size, int sampling_ratio) -> Tensor");
    m.def(
        "align1d_backward(Tensor grad, Tensor rois, SymInt batch, SymInt total, int sampling_ratio) -> "
        "Tensor");
}
