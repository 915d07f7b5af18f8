// CUDA operators window_gather, window_gather_frames and window_scatter: arguments and launches.
#include "windows.cuh"

#include <torch/csrc/stable/library.h>

namespace vidseg {
namespace {

// Axes of one element of `tensor`, whose dimensions begin at `from`.
struct Axes {
    int count = 0;
    int64_t size[kAxes], stride[kAxes];

    // For indices below `count`.
    Element element(int64_t values) const {
        Element e{count, {}, {}};
        for (int d = 0; d < count; ++d) {
            e.size[d] = Divider(size[d], values);
            e.stride[d] = stride[d];
        }
        return e;
    }
};

Axes axes_of(const char* op, const char* name, const Tensor& tensor, int64_t from) {
    Axes axes;
    for (int64_t d = from; d < tensor.dim(); ++d) {
        if (tensor.size(d) == 1) continue;
        const int last = axes.count - 1;
        if (last >= 0 && axes.stride[last] == tensor.size(d) * tensor.stride(d)) {
            axes.size[last] *= tensor.size(d);
            axes.stride[last] = tensor.stride(d);
            continue;
        }
        require(axes.count < kAxes, op, ": ", name, " has shape ", Shape{tensor},
                ", its elements must be regular along at most ", kAxes, " axes");
        axes.size[axes.count] = tensor.size(d);
        axes.stride[axes.count++] = tensor.stride(d);
    }
    if (axes.count == 0) {
        axes.count = 1;
        axes.size[0] = axes.stride[0] = 1;
    }
    return axes;
}

Items items_of(const Windows& w, const Tensor& starts, int64_t count) {
    return {Divider(w.length, count), Divider(w.count, count), w.total, w.dilation, starts_of(starts)};
}

Cover cover_of(const Windows& w, const Tensor& starts, int64_t count) {
    return {Divider(w.inner, count),
            Divider(w.total, count),
            Divider(w.dilation, w.length * w.dilation),
            w.count,
            (w.length - 1) * w.dilation,
            starts_of(starts)};
}

// Copies elements whose last axis is contiguous, in the largest unit that divides all sizes and addresses.
void gather_contiguous(const char* op, const Windows& w, const Axes& axes, const Tensor& x,
                       const Tensor& starts, const Tensor& out) {
    const auto size = static_cast<int64_t>(x.element_size());
    const int last = axes.count - 1;
    uint64_t bytes =
        static_cast<uint64_t>(axes.size[last] * size) | reinterpret_cast<uintptr_t>(x.const_data_ptr()) |
        static_cast<uint64_t>(x.stride(0) * size) | static_cast<uint64_t>(x.stride(1) * size) | 16;
    for (int d = 0; d < last; ++d) bytes |= static_cast<uint64_t>(axes.stride[d] * size);
    const auto unit = static_cast<int64_t>(bytes & (~bytes + 1));  // the lowest bit: 1 to 16

    const int64_t count = out.numel() * size / unit, words = (out.numel() * size + 15) / 16;
    Element element = axes.element(count);
    for (int d = 0; d < last; ++d) element.stride[d] = axes.stride[d] * size / unit;
    with_byte_type(static_cast<size_t>(unit), [&](auto zero) {
        using Unit = decltype(zero);
        launch(op, x, grid_for(words), kThreads, gather_runs<Unit>, items_of(w, starts, count), element,
               Divider(axes.size[last] * size / unit, count), Divider(w.inner / axes.size[last], count),
               static_cast<const Unit*>(x.const_data_ptr()), x.stride(0) * size / unit,
               x.stride(1) * size / unit, static_cast<Unit*>(out.mutable_data_ptr()), words, count);
    });
}

template <class T, int Together>
void gather_strided(const char* op, const Windows& w, const Axes& axes, const Tensor& x, const Tensor& starts,
                    const Tensor& out) {
    const int64_t count = out.numel() / Together;
    launch(op, x, grid_for(count), kThreads, gather_values<T, Together>, items_of(w, starts, count),
           axes.element(out.numel()), Divider(w.inner / Together, count),
           static_cast<const T*>(x.const_data_ptr()), x.stride(0), x.stride(1),
           static_cast<T*>(out.mutable_data_ptr()), count);
}

Tensor window_gather(const Tensor& x, const Tensor& starts, int64_t length, int64_t dilation) {
    const char* op = "window_gather";
    const Windows w = windows_geometry(op, "x", x, 2, starts, "length", length, 1, dilation);
    const Axes axes = axes_of(op, "x", x, 2);
    const DeviceGuard guard(x.get_device_index());
    Tensor out = new_empty(x, w.sizes({w.batch, w.count, w.length}), x.scalar_type());
    if (out.numel() == 0) return out;
    const int last = axes.count - 1;
    const auto size = static_cast<int64_t>(x.element_size());
    // Values between gaps are copied one by one, unless a word of the output holds few runs.
    if (axes.size[last] == 1 ||
        (axes.stride[last] == 1 && (axes.count == 1 || axes.size[last] * size >= 16))) {
        gather_contiguous(op, w, axes, x, starts, out);
        return out;
    }
    with_byte_type(x.element_size(), [&](auto zero) {
        using T = decltype(zero);
        constexpr int together = sizeof(T) < 4 ? 4 : 1;
        if (w.inner % together == 0) {
            gather_strided<T, together>(op, w, axes, x, starts, out);
        } else {
            gather_strided<T, 1>(op, w, axes, x, starts, out);
        }
    });
    return out;
}

template <class T>
void gather_frames(const char* op, const Frames& f, const Tensor& x, const Tensor& starts,
                   const Tensor& out) {
    using A = compute_t<T>;
    const Windows& w = f.windows;
    const auto* from = static_cast<const uint8_t*>(x.const_data_ptr());
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    const FrameStrides s{x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)};
    const int64_t pixels = f.height * f.width;
    const bool rows_adjoin = s.row == f.width * s.column;  // one long row
    const bool fast = f.channels == 3 && s.channel == 1 && s.column == 3 && rows_adjoin && pixels % 4 == 0 &&
                      s.time % 4 == 0 && s.batch % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 4 == 0 &&
                      reinterpret_cast<uintptr_t>(to) % sizeof(Four<T>) == 0;
    const int64_t items = w.batch * w.count * w.length;
    for (int64_t c0 = 0; c0 < f.channels; c0 += kChannels) {
        const auto some = static_cast<int>(std::min<int64_t>(kChannels, f.channels - c0));
        Normalization<A> n{};
        for (int c = 0; c < some; ++c) {
            n.mean[c] = static_cast<A>(f.mean[c0 + c]);
            n.std[c] = static_cast<A>(f.std[c0 + c]);
        }
        if (fast) {
            const int64_t count = items * pixels / 4;
            launch(op, x, grid_for(count), kThreads, gather_rgb<T>, items_of(w, starts, count),
                   Divider(pixels / 4, count), from, s.batch, s.time, n, to, count);
        } else {
            const int64_t count = items * pixels;
            launch(op, x, grid_for(count), kThreads, gather_pixels<T>, items_of(w, starts, count),
                   Divider(pixels, count), Divider(rows_adjoin ? pixels : f.width, count), from, s,
                   f.channels, c0, some, n, to, count);
        }
    }
}

Tensor window_gather_frames(const Tensor& x, const Tensor& starts, int64_t length, int64_t dilation,
                            std::vector<double> mean, std::vector<double> std, ScalarType dtype) {
    const char* op = "window_gather";
    const Frames f = frames_geometry(op, x, starts, length, dilation, std::move(mean), std::move(std), dtype);
    const DeviceGuard guard(x.get_device_index());
    const Windows& w = f.windows;
    Tensor out = new_empty(x, {w.batch, w.count, f.channels, w.length, f.height, f.width}, dtype);
    if (out.numel() == 0) return out;
    with_float_type(dtype, [&](auto zero) { gather_frames<decltype(zero)>(op, f, x, starts, out); });
    return out;
}

Tensor window_scatter(const Tensor& windows, const Tensor& starts, int64_t total, int64_t dilation,
                      int64_t reduce) {
    const char* op = "window_scatter";
    const Windows w = windows_geometry(op, "windows", windows, 3, starts, "total", total, 0, dilation);
    const Reduce how = check_reduce(op, reduce, windows, "windows");
    const Axes axes = axes_of(op, "windows", windows, 3);
    const DeviceGuard guard(windows.get_device_index());
    Tensor out = new_empty(windows, w.sizes({w.batch, w.total}), windows.scalar_type());
    const int64_t count = out.numel();
    if (count == 0) return out;
    const WindowStrides s{windows.stride(0), windows.stride(1), windows.stride(2)};
    const auto run = [&](auto zero, const auto& kernel, bool option) {
        using T = decltype(zero);
        launch(op, windows, grid_for(count), kThreads, kernel, cover_of(w, starts, count), option,
               static_cast<const T*>(windows.const_data_ptr()), s, axes.element(count),
               static_cast<T*>(out.mutable_data_ptr()), count);
    };
    if (how == Reduce::mean || how == Reduce::sum) {
        with_float_type(windows.scalar_type(),
                        [&](auto zero) { run(zero, scatter_sum<decltype(zero)>, how == Reduce::mean); });
    } else {
        with_byte_type(windows.element_size(),
                       [&](auto zero) { run(zero, scatter_one<decltype(zero)>, how == Reduce::last); });
    }
    return out;
}

Tensor window_scatter_backward(const Tensor& grad, const Tensor& starts, int64_t length, int64_t dilation,
                               int64_t reduce) {
    const char* op = "window_scatter_backward";
    const Windows w = windows_geometry(op, "grad", grad, 2, starts, "length", length, 0, dilation);
    const Reduce how = check_reduce(op, reduce, grad, "grad");
    require_float(op, "grad", grad);
    const Axes axes = axes_of(op, "grad", grad, 2);
    const DeviceGuard guard(grad.get_device_index());
    Tensor out = new_empty(grad, w.sizes({w.batch, w.count, w.length}), grad.scalar_type());
    const int64_t count = out.numel();
    if (count == 0) return out;
    with_float_type(grad.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        launch(op, grad, grid_for(count), kThreads, scatter_gradient<T>, items_of(w, starts, count),
               cover_of(w, starts, count), how, static_cast<const T*>(grad.const_data_ptr()), grad.stride(0),
               grad.stride(1), axes.element(count), static_cast<T*>(out.mutable_data_ptr()), count);
    });
    return out;
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CUDA, m) {
    m.impl("window_gather", TORCH_BOX(&vidseg::window_gather));
    m.impl("window_gather_frames", TORCH_BOX(&vidseg::window_gather_frames));
    m.impl("window_scatter", TORCH_BOX(&vidseg::window_scatter));
    m.impl("window_scatter_backward", TORCH_BOX(&vidseg::window_scatter_backward));
}
