// Device code of window_gather, window_gather_frames and window_scatter.
#pragma once

#include "../windows.h"
#include "launch.cuh"

namespace vidseg {

// Axes of one sequence element, adjacent ones merged, which give the offset of its i-th value in memory.
constexpr int kAxes = 8;

struct Element {
    int axes;
    Divider size[kAxes];
    int64_t stride[kAxes];

    // Offset of value i along the axes before the first `used`.
    __device__ int64_t offset(int64_t i, int used) const {
        int64_t at = 0;
        for (int d = used - 1; d > 0; --d) {
            const Quotient part = size[d].divide(i);
            at += part.remainder * stride[d];
            i = part.quotient;
        }
        return used > 0 ? at + i * stride[0] : 0;
    }
    __device__ int64_t offset(int64_t i) const { return offset(i, axes); }
};

// Item (b * N + n) * length + l is element l of window n of sequence b.
struct Items {
    Divider length, count;
    int64_t total, dilation;
    Starts starts;

    struct Place {
        int64_t sequence, time;  // time -1: outside the sequence
    };
    __device__ Place at(int64_t item) const {
        const Quotient window = length.divide(item);
        const Quotient sequence = count.divide(window.quotient);
        return {sequence.quotient,
                time_of(starts.at(sequence.quotient, sequence.remainder), window.remainder, dilation, total)};
    }
};

// A word of 16 bytes of the output, and of its `Unit`s.
template <class Unit>
struct alignas(16) Word {
    static constexpr int kUnits = 16 / static_cast<int>(sizeof(Unit));
    Unit units[kUnits];
};

// Reads a word at any multiple of the size of a unit. Units below 4 bytes are read as aligned groups of 4
// bytes that are shifted; those lie in [first, last).
template <class Unit>
__device__ void read_word(const Unit* from, const Unit* first, const Unit* last, Word<Unit>& word) {
    if constexpr (sizeof(Unit) < 4) {
        const auto address = reinterpret_cast<uintptr_t>(from);
        const auto* group = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
        const unsigned shift = static_cast<unsigned>(address & 3) * 8;
        const auto* end = group + (shift == 0 ? 4 : 5);
        if (reinterpret_cast<uintptr_t>(group) >= reinterpret_cast<uintptr_t>(first) &&
            reinterpret_cast<uintptr_t>(end) <= reinterpret_cast<uintptr_t>(last)) {
            auto* to = reinterpret_cast<uint32_t*>(word.units);
            uint32_t low = group[0];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const uint32_t high = k < 3 || shift != 0 ? group[k + 1] : 0;
                to[k] = __funnelshift_r(low, high, shift);
                low = high;
            }
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < Word<Unit>::kUnits; ++k) word.units[k] = from[k];
}

// Elements whose last axis is contiguous: runs of `run` units, of which an item has `runs`. A thread writes
// one word of the output; `count` is in units.
template <class Unit>
__global__ void gather_runs(const __grid_constant__ Items items, const __grid_constant__ Element element,
                            Divider run, Divider runs, const Unit* x, int64_t batch_stride,
                            int64_t time_stride, Unit* out, int64_t words, int64_t count) {
    constexpr int kUnits = Word<Unit>::kUnits;
    for (int64_t w = first_element(); w < words; w += element_step()) {
        const int64_t begin = w * kUnits;
        const int64_t rest = count - begin;
        const int units = rest < kUnits ? static_cast<int>(rest) : kUnits;
        Quotient place = run.divide(begin);
        Word<Unit> word{};
        for (int done = 0; done < units;) {
            const Quotient part = runs.divide(place.quotient);
            const auto at = items.at(part.quotient);
            const int64_t offset = at.sequence * batch_stride + at.time * time_stride +
                                   element.offset(part.remainder, element.axes - 1);
            const Unit* from = at.time >= 0 ? x + offset : nullptr;
            if (done == 0 && place.remainder + kUnits <= run.divisor()) {  // the word is inside this run
                if (from != nullptr) read_word(from + place.remainder, from, from + run.divisor(), word);
                break;
            }
#pragma unroll
            for (int k = 0; k < kUnits; ++k) {
                if (k < done || k >= units || place.remainder == run.divisor()) continue;
                if (from != nullptr) word.units[k] = from[place.remainder];
                ++place.remainder;
                ++done;
            }
            ++place.quotient;
            place.remainder = 0;
        }
        if (units == kUnits) {
            *reinterpret_cast<Word<Unit>*>(out + begin) = word;
        } else {
#pragma unroll
            for (int k = 0; k < kUnits; ++k) {
                if (k < units) out[begin + k] = word.units[k];
            }
        }
    }
}

// Elements with any strides. A thread writes `Together` adjacent values of one element.
template <class T, int Together>
__global__ void gather_values(const __grid_constant__ Items items, const __grid_constant__ Element element,
                              Divider groups, const T* x, int64_t batch_stride, int64_t time_stride, T* out,
                              int64_t count) {
    struct alignas(sizeof(T) * Together) Values {
        T values[Together];
    };
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient place = groups.divide(i);
        const auto at = items.at(place.quotient);
        Values values{};
        if (at.time >= 0) {
            const T* from = x + at.sequence * batch_stride + at.time * time_stride;
#pragma unroll
            for (int k = 0; k < Together; ++k) {
                values.values[k] = from[element.offset(place.remainder * Together + k)];
            }
        }
        reinterpret_cast<Values*>(out)[i] = values;
    }
}

