// CUDA kernel of nms_1d and soft_nms_1d: one block selects segment after segment; its threads share the other
// segments.
//
// Each selection depends on the previous one, so more blocks would not help. Segments of other labels are
// skipped, so the selections of all labels come in one common order.
#include "../nms.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "launch.cuh"

namespace vidseg {
namespace {

constexpr int kWorkers = 512;

template <class A>
struct Work {
    A *start, *end, *length, *original, *state, *score;  // N of each
    const int64_t* labels;                               // or null
    int64_t label_stride, count;
    int64_t* kept;
    A* values;
    int64_t* kept_count;
};

template <class A>
struct Rule {
    Decay decay;
    A sharpness, min_score;
    double threshold, slope;
    int64_t most;
};

template <class T, class A>
__global__ void read_column(const T* data, int64_t stride, A* out, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step())
        out[i] = static_cast<A>(data[i * stride]);
}

// Order of candidates: by higher score, then by lower row.
template <class A>
__device__ bool better(A score, int64_t row, A than, int64_t than_row) {
    return score > than || (score == than && row < than_row);
}

template <class A>
__global__ void __launch_bounds__(kWorkers) choose(Work<A> w, Rule<A> rule) {
    __shared__ A best_score[kWorkers];
    __shared__ int64_t best_row[kWorkers];
    const int me = threadIdx.x;
    for (int64_t i = me; i < w.count; i += kWorkers) {
        w.length[i] = w.end[i] > w.start[i] ? w.end[i] - w.start[i] : A(0);
        w.original[i] = w.score[i] >= rule.min_score ? w.score[i] : A(-1);
        w.score[i] = w.original[i];
        w.state[i] = rule.decay == Decay::gaussian ? A(0) : A(1);
    }
    int64_t kept = 0;
    int64_t chosen = -1;
    for (;;) {
        A top = -1;
        int64_t top_row = w.count;
        const A start = chosen < 0 ? A(0) : w.start[chosen];
        const A end = chosen < 0 ? A(0) : w.end[chosen];
        const A length = chosen < 0 ? A(0) : w.length[chosen];
        const A threshold = static_cast<A>(rule.threshold + rule.slope * static_cast<double>(length));
        const int64_t label = chosen >= 0 && w.labels != nullptr ? w.labels[chosen * w.label_stride] : 0;
        for (int64_t i = me; i < w.count; i += kWorkers) {
            if (w.score[i] < A(0)) continue;
            if (i == chosen) {
                w.score[i] = -1;
                continue;
            }
            const bool meets = chosen >= 0 && (w.labels == nullptr || w.labels[i * w.label_stride] == label);
            const A left = w.start[i] > start ? w.start[i] : start;
            const A right = w.end[i] < end ? w.end[i] : end;
            if (meets && right > left) {
                const A overlap = right - left;
                const A iou = overlap / (w.length[i] + length - overlap);
                if (iou >= threshold) {
                    if (rule.decay == Decay::gaussian) {
                        w.state[i] += iou * iou;
                        w.score[i] = w.original[i] * exp(w.state[i] * rule.sharpness);
                    } else if (rule.decay == Decay::linear) {
                        w.state[i] *= A(1) - iou;
                        w.score[i] = w.original[i] * w.state[i];
                    } else {
                        w.score[i] = -1;
                    }
                }
            }
            if (w.score[i] >= rule.min_score && better(w.score[i], i, top, top_row)) {
                top = w.score[i];
                top_row = i;
            }
        }
        best_score[me] = top;
        best_row[me] = top_row;
        for (int half = kWorkers / 2; half > 0; half /= 2) {
            __syncthreads();
            if (me < half &&
                better(best_score[me + half], best_row[me + half], best_score[me], best_row[me])) {
                best_score[me] = best_score[me + half];
                best_row[me] = best_row[me + half];
            }
        }
        __syncthreads();
        top = best_score[0];
        top_row = best_row[0];
        if (top < A(0) || kept == rule.most) break;
        if (me == 0) {
            w.kept[kept] = top_row;
            w.values[kept] = top;
        }
        ++kept;
        chosen = top_row;
        __syncthreads();  // all have read the best before it is overwritten
    }
    if (me == 0) *w.kept_count = kept;
}

template <class A>
void fill_column(const char* op, const Tensor& tensor, int64_t column, A* out) {
    with_float_type(tensor.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const T* data = static_cast<const T*>(tensor.const_data_ptr()) +
                        (tensor.dim() == 2 ? column * tensor.stride(1) : 0);
        launch(op, tensor, grid_for(tensor.size(0)), kThreads, read_column<T, A>, data, tensor.stride(0), out,
               tensor.size(0));
    });
}

template <class A>
std::tuple<Tensor, Tensor> run(const char* op, const Tensor& segments, const Tensor& scores,
                               const std::optional<Tensor>& labels, const Suppression& rule) {
    read_segments<A>(op, on_cpu(segments), on_cpu(scores),
                     std::nullopt);  // refuses values that are not finite
    const DeviceGuard guard(segments.get_device_index());
    const auto type = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    const int64_t n = segments.size(0);
    const int64_t most = std::min(n, rule.most);
    Tensor rows = new_empty(segments, {most}, ScalarType::Long);
    Tensor values = new_empty(segments, {most}, type);
    if (n == 0) return {rows, torch::stable::to(values, scores.scalar_type())};

    Tensor columns = new_empty(segments, {6, n}, type);
    Tensor count = new_empty(segments, {1}, ScalarType::Long);
    auto* column = static_cast<A*>(columns.mutable_data_ptr());
    Work<A> work{column,
                 column + n,
                 column + 2 * n,
                 column + 3 * n,
                 column + 4 * n,
                 column + 5 * n,
                 nullptr,
                 0,
                 n,
                 static_cast<int64_t*>(rows.mutable_data_ptr()),
                 static_cast<A*>(values.mutable_data_ptr()),
                 static_cast<int64_t*>(count.mutable_data_ptr())};
    if (labels) {
        work.labels = static_cast<const int64_t*>(labels->const_data_ptr());
        work.label_stride = labels->stride(0);
    }
    fill_column(op, segments, 0, work.start);
    fill_column(op, segments, 1, work.end);
    fill_column(op, scores, 0, work.score);
    const Rule<A> typed{
        rule.decay, static_cast<A>(rule.sharpness()), rule.least_score<A>(), rule.threshold, rule.slope,
        most};
    launch(op, segments, 1, kWorkers, choose<A>, work, typed);
    const Tensor count_here = on_cpu(count);
    const int64_t kept = *static_cast<const int64_t*>(count_here.const_data_ptr());
    rows = torch::stable::clone(torch::stable::narrow(rows, 0, 0, kept));
    values = torch::stable::narrow(values, 0, 0, kept);
    return {rows, torch::stable::to(values, scores.scalar_type(), std::nullopt, std::nullopt, std::nullopt,
                                    false, true)};
}

}  // namespace

std::tuple<Tensor, Tensor> choose_segments(const char* op, const Tensor& segments, const Tensor& scores,
                                           const std::optional<Tensor>& labels, const Suppression& rule) {
    const bool wide =
        segments.scalar_type() == ScalarType::Double || scores.scalar_type() == ScalarType::Double;
    return wide ? run<double>(op, segments, scores, labels, rule)
                : run<float>(op, segments, scores, labels, rule);
}

}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CUDA, m) {
    m.impl("nms_1d", TORCH_BOX(&vidseg::nms_1d));
    m.impl("soft_nms_1d", TORCH_BOX(&vidseg::soft_nms_1d));
}
