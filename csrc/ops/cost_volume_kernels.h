// Inner loops of the cost volumes, on packed rows. Rows are read unaligned, shifted by the displacement. Sums
// stay in registers, and two rows are processed together because they share most of their reads.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace vidseg {

// Sums of products of one packed row of f2 with one or two packed rows of f1, for `patch` displacements along
// x: sums[r][p * ld_sums + x] += sum over c, k of a[r][c * ld_a + k * step_a + x] * b[c * ld_b + k * step_b +
// p * step + x]
template <class A>
struct Products {
    const A* a[2];
    A* sums[2];
    const A* b;
    int64_t ld_a, step_a, ld_b, step_b, step, ld_sums;
    int64_t channels, kernel, patch, count;
};

struct ForwardKernel {
    template <int Bytes, int Rows, int Group, bool Dense, class A>
    static VIDSEG_INLINE void block(const Products<A>& job, int64_t p, int64_t x) {
        using V = typename VectorOf<A, Bytes>::type;
        using U = typename VectorOf<A, Bytes>::unaligned;
        const int64_t step = Dense ? 1 : job.step;
        V sums[Rows][Group] = {};
        for (int64_t k = 0; k < job.kernel; ++k) {
            const A* a0 = job.a[0] + k * job.step_a + x;
            const A* a1 = job.a[Rows - 1] + k * job.step_a + x;
            const A* b = job.b + k * job.step_b + p * step + x;
            for (int64_t c = 0; c < job.channels; ++c) {
                const V row0 = *reinterpret_cast<const U*>(a0);
                const V row1 = *reinterpret_cast<const U*>(a1);
#pragma GCC unroll 16
                for (int g = 0; g < Group; ++g) {
                    const V other = *reinterpret_cast<const U*>(b + g * step);
                    sums[0][g] += row0 * other;
                    if constexpr (Rows == 2) sums[1][g] += row1 * other;
                }
                a0 += job.ld_a;
                a1 += job.ld_a;
                b += job.ld_b;
            }
        }
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 16
            for (int g = 0; g < Group; ++g) {
                *reinterpret_cast<U*>(job.sums[r] + (p + g) * job.ld_sums + x) += sums[r][g];
            }
        }
    }

    template <int Bytes, int Rows, bool Dense, class A>
    static VIDSEG_INLINE void rows(const Products<A>& job) {
        // The number of displacements whose sums fit into registers: 32 with AVX-512, 16 otherwise.
        constexpr int wide = Bytes == 64 ? 9 : Rows == 2 ? 5 : 9;
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        int64_t p = 0;
        for (; p + wide <= job.patch; p += wide) {
            for (int64_t x = 0; x < job.count; x += lanes) block<Bytes, Rows, wide, Dense>(job, p, x);
        }
        for (; p + 4 <= job.patch; p += 4) {
            for (int64_t x = 0; x < job.count; x += lanes) block<Bytes, Rows, 4, Dense>(job, p, x);
        }
        for (; p < job.patch; ++p) {
            for (int64_t x = 0; x < job.count; x += lanes) block<Bytes, Rows, 1, Dense>(job, p, x);
        }
    }

    template <int Bytes, class A>
    static VIDSEG_INLINE void run(Products<A>* job, int count_rows) {
        if (count_rows == 2) {
            job->step == 1 ? rows<Bytes, 2, true>(*job) : rows<Bytes, 2, false>(*job);
        } else {
            job->step == 1 ? rows<Bytes, 1, true>(*job) : rows<Bytes, 1, false>(*job);
        }
    }
};

// Sums of products for one or two rows of the gradient of one image, of `channels` (at most kChannels)
// channels: sums[r][c * ld_sums + x] = sum over q, p of g[r][(q * patch + p) * ld_g + x] * f[r][(q *
// kChannels + c) * ld_f + p * step + x] With two rows, f[1] is one packed row below f[0], so that both read
// most rows of f together.
template <class A>
struct Gradients {
    const A* g[2];
    A* sums[2];
    const A* f;
    int64_t ld_g, ld_f, step, ld_sums, patch_y, patch_x, g_row, count;
};

constexpr int64_t kChannels = 8;

struct BackwardKernel {
    // First and Second: whether this row of f meets the first and the second row of g.
    template <int Bytes, int Group, bool First, bool Second, bool Dense, class A, class V>
    static VIDSEG_INLINE void row(const Gradients<A>& job, int64_t q, int64_t c, int64_t x,
                                  V (&sums)[2][Group]) {
        using U = typename VectorOf<A, Bytes>::unaligned;
        const int64_t step = Dense ? 1 : job.step;
        const A* g0 = job.g[0] + q * job.g_row + x;
        const A* g1 = job.g[1] + (q - 1) * job.g_row + x;
        const A* f = job.f + (q * kChannels + c) * job.ld_f + x;
        for (int64_t p = 0; p < job.patch_x; ++p) {
            V first, second;
            if constexpr (First) first = *reinterpret_cast<const U*>(g0 + p * job.ld_g);
            if constexpr (Second) second = *reinterpret_cast<const U*>(g1 + p * job.ld_g);
#pragma GCC unroll 16
            for (int i = 0; i < Group; ++i) {
                const V value = *reinterpret_cast<const U*>(f + i * job.ld_f);
                if constexpr (First) sums[0][i] += first * value;
                if constexpr (Second) sums[1][i] += second * value;
            }
            f += step;
        }
    }

    template <int Bytes, int Group, bool Dense, class A>
    static VIDSEG_INLINE void block(const Gradients<A>& job, bool two, int64_t c, int64_t x) {
        using V = typename VectorOf<A, Bytes>::type;
        using U = typename VectorOf<A, Bytes>::unaligned;
        V sums[2][Group] = {};
        if (!two) {
            for (int64_t q = 0; q < job.patch_y; ++q)
                row<Bytes, Group, true, false, Dense>(job, q, c, x, sums);
        } else {
            row<Bytes, Group, true, false, Dense>(job, 0, c, x, sums);
            for (int64_t q = 1; q < job.patch_y; ++q)
                row<Bytes, Group, true, true, Dense>(job, q, c, x, sums);
            row<Bytes, Group, false, true, Dense>(job, job.patch_y, c, x, sums);
        }
        for (int r = 0; r <= static_cast<int>(two); ++r) {
#pragma GCC unroll 16
            for (int i = 0; i < Group; ++i) {
                *reinterpret_cast<U*>(job.sums[r] + (c + i) * job.ld_sums + x) = sums[r][i];
            }
        }
    }

    template <int Bytes, class A>
    static VIDSEG_INLINE void run(Gradients<A>* job, bool two) {
        constexpr int group = Bytes == 64 ? 8 : 4;
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        for (int64_t c = 0; c < kChannels; c += group) {
            for (int64_t x = 0; x < job->count; x += lanes) {
                if (job->step == 1) {
                    block<Bytes, group, true>(*job, two, c, x);
                } else {
                    block<Bytes, group, false>(*job, two, c, x);
                }
            }
        }
    }
};

}  // namespace vidseg
