// CPU kernels of correlation_lookup.
//
// A product of two pixels reads their channels, which lie side by side in memory for torch.channels_last.
// Images in other layouts or half types are copied to this layout first. Tiles of queries then compute the
// products with their windows and combine them. The gradient of f2 is computed row by row: a thread visits
// the queries whose windows cover its row in order, so sums do not depend on the number of threads.
#include "lookup.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "lookup_kernels.h"
#include "parallel.h"

namespace vidseg {
namespace {

// An image whose channels are adjacent, in the compute type.
template <class A>
struct Pixels {
    const A* data;
    int64_t batch, row, column;
    std::unique_ptr<A[]> copy;

    const A* at(int64_t b, int64_t y, int64_t x) const { return data + b * batch + y * row + x * column; }
};

template <class T>
Pixels<compute_t<T>> pixels_of(const Tensor& image) {
    using A = compute_t<T>;
    const T* from = static_cast<const T*>(image.const_data_ptr());
    const int64_t channels = image.size(1), height = image.size(2), width = image.size(3);
    if constexpr (std::is_same_v<T, A>) {
        if (image.stride(1) == 1 || channels <= 1)
            return {from, image.stride(0), image.stride(2), image.stride(3), {}};
    }
    const int64_t row = width * channels;
    std::unique_ptr<A[]> copy(new A[std::max<int64_t>(image.size(0) * height * row, 1)]);
    parallel_for(image.size(0) * height, std::max<int64_t>(1, 32768 / std::max<int64_t>(row, 1)),
                 [&](int64_t begin, int64_t end) {
                     constexpr int64_t block = 16;  // channels whose lines stay in the cache
                     for (int64_t i = begin; i < end; ++i) {
                         const T* source = from + i / height * image.stride(0) + i % height * image.stride(2);
                         A* to = copy.get() + i * row;
                         for (int64_t c0 = 0; c0 < channels; c0 += block) {
                             const int64_t last = std::min(c0 + block, channels);
                             for (int64_t x = 0; x < width; ++x) {
                                 for (int64_t c = c0; c < last; ++c) {
                                     to[x * channels + c] =
                                         static_cast<A>(source[c * image.stride(1) + x * image.stride(3)]);
                                 }
                             }
                         }
                     }
                 });
    const A* data = copy.get();
    return {data, height * row, row, channels, std::move(copy)};
}

// Up to kQueries adjacent queries of a row, and scratch memory for their windows and samples.
template <class A>
struct Tile {
    int64_t b, y, x, count;
    Window windows[kQueries];
    Blend<A> blend;
    std::vector<A> products, samples;

    explicit Tile(const Lookup& l)
        : blend{{}, {}, l.side, static_cast<A>(l.scale)},
          products((l.side + 1) * (l.side + 1) * kQueries),
          samples((l.side + 2) * (l.side + 2) * kQueries) {}

    void place(const Lookup& l, const Coordinates& coordinates, int64_t number) {
        const int64_t across = (l.width + kQueries - 1) / kQueries;
        x = number % across * kQueries;
        y = number / across % l.height;
        b = number / across / l.height;
        count = std::min(kQueries, l.width - x);
        for (int64_t q = 0; q < kQueries; ++q) {
            windows[q] = q < count ? coordinates.window(b, y, x + q, l.radius) : Window{};
            blend.right[q] = static_cast<A>(windows[q].right);
            blend.below[q] = static_cast<A>(windows[q].below);
        }
    }