constexpr int kChannels = 16;  // channels whose mean and std are kernel arguments

template <class A>
struct Normalization {
    A mean[kChannels], std[kChannels];

    __device__ A apply(uint8_t raw, int c) const { return (static_cast<A>(raw) - mean[c]) / std[c]; }
};

struct FrameStrides {
    int64_t batch, time, row, column, channel;
};

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

// Interleaved RGB frames that are one run of pixels, in multiples of 4: a thread reads 12 bytes and writes 4
// pixels of each plane.
template <class T>
__global__ void gather_rgb(const __grid_constant__ Items items, Divider quads, const uint8_t* x,
                           int64_t batch_stride, int64_t time_stride,
                           const __grid_constant__ Normalization<compute_t<T>> n, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient place = quads.divide(i);
        const auto at = items.at(place.quotient);
        alignas(4) uint8_t bytes[12];
        if (at.time >= 0) {
            const auto* from = reinterpret_cast<const uint32_t*>(
                x + at.sequence * batch_stride + at.time * time_stride + 12 * place.remainder);
#pragma unroll
            for (int k = 0; k < 3; ++k) reinterpret_cast<uint32_t*>(bytes)[k] = from[k];
        }
        const Quotient window = items.length.divide(place.quotient);
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            Four<T> four;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                four.values[k] = static_cast<T>(at.time >= 0 ? n.apply(bytes[3 * k + c], c) : A(0));
            }
            const int64_t plane = (window.quotient * 3 + c) * items.length.divisor() + window.remainder;
            reinterpret_cast<Four<T>*>(out)[plane * quads.divisor() + place.remainder] = four;
        }
    }
}

// Any strides and channels, from channel `c0` on. A thread computes one pixel of `some` channels.
template <class T>
__global__ void gather_pixels(const __grid_constant__ Items items, Divider pixels, Divider width,
                              const uint8_t* x, const __grid_constant__ FrameStrides s, int64_t channels,
                              int64_t c0, int some, const __grid_constant__ Normalization<compute_t<T>> n,
                              T* out, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient place = pixels.divide(i);
        const Quotient pixel = width.divide(place.remainder);
        const auto at = items.at(place.quotient);
        const Quotient window = items.length.divide(place.quotient);
        int64_t offset = at.sequence * s.batch + at.time * s.time + pixel.quotient * s.row +
                         pixel.remainder * s.column + c0 * s.channel;
        const int64_t plane = (window.quotient * channels + c0) * items.length.divisor() + window.remainder;
        T* to = out + plane * pixels.divisor() + place.remainder;
        for (int c = 0; c < some; ++c) {
            *to = at.time >= 0 ? static_cast<T>(n.apply(x[offset], c)) : T(compute_t<T>(0));
            offset += s.channel;
            to += items.length.divisor() * pixels.divisor();
        }
    }
}

