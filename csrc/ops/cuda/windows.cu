// CUDA kernels of window_gather, window_gather_frames and window_scatter.
#include "../windows.h"

#include <torch/csrc/stable/library.h>

#include "launch.cuh"

namespace vidseg {
namespace {

// Axes of one sequence element, adjacent ones merged, which give the offset of its i-th value in memory.
constexpr int kAxes = 8;

struct Element {
    int axes;
    int64_t size[kAxes], stride[kAxes];

    __device__ int64_t offset(int64_t i) const {
        if (axes == 1) return i * stride[0];
        int64_t at = 0;
        for (int d = axes - 1; d >= 0; --d) {
            at += i % size[d] * stride[d];
            i /= size[d];
        }
        return at;
    }
};

Element element_of(const char* op, const char* name, const Tensor& tensor, int64_t from) {
    Element e{0, {}, {}};
    for (int64_t d = from; d < tensor.dim(); ++d) {
        if (tensor.size(d) == 1) continue;
        if (e.axes > 0 && e.stride[e.axes - 1] == tensor.size(d) * tensor.stride(d)) {
            e.size[e.axes - 1] *= tensor.size(d);
            e.stride[e.axes - 1] = tensor.stride(d);
            continue;
        }
        require(e.axes < kAxes, op, ": ", name, " has shape ", Shape{tensor},
                ", its elements must be regular along at most ", kAxes, " axes");
        e.size[e.axes] = tensor.size(d);
        e.stride[e.axes++] = tensor.stride(d);
    }
    if (e.axes == 0) e = {1, {1}, {1}};
    return e;
}

// Sizes of Windows that kernels need.
struct Sizes {
    int64_t batch, total, count, length, dilation, inner;
};

Sizes sizes_of(const Windows& w) { return {w.batch, w.total, w.count, w.length, w.dilation, w.inner}; }

template <class T>
__global__ void gather(Sizes w, const T* x, int64_t batch_stride, int64_t time_stride, Element element,
                       Starts starts, T* out, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t item = i / w.inner;
        const int64_t b = item / w.length / w.count;
        const int64_t t =
            time_of(starts.at(b, item / w.length % w.count), item % w.length, w.dilation, w.total);
        T value{};
        if (t >= 0) value = x[b * batch_stride + t * time_stride + element.offset(i % w.inner)];
        out[i] = value;
    }
}

Tensor window_gather(const Tensor& x, const Tensor& starts, int64_t length, int64_t dilation) {
    const char* op = "window_gather";
    const Windows w = windows_geometry(op, "x", x, 2, starts, "length", length, 1, dilation);
    Element element = element_of(op, "x", x, 2);
    const DeviceGuard guard(x.get_device_index());
    Tensor out = new_empty(x, w.sizes({w.batch, w.count, w.length}), x.scalar_type());
    if (out.numel() == 0) return out;

    // Contiguous elements are copied 16 bytes at a time if size and addresses allow it.
    Sizes sizes = sizes_of(w);
    int64_t batch_stride = x.stride(0), time_stride = x.stride(1);
    auto size = static_cast<int64_t>(x.element_size());
    const auto whole = [&](int64_t values) { return values * size % 16 == 0; };
    if (element.axes == 1 && element.stride[0] == 1 && whole(w.inner) && whole(batch_stride) &&
        whole(time_stride) && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
        reinterpret_cast<uintptr_t>(out.mutable_data_ptr()) % 16 == 0) {
        const int64_t together = 16 / size;
        sizes.inner /= together;
        element.size[0] /= together;
        batch_stride /= together;
        time_stride /= together;
        size = 16;
    }
    const int64_t count = w.batch * w.count * w.length * sizes.inner;
    with_byte_type(static_cast<size_t>(size), [&](auto zero) {
        using T = decltype(zero);
        launch(op, x, grid_for(count), kThreads, gather<T>, sizes, static_cast<const T*>(x.const_data_ptr()),
               batch_stride, time_stride, element, starts_of(starts), static_cast<T*>(out.mutable_data_ptr()),
               count);
    });
    return out;
}

constexpr int kChannels = 16;  // channels whose mean and std are kernel arguments

template <class A>
struct Normalization {
    A mean[kChannels], std[kChannels];
};

struct FrameStrides {
    int64_t batch, time, row, column, channel;
};

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

// Interleaved RGB frames that are one run of pixels, in multiples of 4: a thread reads 12 bytes and writes 4
// pixels of each plane.
template <class T>
__global__ void gather_rgb(Sizes w, const uint8_t* x, int64_t batch_stride, int64_t time_stride,
                           int64_t pixels, Normalization<compute_t<T>> n, Starts starts, T* out,
                           int64_t count) {
    using A = compute_t<T>;
    const int64_t quads = pixels / 4;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t item = i / quads;
        const int64_t l = item % w.length;
        const int64_t window = item / w.length;  // b * N + n
        const int64_t b = window / w.count;
        const int64_t t = time_of(starts.at(b, window % w.count), l, w.dilation, w.total);
        const int64_t pixel = i % quads * 4;
        alignas(4) uint8_t bytes[12];
        if (t >= 0) {
            const auto* from =
                reinterpret_cast<const uint32_t*>(x + b * batch_stride + t * time_stride + 3 * pixel);
#pragma unroll
            for (int k = 0; k < 3; ++k) reinterpret_cast<uint32_t*>(bytes)[k] = from[k];
        }
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            Four<T> four;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const A value = t >= 0 ? (static_cast<A>(bytes[3 * k + c]) - n.mean[c]) / n.std[c] : A(0);
                four.values[k] = static_cast<T>(value);
            }
            *reinterpret_cast<Four<T>*>(out + ((window * 3 + c) * w.length + l) * pixels + pixel) = four;
        }
    }
}