    // The part of the window of query `q` that is inside f2, with its products.
    Inside<A> inside(const Lookup& l, const Pixels<A>& f2, int64_t q) {
        const Window& w = windows[q];
        const int64_t left = std::max<int64_t>(0, -w.x), top = std::max<int64_t>(0, -w.y);
        const int64_t right = std::min(l.side + 1, l.columns - w.x);
        const int64_t bottom = std::min(l.side + 1, l.rows - w.y);
        if (!w.finite || left >= right || top >= bottom) return {};
        const int64_t values_row = (l.side + 1) * kQueries;
        return {f2.at(b, w.y + top, w.x + left),
                f2.row,
                f2.column,
                bottom - top,
                right - left,
                products.data() + top * values_row + left * kQueries + q,
                values_row};
    }
};

int64_t tiles_of(const Lookup& l) { return l.batch * l.height * ((l.width + kQueries - 1) / kQueries); }

template <class T>
void forward(const Lookup& l, const Tensor& f1, const Tensor& f2, const Coordinates& coordinates, T* out) {
    using A = compute_t<T>;
    const Pixels<A> queries = pixels_of<T>(f1), others = pixels_of<T>(f2);
    const int64_t area = l.side * l.side;
    parallel_for(tiles_of(l), 1, [&](int64_t begin, int64_t end) {
        Tile<A> tile(l);
        for (int64_t number = begin; number < end; ++number) {
            tile.place(l, coordinates, number);
            std::fill(tile.products.begin(), tile.products.end(), A{0});
            for (int64_t q = 0; q < tile.count; ++q) {
                const Inside<A> job = tile.inside(l, others, q);
                if (job.rows > 0) {
                    run_simd<DotKernel>(&job, queries.at(tile.b, tile.y, tile.x + q), l.channels);
                }
            }
            run_simd<SampleKernel>(static_cast<const Blend<A>*>(&tile.blend),
                                   static_cast<const A*>(tile.products.data()), tile.samples.data());
            for (int64_t q = 0; q < tile.count; ++q) {
                if (tile.windows[q].finite) continue;
                for (int64_t k = 0; k < area; ++k) {
                    tile.samples[k * kQueries + q] = std::numeric_limits<A>::quiet_NaN();
                }
            }
            for (int64_t k = 0; k < area; ++k) {
                T* to = out + ((tile.b * area + k) * l.height + tile.y) * l.width + tile.x;
                const A* from = tile.samples.data() + k * kQueries;
                for (int64_t q = 0; q < tile.count; ++q) to[q] = static_cast<T>(from[q]);
            }
        }
    });
}

// The gradient of f1 at a query is the sum of its window's pixels, weighted by the gradients of its products.
template <class T>
void backward_f1(const Lookup& l, const Tensor& grad, const Tensor& f2, const Coordinates& coordinates,
                 T* out) {
    using A = compute_t<T>;
    const Pixels<A> others = pixels_of<T>(f2);
    const T* gradients = static_cast<const T*>(grad.const_data_ptr());
    parallel_for(tiles_of(l), 1, [&](int64_t begin, int64_t end) {
        Tile<A> tile(l);
        std::vector<A> sums(kQueries * l.channels);
        for (int64_t number = begin; number < end; ++number) {
            tile.place(l, coordinates, number);
            const T* from =
                gradients + tile.b * grad.stride(0) + tile.y * grad.stride(2) + tile.x * grad.stride(3);
            for (int64_t i = 0; i < l.side; ++i) {
                for (int64_t j = 0; j < l.side; ++j) {
                    A* to = tile.samples.data() + ((i + 1) * (l.side + 2) + j + 1) * kQueries;
                    const T* plane = from + (i * l.side + j) * grad.stride(1);
                    for (int64_t q = 0; q < tile.count; ++q)
                        to[q] = static_cast<A>(plane[q * grad.stride(3)]);
                }
            }
            run_simd<SampleGradientKernel>(static_cast<const Blend<A>*>(&tile.blend),
                                           static_cast<const A*>(tile.samples.data()), tile.products.data());
            for (int64_t q = 0; q < tile.count; ++q) {
                const Inside<A> job = tile.inside(l, others, q);
                run_simd<WeightedSumKernel>(&job, sums.data() + q * l.channels, l.channels);
            }
            for (int64_t c = 0; c < l.channels; ++c) {
                T* to = out + ((tile.b * l.channels + c) * l.height + tile.y) * l.width + tile.x;
                for (int64_t q = 0; q < tile.count; ++q) to[q] = static_cast<T>(sums[q * l.channels + c]);
            }
        }
    });
}

// The gradients of the products of query (y, x) with row `j` of its window, times the scale.
template <class T, class A>
void row_of_gradients(const Lookup& l, const T* query, int64_t stride, const Window& w, int64_t j, A* row) {
    const A right = static_cast<A>(w.right), below = static_cast<A>(w.below), scale = static_cast<A>(l.scale);
    A before = 0;
    for (int64_t i = 0; i < l.side; ++i) {
        const T* sample = query + (i * l.side + j) * stride;
        const A own = j < l.side ? static_cast<A>(*sample) : A{0};
        const A above = j > 0 ? static_cast<A>(*(sample - stride)) : A{0};
        const A value = scale * (own + below * (above - own));
        row[i] = value + right * (before - value);
        before = value;
    }
    row[l.side] = right * before;
}

template <class T>
void backward_f2(const Lookup& l, const Tensor& grad, const Tensor& f1, const Coordinates& coordinates,
                 T* out) {
    using A = compute_t<T>;
    const Pixels<A> queries = pixels_of<T>(f1);
    const T* gradients = static_cast<const T*>(grad.const_data_ptr());
    std::vector<Window> windows(l.batch * l.height * l.width);
    parallel_for(l.batch * l.height, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            for (int64_t x = 0; x < l.width; ++x) {
                windows[i * l.width + x] = coordinates.window(i / l.height, i % l.height, x, l.radius);
            }
        }
    });
    parallel_for(l.batch * l.rows, 1, [&](int64_t begin, int64_t end) {
        std::vector<A> sums(l.columns * l.channels);
        A row[2 * kMaxRadius + 2];
        for (int64_t i = begin; i < end; ++i) {
            const int64_t b = i / l.rows, y2 = i % l.rows;
            std::fill(sums.begin(), sums.end(), A{0});
            for (int64_t y = 0; y < l.height; ++y) {
                const Window* line = windows.data() + (b * l.height + y) * l.width;
                for (int64_t x = 0; x < l.width; ++x) {
                    const Window& w = line[x];
                    const int64_t j = y2 - w.y;
                    const int64_t left = std::max<int64_t>(0, -w.x);
                    const int64_t right = std::min(l.side + 1, l.columns - w.x);
                    if (!w.finite || j < 0 || j > l.side || left >= right) continue;
                    const T* query = gradients + b * grad.stride(0) + y * grad.stride(2) + x * grad.stride(3);
                    row_of_gradients(l, query, grad.stride(1), w, j, row);
                    run_simd<AddScaledKernel>(queries.at(b, y, x), static_cast<const A*>(row + left),
                                              right - left, l.channels,
                                              sums.data() + (w.x + left) * l.channels);
                }
            }
            for (int64_t c = 0; c < l.channels; ++c) {
                T* to = out + ((b * l.channels + c) * l.rows + y2) * l.columns;
                for (int64_t x = 0; x < l.columns; ++x) to[x] = static_cast<T>(sums[x * l.channels + c]);
            }
        }
    });
}

