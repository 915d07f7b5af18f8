// CPU kernels of nms_1d and soft_nms_1d.
//
// Exact, but lazy: scores only fall, so a block of segments is brought up to date only when its last known
// best score is the highest of all. A segment is decayed by the sum (or product) over the chosen ones in
// their order, which does not depend on when that happens.
#include "nms.h"

#include <torch/csrc/stable/library.h>

#include <cstring>
#include <limits>
#include <memory>
#include <tuple>

#include "simd.h"

namespace vidseg {
namespace {

constexpr int kBlock = 64;  // segments that share one bound

// A block of segments with what the segments chosen so far did to them, and the number of those it has seen.
template <class A>
struct alignas(64) Block {
    A start[kBlock], end[kBlock], length[kBlock];
    A original[kBlock];  // the score, or -1 for a chosen segment and for the fill
    A state[kBlock];     // gaussian: sum of squared IoU; linear: product of (1 - IoU); hard: below 1 once
                         // dropped
    A score[kBlock];     // what is left of the score; below 0: out of the race
    int64_t row[kBlock];
    A best;  // the largest score, or an upper bound of it while choices are unseen
    int64_t seen;
};

template <class A>
struct Choice {
    A start, end, length, threshold;
};

// Brings one block up to date with choices[seen] and those after it.
template <class A>
struct Update {
    Block<A>* block;
    const Choice<A>* choices;
    int64_t count;
    A sigma;
    Decay decay;
};

// exp(x) for x <= 0, to the last few bits: 2^n times the series of the remainder, with |remainder| <= ln(2)
// / 2. Plain arithmetic, so that a loop over it becomes vectors; underflow stops at exp(-87) and exp(-708).
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
    // Several choices at a time, so that the state is read and written once for all of them.
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
        A most[kBlock];
        for (int i = 0; i < kBlock; ++i) {
            A score = block.original[i];
            if constexpr (How == Decay::gaussian) {
                score *= exponential(-block.state[i] / job.sigma);
            } else if constexpr (How == Decay::linear) {
                score *= block.state[i];
            } else {
                score = block.state[i] < A{1} ? A{-1} : score;
            }
            score = block.original[i] < A{0} ? A{-1} : score;  // chosen: -1 must not decay to 0
            block.score[i] = score;
            most[i] = score;
        }
        for (int width = kBlock / 2; width > 0; width /= 2) {
            for (int i = 0; i < width; ++i) most[i] = most[i] > most[i + width] ? most[i] : most[i + width];
        }
        block.best = most[0];
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

// The segments of one group in blocks of falling score (roughly: by steps of 1/1024 of the range), so that
// few blocks need to be up to date at any time.
template <class A>
struct Blocks {
    std::unique_ptr<Block<A>[]> data;
    int64_t count;
};

template <class A>
Blocks<A> blocks_of(const Segments<A>& s, const std::vector<int64_t>& rows, A min_score, bool sums) {
    constexpr int64_t levels = 1024;
    std::vector<int64_t> kept;
    kept.reserve(rows.size());
    A low = std::numeric_limits<A>::infinity();
    A high = -low;
    for (int64_t row : rows) {
        if (s.score[row] < min_score) continue;
        kept.push_back(row);
        low = std::min(low, s.score[row]);
        high = std::max(high, s.score[row]);
    }
    const A scale = high > low ? static_cast<A>(levels - 1) / (high - low) : A{0};
    std::vector<int64_t> place(levels + 1, 0);
    std::vector<int16_t> level;
    level.reserve(kept.size());
    for (int64_t row : kept) {
        const A depth = (high - s.score[row]) * scale;  // not a number where the range overflows
        level.push_back(
            static_cast<int16_t>(depth > A{0} ? std::min(depth, static_cast<A>(levels - 1)) : A{0}));
        ++place[level.back() + 1];
    }
    for (int64_t l = 0; l < levels; ++l) place[l + 1] += place[l];

    const auto size = static_cast<int64_t>(kept.size());
    Blocks<A> blocks{nullptr, (size + kBlock - 1) / kBlock};
    blocks.data.reset(new Block<A>[blocks.count]);
    const auto put = [&](int64_t at, A start, A end, A score, int64_t row) {
        Block<A>& block = blocks.data[at / kBlock];
        const auto i = at % kBlock;
        block.start[i] = start;
        block.end[i] = end;
        block.length[i] = std::max(end - start, A{0});
        block.original[i] = block.score[i] = score;
        block.state[i] = sums ? A{0} : A{1};
        block.row[i] = row;
    };
    for (int64_t k = 0; k < size; ++k) {
        const int64_t row = kept[k];
        put(place[level[k]]++, s.start[row], s.end[row], s.score[row], row);
    }
    for (int64_t at = size; at < blocks.count * kBlock; ++at) put(at, 0, 0, -1, -1);
    for (int64_t b = 0; b < blocks.count; ++b) {
        Block<A>& block = blocks.data[b];
        block.best = *std::max_element(block.score, block.score + kBlock);
        block.seen = 0;
    }
    return blocks;
}

// The best scores of the blocks in a tournament: a node is the larger of its two children.
template <class A>
class Tournament {
  public:
    explicit Tournament(const Blocks<A>& blocks) {
        while (leaves_ < blocks.count) leaves_ *= 2;
        nodes_.assign(2 * leaves_, A{-1});
        for (int64_t b = 0; b < blocks.count; ++b) nodes_[leaves_ + b] = blocks.data[b].best;
        for (int64_t i = leaves_ - 1; i > 0; --i) nodes_[i] = std::max(nodes_[2 * i], nodes_[2 * i + 1]);
    }

