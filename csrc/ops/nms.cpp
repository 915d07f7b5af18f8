// CPU kernels of nms_1d and soft_nms_1d.
//
// Lazy evaluation with exact results: scores only fall, so a block of segments is updated only when its last
// known best score is the highest of all. A score is decayed by the sum (or product) over the selected
// segments in their order, which does not depend on the time of the update.
#include "nms.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <memory>
#include <tuple>

#include "nms_kernels.h"
#include "parallel.h"

namespace vidseg {
namespace {

// The segments of one group in blocks of falling score (approximately: by steps of 1/1024 of the range), so
// that few blocks are up to date at any time. A block is filled at its first use.
template <class A>
class Candidates {
  public:
    Candidates(const Segments<A>& segments, const std::vector<int64_t>& rows, A min_score, Decay decay);

    int64_t count() const { return static_cast<int64_t>(bound_.size()); }

    // Upper bound of the scores in the block.
    A bound(int64_t block) const { return bound_[block]; }

    bool is_current(int64_t block, int64_t choices) const {
        return filled_[block] && blocks_[block].seen == choices;
    }

    Block<A>& at(int64_t block) {
        if (!filled_[block]) fill(block);
        return blocks_[block];
    }

  private:
    void fill(int64_t b) {
        Block<A>& block = blocks_[b];
        for (int i = 0; i < kBlock; ++i) {
            const int64_t place = b * kBlock + i;
            const int64_t row = place < static_cast<int64_t>(order_.size()) ? order_[place] : -1;
            block.row[i] = row;
            block.start[i] = row < 0 ? A{0} : segments_.start[row];
            block.end[i] = row < 0 ? A{0} : segments_.end[row];
            block.length[i] = std::max(block.end[i] - block.start[i], A{0});
            block.original[i] = row < 0 ? A{-1} : segments_.score[row];
            block.state[i] = decay_ == Decay::gaussian ? A{0} : A{1};
        }
        block.seen = 0;
        filled_[b] = true;
    }

    const Segments<A>& segments_;
    Decay decay_;
    std::vector<int64_t> order_;
    std::vector<A> bound_;
    std::vector<bool> filled_;
    std::unique_ptr<Block<A>[]> blocks_;
};

template <class A>
Candidates<A>::Candidates(const Segments<A>& segments, const std::vector<int64_t>& rows, A min_score,
                          Decay decay)
    : segments_(segments), decay_(decay) {
    constexpr int32_t levels = 1024;
    std::vector<int64_t> kept;
    std::vector<A> scores;
    kept.reserve(rows.size());
    scores.reserve(rows.size());
    for (int64_t row : rows) {
        if (segments.score[row] < min_score) continue;
        kept.push_back(row);
        scores.push_back(segments.score[row]);
    }
    // Eight independent comparisons at a time, to hide their latency.
    constexpr size_t lanes = 8;
    A lows[lanes], highs[lanes];
    std::fill(lows, lows + lanes, std::numeric_limits<A>::infinity());
    std::fill(highs, highs + lanes, -std::numeric_limits<A>::infinity());
    for (size_t k = 0; k < scores.size(); k += lanes) {
        const size_t some = std::min(lanes, scores.size() - k);
        for (size_t i = 0; i < some; ++i) {
            lows[i] = std::min(lows[i], scores[k + i]);
            highs[i] = std::max(highs[i], scores[k + i]);
        }
    }
    const A low = *std::min_element(lows, lows + lanes);
    const A high = *std::max_element(highs, highs + lanes);
    const A last = static_cast<A>(levels - 1);
    const A scale = high > low ? last / (high - low) : A{0};
    std::vector<int32_t> level(scores.size());
    for (size_t k = 0; k < scores.size(); ++k) {
        const A depth = (high - scores[k]) * scale;  // NaN if the range overflows: level 0
        level[k] = static_cast<int32_t>(depth > A{0} ? (depth < last ? depth : last) : A{0});
    }

    std::vector<int64_t> place(levels + 1, 0);
    std::vector<A> best(levels, A{-1});
    for (size_t k = 0; k < scores.size(); ++k) {
        ++place[level[k] + 1];
        best[level[k]] = std::max(best[level[k]], scores[k]);
    }
    for (int32_t l = 0; l < levels; ++l) {
        // Blocks that begin in this level are bounded by its best score.
        place[l + 1] += place[l];
        while (static_cast<int64_t>(bound_.size()) * kBlock < place[l + 1]) bound_.push_back(best[l]);
    }
    order_.resize(kept.size());
    for (size_t k = 0; k < kept.size(); ++k) order_[place[level[k]]++] = kept[k];
    filled_.assign(bound_.size(), false);
    blocks_.reset(new Block<A>[bound_.size()]);
}

// Tournament tree of the best scores of the blocks: a node is the larger of its two children.
template <class A>
class Tournament {
  public:
    explicit Tournament(const Candidates<A>& candidates) {
        while (leaves_ < candidates.count()) leaves_ *= 2;
        nodes_.assign(2 * leaves_, A{-1});
        for (int64_t b = 0; b < candidates.count(); ++b) nodes_[leaves_ + b] = candidates.bound(b);
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

    // Returns the first block from `from` on whose best score is the top, or -1.
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

// Returns the position of the lowest row among those with the block's best score.
template <class A>
int first_row(const Block<A>& block) {
    int at = -1;
    for (int i = 0; i < kBlock; ++i) {
        if (block.score[i] != block.best) continue;
        if (at < 0 || block.row[i] < block.row[at]) at = i;
    }
    return at;
}

template <class A>
std::vector<Kept<A>> suppress(const Segments<A>& s, const std::vector<int64_t>& rows,
                              const Suppression& rule) {
    const A min_score = rule.least_score<A>();
    Candidates<A> candidates(s, rows, min_score, rule.decay);
    Tournament<A> best(candidates);
    std::vector<Kept<A>> kept;
    std::vector<Choice<A>> choices;
    while (static_cast<int64_t>(kept.size()) < rule.most && best.top() >= min_score) {
        // Scores only fall: once every block at the top is up to date, the top is final. Among equal scores,
        // the lowest row is selected.
        const auto seen = static_cast<int64_t>(choices.size());
        Block<A>* block = nullptr;
        int64_t b = best.find_top(0);
        for (; b >= 0 && candidates.is_current(b, seen); b = best.find_top(b + 1)) {
            Block<A>& other = candidates.at(b);
            if (block == nullptr || other.row[first_row(other)] < block->row[first_row(*block)])
                block = &other;
        }
        if (b >= 0) {
            Block<A>& stale = candidates.at(b);
            Update<A> job{&stale, choices.data(), seen, static_cast<A>(rule.sharpness()), rule.decay};
            run_simd<UpdateKernel>(&job);
            best.set(b, stale.best);
            continue;
        }
        const int at = first_row(*block);
        kept.push_back({block->row[at], block->best});
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

}  // namespace

std::tuple<Tensor, Tensor> choose_segments(const char* op, const Tensor& segments, const Tensor& scores,
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

}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CPU, m) {
    m.impl("nms_1d", TORCH_BOX(&vidseg::nms_1d));
    m.impl("soft_nms_1d", TORCH_BOX(&vidseg::soft_nms_1d));
}
