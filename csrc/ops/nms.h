// The parts of nms_1d and soft_nms_1d that do not depend on the device.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "checks.h"
#include "decay.h"

namespace vidseg {

// Effect of a selected segment on the segments with IoU > 0 and IoU >= threshold + slope * (length of the
// selected one): their score is multiplied by exp(-IoU^2 / sigma), 1 - IoU, or 0.
struct Suppression {
    Decay decay;
    double sigma, threshold, slope, min_score;
    int64_t most;  // largest number of segments to keep

    // Factor of IoU^2 in the exponent; finite, so that 0 times it is 0.
    double sharpness() const { return -std::min(1.0 / sigma, 1e30); }

    // The lowest score that is kept, in the compute type. Hard suppression keeps scores above min_score,
    // where 0 means no limit; the decays keep scores of at least min_score, as in OpenTAD.
    template <class A>
    A least_score() const {
        const A least = static_cast<A>(min_score);
        const bool above = decay == Decay::hard && min_score > 0.0;
        return above ? std::nextafter(least, std::numeric_limits<A>::infinity()) : least;
    }
};

inline void check_segments(const char* op, const Tensor& segments, const Tensor& scores,
                           const std::optional<Tensor>& labels) {
    require_dim(op, "segments", segments, 2, "(N, 2)");
    require(segments.size(1) == 2, op, ": segments has shape ", Shape{segments},
            ", must be (N, 2): start, end");
    require_float(op, "segments", segments);
    require_dim(op, "scores", scores, 1, "(N,)");
    require(scores.size(0) == segments.size(0), op, ": scores has shape ", Shape{scores},
            ", its size must be the first of segments, ", Shape{segments});
    require_float(op, "scores", scores);
    require_same_device(op, "scores", scores, segments);
    if (!labels) return;
    require_dim(op, "labels", *labels, 1, "(N,)");
    require(labels->size(0) == segments.size(0), op, ": labels has shape ", Shape{*labels},
            ", its size must be the first of segments, ", Shape{segments});
    require_type(op, "labels", *labels, ScalarType::Long, "(torch.int64)");
    require_same_device(op, "labels", *labels, segments);
}

inline Suppression check_suppression(const char* op, int64_t decay, double sigma, double threshold,
                                     double slope, double min_score, std::optional<int64_t> max_segments) {
    require(0 <= decay && decay <= 2, op, ": method is ", decay,
            ", must be 0 (gaussian), 1 (linear) or 2 (hard)");
    require(std::isfinite(sigma) && sigma > 0, op, ": sigma is ", sigma,
            ", must be finite and greater than 0");
    require(threshold >= 0 && threshold <= 1, op, ": iou_threshold is ", threshold, ", must be from 0 to 1");
    require(std::isfinite(slope), op, ": threshold_slope is ", slope, ", must be finite");
    require(std::isfinite(min_score) && min_score >= 0, op, ": min_score is ", min_score,
            ", must be finite and at least 0");
    require(!max_segments || *max_segments >= 1, op, ": max_segments is ", max_segments.value_or(1),
            ", must be at least 1");
    return {static_cast<Decay>(decay), sigma, threshold, slope, min_score, max_segments.value_or(INT64_MAX)};
}

// A kept segment: its row and its final score.
template <class A>
struct Kept {
    int64_t index;
    A score;
};

// Checked segments in the compute type, on the CPU.
template <class A>
struct Segments {
    std::vector<A> start, end, score;
    std::vector<int64_t> label;  // empty without labels
};

template <class A, class T>
std::vector<A> read_column(const char* op, const char* name, const Tensor& tensor, int64_t column) {
    const bool wide = tensor.dim() == 2;
    const int64_t stride = tensor.stride(0);
    const T* data = static_cast<const T*>(tensor.const_data_ptr()) + (wide ? column * tensor.stride(1) : 0);
    std::vector<A> values(tensor.size(0));
    for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<A>(data[static_cast<int64_t>(i) * stride]);
    int spoiled = 0;
    for (A value : values) spoiled |= !(std::abs(value) <= std::numeric_limits<A>::max());
    if (spoiled == 0) return values;
    const auto bad =
        std::find_if(values.begin(), values.end(), [](A value) { return !std::isfinite(value); });
    require(false, op, ": ", name, "[", bad - values.begin(), wide ? column == 0 ? ", 0" : ", 1" : "",
            "] is ", *bad, ", must be finite");
    return values;
}

template <class A>
Segments<A> read_segments(const char* op, const Tensor& segments, const Tensor& scores,
                          const std::optional<Tensor>& labels) {
    Segments<A> s;
    with_float_type(segments.scalar_type(), [&](auto zero) {
        s.start = read_column<A, decltype(zero)>(op, "segments", segments, 0);
        s.end = read_column<A, decltype(zero)>(op, "segments", segments, 1);
    });
    with_float_type(scores.scalar_type(),
                    [&](auto zero) { s.score = read_column<A, decltype(zero)>(op, "scores", scores, 0); });
    if (labels) {
        const auto* data = static_cast<const int64_t*>(labels->const_data_ptr());
        for (int64_t i = 0; i < labels->size(0); ++i) s.label.push_back(data[i * labels->stride(0)]);
    }
    return s;
}

// Returns the rows in groups of equal labels, each in ascending order.
template <class A>
std::vector<std::vector<int64_t>> groups_of(const Segments<A>& s) {
    std::vector<int64_t> order(s.score.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
    if (s.label.empty()) return {order};
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return s.label[a] < s.label[b]; });
    std::vector<std::vector<int64_t>> groups;
    for (int64_t i : order) {
        if (groups.empty() || s.label[groups.back().front()] != s.label[i]) groups.emplace_back();
        groups.back().push_back(i);
    }
    return groups;
}

