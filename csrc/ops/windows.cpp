// CPU kernels of window_gather, window_gather_frames and window_scatter.
#include "windows.h"

#include <torch/csrc/stable/library.h>

#include <cstring>

#include "parallel.h"

namespace vidseg {
namespace {

// Axes of one sequence element in memory; adjacent axes that are contiguous are merged.
struct Axis {
    int64_t size, stride;
};

std::vector<Axis> merged_axes(const Tensor& tensor, int64_t from) {
    std::vector<Axis> axes;
    for (int64_t d = from; d < tensor.dim(); ++d) {
        if (tensor.size(d) == 1) continue;
        const Axis axis{tensor.size(d), tensor.stride(d)};
        if (!axes.empty() && axes.back().stride == axis.size * axis.stride) {
            axes.back() = {axes.back().size * axis.size, axis.stride};
        } else {
            axes.push_back(axis);
        }
    }
    if (axes.empty()) axes.push_back({1, 1});
    return axes;
}

// Calls body(position in the contiguous element, offset in memory) for each run along the last axis.
template <class Body>
void for_each_run(const std::vector<Axis>& axes, const Body& body) {
    const size_t outer = axes.size() - 1;
    const int64_t run = axes.back().size;
    if (outer == 0) return body(int64_t{0}, int64_t{0});
    std::vector<int64_t> index(outer, 0);
    int64_t position = 0;
    int64_t offset = 0;
    for (;;) {
        body(position, offset);
        position += run;
        size_t d = outer;
        for (; d > 0; --d) {
            const Axis& axis = axes[d - 1];
            offset += axis.stride;
            if (++index[d - 1] < axis.size) break;
            offset -= axis.size * axis.stride;
            index[d - 1] = 0;
        }
        if (d == 0) return;
    }
}

template <class T>
void copy_element(const T* from, const std::vector<Axis>& axes, T* to) {
    const int64_t run = axes.back().size;
    const int64_t stride = axes.back().stride;
    for_each_run(axes, [&](int64_t position, int64_t offset) {
        if (stride == 1) {
            std::memcpy(to + position, from + offset, run * sizeof(T));
        } else {
            for (int64_t i = 0; i < run; ++i) to[position + i] = from[offset + i * stride];
        }
    });
}

// Grain of parallel loops: at least 32 KiB of output per call.
int64_t grain(int64_t bytes) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, bytes)); }

// The elements [first, last) of a window without dilation that are inside the sequence.
struct Inside {
    int64_t first, last;
};

Inside inside_of(int64_t start, int64_t length, int64_t total) {
    if (start >= total || start <= -length) return {0, 0};
    return {std::max<int64_t>(0, -start), std::min(length, total - start)};
}

Tensor window_gather(const Tensor& x, const Tensor& starts, int64_t length, int64_t dilation) {
    const Windows w = windows_geometry("window_gather", "x", x, 2, starts, "length", length, 1, dilation);
    Tensor out = new_empty(x, w.sizes({w.batch, w.count, w.length}), x.scalar_type());
    if (out.numel() == 0) return out;
    const Starts start = starts_of(starts);
    const std::vector<Axis> axes = merged_axes(x, 2);
    with_byte_type(x.element_size(), [&](auto zero) {
        using T = decltype(zero);
        const T* from = static_cast<const T*>(x.const_data_ptr());
        T* to = static_cast<T*>(out.mutable_data_ptr());
        const int64_t bytes = w.inner * static_cast<int64_t>(sizeof(T));
        if (w.dilation == 1 && axes.size() == 1 && axes[0].stride == 1 && x.stride(1) == w.inner) {
            // Adjacent elements of the sequence adjoin: a window is one run.
            parallel_for(w.batch * w.count, grain(w.length * bytes), [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                    const int64_t at = start.at(i / w.count, i % w.count);
                    const Inside inside = inside_of(at, w.length, w.total);
                    T* window = to + i * w.length * w.inner;
                    std::memset(static_cast<void*>(window), 0, inside.first * bytes);
                    if (inside.last > inside.first) {
                        std::memcpy(window + inside.first * w.inner,
                                    from + i / w.count * x.stride(0) + (at + inside.first) * w.inner,
                                    (inside.last - inside.first) * bytes);
                    }
                    std::memset(static_cast<void*>(window + inside.last * w.inner), 0,
                                (w.length - inside.last) * bytes);
                }
            });
            return;
        }
        parallel_for(w.batch * w.count * w.length, grain(bytes), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t b = i / w.length / w.count;
                const int64_t t =
                    time_of(start.at(b, i / w.length % w.count), i % w.length, w.dilation, w.total);
                if (t < 0) {
                    std::memset(static_cast<void*>(to + i * w.inner), 0, bytes);
                } else {
                    copy_element(from + b * x.stride(0) + t * x.stride(1), axes, to + i * w.inner);
                }
            }
        });
    });
    return out;
}

