// CPU kernels of correlation and spatial_correlation.
//
// Rows are packed into zero-padded scratch memory in the compute type, which handles borders, strides and
// dtypes. The products then run on plain rows. Inputs and neighborhoods are not copied as a whole: the
// scratch memory of a thread has a few rows of one tile. Every output is summed by one thread in one order,
// independent of the tiling.
#include "cost_volume.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <utility>

#include "cost_volume_kernels.h"
#include "parallel.h"

namespace vidseg {
namespace {

constexpr int64_t kAlign = 16;  // rows are padded to 64 bytes of float, 128 of double: whole vectors

int64_t round_up(int64_t value) { return (value + kAlign - 1) / kAlign * kAlign; }

// One image (C, H, W) of a batch, with any strides.
template <class T>
struct Image {
    const T* data;
    int64_t channels, height, width;
    int64_t channel_stride, row_stride, column_stride;
};

template <class T>
Image<T> image_of(const Tensor& tensor, int64_t b) {
    return {static_cast<const T*>(tensor.const_data_ptr()) + b * tensor.stride(0),
            tensor.size(1),
            tensor.size(2),
            tensor.size(3),
            tensor.stride(1),
            tensor.stride(2),
            tensor.stride(3)};
}

// out[c * ld + i] = image[c_first + c, y, x + i * x_step] for c < channels, i < count; zero outside the
// image.
template <class T, class A>
void pack(const Image<T>& image, int64_t c_first, int64_t channels, int64_t y, int64_t x, int64_t x_step,
          int64_t count, A* out, int64_t ld) {
    const bool row_inside = 0 <= y && y < image.height;
    const int64_t low = !row_inside ? count : x >= 0 ? 0 : std::min(count, (-x + x_step - 1) / x_step);
    const int64_t high =
        x >= image.width ? low : std::max(low, std::min(count, (image.width - 1 - x) / x_step + 1));
    const int64_t move = image.column_stride * x_step;
    for (int64_t c = 0; c < channels; ++c) {
        A* row = out + c * ld;
        std::fill(row, row + low, A{0});
        if (low < high) {
            const T* from = image.data + (c_first + c) * image.channel_stride + y * image.row_stride +
                            (x + low * x_step) * image.column_stride;
            if (move == 1) {
                for (int64_t i = 0; i < high - low; ++i) row[low + i] = static_cast<A>(from[i]);
            } else {
                for (int64_t i = 0; i < high - low; ++i) row[low + i] = static_cast<A>(from[i * move]);
            }
        }
        std::fill(row + high, row + count, A{0});
    }
}

// Tiling of the outputs: one task computes `rows` by `columns` of one image.
struct Tiles {
    int64_t rows, columns, tiles_y, tiles_x, tasks;
};

Tiles cut(int64_t batch, int64_t height, int64_t width, int64_t max_rows, int64_t columns) {
    Tiles t{};
    t.columns = std::min(columns, round_up(width));
    t.tiles_x = (width + t.columns - 1) / t.columns;
    const int64_t wanted = 4 * static_cast<int64_t>(torch::stable::get_num_threads());
    for (t.rows = max_rows;; t.rows /= 2) {
        t.tiles_y = (height + t.rows - 1) / t.rows;
        t.tasks = batch * t.tiles_y * t.tiles_x;
        if (t.rows == 1 || t.tasks >= wanted) return t;
    }
}

template <class T>
void forward(const CostVolume& v, const Tensor& f1, const Tensor& f2, T* out) {
    using A = compute_t<T>;
    const Range px = reachable(v.first, v.step, v.patch, v.width);
    const Range py = reachable(v.first, v.step, v.patch, v.height);
    const int64_t patch_x = px.count();
    const bool dense = v.stride == 1;
    const int64_t area = v.patch * v.patch;
    const Tiles tiles =
        cut(v.batch, v.out_height, v.out_width, area <= 256 ? 4 : 1, v.channels <= 64 ? 128 : 64);

    parallel_for(tiles.tasks, 1, [&](int64_t begin, int64_t end) {
        // Rows of a tile. Dense: one run of columns, shared by all kernel columns and displacements. With a
        // stride: the columns of each kernel column (and displacement), one after another.
        const int64_t n = tiles.columns;
        const int64_t run = n + (v.kernel - 1) * v.dilation;
        const int64_t ld_a = dense ? run : v.kernel * n;
        const int64_t ld_b =
            dense ? run + std::max<int64_t>(patch_x - 1, 0) * v.step : v.kernel * patch_x * n;
        std::vector<A> a(tiles.rows * v.kernel * v.channels * ld_a);
        std::vector<A> b(v.channels * ld_b);
        std::vector<A> sums(tiles.rows * area * n);
        std::vector<std::pair<const A*, A*>> hits;

        for (int64_t task = begin; task < end; ++task) {
            const int64_t ox = task % tiles.tiles_x * n;
            const int64_t oy = task / tiles.tiles_x % tiles.tiles_y * tiles.rows;
            const int64_t image = task / tiles.tiles_x / tiles.tiles_y;
            const int64_t rows = std::min(tiles.rows, v.out_height - oy);
            const int64_t columns = std::min(n, v.out_width - ox);
            const int64_t count = round_up(columns);
            const Image<T> image1 = image_of<T>(f1, image);
            const Image<T> image2 = image_of<T>(f2, image);
            const int64_t x = v.origin + ox * v.stride;
            const int64_t y = v.origin + oy * v.stride;
            const int64_t dx = v.first + px.low * v.step;

            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t kj = 0; kj < v.kernel; ++kj) {
                    A* row = a.data() + (r * v.kernel + kj) * v.channels * ld_a;
                    const int64_t row_y = y + r * v.stride + kj * v.dilation;
                    if (dense) {
                        pack(image1, 0, v.channels, row_y, x, 1, count + run - n, row, ld_a);
                    } else {
                        for (int64_t ki = 0; ki < v.kernel; ++ki) {
                            pack(image1, 0, v.channels, row_y, x + ki * v.dilation, v.stride, count,
                                 row + ki * n, ld_a);
                        }
                    }
                }
            }
            std::fill(sums.begin(), sums.end(), A{0});

            const int64_t last_y = y + (rows - 1) * v.stride + (v.kernel - 1) * v.dilation;
            const int64_t y2_low = std::max<int64_t>(0, y + v.first + py.low * v.step);
            const int64_t y2_high = std::min(v.height - 1, last_y + v.first + py.high * v.step);
            for (int64_t y2 = y2_low; patch_x > 0 && y2 <= y2_high; ++y2) {
                hits.clear();
                for (int64_t r = 0; r < rows; ++r) {
                    for (int64_t kj = 0; kj < v.kernel; ++kj) {
                        const int64_t y1 = y + r * v.stride + kj * v.dilation;
                        const int64_t shift = y2 - y1 - v.first;
                        if (y1 < 0 || y1 >= v.height || shift < 0 || shift % v.step != 0) continue;
                        const int64_t pj = shift / v.step;
                        if (pj < py.low || pj > py.high) continue;
                        hits.emplace_back(a.data() + (r * v.kernel + kj) * v.channels * ld_a,
                                          sums.data() + (r * area + pj * v.patch + px.low) * n);
                    }
                }
                if (hits.empty()) continue;
                if (dense) {
                    pack(image2, 0, v.channels, y2, x + dx, 1, count + ld_b - n, b.data(), ld_b);
                } else {
                    for (int64_t ki = 0; ki < v.kernel; ++ki) {
                        for (int64_t p = 0; p < patch_x; ++p) {
                            pack(image2, 0, v.channels, y2, x + ki * v.dilation + dx + p * v.step, v.stride,
                                 count, b.data() + (ki * patch_x + p) * n, ld_b);
                        }
                    }
                }
                Products<A> job{};
                job.b = b.data();
                job.ld_a = ld_a;
                job.step_a = dense ? v.dilation : n;
                job.ld_b = ld_b;
                job.step_b = dense ? v.dilation : patch_x * n;
                job.step = dense ? v.step : n;
                job.ld_sums = n;
                job.channels = v.channels;
                job.kernel = v.kernel;
                job.patch = patch_x;
                job.count = count;
                for (size_t h = 0; h < hits.size(); h += 2) {
                    const size_t second = std::min(h + 1, hits.size() - 1);
                    job.a[0] = hits[h].first;
                    job.sums[0] = hits[h].second;
                    job.a[1] = hits[second].first;
                    job.sums[1] = hits[second].second;
                    run_simd<ForwardKernel>(&job, second == h ? 1 : 2);
                }
            }

            const A scale = static_cast<A>(v.scale);
            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t p = 0; p < area; ++p) {
                    const A* from = sums.data() + (r * area + p) * n;
                    T* to = out + ((image * area + p) * v.out_height + oy + r) * v.out_width + ox;
                    for (int64_t i = 0; i < columns; ++i) to[i] = static_cast<T>(from[i] * scale);
                }
            }
        }
    });
}