    A top() const { return nodes_[1]; }

    void set(int64_t block, A best) {
        int64_t i = leaves_ + block;
        nodes_[i] = best;
        while (i > 1) {
            i /= 2;
            nodes_[i] = std::max(nodes_[2 * i], nodes_[2 * i + 1]);
        }
    }

    // The first block from `from` on whose best score is the top, or -1.
    int64_t find_top(int64_t from) const {
        int64_t i = leaves_ + from;
        if (from >= leaves_) return -1;
        while (nodes_[i] != top()) {
            while (i % 2 == 1) {
                i /= 2;
                if (i <= 1) return -1;
            }
            ++i;
        }
        while (i < leaves_) i = nodes_[2 * i] == top() ? 2 * i : 2 * i + 1;
        return i - leaves_;
    }

  private:
    int64_t leaves_ = 1;
    std::vector<A> nodes_;
};

template <class A>
std::vector<Kept<A>> suppress(const Segments<A>& s, const std::vector<int64_t>& rows,
                              const Suppression& rule) {
    const A min_score = static_cast<A>(rule.min_score);
    const Blocks<A> blocks = blocks_of(s, rows, min_score, rule.decay == Decay::gaussian);
    Tournament<A> best(blocks);
    std::vector<Kept<A>> kept;
    std::vector<Choice<A>> choices;
    while (static_cast<int64_t>(kept.size()) < rule.most && best.top() >= min_score) {
        // Scores only fall: once every block at the top is up to date, the top is final. Equals: the lowest
        // row.
        Block<A>* block = nullptr;
        int at = 0;
        const auto seen = static_cast<int64_t>(choices.size());
        int64_t b = best.find_top(0);
        for (; b >= 0 && blocks.data[b].seen == seen; b = best.find_top(b + 1)) {
            Block<A>& candidate = blocks.data[b];
            for (int i = 0; i < kBlock; ++i) {
                if (candidate.score[i] != best.top()) continue;
                if (block != nullptr && block->row[at] < candidate.row[i]) continue;
                block = &candidate;
                at = i;
            }
        }
        if (b >= 0) {
            Update<A> job{&blocks.data[b], choices.data(), seen, static_cast<A>(rule.sigma), rule.decay};
            run_simd<UpdateKernel>(&job);
            best.set(b, blocks.data[b].best);
            continue;
        }
        kept.push_back({block->row[at], block->score[at]});
        const A length = block->length[at];
        const auto threshold = static_cast<A>(rule.threshold + rule.slope * static_cast<double>(length));
        choices.push_back({block->start[at], block->end[at], length, threshold});
        block->original[at] = -1;
    }
    return kept;
}

template <class A>
std::vector<Kept<A>> suppress_groups(const Segments<A>& s, const Suppression& rule) {
    const std::vector<std::vector<int64_t>> groups = groups_of(s);
    std::vector<std::vector<Kept<A>>> kept(groups.size());
    parallel_for(static_cast<int64_t>(groups.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g) kept[g] = suppress(s, groups[g], rule);
    });
    return join(kept, rule.most);
}

std::tuple<Tensor, Tensor> choose(const char* op, const Tensor& segments, const Tensor& scores,
                                  const std::optional<Tensor>& labels, const Suppression& rule) {
    Tensor indices, values;
    const auto run = [&](auto zero) {
        using A = decltype(zero);
        const std::vector<Kept<A>> kept =
            suppress_groups(read_segments<A>(op, segments, scores, labels), rule);
        const auto count = static_cast<int64_t>(kept.size());
        indices = new_empty(segments, {count}, ScalarType::Long);
        values = new_empty(segments, {count}, scores.scalar_type());
        auto* index = static_cast<int64_t*>(indices.mutable_data_ptr());
        for (int64_t i = 0; i < count; ++i) index[i] = kept[i].index;
        with_float_type(scores.scalar_type(), [&](auto type) {
            using T = decltype(type);
            T* value = static_cast<T*>(values.mutable_data_ptr());
            for (int64_t i = 0; i < count; ++i) value[i] = static_cast<T>(kept[i].score);
        });
    };
    const bool wide =
        segments.scalar_type() == ScalarType::Double || scores.scalar_type() == ScalarType::Double;
    wide ? run(double{}) : run(float{});
    return {indices, values};
}

Tensor nms_1d(const Tensor& segments, const Tensor& scores, std::optional<Tensor> labels,
              double iou_threshold, double min_score, std::optional<int64_t> max_segments) {
    check_segments("nms_1d", segments, scores, labels);
    const Suppression rule = check_suppression("nms_1d", static_cast<int64_t>(Decay::hard), 1.0,
                                               iou_threshold, 0.0, min_score, max_segments);
    return std::get<0>(choose("nms_1d", segments, scores, labels, rule));
}

std::tuple<Tensor, Tensor> soft_nms_1d(const Tensor& segments, const Tensor& scores,
                                       std::optional<Tensor> labels, int64_t method, double sigma,
                                       double iou_threshold, double threshold_slope, double min_score,
                                       std::optional<int64_t> max_segments) {
    check_segments("soft_nms_1d", segments, scores, labels);
    const Suppression rule = check_suppression("soft_nms_1d", method, sigma, iou_threshold, threshold_slope,
                                               min_score, max_segments);
    return choose("soft_nms_1d", segments, scores, labels, rule);
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CPU, m) {
    m.impl("nms_1d", TORCH_BOX(&vidseg::nms_1d));
    m.impl("soft_nms_1d", TORCH_BOX(&vidseg::soft_nms_1d));
}