// Pixels of one channel: out[i] = (in[i * step] - mean) / std, computed in float32 (float64 for float64).
template <class T>
struct Pixels {
    const uint8_t* in;
    T* out;
    int64_t count, step;
    compute_t<T> mean, std;
};

// Interleaved RGB: out[c * plane + i] = (in[3 * i + c] - mean[c]) / std[c].
template <class T>
struct InterleavedPixels {
    const uint8_t* in;
    T* out;
    int64_t count, plane;
    const compute_t<T>*mean, *std;
};

struct NormalizeKernel {
    template <class T>
    static VIDSEG_INLINE void convert(const uint8_t* in, T* out, int64_t count, compute_t<T> mean,
                                      compute_t<T> std) {
        for (int64_t i = 0; i < count; ++i)
            out[i] = static_cast<T>((static_cast<compute_t<T>>(in[i]) - mean) / std);
    }

    template <int Bytes, class T>
    static VIDSEG_INLINE void run(Pixels<T>* job) {
        if (job->step == 1) return convert(job->in, job->out, job->count, job->mean, job->std);
        for (int64_t i = 0; i < job->count; ++i) {
            job->out[i] =
                static_cast<T>((static_cast<compute_t<T>>(job->in[i * job->step]) - job->mean) / job->std);
        }
    }

    template <int Bytes, class T>
    static VIDSEG_INLINE void run(InterleavedPixels<T>* job) {
        // Split a stretch that fits into the first-level cache, then convert its planes.
        constexpr int64_t stretch = 1024;
        uint8_t planes[3][stretch];
        for (int64_t done = 0; done < job->count; done += stretch) {
            const int64_t count = std::min(stretch, job->count - done);
            const uint8_t* in = job->in + 3 * done;
            for (int64_t i = 0; i < count; ++i) {
                planes[0][i] = in[3 * i];
                planes[1][i] = in[3 * i + 1];
                planes[2][i] = in[3 * i + 2];
            }
            for (int c = 0; c < 3; ++c) {
                convert(planes[c], job->out + c * job->plane + done, count, job->mean[c], job->std[c]);
            }
        }
    }
};

template <class T>
void normalize_frame(const Frames& f, const uint8_t* frame, int64_t row_stride, int64_t column_stride,
                     int64_t channel_stride, const std::vector<compute_t<T>>& mean,
                     const std::vector<compute_t<T>>& std, T* out, int64_t plane) {
    const bool interleaved = f.channels == 3 && channel_stride == 1 && column_stride == 3;
    const bool whole = row_stride == f.width * column_stride;  // contiguous rows: one long row
    const int64_t rows = whole ? 1 : f.height;
    const int64_t columns = whole ? f.height * f.width : f.width;
    for (int64_t y = 0; y < rows; ++y) {
        if (interleaved) {
            InterleavedPixels<T> job{
                frame + y * row_stride, out + y * columns, columns, plane, mean.data(), std.data()};
            run_simd<NormalizeKernel>(&job);
            continue;
        }
        for (int64_t c = 0; c < f.channels; ++c) {
            Pixels<T> job{frame + y * row_stride + c * channel_stride,
                          out + c * plane + y * columns,
                          columns,
                          column_stride,
                          mean[c],
                          std[c]};
            run_simd<NormalizeKernel>(&job);
        }
    }
}

