// CUDA kernels of correlation and spatial_correlation. Every output is summed by one thread in a fixed order.
#include "../cost_volume.h"

#include <torch/csrc/stable/library.h>

#include "launch.cuh"

namespace vidseg {
namespace {

struct Strides {
    int64_t batch, channel, row, column;
};

Strides strides_of(const Tensor& image) {
    return {image.stride(0), image.stride(1), image.stride(2), image.stride(3)};
}

template <class T>
__device__ compute_t<T> pixel(const T* image, const Strides& s, int64_t height, int64_t width, int64_t c,
                              int64_t y, int64_t x) {
    if (y < 0 || y >= height || x < 0 || x >= width) return compute_t<T>(0);
    return static_cast<compute_t<T>>(image[c * s.channel + y * s.row + x * s.column]);
}

// ------------------------------------------------------------------------------------------------ forward

// Any geometry: one thread per output.
template <class T>
__global__ void forward_any(CostVolume v, const T* f1, Strides s1, const T* f2, Strides s2, T* out,
                            int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t ox = i % v.out_width;
        const int64_t oy = i / v.out_width % v.out_height;
        const int64_t plane = i / v.out_width / v.out_height;
        const int64_t dx = v.first + plane % v.patch * v.step;
        const int64_t dy = v.first + plane / v.patch % v.patch * v.step;
        const int64_t b = plane / v.patch / v.patch;
        A sum = 0;
        for (int64_t kj = 0; kj < v.kernel; ++kj) {
            const int64_t y = v.origin + oy * v.stride + kj * v.dilation;
            if (y < 0 || y >= v.height || y + dy < 0 || y + dy >= v.height) continue;
            for (int64_t ki = 0; ki < v.kernel; ++ki) {
                const int64_t x = v.origin + ox * v.stride + ki * v.dilation;
                if (x < 0 || x >= v.width || x + dx < 0 || x + dx >= v.width) continue;
                const T* a = f1 + b * s1.batch + y * s1.row + x * s1.column;
                const T* other = f2 + b * s2.batch + (y + dy) * s2.row + (x + dx) * s2.column;
                for (int64_t c = 0; c < v.channels; ++c) {
                    sum += static_cast<A>(a[c * s1.channel]) * static_cast<A>(other[c * s2.channel]);
                }
            }
        }
        out[i] = static_cast<T>(sum * static_cast<A>(v.scale));
    }
}

// Kernel size 1 and stride 1: a block computes 64 columns of 4 rows at 9 x 9 displacements. A thread computes
// 4 columns of one row at 9 displacements (dy, dx to dx + 8 steps), so that 36 sums share 4 values of f1 and
// 4 + 8 * Step of f2.
constexpr int kColumns = 64;
constexpr int kEach = 4;  // columns per thread
constexpr int kRows = 4;
constexpr int kGroup = 9;  // displacements along each axis
constexpr int kDepth = 4;  // channels in shared memory at a time

template <class T, int Step>
__global__ void __launch_bounds__(kColumns / kEach * kGroup * kRows)
    forward_dense(CostVolume v, const T* f1, Strides s1, const T* f2, Strides s2, T* out, int64_t tiles_x) {
    using A = compute_t<T>;
    constexpr int span = kColumns + (kGroup - 1) * Step;          // columns of f2 that the block reads
    constexpr int slots = (kRows - 1) + (kGroup - 1) * Step + 1;  // and rows
    __shared__ A a[kDepth][kRows][kColumns];
    __shared__ A other[kDepth][slots][span];

    const int64_t groups = (v.patch + kGroup - 1) / kGroup;
    const int64_t x0 = blockIdx.x % tiles_x * kColumns;
    const int64_t y0 = blockIdx.x / tiles_x * kRows;
    const int64_t pi0 = blockIdx.y % groups * kGroup;
    const int64_t pj0 = blockIdx.y / groups * kGroup;
    const int64_t b = blockIdx.z;
    f1 += b * s1.batch;
    f2 += b * s2.batch;

    const int tx = threadIdx.x * kEach;
    const int ty = threadIdx.z;
    const int slot = ty + threadIdx.y * Step;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int threads = blockDim.x * blockDim.y * blockDim.z;
    A sums[kGroup][kEach] = {};

    for (int64_t c0 = 0; c0 < v.channels; c0 += kDepth) {
        const int depth = static_cast<int>(v.channels - c0 < kDepth ? v.channels - c0 : kDepth);
        __syncthreads();
        for (int i = thread; i < depth * kRows * kColumns; i += threads) {
            const int x = i % kColumns, y = i / kColumns % kRows, c = i / kColumns / kRows;
            a[c][y][x] = pixel(f1, s1, v.height, v.width, c0 + c, v.origin + y0 + y, v.origin + x0 + x);
        }
        for (int i = thread; i < depth * slots * span; i += threads) {
            const int x = i % span, y = i / span % slots, c = i / span / slots;
            other[c][y][x] =
                pixel(f2, s2, v.height, v.width, c0 + c, v.origin + y0 + v.first + pj0 * Step + y,
                      v.origin + x0 + v.first + pi0 * Step + x);
        }
        __syncthreads();
        for (int c = 0; c < depth; ++c) {
            A mine[kEach], window[kEach + (kGroup - 1) * Step];
#pragma unroll
            for (int i = 0; i < kEach; ++i) mine[i] = a[c][ty][tx + i];
#pragma unroll
            for (int i = 0; i < kEach + (kGroup - 1) * Step; ++i) window[i] = other[c][slot][tx + i];
#pragma unroll
            for (int p = 0; p < kGroup; ++p) {
#pragma unroll
                for (int i = 0; i < kEach; ++i) sums[p][i] += mine[i] * window[i + p * Step];
            }
        }
    }

    const int64_t oy = y0 + ty;
    const int64_t pj = pj0 + threadIdx.y;
    if (oy >= v.out_height || pj >= v.patch) return;
#pragma unroll
    for (int p = 0; p < kGroup; ++p) {
        if (pi0 + p >= v.patch) break;
        T* row = out + (((b * v.patch + pj) * v.patch + pi0 + p) * v.out_height + oy) * v.out_width;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            const int64_t ox = x0 + tx + i;
            if (ox < v.out_width) row[ox] = static_cast<T>(sums[p][i] * static_cast<A>(v.scale));
        }
    }
}

