// Device code of correlation and spatial_correlation: what all kernels share, and the kernels for any
// geometry. Every output is summed by one thread in a fixed order.
#pragma once

#include "../cost_volume.h"
#include "launch.cuh"

namespace vidseg {

// Kernels for dense displacements compute groups of 9 x 9 displacements.
constexpr int kGroup = 9;

struct ImageStrides {
    int64_t batch, channel, row, column;
};

// 16 bytes of shared memory, which one instruction reads.
template <class A>
struct alignas(16) Pack {
    static constexpr int kValues = 16 / static_cast<int>(sizeof(A));
    A values[kValues];
};

template <int Count, class A>
__device__ void read_packs(const A* from, A (&to)[Count]) {
    static_assert(Count % Pack<A>::kValues == 0);
#pragma unroll
    for (int i = 0; i < Count; i += Pack<A>::kValues) {
        const Pack<A> pack = *reinterpret_cast<const Pack<A>*>(from + i);
#pragma unroll
        for (int k = 0; k < Pack<A>::kValues; ++k) to[i + k] = pack.values[k];
    }
}

// Writes sums[i] * scale to the columns x + i below `width`, four at a time if `aligned`.
template <int Count, class T, class A>
__device__ void write_row(T* row, int x, int width, bool aligned, const A (&sums)[Count], A scale) {
    struct alignas(4 * sizeof(T)) Values {
        T values[4];
    };
#pragma unroll
    for (int i = 0; i < Count; i += 4) {
        Values four;
#pragma unroll
        for (int k = 0; k < 4; ++k) four.values[k] = static_cast<T>(sums[i + k] * scale);
        if (aligned && x + i + 4 <= width) {
            *reinterpret_cast<Values*>(row + x + i) = four;
        } else {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                if (x + i + k < width) row[x + i + k] = four.values[k];
            }
        }
    }
}

// One thread per output.
template <class T>
__global__ void forward_any(const __grid_constant__ CostVolume v, const T* f1, ImageStrides s1, const T* f2,
                            ImageStrides s2, Divider width, Divider height, Divider patch, T* out,
                            int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient column = width.divide(i);
        const Quotient row = height.divide(column.quotient);
        const Quotient across = patch.divide(row.quotient);
        const Quotient down = patch.divide(across.quotient);
        const int64_t dx = v.first + across.remainder * v.step;
        const int64_t dy = v.first + down.remainder * v.step;
        const int64_t b = down.quotient;
        A sum = 0;
        for (int64_t kj = 0; kj < v.kernel; ++kj) {
            const int64_t y = v.origin + row.remainder * v.stride + kj * v.dilation;
            if (y < 0 || y >= v.height || y + dy < 0 || y + dy >= v.height) continue;
            for (int64_t ki = 0; ki < v.kernel; ++ki) {
                const int64_t x = v.origin + column.remainder * v.stride + ki * v.dilation;
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

// Gradients of an output, as the kernels read them. Size is int32_t where all sizes allow it.
template <class T, class Size>
struct Gradients {
    const T* data;
    GradientStrides strides;
    Size kernel, dilation, stride, origin, height, width;

    // Sum of the gradients of displacement (pj, pi) whose kernel covers (y, x) of f1. `plane` is that of the
    // image of the batch.
    __device__ compute_t<T> at(const T* plane, Size pj, Size pi, Size y, Size x) const {
        compute_t<T> sum = 0;
#pragma unroll 1  // rarely more than one
        for (Size kj = 0; kj < kernel; ++kj) {
            const Size above = y - origin - kj * dilation;
            if (above < 0 || above % stride != 0 || above / stride >= height) continue;
#pragma unroll 1
            for (Size ki = 0; ki < kernel; ++ki) {
                const Size left = x - origin - ki * dilation;
                if (left < 0 || left % stride != 0 || left / stride >= width) continue;
                sum += static_cast<compute_t<T>>(
                    plane[pj * strides.pj + pi * strides.pi + above / stride * strides.row +
                          left / stride * strides.column]);
            }
        }
        return sum;
    }
};

// grad[y, x] = scale * sum over displacements of G(y, x) * other[y + dy, x + dx]. For the gradient of f2 the
// partner is at -dy, -dx and G is read there. `first` is the first displacement from this image.
template <class T>
__global__ void backward_any(const __grid_constant__ CostVolume v, int64_t first, bool second,
                             const __grid_constant__ Gradients<T, int64_t> gradients, const T* other,
                             ImageStrides s, Divider width, Divider height, Divider channels, T* out,
                             int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient column = width.divide(i);
        const Quotient row = height.divide(column.quotient);
        const Quotient plane = channels.divide(row.quotient);
        const int64_t x = column.remainder, y = row.remainder, c = plane.remainder, b = plane.quotient;
        const T* grad = gradients.data + b * gradients.strides.batch;
        A sum = 0;
        for (int64_t q = 0; q < v.patch; ++q) {
            const int64_t py = y + first + q * v.step;
            if (py < 0 || py >= v.height) continue;
            for (int64_t p = 0; p < v.patch; ++p) {
                const int64_t px = x + first + p * v.step;
                if (px < 0 || px >= v.width) continue;
                const A g = second ? gradients.at(grad, v.patch - 1 - q, v.patch - 1 - p, py, px)
                                   : gradients.at(grad, q, p, y, x);
                sum += g * static_cast<A>(other[b * s.batch + c * s.channel + py * s.row + px * s.column]);
            }
        }
        out[i] = static_cast<T>(sum * static_cast<A>(v.scale));
    }
}

}  // namespace vidseg