Tensor window_gather_frames(const Tensor& x, const Tensor& starts, int64_t length, int64_t dilation,
                            std::vector<double> mean, std::vector<double> std, ScalarType dtype) {
    const Frames f =
        frames_geometry("window_gather", x, starts, length, dilation, std::move(mean), std::move(std), dtype);
    const Windows& w = f.windows;
    const int64_t pixels = f.height * f.width;
    Tensor out = new_empty(x, {w.batch, w.count, f.channels, w.length, f.height, f.width}, dtype);
    if (out.numel() == 0) return out;
    const Starts start = starts_of(starts);
    const auto* from = static_cast<const uint8_t*>(x.const_data_ptr());
    with_float_type(dtype, [&](auto zero) {
        using T = decltype(zero);
        T* to = static_cast<T*>(out.mutable_data_ptr());
        const std::vector<compute_t<T>> means(f.mean.begin(), f.mean.end());
        const std::vector<compute_t<T>> stds(f.std.begin(), f.std.end());
        const int64_t bytes = f.channels * pixels * static_cast<int64_t>(sizeof(T));
        parallel_for(w.batch * w.count * w.length, grain(bytes), [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t l = i % w.length;
                const int64_t n = i / w.length % w.count;
                const int64_t b = i / w.length / w.count;
                const int64_t t = time_of(start.at(b, n), l, w.dilation, w.total);
                const int64_t plane = w.length * pixels;  // distance of adjacent channels of this frame
                T* frame = to + ((b * w.count + n) * f.channels * w.length + l) * pixels;
                if (t >= 0) {
                    normalize_frame(f, from + b * x.stride(0) + t * x.stride(1), x.stride(2), x.stride(3),
                                    x.stride(4), means, stds, frame, plane);
                } else {
                    for (int64_t c = 0; c < f.channels; ++c) {
                        std::fill(frame + c * plane, frame + c * plane + pixels, T(0.0f));
                    }
                }
            }
        });
    });
    return out;
}

// For each time of one sequence: the (window, element) pairs at it, in order of the windows.
struct Cover {
    std::vector<int64_t> first;  // total + 1
    std::vector<int64_t> items;  // n * length + l
};

Cover cover_of(const Windows& w, const Starts& starts, int64_t b) {
    Cover cover;
    cover.first.assign(w.total + 1, 0);
    const auto each = [&](const auto& body) {
        for (int64_t n = 0; n < w.count; ++n) {
            for (int64_t l = 0; l < w.length; ++l) {
                const int64_t t = time_of(starts.at(b, n), l, w.dilation, w.total);
                if (t >= 0) body(t, n * w.length + l);
            }
        }
    };
    each([&](int64_t t, int64_t) { ++cover.first[t + 1]; });
    for (int64_t t = 0; t < w.total; ++t) cover.first[t + 1] += cover.first[t];
    cover.items.resize(cover.first[w.total]);
    std::vector<int64_t> next(cover.first.begin(), cover.first.end() - 1);
    each([&](int64_t t, int64_t item) { cover.items[next[t]++] = item; });
    return cover;
}

// out = (sum of the elements at `items`) * scale
template <class T>
void add_elements(const T* sequence, int64_t window_stride, int64_t time_stride, int64_t length,
                  const std::vector<Axis>& axes, const int64_t* items, int64_t count, compute_t<T> divisor,
                  T* out) {
    using A = compute_t<T>;
    constexpr int64_t stretch = 256;
    const int64_t run = axes.back().size;
    const int64_t stride = axes.back().stride;
    A sums[stretch];
    for_each_run(axes, [&](int64_t position, int64_t offset) {
        for (int64_t done = 0; done < run; done += stretch) {
            const int64_t size = std::min(stretch, run - done);
            std::fill(sums, sums + size, A{0});
            for (int64_t k = 0; k < count; ++k) {
                const T* from = sequence + items[k] / length * window_stride +
                                items[k] % length * time_stride + offset + done * stride;
                if (stride == 1) {
                    for (int64_t i = 0; i < size; ++i) sums[i] += static_cast<A>(from[i]);
                } else {
                    for (int64_t i = 0; i < size; ++i) sums[i] += static_cast<A>(from[i * stride]);
                }
            }
            for (int64_t i = 0; i < size; ++i) out[position + done + i] = static_cast<T>(sums[i] / divisor);
        }
    });
}

