// CUDA operators align1d and align1d_backward: arguments and launches. They copy nothing to the host, so CUDA
// graphs can record them.
#include "align1d.cuh"

#include <torch/csrc/stable/library.h>

namespace vidseg {
namespace {

SequenceStrides strides_of(const Tensor& data) { return {data.stride(0), data.stride(1), data.stride(2)}; }

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
    const int64_t count = out.numel();
    launch("align1d", x, grid_for(count), kThreads, align_forward<T, R, Raw>, a, Divider(a.bins, count),
           Divider(a.channels, count), static_cast<const T*>(x.const_data_ptr()), strides_of(x), rois,
           static_cast<T*>(out.mutable_data_ptr()), count);
}

template <class T, class R, class Raw>
void run_backward(const Align& a, const Tensor& grad, const Rois<R, Raw>& rois, const Tensor& out) {
    const int64_t count = out.numel();
    launch("align1d_backward", grad, grid_for(count), kThreads, align_backward<T, R, Raw>, a,
           Divider(a.total, count), Divider(a.channels, count), static_cast<const T*>(grad.const_data_ptr()),
           strides_of(grad), rois, static_cast<T*>(out.mutable_data_ptr()), count);
}

Tensor align1d(const Tensor& x, const Tensor& rois, int64_t output_size, int64_t sampling_ratio) {
    const Align a = forward_geometry("align1d", x, rois, output_size, sampling_ratio);
    const DeviceGuard guard(x.get_device_index());
    Tensor out = new_empty(x, {a.rois, a.channels, a.bins}, x.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(x.scalar_type(), [&](auto zero) {
        with_rois(rois, [&](const auto& typed) { run_forward<decltype(zero)>(a, x, typed, out); });
    });
    return out;
}

Tensor align1d_backward(const Tensor& grad, const Tensor& rois, int64_t batch, int64_t total,
                        int64_t sampling_ratio) {
    const Align a = backward_geometry("align1d_backward", grad, rois, batch, total, sampling_ratio);
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
