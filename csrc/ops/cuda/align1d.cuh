// Device code of align1d. Forward and backward kernels gather, so sums do not depend on the order of threads.
#pragma once

#include <cmath>

#include "../align1d.h"
#include "launch.cuh"

namespace vidseg {

struct SequenceStrides {
    int64_t outer, channel, time;
};

// Checked on the device, so that the operator never waits for it: the bins of a roi that the CPU operator
// refuses are NaN, and it adds nothing to the gradient.
template <class R, class Raw>
struct Rois {
    const Raw* data;
    int64_t row, column;

    // Returns the roi's sequence, or -1 if the batch index, the start or the end is wrong.
    __device__ int64_t sequence(int64_t r, const Align& a) const {
        const R index = static_cast<R>(data[r * row]);
        if (!(index >= R(0) && index < static_cast<R>(a.batch) && index == floor(index))) return -1;
        const R start = static_cast<R>(data[r * row + column]),
                end = static_cast<R>(data[r * row + 2 * column]);
        const bool finite = std::isfinite(start) && std::isfinite(end);
        return finite && end - start <= static_cast<R>(kMaxSize) ? static_cast<int64_t>(index) : -1;
    }

    __device__ Roi<R> roi(int64_t r, const Align& a) const {
        const Raw* at = data + r * row;
        return Roi<R>(static_cast<R>(at[column]), static_cast<R>(at[2 * column]), a.bins, a.ratio);
    }
};

// One thread per output.
template <class T, class R, class Raw>
__global__ void align_forward(const __grid_constant__ Align a, Divider bins, Divider channels, const T* x,
                              SequenceStrides s, Rois<R, Raw> rois, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient bin = bins.divide(i);
        const Quotient plane = channels.divide(bin.quotient);
        const int64_t p = bin.remainder, r = plane.quotient;
        const int64_t sequence = rois.sequence(r, a);
        if (sequence < 0) {
            out[i] = static_cast<T>(static_cast<A>(NAN));
            continue;
        }
        const Roi<R> roi = rois.roi(r, a);
        const T* row = x + sequence * s.outer + plane.remainder * s.channel;
        int64_t first = 0, last = 0;
        if (a.total > 0) roi.samples_in(p, -1.0, static_cast<double>(a.total), first, last);
        A sum = 0;
        for (int64_t k = first; k < last; ++k) {
            const Sample<R> sample(roi.at(p, k), a.total);
            if (!sample.inside) continue;
            sum += static_cast<A>(R(1) - sample.weight) * static_cast<A>(row[sample.low * s.time]);
            sum += static_cast<A>(sample.weight) * static_cast<A>(row[sample.high * s.time]);
        }
        out[i] = static_cast<T>(sum / static_cast<A>(roi.samples));
    }
}

// One thread per element of the sequences, which visits the samples of all rois that touch it.
template <class T, class R, class Raw>
__global__ void align_backward(const __grid_constant__ Align a, Divider total, Divider channels,
                               const T* grad, SequenceStrides s, Rois<R, Raw> rois, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient element = total.divide(i);
        const Quotient plane = channels.divide(element.quotient);
        const int64_t t = element.remainder, b = plane.quotient;
        const auto low = static_cast<double>(t - 1);
        const auto high = static_cast<double>(t + 1);
        A sum = 0;
        for (int64_t r = 0; r < a.rois; ++r) {
            if (rois.sequence(r, a) != b) continue;
            const Roi<R> roi = rois.roi(r, a);
            // The bins that overlap [t - 1, t + 1], plus one on each side.
            const double start = static_cast<double>(roi.start), bin = static_cast<double>(roi.bin);
            const double from = floor((low - start) / bin) - 1.0, to = ceil((high - start) / bin) + 1.0;
            const auto bins = static_cast<double>(a.bins);
            const auto p_first = static_cast<int64_t>(from < 0.0 ? 0.0 : from > bins ? bins : from);
            const auto p_last = static_cast<int64_t>(to < 0.0 ? 0.0 : to > bins ? bins : to);
            for (int64_t p = p_first; p < p_last; ++p) {
                int64_t first, last;
                roi.samples_in(p, low, high, first, last);
                R weight = 0;
                for (int64_t k = first; k < last; ++k) {
                    const Sample<R> sample(roi.at(p, k), a.total);
                    if (!sample.inside) continue;
                    if (sample.low == t) weight += R(1) - sample.weight;
                    if (sample.high == t) weight += sample.weight;
                }
                if (weight == R(0)) continue;
                const int64_t at = r * s.outer + plane.remainder * s.channel + p * s.time;
                sum += static_cast<A>(grad[at]) * static_cast<A>(weight) / static_cast<A>(roi.samples);
            }
        }
        out[i] = static_cast<T>(sum);
    }
}

}  // namespace vidseg
