// CUDA operator correlation_lookup and its gradients: arguments and launches.
#include "lookup.cuh"

#include <torch/csrc/stable/library.h>

namespace vidseg {
namespace {

PixelStrides strides_of(const Tensor& image) {
    return {image.stride(0), image.stride(1), image.stride(2), image.stride(3)};
}

Queries places_of(int64_t batch, int64_t height, int64_t width) {
    const int64_t count = batch * height * width;
    return {Divider(width, count), Divider(height, count), count};
}

// Launches `kernel` with a warp for each query; grids have 2^31 - 1 blocks along x.
template <class T, int Positions, class... Params, class... Args>
void launch_queries(const char* op, const Tensor& like, const Queries& queries, void (*kernel)(Params...),
                    const Args&... args) {
    using Block = LookupBlock<compute_t<T>, Positions>;
    const int64_t blocks = (queries.count + Block::kQueries - 1) / Block::kQueries;
    require(blocks <= INT32_MAX, op, ": coords have ", queries.count, " positions, too many for one launch");
    launch(op, like, dim3(static_cast<unsigned>(blocks)), dim3(Block::kThreads), kernel, args...);
}

// Calls body(zero, most pixels in a window) for the type of `data` and a radius.
template <class Body>
void with_positions(const Tensor& data, int64_t radius, const Body& body) {
    with_float_type(data.scalar_type(), [&](auto zero) {
        if (radius <= 4) {
            body(zero, std::integral_constant<int, 128>{});
        } else {
            body(zero, std::integral_constant<int, (2 * kMaxRadius + 2) * (2 * kMaxRadius + 2)>{});
        }
    });
}

Tensor correlation_lookup(const Tensor& f1, const Tensor& f2, const Tensor& coords, int64_t radius) {
    const char* op = "correlation_lookup";
    const Lookup l = lookup_forward_geometry(op, f1, f2, coords, radius);
    const DeviceGuard guard(f1.get_device_index());
    Tensor out = new_empty(f1, {l.batch, l.side * l.side, l.height, l.width}, f1.scalar_type());
    if (out.numel() == 0) return out;
    const Queries queries = places_of(l.batch, l.height, l.width);
    with_positions(f1, radius, [&](auto zero, auto positions) {
        using T = decltype(zero);
        launch_queries<T, positions.value>(op, f1, queries, lookup_forward<T, positions.value>, l, queries,
                                           coordinates_of(coords), static_cast<const T*>(f1.const_data_ptr()),
                                           strides_of(f1), static_cast<const T*>(f2.const_data_ptr()),
                                           strides_of(f2), static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

Tensor correlation_lookup_backward_f1(const Tensor& grad, const Tensor& f2, const Tensor& coords,
                                      int64_t radius) {
    const char* op = "correlation_lookup_backward_f1";
    const Lookup l = lookup_f1_geometry(op, grad, f2, coords, radius);
    const DeviceGuard guard(grad.get_device_index());
    Tensor out = new_empty(grad, {l.batch, l.channels, l.height, l.width}, grad.scalar_type());
    if (out.numel() == 0) return out;
    const Queries queries = places_of(l.batch, l.height, l.width);
    with_positions(grad, radius, [&](auto zero, auto positions) {
        using T = decltype(zero);
        launch_queries<T, positions.value>(op, grad, queries, lookup_backward_f1<T, positions.value>, l,
                                           queries, coordinates_of(coords),
                                           static_cast<const T*>(grad.const_data_ptr()), strides_of(grad),
                                           static_cast<const T*>(f2.const_data_ptr()), strides_of(f2),
                                           static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

Tensor correlation_lookup_backward_f2(const Tensor& grad, const Tensor& f1, const Tensor& coords,
                                      int64_t radius, int64_t height, int64_t width) {
    const char* op = "correlation_lookup_backward_f2";
    const Lookup l = lookup_f2_geometry(op, grad, f1, coords, radius, height, width);
    const DeviceGuard guard(grad.get_device_index());
    Tensor out = new_empty(grad, {l.batch, l.channels, l.rows, l.columns}, grad.scalar_type());
    if (out.numel() == 0) return out;
    const Queries queries = places_of(l.batch, l.height, l.width);
    const Queries pixels = places_of(l.batch, l.rows, l.columns);
    const int64_t blocks = std::min<int64_t>(pixels.count, 1 << 20);
    with_float_type(grad.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        launch(op, grad, dim3(static_cast<unsigned>(blocks)), dim3(kGatherThreads), lookup_backward_f2<T>, l,
               queries, pixels, coordinates_of(coords), static_cast<const T*>(grad.const_data_ptr()),
               strides_of(grad), static_cast<const T*>(f1.const_data_ptr()), strides_of(f1),
               static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CUDA, m) {
    m.impl("correlation_lookup", TORCH_BOX(&vidseg::correlation_lookup));
    m.impl("correlation_lookup_backward_f1", TORCH_BOX(&vidseg::correlation_lookup_backward_f1));
    m.impl("correlation_lookup_backward_f2", TORCH_BOX(&vidseg::correlation_lookup_backward_f2));
}
