// Inner loops of suppression on blocks of segments, written as plain loops that the compiler vectorizes for
// each instruction set (this requires -fno-trapping-math, see setup.py).
#pragma once

#include <cstdint>
#include <limits>

#include "decay.h"
#include "common/functions.h"

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