// Windows of a sequence, seen from its elements.
struct Cover {
    Divider inner, total, dilation;
    int64_t count, reach;  // windows of a sequence; distance of their first and last elements
    Starts starts;

    // Returns the element of window n of sequence b at time t, or -1.
    __device__ int64_t element(int64_t b, int64_t n, int64_t t) const {
        const int64_t start = starts.at(b, n);
        if (start > t || start < t - reach) return -1;
        const Quotient distance = dilation.divide(t - start);
        return distance.remainder == 0 ? distance.quotient : -1;
    }
};

struct WindowStrides {
    int64_t batch, window, element;
};

template <class T>
__global__ void scatter_sum(const __grid_constant__ Cover w, bool mean, const T* windows, WindowStrides s,
                            const __grid_constant__ Element element, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient place = w.inner.divide(i);
        const Quotient sequence = w.total.divide(place.quotient);
        const int64_t b = sequence.quotient;
        const int64_t offset = b * s.batch + element.offset(place.remainder);
        A sum = 0;
        int64_t covers = 0;
        for (int64_t n = 0; n < w.count; ++n) {
            const int64_t l = w.element(b, n, sequence.remainder);
            if (l < 0) continue;
            ++covers;
            sum += static_cast<A>(windows[offset + n * s.window + l * s.element]);
        }
        out[i] = static_cast<T>(sum / static_cast<A>(mean && covers > 1 ? covers : 1));
    }
}

template <class T>
__global__ void scatter_one(const __grid_constant__ Cover w, bool last, const T* windows, WindowStrides s,
                            const __grid_constant__ Element element, T* out, int64_t count) {
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient place = w.inner.divide(i);
        const Quotient sequence = w.total.divide(place.quotient);
        const int64_t b = sequence.quotient;
        T value{};
        for (int64_t k = 0; k < w.count; ++k) {
            const int64_t n = last ? w.count - 1 - k : k;
            const int64_t l = w.element(b, n, sequence.remainder);
            if (l < 0) continue;
            value = windows[b * s.batch + n * s.window + l * s.element + element.offset(place.remainder)];
            break;
        }
        out[i] = value;
    }
}

// Each element gets the gradient of its time, multiplied by its share.
template <class T>
__global__ void scatter_gradient(const __grid_constant__ Items items, const __grid_constant__ Cover w,
                                 Reduce how, const T* grad, int64_t batch_stride, int64_t time_stride,
                                 const __grid_constant__ Element element, T* out, int64_t count) {
    using A = compute_t<T>;
    for (int64_t i = first_element(); i < count; i += element_step()) {
        const Quotient place = w.inner.divide(i);
        const auto at = items.at(place.quotient);
        const int64_t n = items.count.divide(items.length.divide(place.quotient).quotient).remainder;
        A value = 0;
        if (at.time >= 0) {
            int64_t covers = 0;
            bool chosen = true;
            for (int64_t k = 0; how != Reduce::sum && k < w.count; ++k) {
                if (w.element(at.sequence, k, at.time) < 0) continue;
                ++covers;
                chosen = chosen && !(how == Reduce::first && k < n) && !(how == Reduce::last && k > n);
            }
            if (chosen) {
                value = static_cast<A>(grad[at.sequence * batch_stride + at.time * time_stride +
                                            element.offset(place.remainder)]);
                if (how == Reduce::mean) value /= static_cast<A>(covers);
            }
        }
        out[i] = static_cast<T>(value);
    }
}

}  // namespace vidseg
