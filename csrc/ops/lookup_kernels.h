// Inner loops of the correlation look-up, on pixels whose channels are adjacent in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/simd.h"

namespace vidseg {

// Queries that are computed together. Their products lie side by side, so that they are combined by whole
// vectors.
constexpr int64_t kQueries = 16;

// The pixels of a window that are inside f2, and one value for each: pixel (j, i) of `rows` x `columns` is at
// other + j * row_stride + i * column_stride, its value at values + j * values_row + i * kQueries.
template <class A>
struct Inside {
    const A* other;
    int64_t row_stride, column_stride, rows, columns;
    A* values;
    int64_t values_row;
};

template <class A, int Bytes>
VIDSEG_INLINE A sum_of_lanes(const typename VectorOf<A, Bytes>::type& vector) {
    if constexpr (Bytes > 16) {
        using Half = typename VectorOf<A, Bytes / 2>::type;
        Half halves[2];
        __builtin_memcpy(halves, &vector, Bytes);
        return sum_of_lanes<A, Bytes / 2>(halves[0] + halves[1]);
    } else {
        A sum = vector[0] + vector[1];
        if constexpr (VectorOf<A, Bytes>::lanes == 4) sum += vector[2] + vector[3];
        return sum;
    }
}

// values = products of `mine` and the pixels inside
struct DotKernel {
    template <int Bytes, int Group, class A>
    static VIDSEG_INLINE void group(const A* mine, const A* other, int64_t stride, int64_t channels, A* out) {
        using V = typename VectorOf<A, Bytes>::type;
        using U = typename VectorOf<A, Bytes>::unaligned;
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        V sums[Group] = {};
        int64_t c = 0;
        for (; c + lanes <= channels; c += lanes) {
            const V own = *reinterpret_cast<const U*>(mine + c);
#pragma GCC unroll 16
            for (int g = 0; g < Group; ++g) {
                sums[g] += own * *reinterpret_cast<const U*>(other + g * stride + c);
            }
        }
#pragma GCC unroll 16
        for (int g = 0; g < Group; ++g) {
            A sum = sum_of_lanes<A, Bytes>(sums[g]);
            for (int64_t k = c; k < channels; ++k) sum += mine[k] * other[g * stride + k];
            out[g * kQueries] = sum;
        }
    }

    template <int Bytes, class A>
    static VIDSEG_INLINE void run(const Inside<A>* job, const A* mine, int64_t channels) {
        const int64_t stride = job->column_stride;
        for (int64_t j = 0; j < job->rows; ++j) {
            const A* row = job->other + j * job->row_stride;
            A* out = job->values + j * job->values_row;
            int64_t i = 0;
            for (; i + 10 <= job->columns; i += 10) {  // a row of RAFT's windows; the small one has rows of 8
                group<Bytes, 10>(mine, row + i * stride, stride, channels, out + i * kQueries);
            }
            for (; i + 8 <= job->columns; i += 8) {
                group<Bytes, 8>(mine, row + i * stride, stride, channels, out + i * kQueries);
            }
            for (; i + 4 <= job->columns; i += 4) {
                group<Bytes, 4>(mine, row + i * stride, stride, channels, out + i * kQueries);
            }
            for (; i < job->columns; ++i) {
                group<Bytes, 1>(mine, row + i * stride, stride, channels, out + i * kQueries);
            }
        }
    }
};

// sums[c] = sum over the pixels inside of value * pixel[c]
struct WeightedSumKernel {
    template <int Bytes, int Vectors, class A>
    static VIDSEG_INLINE void block(const Inside<A>& job, int64_t c, A* sums) {
        using V = typename VectorOf<A, Bytes>::type;
        using U = typename VectorOf<A, Bytes>::unaligned;
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        V totals[Vectors] = {};
        for (int64_t j = 0; j < job.rows; ++j) {
            const A* pixel = job.other + j * job.row_stride + c;
            const A* value = job.values + j * job.values_row;
            for (int64_t i = 0; i < job.columns; ++i) {
                const A weight = value[i * kQueries];
#pragma GCC unroll 16
                for (int v = 0; v < Vectors; ++v) {
                    totals[v] += weight * *reinterpret_cast<const U*>(pixel + v * lanes);
                }
                pixel += job.column_stride;
            }
        }
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) *reinterpret_cast<U*>(sums + c + v * lanes) = totals[v];
    }