// out[i] = sum of the output gradients of displacement (pj, pi) whose kernel covers (y, x + i) in f1.
template <class T, class A>
void gather_gradient(const CostVolume& v, const T* grad, const GradientStrides& strides, int64_t pj,
                     int64_t pi, int64_t y, int64_t x, int64_t count, A* out) {
    std::fill(out, out + count, A{0});
    const T* plane = grad + pj * strides.pj + pi * strides.pi;
    for (int64_t kj = 0; kj < v.kernel; ++kj) {
        const int64_t above = y - v.origin - kj * v.dilation;
        if (above < 0 || above % v.stride != 0 || above / v.stride >= v.out_height) continue;
        const T* row = plane + above / v.stride * strides.row;
        for (int64_t ki = 0; ki < v.kernel; ++ki) {
            // x + i = origin + ox * stride + ki * dilation, with 0 <= ox < out_width and 0 <= i < count
            const int64_t zero = v.origin + ki * v.dilation - x;  // i at ox = 0
            const int64_t low = zero >= 0 ? 0 : (-zero + v.stride - 1) / v.stride;
            const int64_t high = zero >= count ? 0 : std::min(v.out_width, (count - 1 - zero) / v.stride + 1);
            if (v.stride == 1 && strides.column == 1) {
                for (int64_t ox = low; ox < high; ++ox) out[zero + ox] += static_cast<A>(row[ox]);
            } else {
                for (int64_t ox = low; ox < high; ++ox) {
                    out[zero + ox * v.stride] += static_cast<A>(row[ox * strides.column]);
                }
            }
        }
    }
}

