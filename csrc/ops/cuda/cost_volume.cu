// CUDA operators correlation and spatial_correlation: choice of the kernel, and launches.
#include "../cost_volume.h"

#include <torch/csrc/stable/library.h>

#include "cost_backward.cuh"
#include "cost_forward.cuh"

namespace vidseg {
namespace {

ImageStrides strides_of(const Tensor& image) {
    return {image.stride(0), image.stride(1), image.stride(2), image.stride(3)};
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_aligned(const void* data, size_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

// Whether all sizes and their sums fit in 32 bits.
bool fits_in_int(const CostVolume& v) {
    constexpr int64_t most = int64_t{1} << 28;
    const auto within = [&](int64_t size) { return -most <= size && size <= most; };
    return within(v.channels) && within(v.height) && within(v.width) && within(v.patch) && within(v.step) &&
           within(v.patch * v.step) && within(v.first) && within(v.origin) && within(v.out_height) &&
           within(v.out_width) && within(v.kernel) && within(v.dilation) && within(v.kernel * v.dilation) &&
           within(v.stride);
}

// Whether groups of four elements of a row are aligned, in global memory and at column `x`.
bool rows_of_fours(const Tensor& image, int64_t x) {
    return image.stride(3) == 1 && image.stride(2) % 4 == 0 && image.stride(1) % 4 == 0 &&
           image.stride(0) % 4 == 0 && is_aligned(image.const_data_ptr(), 4 * image.element_size()) &&
           x % 4 == 0;
}

// Number of tiles of `rows` rows, `step` apart, that cover `height` rows.
int64_t tiles_along_y(int64_t height, int64_t rows, int64_t step) {
    return ceil_divide(height, rows * step) * step;
}

// Grids have at most 65535 blocks along y and z.
bool is_grid(int64_t x, int64_t y, int64_t z) { return x <= INT32_MAX && y <= 65535 && z <= 65535; }

dim3 grid_of(int64_t x, int64_t y, int64_t z) {
    return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

Dense dense_of(const CostVolume& v, int64_t columns, const void* out, size_t element_size) {
    Dense d{};
    d.channels = static_cast<int>(v.channels);
    d.height = static_cast<int>(v.height);
    d.width = static_cast<int>(v.width);
    d.patch = static_cast<int>(v.patch);
    d.first = static_cast<int>(v.first);
    d.origin = static_cast<int>(v.origin);
    d.out_height = static_cast<int>(v.out_height);
    d.out_width = static_cast<int>(v.out_width);
    d.tiles_x = static_cast<int>(ceil_divide(v.out_width, columns));
    d.groups = static_cast<int>(ceil_divide(v.patch, kGroup));
    d.aligned = v.out_width % 4 == 0 && is_aligned(out, 4 * element_size);
    d.scale = v.scale;
    return d;
}

// Returns false if the tensor cores do not apply.
template <class T>
bool try_matrix(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2, const Tensor& out) {
    if constexpr (sizeof(T) == 2) {
        using Tile = MatrixTile;
        if (v.step != 1 || v.patch > kGroup || v.channels < 8) return false;
        if (!rows_of_fours(f1, v.origin) || !rows_of_fours(f2, v.origin + v.first)) return false;
        auto* to = static_cast<T*>(out.mutable_data_ptr());
        const Dense d = dense_of(v, Tile::kColumns, to, sizeof(T));
        const int64_t tiles = d.tiles_x * tiles_along_y(v.out_height, Tile::kRows, 1);
        if (!is_grid(tiles, 1, v.batch)) return false;
        launch(op, f1, grid_of(tiles, 1, v.batch), dim3(32 * Tile::kWarps), forward_matrix<T>, d,
               static_cast<const T*>(f1.const_data_ptr()), strides_of(f1),
               static_cast<const T*>(f2.const_data_ptr()), strides_of(f2), to);
        return true;
    } else {
        return false;
    }
}

template <class T, int Step>
bool try_dense(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2, const Tensor& out) {
    using Tile = ForwardTile<T, Step>;
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    Dense d = dense_of(v, Tile::kColumns, to, sizeof(T));
    const int64_t tiles = d.tiles_x * tiles_along_y(v.out_height, Tile::kRows, Step);
    // Fewer displacements in a block where the tiles alone do not fill a GPU.
    constexpr int64_t wanted = 256;
    int64_t down = kGroup;
    while (down > 1 && tiles * d.groups * ceil_divide(v.patch, down) * v.batch < wanted) down /= 3;
    d.down = static_cast<int>(down);
    const int64_t parts = d.groups * ceil_divide(v.patch, down);
    if (!is_grid(tiles, parts, v.batch)) return false;
    const auto run = [&](auto kernel) {
        launch(op, f1, grid_of(tiles, parts, v.batch),
               dim3(static_cast<unsigned>(ceil_divide(Tile::kThreadsDown * down, 32) * 32)), kernel, d,
               static_cast<const T*>(f1.const_data_ptr()), strides_of(f1),
               static_cast<const T*>(f2.const_data_ptr()), strides_of(f2), to);
    };
    if constexpr (std::is_same_v<T, float>) {
        if (v.patch <= kGroup && rows_of_fours(f1, v.origin) && rows_of_fours(f2, v.origin + v.first)) {
            run(forward_dense<T, Step, 4>);
            return true;
        }
    }
    run(forward_dense<T, Step, 1>);
    return true;
}

template <class T>
void forward(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2, const Tensor& out) {
    if (fits_in_int(v) && v.kernel == 1 && v.stride == 1) {
        if (try_matrix<T>(op, v, f1, f2, out)) return;
        if (v.step == 1 && try_dense<T, 1>(op, v, f1, f2, out)) return;
        if (v.step == 2 && try_dense<T, 2>(op, v, f1, f2, out)) return;
    }
    const int64_t count = out.numel();
    launch(op, f1, grid_for(count), kThreads, forward_any<T>, v, static_cast<const T*>(f1.const_data_ptr()),
           strides_of(f1), static_cast<const T*>(f2.const_data_ptr()), strides_of(f2),
           Divider(v.out_width, count), Divider(v.out_height, count), Divider(v.patch, count),
           static_cast<T*>(out.mutable_data_ptr()), count);
}

template <class T, class Size>
Gradients<T, Size> gradients_of(const CostVolume& v, const Tensor& grad, const GradientStrides& strides) {
    return {static_cast<const T*>(grad.const_data_ptr()),
            strides,
            static_cast<Size>(v.kernel),
            static_cast<Size>(v.dilation),
            static_cast<Size>(v.stride),
            static_cast<Size>(v.origin),
            static_cast<Size>(v.out_height),
            static_cast<Size>(v.out_width)};
}

template <class T, int Step>
bool try_dense_gradient(const char* op, const CostVolume& v, const Tensor& grad,
                        const GradientStrides& strides, const Tensor& other, int64_t first, bool second,
                        const Tensor& out) {
    using Tile = BackwardTile<T, Step>;
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    DenseGradient d{};
    d.channels = static_cast<int>(v.channels);
    d.height = static_cast<int>(v.height);
    d.width = static_cast<int>(v.width);
    d.patch = static_cast<int>(v.patch);
    d.first = static_cast<int>(first);
    d.tiles_x = static_cast<int>(ceil_divide(v.width, Tile::kColumns));
    d.second = second;
    d.aligned = v.width % 4 == 0 && is_aligned(to, 4 * sizeof(T));
    d.scale = v.scale;
    const int64_t channel_groups = std::min<int64_t>(ceil_divide(v.channels, Tile::kEachChannels), 16);
    const int64_t channel_blocks = ceil_divide(v.channels, channel_groups * Tile::kEachChannels);
    const int64_t tiles = d.tiles_x * tiles_along_y(v.height, Tile::kRows, Step);
    if (!is_grid(tiles, channel_blocks, v.batch)) return false;
    const auto run = [&](auto kernel) {
        launch(op, other, grid_of(tiles, channel_blocks, v.batch),
               dim3(Tile::kColumns / Tile::kEach, static_cast<unsigned>(channel_groups), Tile::kRows / 2),
               kernel, d, gradients_of<T, int>(v, grad, strides),
               static_cast<const T*>(other.const_data_ptr()), strides_of(other), to);
    };
    if constexpr (std::is_same_v<T, float>) {
        if (v.patch <= kGroup && rows_of_fours(other, first)) {
            run(backward_dense<T, Step, 4>);
            return true;
        }
    }
    run(backward_dense<T, Step, 1>);
    return true;
}

template <class T>
void backward(const char* op, const CostVolume& v, const Tensor& grad, const GradientStrides& strides,
              const Tensor& other, bool second, const Tensor& out) {
    const int64_t first = second ? -(v.first + (v.patch - 1) * v.step) : v.first;
    if (fits_in_int(v)) {
        if (v.step == 1 && try_dense_gradient<T, 1>(op, v, grad, strides, other, first, second, out)) return;
        if (v.step == 2 && try_dense_gradient<T, 2>(op, v, grad, strides, other, first, second, out)) return;
    }
    const int64_t count = out.numel();
    launch(op, other, grid_for(count), kThreads, backward_any<T>, v, first, second,
           gradients_of<T, int64_t>(v, grad, strides), static_cast<const T*>(other.const_data_ptr()),
           strides_of(other), Divider(v.width, count), Divider(v.height, count), Divider(v.channels, count),
           static_cast<T*>(out.mutable_data_ptr()), count);
}

}  // namespace

Tensor run_forward(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2,
                   std::vector<int64_t> sizes) {
    const DeviceGuard guard(f1.get_device_index());
    Tensor out = new_empty(f1, std::move(sizes), f1.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(f1.scalar_type(), [&](auto zero) { forward<decltype(zero)>(op, v, f1, f2, out); });
    return out;
}

Tensor run_backward(const char* op, const CostVolume& v, const Tensor& grad, const GradientStrides& strides,
                    const Tensor& other, bool second) {
    const DeviceGuard guard(other.get_device_index());
    Tensor out = new_empty(other, {v.batch, v.channels, v.height, v.width}, other.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(other.scalar_type(),
                    [&](auto zero) { backward<decltype(zero)>(op, v, grad, strides, other, second, out); });
    return out;
}

}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CUDA, m) {
    m.impl("correlation", TORCH_BOX(&vidseg::correlation));
    m.impl("correlation_backward", TORCH_BOX(&vidseg::correlation_backward));
    m.impl("spatial_correlation", TORCH_BOX(&vidseg::spatial_correlation));
    m.impl("spatial_correlation_backward", TORCH_BOX(&vidseg::spatial_correlation_backward));
}