Tensor correlation_lookup(const Tensor& f1, const Tensor& f2, const Tensor& coords, int64_t radius) {
    const Lookup l = lookup_forward_geometry("correlation_lookup", f1, f2, coords, radius);
    Tensor out = new_empty(f1, {l.batch, l.side * l.side, l.height, l.width}, f1.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(f1.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        forward<T>(l, f1, f2, coordinates_of(coords), static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

Tensor correlation_lookup_backward_f1(const Tensor& grad, const Tensor& f2, const Tensor& coords,
                                      int64_t radius) {
    const Lookup l = lookup_f1_geometry("correlation_lookup_backward_f1", grad, f2, coords, radius);
    Tensor out = new_empty(grad, {l.batch, l.channels, l.height, l.width}, grad.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(grad.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        backward_f1<T>(l, grad, f2, coordinates_of(coords), static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

Tensor correlation_lookup_backward_f2(const Tensor& grad, const Tensor& f1, const Tensor& coords,
                                      int64_t radius, int64_t height, int64_t width) {
    const Lookup l =
        lookup_f2_geometry("correlation_lookup_backward_f2", grad, f1, coords, radius, height, width);
    Tensor out = new_empty(grad, {l.batch, l.channels, l.rows, l.columns}, grad.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(grad.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        backward_f2<T>(l, grad, f1, coordinates_of(coords), static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace
}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CPU, m) {
    m.impl("correlation_lookup", TORCH_BOX(&vidseg::correlation_lookup));
    m.impl("correlation_lookup_backward_f1", TORCH_BOX(&vidseg::correlation_lookup_backward_f1));
    m.impl("correlation_lookup_backward_f2", TORCH_BOX(&vidseg::correlation_lookup_backward_f2));
}
