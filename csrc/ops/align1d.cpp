// CPU kernels of align1d.
//
// The weights of all bins are computed once. A block of channels is then transposed (T x 16 in scratch
// memory), so that a bin is a few multiply-adds of whole vectors. The gradient uses the same weights in
// reverse: one thread processes a block of channels of one sequence, roi by roi in order, so sums do not
// depend on the number of threads.
#include "align1d.h"

#include <torch/csrc/stable/library.h>

#include "parallel.h"

namespace vidseg {
namespace {

constexpr int64_t kLanes = 16;  // channels in a block
constexpr int64_t kRois = 64;   // rois per task of computing weights

template <class A>
struct Tap {
    int64_t time;
    A weight;
};

// Rois of one sequence. Bin p of roi i has the taps first[i * bins + p] to first[i * bins + p + 1] - 1.
template <class A>
struct RoiBlock {
    int64_t sequence;
    std::vector<int64_t> rois;
    std::vector<int64_t> first;
    std::vector<Tap<A>> taps;

    void add(int64_t begin, int64_t time, A weight) {
        // Samples advance, so a repeated element is one of the last two.
        for (size_t back = 1;
             back <= 2 && begin + static_cast<int64_t>(back) <= static_cast<int64_t>(taps.size()); ++back) {
            Tap<A>& tap = taps[taps.size() - back];
            if (tap.time == time) {
                tap.weight += weight;
                return;
            }
        }
        if (weight != A{0}) taps.push_back({time, weight});
    }

    template <class R>
    void add_bin(const Roi<R>& roi, int64_t p, int64_t total) {
        first.push_back(static_cast<int64_t>(taps.size()));
        const auto begin = static_cast<int64_t>(taps.size());
        int64_t low, high;
        roi.samples_in(p, -1.0, static_cast<double>(total), low, high);
        const A share = A{1} / static_cast<A>(roi.samples);
        for (int64_t k = low; k < high; ++k) {
            const Sample<R> sample(roi.at(p, k), total);
            if (!sample.inside) continue;
            add(begin, sample.low, static_cast<A>(R(1) - sample.weight) * share);
            add(begin, sample.high, static_cast<A>(sample.weight) * share);
        }
    }
};

template <class A, class T>
void add_weights(RoiBlock<A>& block, const Tensor& rois, const Align& a) {
    using R = compute_t<T>;
    const T* data = static_cast<const T*>(rois.const_data_ptr());
    for (int64_t r : block.rois) {
        const T* row = data + r * rois.stride(0);
        const Roi<R> roi(static_cast<R>(row[rois.stride(1)]), static_cast<R>(row[2 * rois.stride(1)]), a.bins,
                         a.ratio);
        for (int64_t p = 0; p < a.bins; ++p) block.add_bin(roi, p, a.total);
    }
    block.first.push_back(static_cast<int64_t>(block.taps.size()));
}

// Rois grouped by sequence in their own order, in blocks, with their weights.
template <class A>
std::vector<RoiBlock<A>> weigh(const Tensor& rois, const Align& a) {
    std::vector<std::vector<int64_t>> members(a.batch);
    with_float_type(rois.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        const T* data = static_cast<const T*>(rois.const_data_ptr());
        for (int64_t r = 0; r < a.rois; ++r) {
            members[static_cast<int64_t>(static_cast<compute_t<T>>(data[r * rois.stride(0)]))].push_back(r);
        }
    });
    std::vector<RoiBlock<A>> blocks;
    for (int64_t b = 0; b < a.batch; ++b) {
        for (size_t i = 0; i < members[b].size(); i += kRois) {
            const auto from = members[b].begin() + static_cast<int64_t>(i);
            const auto to = members[b].begin() + static_cast<int64_t>(std::min(i + kRois, members[b].size()));
            blocks.push_back({b, {from, to}, {}, {}});
        }
    }
    parallel_for(static_cast<int64_t>(blocks.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            with_float_type(rois.scalar_type(),
                            [&](auto zero) { add_weights<A, decltype(zero)>(blocks[i], rois, a); });
        }
    });
    return blocks;
}

// One roi and one block of channels. `columns` is T x kLanes and `bins` is output_size x kLanes.
template <class A>
struct RoiJob {
    A* columns;
    A* bins;
    const int64_t* first;
    const Tap<A>* taps;
    int64_t count;
};

struct GatherKernel {
    template <int Bytes, class A>
    static VIDSEG_INLINE void run(RoiJob<A>* job) {
        using V = typename VectorOf<A, Bytes>::type;
        using U = typename VectorOf<A, Bytes>::unaligned;
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        constexpr int vectors = kLanes / lanes;
        for (int64_t p = 0; p < job->count; ++p) {
            V sums[vectors] = {};
            for (int64_t i = job->first[p]; i < job->first[p + 1]; ++i) {
                const A* column = job->columns + job->taps[i].time * kLanes;
                const A weight = job->taps[i].weight;
#pragma GCC unroll 16
                for (int v = 0; v < vectors; ++v) {
                    sums[v] += weight * *reinterpret_cast<const U*>(column + v * lanes);
                }
            }
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v)
                *reinterpret_cast<U*>(job->bins + p * kLanes + v * lanes) = sums[v];
        }
    }
};

struct ScatterKernel {
    template <int Bytes, class A>
    static VIDSEG_INLINE void run(RoiJob<A>* job) {
        using V = typename VectorOf<A, Bytes>::type;
        using U = typename VectorOf<A, Bytes>::unaligned;
        constexpr int lanes = VectorOf<A, Bytes>::lanes;
        constexpr int vectors = kLanes / lanes;
        for (int64_t p = 0; p < job->count; ++p) {
            V values[vectors];
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) {
                values[v] = *reinterpret_cast<const U*>(job->bins + p * kLanes + v * lanes);
            }
            for (int64_t i = job->first[p]; i < job->first[p + 1]; ++i) {
                A* column = job->columns + job->taps[i].time * kLanes;
                const A weight = job->taps[i].weight;
#pragma GCC unroll 16
                for (int v = 0; v < vectors; ++v)
                    *reinterpret_cast<U*>(column + v * lanes) += weight * values[v];
            }
        }
    }
};

