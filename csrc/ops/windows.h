// The parts of window_gather and window_scatter that do not depend on the device.
//
// Element l of window n of sequence b is at time starts[b, n] + l * dilation. Times outside [0, T) are not
// part of x.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "checks.h"

namespace vidseg {

enum class Reduce : int64_t { mean = 0, sum = 1, first = 2, last = 3 };

// Sizes of sequences of `inner` elements: `x` is x (B, T, ...), `windows` is windows (B, N, length, ...).
struct Windows {
    int64_t batch, total, count, length, dilation, inner;
    std::vector<int64_t> inner_sizes;

    std::vector<int64_t> sizes(std::initializer_list<int64_t> leading) const {
        std::vector<int64_t> all(leading);
        all.insert(all.end(), inner_sizes.begin(), inner_sizes.end());
        return all;
    }
};

inline void check_starts(const char* op, const Tensor& starts, const Tensor& data, const char* name) {
    require_dim(op, "starts", starts, 2, "(B, N)");
    require_type(op, "starts", starts, ScalarType::Long, "(torch.int64)");
    require_same_device(op, "starts", starts, data);
    require(starts.size(0) == data.size(0), op, ": starts has shape ", Shape{starts},
            ", its first size must be that of ", name, ", ", Shape{data});
}

// `data` is (B, T, ...) with lead 2, or windows (B, N, length, ...) with lead 3.
inline Windows windows_geometry(const char* op, const char* name, const Tensor& data, int64_t lead,
                                const Tensor& starts, const char* asked, int64_t size, int64_t least,
                                int64_t dilation) {
    require(data.dim() >= lead, op, ": ", name, " has shape ", Shape{data}, ", must have at least ", lead,
            " dimensions ", lead == 2 ? "(B, T, ...)" : "(B, N, length, ...)");
    check_starts(op, starts, data, name);
    require_range(op, asked, size, least, kMaxSize);
    require_range(op, "dilation", dilation, 1, kMaxSize);
    Windows w{};
    w.batch = data.size(0);
    w.count = starts.size(1);
    w.total = lead == 2 ? data.size(1) : size;
    w.length = lead == 2 ? size : data.size(2);
    w.dilation = dilation;
    require(lead == 2 || data.size(1) == w.count, op, ": starts has shape ", Shape{starts},
            ", its second size must be that of ", name, ", ", Shape{data});
    require(w.total <= kMaxSize && w.length <= kMaxSize, op, ": ", name, " has shape ", Shape{data},
            ", its sequences must be at most ", kMaxSize, " long");
    w.inner = 1;
    for (int64_t d = lead; d < data.dim(); ++d) {
        w.inner_sizes.push_back(data.size(d));
        w.inner = checked_numel(op, {w.inner, data.size(d)});
    }
    checked_numel(op, {w.batch, w.count, w.length, std::max<int64_t>(w.inner, 1)});
    checked_numel(op, {w.batch, w.total, std::max<int64_t>(w.inner, 1)});
    return w;
}

inline Reduce check_reduce(const char* op, int64_t reduce, const Tensor& data, const char* name) {
    require(0 <= reduce && reduce <= 3, op, ": reduce is ", reduce,
            ", must be 0 (mean), 1 (sum), 2 (first) or 3 (last)");
    if (reduce <= 1) require_float(op, name, data);
    return static_cast<Reduce>(reduce);
}

// Returns the time of element l, or -1 if it is outside [0, total). `start` may be any 64-bit number.
VIDSEG_HOST_DEVICE inline int64_t time_of(int64_t start, int64_t l, int64_t dilation, int64_t total) {
    const int64_t offset = l * dilation;  // below 2^60
    if (start >= total || start < -offset) return -1;
    const int64_t time = start + offset;
    return time < total ? time : -1;
}

// The start of window n of sequence b, for any strides.
struct Starts {
    const int64_t* data;
    int64_t batch_stride, stride;
    VIDSEG_HOST_DEVICE int64_t at(int64_t b, int64_t n) const { return data[b * batch_stride + n * stride]; }
};

inline Starts starts_of(const Tensor& starts) {
    return {static_cast<const int64_t*>(starts.const_data_ptr()), starts.stride(0), starts.stride(1)};
}

// On CUDA aligned to 16 bytes, so that one instruction moves it. Elements in memory are aligned to 8 bytes.
#if defined(__CUDACC__)
struct alignas(16) Bytes16 {
#else
struct alignas(8) Bytes16 {
#endif
    uint64_t low, high;
};

// Calls `body` with a zero of a type of `size` bytes: copying elements depends on their size alone, not on
// their dtype.
template <class Body>
void with_byte_type(size_t size, Body&& body) {
    switch (size) {
        case 1:
            return body(uint8_t{});
        case 2:
            return body(uint16_t{});
        case 4:
            return body(uint32_t{});
        case 8:
            return body(uint64_t{});
        default:
            return body(Bytes16{});
    }
}

struct Frames {
    Windows windows;
    int64_t height, width, channels;
    std::vector<double> mean, std;
};

inline Frames frames_geometry(const char* op, const Tensor& x, const Tensor& starts, int64_t length,
                              int64_t dilation, std::vector<double> mean, std::vector<double> std,
                              ScalarType dtype) {
    require_type(op, "x", x, ScalarType::Byte, "when mean, std or dtype is given");
    require_dim(op, "x", x, 5, "(B, T, H, W, C) when mean, std or dtype is given");
    require(is_float(dtype), op, ": dtype is ", torch::headeronly::toString(dtype),
            ", must be float64, float32, float16 or bfloat16");
    Frames f{};
    f.windows = windows_geometry(op, "x", x, 2, starts, "length", length, 1, dilation);
    f.height = x.size(2);
    f.width = x.size(3);
    f.channels = x.size(4);
    const auto channels = static_cast<size_t>(f.channels);
    require(mean.size() == channels, op, ": mean has ", mean.size(),
            " values, must have one for each of the ", channels, " channels of x");
    require(std.size() == channels, op, ": std has ", std.size(), " values, must have one for each of the ",
            channels, " channels of x");
    for (size_t c = 0; c < channels; ++c) {
        require(std::isfinite(mean[c]), op, ": mean[", c, "] is ", mean[c], ", must be finite");
        require(std::isfinite(std[c]) && std[c] > 0, op, ": std[", c, "] is ", std[c],
                ", must be finite and greater than 0");
    }
    f.mean = std::move(mean);
    f.std = std::move(std);
    return f;
}

}  // namespace vidseg
