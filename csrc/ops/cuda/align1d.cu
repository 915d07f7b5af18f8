// CUDA kernels of align1d. Forward and backward kernels gather, so sums do not depend on the order of
// threads.
#include "../align1d.h"

#include <torch/csrc/stable/library.h>

#include "launch.cuh"

namespace vidseg {
namespace {

struct Strides {
    int64_t outer, channel, time;
};

template <class R, class Raw>
struct Rois {
    const Raw* data;
    int64_t row, column;

    __device__ int64_t sequence(int64_t r) const {
        return static_cast<int64_t>(static_cast<R>(data[r * row]));
    }

    __device__ Roi<R> roi(int64_t r, const Align& a) const {
        const Raw* at = data + r * row;
        return Roi<R>(static_cast<R>(at[column]), static_cast<R>(at[2 * column]), a.bins, a.ratio);
    }
};

// One thread per output.
template <class T, class R, class Raw>
__global__ void forward(Align a, const T* x, Strides s, Rois<R, Raw> rois, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t p = i % a.bins;
        const int64_t c = i / a.bins % a.channels;
        const int64_t r = i / a.bins / a.channels;
        const Roi<R> roi = rois.roi(r, a);
        const T* row = x + rois.sequence(r) * s.outer + c * s.channel;
        int64_t first, last;
        roi.samples_in(p, -1.0, static_cast<double>(a.total), first, last);
        A sum = 0;
        for (int64_t k = first; k < last; ++k) {
            const Sample<R> sample(roi.at(p, k), a.total);
            if (!sample.inside) continue;
            sum += static_cast<A>(R(1) - sample.weight) * static_cast<A>(row[sample.low * s.time]);
            sum += static_cast<A>(sample.weight) * static_cast<A>(row[sample.high * s.time]);
        }
        out[i] = static_cast<T>(sum / static_cast<A>(roi.samples));
    }
}

// One thread per element of the sequences, which visits the samples of all rois that touch it.
template <class T, class R, class Raw>
__global__ void backward(Align a, const T* grad, Strides s, Rois<R, Raw> rois, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t t = i % a.total;
        const int64_t c = i / a.total % a.channels;
        const int64_t b = i / a.total / a.channels;
        const auto low = static_cast<double>(t - 1);
        const auto high = static_cast<double>(t + 1);
        A sum = 0;
        for (int64_t r = 0; r < a.rois; ++r) {
            if (rois.sequence(r) != b) continue;
            const Roi<R> roi = rois.roi(r, a);
            // The bins that overlap [t - 1, t + 1], plus one on each side.
            const double start = static_cast<double>(roi.start), bin = static_cast<double>(roi.bin);
            const double from = floor((low - start) / bin) - 1.0, to = ceil((high - start) / bin) + 1.0;
            const auto bins = static_cast<double>(a.bins);
            const auto p_first = static_cast<int64_t>(from < 0.0 ? 0.0 : from > bins ? bins : from);
            const auto p_last = static_cast<int64_t>(to < 0.0 ? 0.0 : to > bins ? bins : to);
            for (int64_t p = p_first; p < p_last; ++p) {
                int64_t first, last;
                roi.samples_in(p, low, high, first, last);
                R weight = 0;
                for (int64_t k = first; k < last; ++k) {
                    const Sample<R> sample(roi.at(p, k), a.total);
                    if (!sample.inside) continue;
                    if (sample.low == t) weight += R(1) - sample.weight;
                    if (sample.high == t) weight += sample.weight;
                }
                if (weight == R(0)) continue;
                const A g = static_cast<A>(grad[r * s.outer + c * s.channel + p * s.time]);
                sum += g * static_cast<A>(weight) / static_cast<A>(roi.samples);
            }
        }
        out[i] = static_cast<T>(sum);
    }
}

// Calls body(rois in their own type, positions in float32 or float64).
template <class Body>
void with_rois(const Tensor& rois, const Body& body) {
    with_float_type(rois.scalar_type(), [&](auto zero) {
        using Raw = decltype(zero);
        body(Rois<compute_t<Raw>, Raw>{static_cast<const Raw*>(rois.const_data_ptr()), rois.stride(0),
                                       rois.stride(1)});
    });
}

template <class T, class R, class Raw>
void run_forward(const Align& a, const Tensor& x, const Rois<R, Raw>& rois, const Tensor& out) {
    launch("align1d", x, grid_for(out.numel()), kThreads, forward<T, R, Raw>, a,
           static_cast<const T*>(x.const_data_ptr()), Strides{x.stride(0), x.stride(1), x.stride(2)}, rois,
           static_cast<T*>(out.mutable_data_ptr()), out.numel());
}

template <class T, class R, class Raw>
void run_backward(const Align& a, const Tensor& grad, const Rois<R, Raw>& rois, const Tensor& out) {
    launch("align1d_backward", grad, grid_for(out.numel()), kThreads, backward<T, R, Raw>, a,
           static_cast<const T*>(grad.const_data_ptr()),
           Strides{grad.stride(0), grad.stride(1), grad.stride(2)}, rois,
           static_cast<T*>(out.mutable_data_ptr()), out.numel());
}

Tensor align1d(const Tensor& x, const Tensor& rois, int64_t output_size, int64_t sampling_ratio) {
    const Align a = forward_geometry("align1d", x, rois, output_size, sampling_ratio);
    check_rois("align1d", on_cpu(rois),
               a.batch);  // waits for the device: invalid values must not reach the kernel
    const DeviceGuard guard(x.get_device_index());
    Tensor out = new_empty(x, {a.rois, a.channels, a.bins}, x.scalar_type());
    if (out.numel() == 0) return out;
    if (a.total == 0) return torch::stable::zero_(out);
    with_float_type(x.scalar_type(), [&](auto zero) {
        with_rois(rois, [&](const auto& typed) { run_forward<decltype(zero)>(a, x, typed, out); });
    });
    return out;
}

Tensor align1d_backward(const Tensor& grad, const Tensor& rois, int64_t batch, int64_t total,
                        int64_t sampling_ratio) {
    const Align a = backward_geometry("align1d_backward", grad, rois, batch, total, sampling_ratio);
    check_rois("align1d_backward", on_cpu(rois), a.batch);
    const DeviceGuard guard(grad.get_device_index());
    Tensor out = new_empty(grad, {a.batch, a.channels, a.total}, grad.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(grad.scalar_type(), [&](auto zero) {
        with_rois(rois, [&](const auto& typed) { run_backward<decltype(zero)>(a, grad, typed, out); });
    });
    return out;
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CUDA, m) {
    m.impl("align1d", TORCH_BOX(&vidseg::align1d));
    m.impl("align1d_backward", TORCH_BOX(&vidseg::align1d_backward));
}