// Adds windows whose values of one channel adjoin along time: `from` has the strides of `windows`
// (B, N, length, C), `to` is (B, C, T). A thread sums all times of a channel, window by window.
template <class T>
void add_channels(const Windows& w, const Starts& starts, bool mean, const Tensor& windows, T* to) {
    using A = compute_t<T>;
    const T* from = static_cast<const T*>(windows.const_data_ptr());
    const int64_t rows = w.batch * w.inner;
    std::vector<int32_t> covers;
    if (mean) {
        covers.assign(w.batch * w.total, 0);
        for (int64_t b = 0; b < w.batch; ++b) {
            for (int64_t n = 0; n < w.count; ++n) {
                const int64_t at = starts.at(b, n);
                const Inside inside = inside_of(at, w.length, w.total);
                for (int64_t l = inside.first; l < inside.last; ++l) ++covers[b * w.total + at + l];
            }
        }
    }
    parallel_for(rows, grain(w.total * static_cast<int64_t>(sizeof(T))), [&](int64_t begin, int64_t end) {
        std::vector<A> sums;
        if constexpr (!std::is_same_v<A, T>) sums.resize(w.total);
        for (int64_t i = begin; i < end; ++i) {
            const int64_t b = i / w.inner;
            T* row = to + i * w.total;
            A* sum;
            if constexpr (std::is_same_v<A, T>) {
                sum = row;
            } else {
                sum = sums.data();
            }
            std::fill(sum, sum + w.total, A{0});
            for (int64_t n = 0; n < w.count; ++n) {
                const int64_t at = starts.at(b, n);
                const Inside inside = inside_of(at, w.length, w.total);
                const T* window =
                    from + b * windows.stride(0) + n * windows.stride(1) + i % w.inner * windows.stride(3);
                for (int64_t l = inside.first; l < inside.last; ++l) sum[at + l] += static_cast<A>(window[l]);
            }
            if (mean) {
                for (int64_t t = 0; t < w.total; ++t)
                    sum[t] /= static_cast<A>(std::max<int32_t>(1, covers[b * w.total + t]));
            }
            if constexpr (!std::is_same_v<A, T>) {
                for (int64_t t = 0; t < w.total; ++t) row[t] = static_cast<T>(sum[t]);
            }
        }
    });
}

Tensor window_scatter(const Tensor& windows, const Tensor& starts, int64_t total, int64_t dilation,
                      int64_t reduce) {
    const char* op = "window_scatter";
    const Windows w = windows_geometry(op, "windows", windows, 3, starts, "total", total, 0, dilation);
    const Reduce how = check_reduce(op, reduce, windows, "windows");
    if (how <= Reduce::sum && dilation == 1 && windows.dim() == 4 && windows.stride(2) == 1 &&
        windows.stride(3) != 1 && w.inner > 1 && w.length >= 32) {
        // The result keeps the order of the axes in memory; the fake kernel has the same rule. Shorter
        // windows are faster one time after the other.
        Tensor rows = new_empty(windows, {w.batch, w.inner, w.total}, windows.scalar_type());
        if (rows.numel() > 0) {
            with_float_type(windows.scalar_type(), [&](auto zero) {
                using T = decltype(zero);
                add_channels(w, starts_of(starts), how == Reduce::mean, windows,
                             static_cast<T*>(rows.mutable_data_ptr()));
            });
        }
        return torch::stable::transpose(rows, 1, 2);
    }
    Tensor out = new_empty(windows, w.sizes({w.batch, w.total}), windows.scalar_type());
    if (out.numel() == 0) return out;
    const Starts start = starts_of(starts);
    const std::vector<Axis> axes = merged_axes(windows, 3);
    const bool adds = how == Reduce::mean || how == Reduce::sum;

    for (int64_t b = 0; b < w.batch; ++b) {
        const Cover cover = cover_of(w, start, b);
        // Computes the element at `t` of `to` from the windows of this sequence.
        const auto fill = [&](auto* to, int64_t t, int64_t bytes) {
            using T = std::remove_pointer_t<decltype(to)>;
            const T* sequence = static_cast<const T*>(windows.const_data_ptr()) + b * windows.stride(0);
            const int64_t* items = cover.items.data() + cover.first[t];
            const int64_t count = cover.first[t + 1] - cover.first[t];
            T* element = to + (b * w.total + t) * w.inner;
            if (count == 0) {
                std::memset(static_cast<void*>(element), 0, bytes);
            } else if constexpr (std::is_integral_v<T> || std::is_same_v<T, Bytes16>) {
                const int64_t item = how == Reduce::first ? items[0] : items[count - 1];
                copy_element(
                    sequence + item / w.length * windows.stride(1) + item % w.length * windows.stride(2),
                    axes, element);
            } else {
                const auto divisor = static_cast<compute_t<T>>(how == Reduce::mean ? count : 1);
                add_elements(sequence, windows.stride(1), windows.stride(2), w.length, axes, items, count,
                             divisor, element);
            }
        };
        const auto run = [&](auto zero) {
            using T = decltype(zero);
            T* to = static_cast<T*>(out.mutable_data_ptr());
            const int64_t bytes = w.inner * static_cast<int64_t>(sizeof(T));
            parallel_for(w.total, grain(bytes), [&](int64_t begin, int64_t end) {
                for (int64_t t = begin; t < end; ++t) fill(to, t, bytes);
            });
        };
        adds ? with_float_type(windows.scalar_type(), run) : with_byte_type(windows.element_size(), run);
    }
    return out;
}