// Joins the kept segments of all groups by falling score; equal scores in order of rows.
template <class A>
std::vector<Kept<A>> join(const std::vector<std::vector<Kept<A>>>& groups, int64_t most) {
    std::vector<Kept<A>> all;
    for (const auto& group : groups) all.insert(all.end(), group.begin(), group.end());
    std::sort(all.begin(), all.end(), [](const Kept<A>& a, const Kept<A>& b) {
        return a.score != b.score ? a.score > b.score : a.index < b.index;
    });
    if (static_cast<int64_t>(all.size()) > most) all.resize(most);
    return all;
}

// Returns rows and scores of the segments to keep, by falling score. Defined for each device by its own
// source file.
std::tuple<Tensor, Tensor> choose_segments(const char* op, const Tensor& segments, const Tensor& scores,
                                           const std::optional<Tensor>& labels, const Suppression& rule);

inline Tensor nms_1d(const Tensor& segments, const Tensor& scores, std::optional<Tensor> labels,
                     double iou_threshold, double min_score, std::optional<int64_t> max_segments) {
    check_segments("nms_1d", segments, scores, labels);
    const Suppression rule = check_suppression("nms_1d", static_cast<int64_t>(Decay::hard), 1.0,
                                               iou_threshold, 0.0, min_score, max_segments);
    return std::get<0>(choose_segments("nms_1d", segments, scores, labels, rule));
}

inline std::tuple<Tensor, Tensor> soft_nms_1d(const Tensor& segments, const Tensor& scores,
                                              std::optional<Tensor> labels, int64_t method, double sigma,
                                              double iou_threshold, double threshold_slope, double min_score,
                                              std::optional<int64_t> max_segments) {
    check_segments("soft_nms_1d", segments, scores, labels);
    const Suppression rule = check_suppression("soft_nms_1d", method, sigma, iou_threshold, threshold_slope,
                                               min_score, max_segments);
    return choose_segments("soft_nms_1d", segments, scores, labels, rule);
}

}  // namespace vidseg