    template <int Bytes, class A>
    static VIDSEG_INLINE void run(const Inside<A>* job, A* sums, int64_t channels) {
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        int64_t c = 0;
        for (; c + 8 * lanes <= channels; c += 8 * lanes) block<Bytes, 8>(*job, c, sums);
        for (; c + lanes <= channels; c += lanes) block<Bytes, 1>(*job, c, sums);
        for (; c < channels; ++c) {
            A total = 0;
            for (int64_t j = 0; j < job->rows; ++j) {
                for (int64_t i = 0; i < job->columns; ++i) {
                    total += job->values[j * job->values_row + i * kQueries] *
                             job->other[j * job->row_stride + i * job->column_stride + c];
                }
            }
            sums[c] = total;
        }
    }
};

// pixel[c] += values[i] * mine[c] for the pixels of one row, whose channels are `channels` apart
struct AddScaledKernel {
    template <int Bytes, class A>
    static VIDSEG_INLINE void run(const A* mine, const A* values, int64_t columns, int64_t channels,
                                  A* pixel) {
        for (int64_t i = 0; i < columns; ++i) {
            for (int64_t c = 0; c < channels; ++c) pixel[c] += values[i] * mine[c];
            pixel += channels;
        }
    }
};

// The queries of a tile: weights of the right and lower pixels, and products of windows or samples.
template <class A>
struct Blend {
    A right[kQueries], below[kQueries];
    int64_t side;
    A scale;
};

// samples[(i * side + j) * kQueries + q] = scale * bilinear combination of products[(j * (side + 1) + i) *
// kQueries + q]
struct SampleKernel {
    template <int Bytes, class A>
    static VIDSEG_INLINE void run(const Blend<A>* blend, const A* products, A* samples) {
        const int64_t side = blend->side;
        const int64_t row = (side + 1) * kQueries;
        for (int64_t i = 0; i < side; ++i) {
            for (int64_t j = 0; j < side; ++j) {
                const A* from = products + j * row + i * kQueries;
                A* to = samples + (i * side + j) * kQueries;
                for (int64_t q = 0; q < kQueries; ++q) {
                    const A upper = from[q] + blend->right[q] * (from[kQueries + q] - from[q]);
                    const A lower =
                        from[row + q] + blend->right[q] * (from[row + kQueries + q] - from[row + q]);
                    to[q] = blend->scale * (upper + blend->below[q] * (lower - upper));
                }
            }
        }
    }
};

// The transpose of SampleKernel: gradients of products from gradients of samples. `samples` has a border of
// zeros: sample (i, j) is at ((i + 1) * (side + 2) + j + 1) * kQueries.
struct SampleGradientKernel {
    template <int Bytes, class A>
    static VIDSEG_INLINE void run(const Blend<A>* blend, const A* samples, A* products) {
        const int64_t side = blend->side;
        const int64_t column = (side + 2) * kQueries;
        for (int64_t j = 0; j <= side; ++j) {
            for (int64_t i = 0; i <= side; ++i) {
                const A* from = samples + (i + 1) * column + (j + 1) * kQueries;
                A* to = products + (j * (side + 1) + i) * kQueries;
                for (int64_t q = 0; q < kQueries; ++q) {
                    const A own = from[q] + blend->right[q] * (from[q - column] - from[q]);
                    const A above = from[q - kQueries] +
                                    blend->right[q] * (from[q - column - kQueries] - from[q - kQueries]);
                    to[q] = blend->scale * (own + blend->below[q] * (above - own));
                }
            }
        }
    }
};

}  // namespace vidseg
