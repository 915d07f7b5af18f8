// Region-of-interest align in one dimension: the parts that do not depend on the device.
//
// A roi (start, end) is divided into `bins` equal bins. Each bin is the mean of `samples` linear
// interpolations:
//     length = max(end - start, 1)      samples = sampling_ratio, or ceil(length / bins) when that is 0
//     t(p, k) = start + p * bin + (k + 0.5) * bin / samples, bin = length / bins
// Element n of the sequence has coordinate n. Between -1 and 0 the value is that of the first element,
// between T - 1 and T that of the last one; samples further outside are zero.
#pragma once

#include <algorithm>
#include <cmath>

#include "checks.h"

namespace vidseg {

template <class R>
struct Roi {
    R start, bin, step;  // step: distance of adjacent samples
    int64_t samples;

    VIDSEG_HOST_DEVICE Roi(R first, R last, int64_t bins, int64_t ratio) : start(first) {
        const R length = last - first > R(1) ? last - first : R(1);
        bin = length / static_cast<R>(bins);
        samples = ratio > 0 ? ratio : static_cast<int64_t>(ceil(bin));
        step = bin / static_cast<R>(samples);
    }

    VIDSEG_HOST_DEVICE R at(int64_t p, int64_t k) const {
        return start + static_cast<R>(p) * bin + (static_cast<R>(k) + R(0.5)) * step;
    }

    // Range [first, last) of samples of bin p that can lie in [low, high], plus one on each side.
    VIDSEG_HOST_DEVICE void samples_in(int64_t p, double low, double high, int64_t& first,
                                       int64_t& last) const {
        const double zero = static_cast<double>(at(p, 0));
        const double most = static_cast<double>(samples);
        const double from = floor((low - zero) / static_cast<double>(step)) - 1.0;
        const double to = ceil((high - zero) / static_cast<double>(step)) + 2.0;
        first = static_cast<int64_t>(from < 0.0 ? 0.0 : from > most ? most : from);
        last = static_cast<int64_t>(to < 0.0 ? 0.0 : to > most ? most : to);
    }
};

// The two neighbors of a sample; `inside` is false if it counts as zero.
template <class R>
struct Sample {
    int64_t low, high;
    R weight;  // weight of `high`; `low` has 1 - weight
    bool inside;

    VIDSEG_HOST_DEVICE Sample(R t, int64_t total) : low(0), high(0), weight(0) {
        inside = t >= R(-1) && t <= static_cast<R>(total);
        if (!inside) return;
        const R position = t > R(0) ? t : R(0);
        low = static_cast<int64_t>(position);
        if (low >= total - 1) {
            low = high = total - 1;
        } else {
            high = low + 1;
            weight = position - static_cast<R>(low);
        }
    }
};

struct Align {
    int64_t batch, channels, total, rois, bins, ratio;
};

inline Align align_geometry(const char* op, const char* name, const Tensor& data, const Tensor& rois,
                            int64_t bins, int64_t ratio) {
    require_dim(op, name, data, 3, name[0] == 'x' ? "(B, C, T)" : "(R, C, output_size)");
    require_float(op, name, data);
    require_dim(op, "rois", rois, 2, "(R, 3)");
    require(rois.size(1) == 3, op, ": rois has shape ", Shape{rois},
            ", must be (R, 3): batch index, start, end");
    require_float(op, "rois", rois);
    require_same_device(op, "rois", rois, data);
    require_range(op, "output_size", bins, 1, kMaxSize);
    require_range(op, "sampling_ratio", ratio, 0, kMaxSize);
    Align a{};
    a.channels = data.size(1);
    a.rois = rois.size(0);
    a.bins = bins;
    a.ratio = ratio;
    checked_numel(op, {a.rois, a.channels, a.bins});
    return a;
}

inline Align forward_geometry(const char* op, const Tensor& x, const Tensor& rois, int64_t output_size,
                              int64_t sampling_ratio) {
    Align a = align_geometry(op, "x", x, rois, output_size, sampling_ratio);
    a.batch = x.size(0);
    a.total = x.size(2);
    require(a.total <= kMaxSize, op, ": x has shape ", Shape{x}, ", T must be at most ", kMaxSize);
    return a;
}

inline Align backward_geometry(const char* op, const Tensor& grad, const Tensor& rois, int64_t batch,
                               int64_t total, int64_t sampling_ratio) {
    Align a = align_geometry(op, "grad", grad, rois, grad.dim() == 3 ? grad.size(2) : 1, sampling_ratio);
    require(grad.size(0) == a.rois, op, ": grad has shape ", Shape{grad},
            ", its first size must be that of rois, ", Shape{rois});
    require_range(op, "batch", batch, 0, kMaxSize);
    require_range(op, "total", total, 0, kMaxSize);
    a.batch = batch;
    a.total = total;
    checked_numel(op, {a.batch, a.channels, a.total});
    return a;
}

// Checks every roi on the CPU: the batch index must exist; start and end must be finite and at most kMaxSize
// apart.
template <class R, class T>
void check_rois(const char* op, const T* rois, int64_t row_stride, int64_t column_stride, int64_t count,
                int64_t batch) {
    const char* columns[3] = {"the batch index", "the start", "the end"};
    for (int64_t r = 0; r < count; ++r) {
        R values[3];
        for (int64_t d = 0; d < 3; ++d) {
            values[d] = static_cast<R>(rois[r * row_stride + d * column_stride]);
            require(std::isfinite(values[d]), op, ": rois[", r, ", ", d, "], ", columns[d], ", is ",
                    values[d], ", must be finite");
        }
        require(values[0] >= R(0) && values[0] < static_cast<R>(batch) && values[0] == std::floor(values[0]),
                op, ": rois[", r, ", 0], the batch index, is ", values[0],
                ", must be a whole number below B = ", batch);
        require(values[2] - values[1] <= static_cast<R>(kMaxSize), op, ": rois[", r, "] reaches from ",
                values[1], " to ", values[2], ", its length must be at most ", kMaxSize);
    }
}

inline void check_rois(const char* op, const Tensor& rois, int64_t batch) {
    with_float_type(rois.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        check_rois<compute_t<T>>(op, static_cast<const T*>(rois.const_data_ptr()), rois.stride(0),
                                 rois.stride(1), rois.size(0), batch);
    });
}

}  // namespace vidseg