// Gradient of window_scatter: each element of a window gets the gradient of its time, multiplied by its
// share.
Tensor window_scatter_backward(const Tensor& grad, const Tensor& starts, int64_t length, int64_t dilation,
                               int64_t reduce) {
    const char* op = "window_scatter_backward";
    const Windows w = windows_geometry(op, "grad", grad, 2, starts, "length", length, 0, dilation);
    const Reduce how = check_reduce(op, reduce, grad, "grad");
    require_float(op, "grad", grad);
    Tensor out = new_empty(grad, w.sizes({w.batch, w.count, w.length}), grad.scalar_type());
    if (out.numel() == 0) return out;
    const Starts start = starts_of(starts);
    const std::vector<Axis> axes = merged_axes(grad, 2);
    const int64_t run = axes.back().size;
    const int64_t stride = axes.back().stride;

    for (int64_t b = 0; b < w.batch; ++b) {
        const Cover cover = cover_of(w, start, b);
        with_float_type(grad.scalar_type(), [&](auto zero) {
            using T = decltype(zero);
            const T* sequence = static_cast<const T*>(grad.const_data_ptr()) + b * grad.stride(0);
            T* to = static_cast<T*>(out.mutable_data_ptr()) + b * w.count * w.length * w.inner;
            const int64_t bytes = w.inner * static_cast<int64_t>(sizeof(T));
            parallel_for(w.count * w.length, grain(bytes), [&](int64_t begin, int64_t end) {
                for (int64_t item = begin; item < end; ++item) {
                    T* element = to + item * w.inner;
                    const int64_t t =
                        time_of(start.at(b, item / w.length), item % w.length, w.dilation, w.total);
                    const bool chosen =
                        t >= 0 && (how == Reduce::mean || how == Reduce::sum ||
                                   (how == Reduce::first ? cover.items[cover.first[t]]
                                                         : cover.items[cover.first[t + 1] - 1]) == item);
                    if (!chosen) {
                        std::memset(static_cast<void*>(element), 0, bytes);
                        continue;
                    }
                    const int64_t count = how == Reduce::mean ? cover.first[t + 1] - cover.first[t] : 1;
                    const auto divisor = static_cast<compute_t<T>>(count);
                    for_each_run(axes, [&](int64_t position, int64_t offset) {
                        const T* from = sequence + t * grad.stride(1) + offset;
                        for (int64_t i = 0; i < run; ++i) {
                            element[position + i] =
                                static_cast<T>(static_cast<compute_t<T>>(from[i * stride]) / divisor);
                        }
                    });
                }
            });
        });
    }
    return out;
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CPU, m) {
    m.impl("window_gather", TORCH_BOX(&vidseg::window_gather));
    m.impl("window_gather_frames", TORCH_BOX(&vidseg::window_gather_frames));
    m.impl("window_scatter", TORCH_BOX(&vidseg::window_scatter));
    m.impl("window_scatter_backward", TORCH_BOX(&vidseg::window_scatter_backward));
}