template <class T>
void forward(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2, const Tensor& out) {
    const auto* a = static_cast<const T*>(f1.const_data_ptr());
    const auto* b = static_cast<const T*>(f2.const_data_ptr());
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    const int64_t tiles_x = (v.out_width + kColumns - 1) / kColumns;
    const int64_t tiles = tiles_x * ((v.out_height + kRows - 1) / kRows);
    const int64_t groups = (v.patch + kGroup - 1) / kGroup;
    const bool fits = tiles <= INT32_MAX && groups * groups <= 65535 && v.batch <= 65535;
    if (fits && v.kernel == 1 && v.stride == 1 && v.step <= 2) {
        const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(groups * groups),
                        static_cast<unsigned>(v.batch));
        const dim3 block(kColumns / kEach, kGroup, kRows);
        // 64-bit sums and windows of double steps do not fit in shared memory together and use the other
        // kernel.
        if (v.step == 1) {
            return launch(op, f1, grid, block, forward_dense<T, 1>, v, a, strides_of(f1), b, strides_of(f2),
                          to, tiles_x);
        }
        if constexpr (sizeof(T) <= 4) {
            return launch(op, f1, grid, block, forward_dense<T, 2>, v, a, strides_of(f1), b, strides_of(f2),
                          to, tiles_x);
        }
    }
    launch(op, f1, grid_for(out.numel()), kThreads, forward_any<T>, v, a, strides_of(f1), b, strides_of(f2),
           to, out.numel());
}

// ------------------------------------------------------------------------------------------------ backward

// Sum of the output gradients of displacement (pj, pi) whose kernel covers (y, x) of f1.
template <class T>
__device__ compute_t<T> gradient_at(const CostVolume& v, const T* grad, const GradientStrides& s, int64_t pj,
                                    int64_t pi, int64_t y, int64_t x) {
    compute_t<T> sum = 0;
    for (int64_t kj = 0; kj < v.kernel; ++kj) {
        const int64_t above = y - v.origin - kj * v.dilation;
        if (above < 0 || above % v.stride != 0 || above / v.stride >= v.out_height) continue;
        for (int64_t ki = 0; ki < v.kernel; ++ki) {
            const int64_t left = x - v.origin - ki * v.dilation;
            if (left < 0 || left % v.stride != 0 || left / v.stride >= v.out_width) continue;
            sum += static_cast<compute_t<T>>(
                grad[pj * s.pj + pi * s.pi + above / v.stride * s.row + left / v.stride * s.column]);
        }
    }
    return sum;
}

// grad[y, x] = scale * sum over displacements of G(y, x) * other[y + dy, x + dx]. For the gradient of f2 the
// partner is at -dy, -dx and G is read there. `first` is the first displacement from this image.
template <class T>
__global__ void backward_any(CostVolume v, int64_t first, bool second, const T* grad, GradientStrides sg,
                             const T* other, Strides so, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const int64_t x = i % v.width;
        const int64_t y = i / v.width % v.height;
        const int64_t c = i / v.width / v.height % v.channels;
        const int64_t b = i / v.width / v.height / v.channels;
        A sum = 0;
        for (int64_t q = 0; q < v.patch; ++q) {
            const int64_t py = y + first + q * v.step;
            if (py < 0 || py >= v.height) continue;
            for (int64_t p = 0; p < v.patch; ++p) {
                const int64_t px = x + first + p * v.step;
                if (px < 0 || px >= v.width) continue;
                const A g =
                    second ? gradient_at(v, grad + b * sg.batch, sg, v.patch - 1 - q, v.patch - 1 - p, py, px)
                           : gradient_at(v, grad + b * sg.batch, sg, q, p, y, x);
                sum +=
                    g * static_cast<A>(other[b * so.batch + c * so.channel + py * so.row + px * so.column]);
            }
        }
        out[i] = static_cast<T>(sum * static_cast<A>(v.scale));
    }
}