// grad_in[b, c, y, x] = scale * sum over pj, pi of G[pj, pi](position in f1) * other[b, c, y + dy, x + dx].
// For the gradient of f2 the displacements are reversed: the partner is at -dy, -dx, and G is read at the
// partner.
template <class T>
void backward(const CostVolume& v, const Tensor& grad, const GradientStrides& strides, const Tensor& other,
              bool second, T* out) {
    using A = compute_t<T>;
    const int64_t first = second ? -(v.first + (v.patch - 1) * v.step) : v.first;
    const Range px = reachable(first, v.step, v.patch, v.width);
    const Range py = reachable(first, v.step, v.patch, v.height);
    const int64_t patch_x = px.count();
    const int64_t patch_y = py.count();
    if (patch_x == 0 || patch_y == 0) {
        std::fill(out, out + v.batch * v.channels * v.height * v.width, T(0.0f));
        return;
    }
    // Rows `step` apart read the same rows of the other image: a task computes rows of one residue class.
    const int64_t classes = std::min(v.step, v.height);
    const int64_t area = patch_x * patch_y;
    const Tiles tiles =
        cut(v.batch * classes, (v.height + classes - 1) / classes, v.width, area <= 256 ? 4 : 1, 64);

    parallel_for(tiles.tasks, 1, [&](int64_t begin, int64_t end) {
        const int64_t n = tiles.columns;
        const int64_t ld_f = n + (patch_x - 1) * v.step;
        const int64_t slots = tiles.rows + patch_y - 1;
        std::vector<A> g(tiles.rows * area * n);
        std::vector<A> f(slots * kChannels * ld_f);
        std::vector<A> sums(2 * kChannels * n);

        for (int64_t task = begin; task < end; ++task) {
            const int64_t x = task % tiles.tiles_x * n;
            const int64_t row0 = task / tiles.tiles_x % tiles.tiles_y * tiles.rows;
            const int64_t image_and_class = task / tiles.tiles_x / tiles.tiles_y;
            const int64_t residue = image_and_class % classes;
            const int64_t b = image_and_class / classes;
            const int64_t y = residue + row0 * classes;
            if (y >= v.height) continue;
            const int64_t rows = std::min(tiles.rows, (v.height - 1 - y) / classes + 1);
            const int64_t columns = std::min(n, v.width - x);
            const int64_t count = round_up(columns);
            const T* planes = static_cast<const T*>(grad.const_data_ptr()) + b * strides.batch;

            for (int64_t r = 0; r < rows; ++r) {
                for (int64_t q = 0; q < patch_y; ++q) {
                    for (int64_t p = 0; p < patch_x; ++p) {
                        const int64_t pj = py.low + q;
                        const int64_t pi = px.low + p;
                        A* to = g.data() + ((r * patch_y + q) * patch_x + p) * n;
                        const int64_t row_y = y + r * classes;
                        if (second) {
                            gather_gradient(v, planes, strides, v.patch - 1 - pj, v.patch - 1 - pi,
                                            row_y + first + pj * v.step, x + first + pi * v.step, count, to);
                        } else {
                            gather_gradient(v, planes, strides, pj, pi, row_y, x, count, to);
                        }
                    }
                }
            }

            const Image<T> image = image_of<T>(other, b);
            const int64_t used = rows + patch_y - 1;
            for (int64_t c = 0; c < v.channels; c += kChannels) {
                const int64_t channels = std::min(kChannels, v.channels - c);
                for (int64_t slot = 0; slot < used; ++slot) {
                    A* row = f.data() + slot * kChannels * ld_f;
                    pack(image, c, channels, y + first + (py.low + slot) * v.step,
                         x + first + px.low * v.step, 1, count + ld_f - n, row, ld_f);
                    std::fill(row + channels * ld_f, row + kChannels * ld_f, A{0});
                }
                for (int64_t r = 0; r < rows; r += 2) {
                    const bool two = r + 1 < rows;
                    Gradients<A> job{};
                    job.g[0] = g.data() + r * area * n;
                    job.g[1] = two ? job.g[0] + area * n : job.g[0];
                    job.sums[0] = sums.data();
                    job.sums[1] = sums.data() + kChannels * n;
                    job.f = f.data() + r * kChannels * ld_f;
                    job.ld_g = n;
                    job.g_row = patch_x * n;
                    job.ld_f = ld_f;
                    job.step = v.step;
                    job.ld_sums = n;
                    job.patch_y = patch_y;
                    job.patch_x = patch_x;
                    job.count = count;
                    run_simd<BackwardKernel>(&job, two);
                    const A scale = static_cast<A>(v.scale);
                    for (int64_t i = 0; i <= static_cast<int64_t>(two); ++i) {
                        for (int64_t ci = 0; ci < channels; ++ci) {
                            const A* from = job.sums[i] + ci * n;
                            T* to = out +
                                    ((b * v.channels + c + ci) * v.height + y + (r + i) * classes) * v.width +
                                    x;
                            for (int64_t k = 0; k < columns; ++k) to[k] = static_cast<T>(from[k] * scale);
                        }
                    }
                }
            }
        }
    });
}

}  // namespace

Tensor run_forward(const char* op, const CostVolume& v, const Tensor& f1, const Tensor& f2,
                   std::vector<int64_t> sizes) {
    Tensor out = new_empty(f1, sizes, f1.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(f1.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        forward<T>(v, f1, f2, static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

Tensor run_backward(const char* op, const CostVolume& v, const Tensor& grad, const GradientStrides& strides,
                    const Tensor& other, bool second) {
    Tensor out = new_empty(other, {v.batch, v.channels, v.height, v.width}, other.scalar_type());
    if (out.numel() == 0) return out;
    with_float_type(other.scalar_type(), [&](auto zero) {
        using T = decltype(zero);
        backward<T>(v, grad, strides, other, second, static_cast<T*>(out.mutable_data_ptr()));
    });
    return out;
}

}  // namespace vidseg

STABLE_TORCH_LIBRARY_IMPL(vidseg, CPU, m) {
    m.impl("correlation", TORCH_BOX(&vidseg::correlation));
    m.impl("correlation_backward", TORCH_BOX(&vidseg::correlation_backward));
    m.impl("spatial_correlation", TORCH_BOX(&vidseg::spatial_correlation));
    m.impl("spatial_correlation_backward", TORCH_BOX(&vidseg::spatial_correlation_backward));
}
