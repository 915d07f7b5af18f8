// Inner loops of suppression on blocks of segments, written as plain loops that the compiler vectorizes for
// each instruction set (this requires -fno-trapping-math, see setup.py).
#pragma once

#include <cstring>
#include <limits>

#include "nms.h"
#include "common/simd.h"

namespace vidseg {

constexpr int kBlock = 64;  // segments per block

// A block of segments, the effect of the selected segments on them, and the number of selected segments that
// are already applied.
template <class A>
struct alignas(64) Block {
    A start[kBlock], end[kBlock], length[kBlock];
    A original[kBlock];   // score, or -1 for selected segments and padding
    A state[kBlock];      // gaussian: sum of squared IoU; linear: product of (1 - IoU); hard: below 1 once
                          // dropped
    A score[kBlock];      // current score; below 0: removed
    int64_t row[kBlock];  // -1 for padding
    A best;               // largest score
    int64_t seen;
};

template <class A>
struct Choice {
    A start, end, length, threshold;
};

// Applies choices[seen] and later ones to a block.
template <class A>
struct Update {
    Block<A>* block;
    const Choice<A>* choices;
    int64_t count;
    A sharpness;
    Decay decay;
};

// exp(x) for x <= 0, exact to the last few bits: 2^n times a series of the remainder, |remainder| <= ln(2) /
// 2. Plain arithmetic, so that loops over it are vectorized. Underflow stops at exp(-87) and exp(-708).
VIDSEG_INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits are now round(x / ln 2)
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float series = r * (1.0f / 5040) + (1.0f / 720);
    series = series * r + (1.0f / 120);
    series = series * r + (1.0f / 24);
    series = series * r + (1.0f / 6);
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

VIDSEG_INLINE double exponential(double x) {
    x = x < -708.0 ? -708.0 : x;
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
    const double n = shifted - 6755399441055744.0;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double series = r * (1.0 / 6227020800) + (1.0 / 479001600);
    series = series * r + (1.0 / 39916800);
    series = series * r + (1.0 / 3628800);
    series = series * r + (1.0 / 362880);
    series = series * r + (1.0 / 40320);
    series = series * r + (1.0 / 5040);
    series = series * r + (1.0 / 720);
    series = series * r + (1.0 / 120);
    series = series * r + (1.0 / 24);
    series = series * r + (1.0 / 6);
    series = series * r + 0.5;
    series = series * r + 1.0;
    series = series * r + 1.0;
    uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4338000000000000u + 1023u) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

struct UpdateKernel {
    // Several selected segments at a time, so that the state is read and written once.
    template <Decay How, int Several, class A>
    static VIDSEG_INLINE void see(Block<A>& block, const Choice<A>* choices) {
        constexpr A tiny = std::numeric_limits<A>::min();
        for (int i = 0; i < kBlock; ++i) {
            A state = block.state[i];
#pragma GCC unroll 4
            for (int k = 0; k < Several; ++k) {
                const A left = block.start[i] > choices[k].start ? block.start[i] : choices[k].start;
                const A right = block.end[i] < choices[k].end ? block.end[i] : choices[k].end;
                const A gap = right - left;
                const A overlap = gap > A{0} ? gap : A{0};
                const A joint = block.length[i] + choices[k].length - overlap;
                const A iou = overlap / (joint > tiny ? joint : tiny);
                const A counted = iou >= choices[k].threshold ? iou : A{0};
                if constexpr (How == Decay::gaussian) {
                    state += counted * counted;
                } else if constexpr (How == Decay::linear) {
                    state *= A{1} - counted;
                } else {
                    state -= counted;
                }
            }
            block.state[i] = state;
        }
    }

    template <class A>
    static VIDSEG_INLINE void find_best(Block<A>& block) {
        A most[16];
        for (int i = 0; i < 16; ++i) most[i] = block.score[i];
        for (int part = 16; part < kBlock; part += 16) {
            for (int i = 0; i < 16; ++i) {
                most[i] = most[i] > block.score[part + i] ? most[i] : block.score[part + i];
            }
        }
        const auto higher = [](A a, A b) { return a > b ? a : b; };
        A four[4];
        for (int i = 0; i < 4; ++i) {
            four[i] = higher(higher(most[i], most[i + 4]), higher(most[i + 8], most[i + 12]));
        }
        const A best = higher(higher(four[0], four[1]), higher(four[2], four[3]));
        block.best = best;
    }

    template <Decay How, class A>
    static VIDSEG_INLINE void update(const Update<A>& job) {
        Block<A>& block = *job.block;
        int64_t k = block.seen;
        for (; k + 4 <= job.count; k += 4) {
            const Choice<A> four[4] = {job.choices[k], job.choices[k + 1], job.choices[k + 2],
                                       job.choices[k + 3]};
            see<How, 4>(block, four);
        }
        for (; k < job.count; ++k) {
            const Choice<A> one[1] = {job.choices[k]};
            see<How, 1>(block, one);
        }
        for (int i = 0; i < kBlock; ++i) {
            A score = block.original[i];
            if constexpr (How == Decay::gaussian) {
                score *= exponential(block.state[i] * job.sharpness);
            } else if constexpr (How == Decay::linear) {
                score *= block.state[i];
            } else {
                score = block.state[i] < A{1} ? A{-1} : score;
            }
            block.score[i] = block.original[i] < A{0} ? A{-1} : score;  // selected: -1 must not decay to 0
        }
        find_best(block);
        block.seen = job.count;
    }

    template <int Bytes, class A>
    static VIDSEG_INLINE void run(Update<A>* job) {
        switch (job->decay) {
            case Decay::gaussian:
                return update<Decay::gaussian>(*job);
            case Decay::linear:
                return update<Decay::linear>(*job);
            default:
                return update<Decay::hard>(*job);
        }
    }
};

}  // namespace vidseg