// A block computes 64 columns of one row and 64 channels, a thread 4 of each. For each displacement along y,
// 9 displacements along x are processed at a time: the gathered gradients and the rows of the other image are
// in shared memory, a window of them in registers.
template <class T, int Step>
__global__ void __launch_bounds__(256)
    backward_dense(CostVolume v, int64_t first, bool second, const T* grad, GradientStrides sg,
                   const T* other, Strides so, T* out, int64_t tiles_x) {
    using A = compute_t<T>;
    constexpr int span = kColumns + (kGroup - 1) * Step;
    constexpr int channels = 64;
    __shared__ A g[kGroup][kColumns];
    __shared__ A rows[channels][span];

    const int64_t x0 = blockIdx.x % tiles_x * kColumns;
    const int64_t y = blockIdx.x / tiles_x;
    const int64_t c0 = int64_t{blockIdx.y} * channels;
    const int64_t b = blockIdx.z;
    grad += b * sg.batch;
    other += b * so.batch;
    const int tx = threadIdx.x * kEach;
    const int tc = threadIdx.y * kEach;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int threads = blockDim.x * blockDim.y;
    const int depth = static_cast<int>(v.channels - c0 < channels ? v.channels - c0 : channels);
    A sums[kEach][kEach] = {};

    for (int64_t q = 0; q < v.patch; ++q) {
        const int64_t py = y + first + q * Step;
        if (py < 0 || py >= v.height) continue;  // the same for the whole block
        for (int64_t p0 = 0; p0 < v.patch; p0 += kGroup) {
            __syncthreads();
            for (int i = thread; i < kGroup * kColumns; i += threads) {
                const int64_t p = p0 + i / kColumns;
                const int64_t x = x0 + i % kColumns;
                A value = 0;
                if (p < v.patch && x < v.width) {
                    value = second ? gradient_at(v, grad, sg, v.patch - 1 - q, v.patch - 1 - p, py,
                                                 x + first + p * Step)
                                   : gradient_at(v, grad, sg, q, p, y, x);
                }
                g[i / kColumns][i % kColumns] = value;
            }
            for (int i = thread; i < depth * span; i += threads) {
                rows[i / span][i % span] =
                    pixel(other, so, v.height, v.width, c0 + i / span, py, x0 + first + p0 * Step + i % span);
            }
            __syncthreads();
            A window[kEach][kEach + (kGroup - 1) * Step];
#pragma unroll
            for (int c = 0; c < kEach; ++c) {
#pragma unroll
                for (int i = 0; i < kEach + (kGroup - 1) * Step; ++i) {
                    window[c][i] = tc + c < depth ? rows[tc + c][tx + i] : A(0);
                }
            }
#pragma unroll
            for (int p = 0; p < kGroup; ++p) {
#pragma unroll
                for (int i = 0; i < kEach; ++i) {
                    const A value = g[p][tx + i];
#pragma unroll
                    for (int c = 0; c < kEach; ++c) sums[c][i] += value * window[c][i + p * Step];
                }
            }
        }
    }
#pragma unroll
    for (int c = 0; c < kEach; ++c) {
        if (tc + c >= depth) break;
        T* row = out + ((b * v.channels + c0 + tc + c) * v.height + y) * v.width;
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
            if (x0 + tx + i < v.width)
                row[x0 + tx + i] = static_cast<T>(sums[c][i] * static_cast<A>(v.scale));
        }
    }
}

template <class T>
void backward(const char* op, const CostVolume& v, const Tensor& grad, const GradientStrides& sg,
              const Tensor& other, bool second, const Tensor& out) {
    const auto* g = static_cast<const T*>(grad.const_data_ptr());
    const auto* o = static_cast<const T*>(other.const_data_ptr());
    auto* to = static_cast<T*>(out.mutable_data_ptr());
    const int64_t first = second ? -(v.first + (v.patch - 1) * v.step) : v.first;
    const int64_t tiles_x = (v.width + kColumns - 1) / kColumns;
    const int64_t channel_blocks = (v.channels + 63) / 64;
    const bool fits = tiles_x * v.height <= INT32_MAX && channel_blocks <= 65535 && v.batch <= 65535;
    if (fits && v.step <= 2) {
        const dim3 grid(static_cast<unsigned>(tiles_x * v.height), static_cast<unsigned>(channel_blocks),
                        static_cast<unsigned>(v.batch));
        const dim3 block(kColumns / kEach, 64 / kEach);
        if (v.step == 1) {
            return launch(op, other, grid, block, backward_dense<T, 1>, v, first, second, g, sg, o,
                          strides_of(other), to, tiles_x);
        }
        return launch(op, other, grid, block, backward_dense<T, 2>, v, first, second, g, sg, o,
                      strides_of(other), to, tiles_x);
    }
    launch(op, other, grid_for(out.numel()), kThreads, backward_any<T>, v, first, second, g, sg, o,
           strides_of(other), to, out.numel());
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