// Any strides and channels, from channel `c0` on.
template <class T>
__global__ void gather_pixels(Sizes w, const uint8_t* x, FrameStrides s, int64_t height, int64_t width,
                              int64_t channels, int64_t c0, int64_t some, Normalization<compute_t<T>> n,
                              Starts starts, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t column = i % width;
        const int64_t row = i / width % height;
        const int64_t l = i / width / height % w.length;
        const int64_t c = i / width / height / w.length % some;
        const int64_t window = i / width / height / w.length / some;
        const int64_t b = window / w.count;
        const int64_t t = time_of(starts.at(b, window % w.count), l, w.dilation, w.total);
        A value = 0;
        if (t >= 0) {
            const uint8_t raw =
                x[b * s.batch + t * s.time + row * s.row + column * s.column + (c0 + c) * s.channel];
            value = (static_cast<A>(raw) - n.mean[c]) / n.std[c];
        }
        out[(((window * channels + c0 + c) * w.length + l) * height + row) * width + column] =
            static_cast<T>(value);
    }
}

template <class T>
void gather_frames(const char* op, const Frames& f, const Tensor& x, const Tensor& starts,
                   const Tensor& out) {
    using A = compute_t<T>;
    const Sizes w = sizes_of(f.windows);
    const auto* from = static_cast<const uint8_t*>(x.const_data_ptr());
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    const FrameStrides s{x.stride(0), x.stride(1), x.stride(2), x.stride(3), x.stride(4)};
    const int64_t pixels = f.height * f.width;
    const bool fast = f.channels == 3 && s.channel == 1 && s.column == 3 && s.row == 3 * f.width &&
                      pixels % 4 == 0 && s.time % 4 == 0 && s.batch % 4 == 0 &&
                      reinterpret_cast<uintptr_t>(from) % 4 == 0 &&
                      reinterpret_cast<uintptr_t>(to) % sizeof(Four<T>) == 0;
    for (int64_t c0 = 0; c0 < f.channels; c0 += kChannels) {
        const int64_t some = std::min<int64_t>(kChannels, f.channels - c0);
        Normalization<A> n{};
        for (int64_t c = 0; c < some; ++c) {
            n.mean[c] = static_cast<A>(f.mean[c0 + c]);
            n.std[c] = static_cast<A>(f.std[c0 + c]);
        }
        if (fast) {
            const int64_t count = w.batch * w.count * w.length * pixels / 4;
            launch(op, x, grid_for(count), kThreads, gather_rgb<T>, w, from, s.batch, s.time, pixels, n,
                   starts_of(starts), to, count);
        } else {
            const int64_t count = w.batch * w.count * some * w.length * pixels;
            launch(op, x, grid_for(count), kThreads, gather_pixels<T>, w, from, s, f.height, f.width,
                   f.channels, c0, some, n, starts_of(starts), to, count);
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

// Returns the element of window n at time t, or -1.
__device__ int64_t element_at(const Sizes& w, int64_t start, int64_t t) {
    if (start > t || start < t - (w.length - 1) * w.dilation) return -1;
    const int64_t distance = t - start;
    return distance % w.dilation == 0 ? distance / w.dilation : -1;
}

struct WindowStrides {
    int64_t batch, window, element;
};

template <class T>
__global__ void scatter_sum(Sizes w, bool mean, const T* windows, WindowStrides s, Element element,
                            Starts starts, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t t = i / w.inner % w.total;
        const int64_t b = i / w.inner / w.total;
        const int64_t offset = element.offset(i % w.inner);
        A sum = 0;
        int64_t covers = 0;
        for (int64_t n = 0; n < w.count; ++n) {
            const int64_t l = element_at(w, starts.at(b, n), t);
            if (l < 0) continue;
            ++covers;
            sum += static_cast<A>(windows[b * s.batch + n * s.window + l * s.element + offset]);
        }
        out[i] = static_cast<T>(sum / static_cast<A>(mean && covers > 1 ? covers : 1));
    }
}

template <class T>
__global__ void scatter_one(Sizes w, bool last, const T* windows, WindowStrides s, Element element,
                            Starts starts, T* out, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t t = i / w.inner % w.total;
        const int64_t b = i / w.inner / w.total;
        T value{};
        for (int64_t k = 0; k < w.count; ++k) {
            const int64_t n = last ? w.count - 1 - k : k;
            const int64_t l = element_at(w, starts.at(b, n), t);
            if (l < 0) continue;
            value = windows[b * s.batch + n * s.window + l * s.element + element.offset(i % w.inner)];
            break;
        }
        out[i] = value;
    }
}

Tensor window_scatter(const Tensor& windows, const Tensor& starts, int64_t total, int64_t dilation,
                      int64_t reduce) {
    const char* op = "window_scatter";
    const Windows w = windows_geometry(op, "windows", windows, 3, starts, "total", total, 0, dilation);
    const Reduce how = check_reduce(op, reduce, windows, "windows");
    const Element element = element_of(op, "windows", windows, 3);
    const DeviceGuard guard(windows.get_device_index());
    Tensor out = new_empty(windows, w.sizes({w.batch, w.total}), windows.scalar_type());
    const int64_t count = out.numel();
    if (count == 0) return out;
    const WindowStrides s{windows.stride(0), windows.stride(1), windows.stride(2)};
    if (how == Reduce::mean || how == Reduce::sum) {
        with_float_type(windows.scalar_type(), [&](auto zero) {
            using T = decltype(zero);
            launch(op, windows, grid_for(count), kThreads, scatter_sum<T>, sizes_of(w), how == Reduce::mean,
                   static_cast<const T*>(windows.const_data_ptr()), s, element, starts_of(starts),
                   static_cast<T*>(out.mutable_data_ptr()), count);
        });
    } else {
        with_byte_type(windows.element_size(), [&](auto zero) {
            using T = decltype(zero);
            launch(op, windows, grid_for(count), kThreads, scatter_one<T>, sizes_of(w), how == Reduce::last,
                   static_cast<const T*>(windows.const_data_ptr()), s, element, starts_of(starts),
                   static_cast<T*>(out.mutable_data_ptr()), count);
        });
    }
    return out;
}

// Each element gets the gradient of its time, multiplied by its share.
template <class T>
__global__ void scatter_gradient(Sizes w, Reduce how, const T* grad, int64_t batch_stride,
                                 int64_t time_stride, Element element, Starts starts, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t item = i / w.inner;
        const int64_t n = item / w.length % w.count;
        const int64_t b = item / w.length / w.count;
        const int64_t t = time_of(starts.at(b, n), item % w.length, w.dilation, w.total);
        A value = 0;
        if (t >= 0) {
            int64_t covers = 0;
            bool chosen = true;
            for (int64_t k = 0; how != Reduce::sum && k < w.count; ++k) {
                if (element_at(w, starts.at(b, k), t) < 0) continue;
                ++covers;
                chosen = chosen && !(how == Reduce::first && k < n) && !(how == Reduce::last && k > n);
            }
            if (chosen) {
                value =
                    static_cast<A>(grad[b * batch_stride + t * time_stride + element.offset(i % w.inner)]);
                if (how == Reduce::mean) value /= static_cast<A>(covers);
            }
        }
        out[i] = static_cast<T>(value);
    }
}

Tensor window_scatter_backward(const Tensor& grad, const Tensor& starts, int64_t length, int64_t dilation,
                               int64_t reduce) {
    const char* op = "window_scatter_backward";
    const Windows w = windows_geometry(op, "grad", grad, 2, starts, "length", length, 0, dilation);
    const Reduce how = check_reduce(op, reduce, grad, "grad");
    require_float(op, "grad", grad);
    const Element element = element_of(op, "grad", grad, 2);
    const DeviceGuard guard(grad.get_device_index());
    Tensor out = new_empty(grad, w.sizes({w.batch, w.count, w.length}), grad.scalar_type());
    const int64_t count = out.numel();
    if (count == 0) return out;
    with_float_type(grad.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        launch(op, grad, grid_for(count), kThreads, scatter_gradient<T>, sizes_of(w), how,
               static_cast<const T*>(grad.const_data_ptr()), grad.stride(0), grad.stride(1), element,
               starts_of(starts), static_cast<T*>(out.mutable_data_ptr()), count);
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