// columns[t * kLanes + c] = data[c * channel_stride + t * time_stride], zero in the lanes beyond `channels`.
template <class T, class A>
void lay_out(const T* data, int64_t channel_stride, int64_t time_stride, int64_t channels, int64_t count,
             A* columns) {
    if (channels < kLanes) std::fill(columns, columns + count * kLanes, A{0});
    for (int64_t c = 0; c < channels; ++c) {
        const T* from = data + c * channel_stride;
        for (int64_t t = 0; t < count; ++t) columns[t * kLanes + c] = static_cast<A>(from[t * time_stride]);
    }
}

template <class T, class A>
void lay_back(const A* columns, int64_t channels, int64_t count, T* out) {
    for (int64_t c = 0; c < channels; ++c) {
        T* to = out + c * count;
        for (int64_t t = 0; t < count; ++t) to[t] = static_cast<T>(columns[t * kLanes + c]);
    }
}

template <class T>
void forward(const Align& a, const Tensor& x, const Tensor& rois, T* out) {
    using A = compute_t<T>;
    const T* data = static_cast<const T*>(x.const_data_ptr());
    const std::vector<RoiBlock<A>> blocks = weigh<A>(rois, a);
    const int64_t channel_blocks = (a.channels + kLanes - 1) / kLanes;
    const int64_t tasks = static_cast<int64_t>(blocks.size()) * channel_blocks;
    parallel_for(tasks, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> columns(a.total * kLanes);
        std::vector<A> bins(a.bins * kLanes);
        int64_t laid_out = -1;  // channel block and sequence in `columns`
        for (int64_t task = begin; task < end; ++task) {
            // Blocks of one sequence are adjacent for the same channels, so `columns` is transposed once.
            const RoiBlock<A>& block = blocks[task % static_cast<int64_t>(blocks.size())];
            const int64_t channel_block = task / static_cast<int64_t>(blocks.size());
            const int64_t c = channel_block * kLanes;
            const int64_t channels = std::min(kLanes, a.channels - c);
            if (laid_out != channel_block * a.batch + block.sequence) {
                lay_out(data + block.sequence * x.stride(0) + c * x.stride(1), x.stride(1), x.stride(2),
                        channels, a.total, columns.data());
                laid_out = channel_block * a.batch + block.sequence;
            }
            for (size_t i = 0; i < block.rois.size(); ++i) {
                RoiJob<A> job{columns.data(), bins.data(), block.first.data() + i * a.bins, block.taps.data(),
                              a.bins};
                run_simd<GatherKernel>(&job);
                lay_back(bins.data(), channels, a.bins, out + (block.rois[i] * a.channels + c) * a.bins);
            }
        }
    });
}

template <class T>
void backward(const Align& a, const Tensor& grad, const Tensor& rois, T* out) {
    using A = compute_t<T>;
    const T* data = static_cast<const T*>(grad.const_data_ptr());
    const std::vector<RoiBlock<A>> blocks = weigh<A>(rois, a);
    const int64_t channel_blocks = (a.channels + kLanes - 1) / kLanes;
    parallel_for(a.batch * channel_blocks, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> columns(a.total * kLanes);
        std::vector<A> bins(a.bins * kLanes);
        for (int64_t task = begin; task < end; ++task) {
            const int64_t b = task / channel_blocks;
            const int64_t c = task % channel_blocks * kLanes;
            const int64_t channels = std::min(kLanes, a.channels - c);
            std::fill(columns.begin(), columns.end(), A{0});
            for (const RoiBlock<A>& block : blocks) {
                if (block.sequence != b) continue;
                for (size_t i = 0; i < block.rois.size(); ++i) {
                    lay_out(data + block.rois[i] * grad.stride(0) + c * grad.stride(1), grad.stride(1),
                            grad.stride(2), channels, a.bins, bins.data());
                    RoiJob<A> job{columns.data(), bins.data(), block.first.data() + i * a.bins,
                                  block.taps.data(), a.bins};
                    run_simd<ScatterKernel>(&job);
                }
            }
            lay_back(columns.data(), channels, a.total, out + (b * a.channels + c) * a.total);
        }
    });
}

Tensor align1d(const Tensor& x, const Tensor& rois, int64_t output_size, int64_t sampling_ratio) {
    const Align a = forward_geometry("align1d", x, rois, output_size, sampling_ratio);
    check_rois("align1d", rois, a.batch);
    Tensor out = new_empty(x, {a.rois, a.channels, a.bins}, x.scalar_type());
    if (out.numel() == 0) return out;
    if (a.total == 0) return torch::stable::zero_(out);
    with_float_type(x.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        forward<T>(a, x, rois, static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

Tensor align1d_backward(const Tensor& grad, const Tensor& rois, int64_t batch, int64_t total,
                        int64_t sampling_ratio) {
    const Align a = backward_geometry("align1d_backward", grad, rois, batch, total, sampling_ratio);
    check_rois("align1d_backward", rois, a.batch);
    Tensor out = new_empty(grad, {a.batch, a.channels, a.total}, grad.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(grad.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        backward<T>(a, grad, rois, static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CPU, m) {
    m.impl("align1d", TORCH_BOX(&vidseg::align1d));
    m.impl("align1d_backward", TORCH_BOX(&vidseg::align1d_backward));
}
