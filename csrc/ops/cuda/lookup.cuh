// Device code of correlation_lookup. Every value is summed in a fixed order: the gradient of f2 is gathered
// from the queries, not scattered to the pixels.
#pragma once

#include "../lookup.h"
#include "launch.cuh"
#include "ops/cuda/device.cuh"

namespace vidseg {

constexpr int kWarp = 32;

struct PixelStrides {
    int64_t batch, channel, row, column;
};

// The queries of the whole batch in one row: query i is pixel (y, x) of image b.
struct Queries {
    Divider width, height;
    int64_t count;

    struct Place {
        int64_t b, y, x;
    };
    __device__ Place at(int64_t i) const {
        const Quotient row = width.divide(i);
        const Quotient image = height.divide(row.quotient);
        return {image.quotient, image.remainder, row.remainder};
    }
};

// A block computes `kQueries` adjacent queries, a warp each. `Positions`: most pixels in a window.
template <class A, int Positions>
struct LookupBlock {
    static constexpr int kQueries = Positions > 128 ? 4 : 8;
    static constexpr int kThreads = kWarp * kQueries;

    struct Memory {
        A products[kQueries][Positions];
        Window windows[kQueries];
    };
};

// A warp computes the products of its query with the pixels of its window: the threads share the channels.
template <class T, int Positions>
__global__ void lookup_forward(const __grid_constant__ Lookup l, const __grid_constant__ Queries queries,
                               const __grid_constant__ Coordinates coordinates, const T* f1,
                               const __grid_constant__ PixelStrides s1, const T* f2,
                               const __grid_constant__ PixelStrides s2, T* out) {
    using A = compute_t<T>;
    using Block = LookupBlock<A, Positions>;
    auto& memory = block_memory<typename Block::Memory>();
    const int lane = static_cast<int>(threadIdx.x) % kWarp, own = static_cast<int>(threadIdx.x) / kWarp;
    const int64_t first = int64_t{blockIdx.x} * Block::kQueries;
    const int side = static_cast<int>(l.side), positions = (side + 1) * (side + 1);

    if (first + own < queries.count) {
        const auto place = queries.at(first + own);
        const Window w = coordinates.window(place.b, place.y, place.x, l.radius);
        if (lane == 0) memory.windows[own] = w;
        const T* mine = f1 + place.b * s1.batch + place.y * s1.row + place.x * s1.column;
        for (int p = 0; p < positions; ++p) {
            const int64_t y = w.y + p / (side + 1), x = w.x + p % (side + 1);
            A sum = 0;
            if (w.finite && y >= 0 && y < l.rows && x >= 0 && x < l.columns) {  // the same for the whole warp
                const T* other = f2 + place.b * s2.batch + y * s2.row + x * s2.column;
                for (int64_t c = lane; c < l.channels; c += kWarp) {
                    sum += static_cast<A>(mine[c * s1.channel]) * static_cast<A>(other[c * s2.channel]);
                }
                sum = sum_of_warp(sum);
            }
            if (lane == 0) memory.products[own][p] = sum;
        }
    }
    __syncthreads();

    const A scale = static_cast<A>(l.scale);
    for (int k = static_cast<int>(threadIdx.x); k < Block::kQueries * side * side; k += Block::kThreads) {
        const int q = k % Block::kQueries, sample = k / Block::kQueries;
        if (first + q >= queries.count) continue;
        const auto place = queries.at(first + q);
        const Window& w = memory.windows[q];
        const A* from = memory.products[q] + sample % side * (side + 1) + sample / side;
        const A right = static_cast<A>(w.right), below = static_cast<A>(w.below);
        const A upper = from[0] + right * (from[1] - from[0]);
        const A lower = from[side + 1] + right * (from[side + 2] - from[side + 1]);
        const A value = w.finite ? scale * (upper + below * (lower - upper)) : static_cast<A>(NAN);
        out[((place.b * side * side + sample) * l.height + place.y) * l.width + place.x] =
            static_cast<T>(value);
    }
}

// The gradient of the product with pixel (j, i) of a window, times the scale. `query` is the gradient of the
// query's first sample.
template <class T>
__device__ compute_t<T> product_gradient(const Lookup& l, const T* query, int64_t stride, const Window& w,
                                         int64_t j, int64_t i) {
    using A = compute_t<T>;
    const auto sample = [&](int64_t column, int64_t row) {
        const bool inside = column >= 0 && column < l.side && row >= 0 && row < l.side;
        return inside ? static_cast<A>(query[(column * l.side + row) * stride]) : A(0);
    };
    const A right = static_cast<A>(w.right), below = static_cast<A>(w.below);
    const A own = sample(i, j), left = sample(i - 1, j), above = sample(i, j - 1);
    const A lower = own + right * (left - own);
    const A upper = above + right * (sample(i - 1, j - 1) - above);
    return static_cast<A>(l.scale) * (lower + below * (upper - lower));
}

// A warp computes the gradient of f1 at one query, from the gradients of its products.
template <class T, int Positions>
__global__ void lookup_backward_f1(const __grid_constant__ Lookup l, const __grid_constant__ Queries queries,
                                   const __grid_constant__ Coordinates coordinates, const T* grad,
                                   const __grid_constant__ PixelStrides sg, const T* f2,
                                   const __grid_constant__ PixelStrides s2, T* out) {
    using A = compute_t<T>;
    using Block = LookupBlock<A, Positions>;
    auto& memory = block_memory<typename Block::Memory>();
    const int lane = static_cast<int>(threadIdx.x) % kWarp, own = static_cast<int>(threadIdx.x) / kWarp;
    const int64_t number = int64_t{blockIdx.x} * Block::kQueries + own;
    if (number >= queries.count) return;  // the same for the whole warp
    const int columns = static_cast<int>(l.side) + 1, positions = columns * columns;
    const auto place = queries.at(number);
    const Window w = coordinates.window(place.b, place.y, place.x, l.radius);
    const T* query = grad + place.b * sg.batch + place.y * sg.row + place.x * sg.column;
    for (int p = lane; p < positions; p += kWarp) {
        const int64_t y = w.y + p / columns, x = w.x + p % columns;
        const bool inside = w.finite && y >= 0 && y < l.rows && x >= 0 && x < l.columns;
        memory.products[own][p] =
            inside ? product_gradient(l, query, sg.channel, w, p / columns, p % columns) : A(0);
    }
    sync_warp();
    for (int64_t c = lane; c < l.channels; c += kWarp) {
        A sum = 0;
        for (int p = 0; w.finite && p < positions; ++p) {
            const int64_t y = w.y + p / columns, x = w.x + p % columns;
            if (y < 0 || y >= l.rows || x < 0 || x >= l.columns) continue;
            const T* other = f2 + place.b * s2.batch + y * s2.row + x * s2.column;
            sum += memory.products[own][p] * static_cast<A>(other[c * s2.channel]);
        }
        out[((place.b * l.channels + c) * l.height + place.y) * l.width + place.x] = static_cast<T>(sum);
    }
}

// A block computes the gradient of f2 at one pixel, kGatherThreads channels at a time. It reads the queries
// of the image in chunks: each thread weighs one query, then all add the queries whose windows have the
// pixel.
constexpr int kGatherThreads = 128;

template <class A>
struct GatherMemory {
    A weights[kGatherThreads];
};

template <class T>
__global__ void lookup_backward_f2(const __grid_constant__ Lookup l, const __grid_constant__ Queries queries,
                                   const __grid_constant__ Queries pixels,
                                   const __grid_constant__ Coordinates coordinates, const T* grad,
                                   const __grid_constant__ PixelStrides sg, const T* f1,
                                   const __grid_constant__ PixelStrides s1, T* out) {
    using A = compute_t<T>;
    auto& memory = block_memory<GatherMemory<A>>();
    const int me = static_cast<int>(threadIdx.x);
    const int64_t image = l.height * l.width;
    for (int64_t number = blockIdx.x; number < pixels.count; number += gridDim.x) {
        const auto pixel = pixels.at(number);
        for (int64_t c0 = 0; c0 < l.channels; c0 += kGatherThreads) {
            const int64_t c = c0 + me;
            A sum = 0;
            for (int64_t start = 0; start < image; start += kGatherThreads) {
                A weight = 0;
                if (start + me < image) {
                    const auto place = queries.at(pixel.b * image + start + me);
                    const Window w = coordinates.window(place.b, place.y, place.x, l.radius);
                    const int64_t j = pixel.y - w.y, i = pixel.x - w.x;
                    if (w.finite && j >= 0 && j <= l.side && i >= 0 && i <= l.side) {
                        const T* query = grad + place.b * sg.batch + place.y * sg.row + place.x * sg.column;
                        weight = product_gradient(l, query, sg.channel, w, j, i);
                    }
                }
                memory.weights[me] = weight;
                __syncthreads();
                for (int k = 0; c < l.channels && k < kGatherThreads; ++k) {
                    if (memory.weights[k] == A(0)) continue;
                    const auto place = queries.at(pixel.b * image + start + k);
                    sum +=
                        memory.weights[k] *
                        static_cast<A>(
                            f1[place.b * s1.batch + c * s1.channel + place.y * s1.row + place.x * s1.column]);
                }
                __syncthreads();  // all have read the weights
            }
            if (c < l.channels) {
                out[((pixel.b * l.channels + c) * l.rows + pixel.y) * l.columns + pixel.x] =
                    static_cast<T>(sum);
            }
        }
    }
}

}  // namespace vidseg
