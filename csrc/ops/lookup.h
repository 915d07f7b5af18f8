// RAFT's correlation look-up without the volume of all pairs: the parts that do not depend on the device.
//
// out[b, i * side + j, y, x] = scale * <f1[b, :, y, x], f2[b, :] at (coords[b, 0, y, x] + i - radius,
//                                                                   coords[b, 1, y, x] + j - radius)>
// where f2 is interpolated bilinearly and zero outside. All samples of a query have the same fraction, so
// they are bilinear combinations of the products with (side + 1) x (side + 1) pixels, the query's window.
#pragma once

#include <cmath>

#include "checks.h"

namespace vidseg {

// A window's products are in shared memory in the CUDA kernels.
constexpr int64_t kMaxRadius = 15;

struct Lookup {
    int64_t batch, channels, height, width;  // of f1, whose pixels are the queries
    int64_t rows, columns;                   // of f2
    int64_t radius, side;                    // side = 2 * radius + 1
    double scale;
};

// The window of a query: its first pixel, and the weights of the pixels to the right and below.
struct Window {
    int64_t x, y;
    double right, below;
    bool finite;  // false if a coordinate is NaN or infinite: the outputs are NaN and there is no gradient
};

VIDSEG_HOST_DEVICE inline Window window_at(double x, double y, int64_t radius) {
    constexpr double far = 2147483648.0;  // outside of every image
    Window w{};
    w.finite = x - x == 0.0 && y - y == 0.0;
    if (!w.finite) return w;
    const double column = floor(x), row = floor(y);
    w.right = x - column;
    w.below = y - row;
    w.x = static_cast<int64_t>(column < -far ? -far : column > far ? far : column) - radius;
    w.y = static_cast<int64_t>(row < -far ? -far : row > far ? far : row) - radius;
    return w;
}

// Coordinates (B, 2, H, W) of any floating type and strides.
struct Coordinates {
    const void* data;
    ScalarType type;
    int64_t batch, axis, row, column;

    VIDSEG_HOST_DEVICE double value(int64_t offset) const {
        if (type == ScalarType::Float) return static_cast<const float*>(data)[offset];
        if (type == ScalarType::Double) return static_cast<const double*>(data)[offset];
        if (type == ScalarType::Half) {
            return static_cast<float>(static_cast<const torch::headeronly::Half*>(data)[offset]);
        }
        return static_cast<float>(static_cast<const torch::headeronly::BFloat16*>(data)[offset]);
    }

    VIDSEG_HOST_DEVICE Window window(int64_t b, int64_t y, int64_t x, int64_t radius) const {
        const int64_t offset = b * batch + y * row + x * column;
        return window_at(value(offset), value(offset + axis), radius);
    }
};

inline Coordinates coordinates_of(const Tensor& coords) {
    return {coords.const_data_ptr(), coords.scalar_type(), coords.stride(0),
            coords.stride(1),        coords.stride(2),     coords.stride(3)};
}

inline void require_sizes(const char* op, const char* name, const Tensor& image) {
    require_dim(op, name, image, 4, "(B, C, H, W)");
    require_float(op, name, image);
    for (int64_t d = 0; d < 4; ++d) {
        require(image.size(d) <= kMaxSize, op, ": ", name, " has shape ", Shape{image},
                ", each size must be at most ", kMaxSize);
    }
}

// `name` is the first argument, `queries` an image of the queries' size and batch.
inline Lookup lookup_geometry(const char* op, const char* name, const Tensor& queries, const Tensor& coords,
                              int64_t channels, int64_t radius) {
    require_dim(op, "coords", coords, 4, "(B, 2, H, W)");
    require_float(op, "coords", coords);
    require_same_device(op, "coords", coords, queries);
    require(coords.size(0) == queries.size(0) && coords.size(1) == 2 && coords.size(2) == queries.size(2) &&
                coords.size(3) == queries.size(3),
            op, ": coords has shape ", Shape{coords}, ", must be (B, 2, H, W) with the B, H and W of ", name,
            ", ", Shape{queries});
    require_range(op, "radius", radius, 0, kMaxRadius);
    Lookup l{};
    l.batch = queries.size(0);
    l.channels = channels;
    l.height = queries.size(2);
    l.width = queries.size(3);
    l.radius = radius;
    l.side = 2 * radius + 1;
    l.scale = channels == 0 ? 0.0 : 1.0 / std::sqrt(static_cast<double>(channels));
    return l;
}

inline Lookup lookup_forward_geometry(const char* op, const Tensor& f1, const Tensor& f2,
                                      const Tensor& coords, int64_t radius) {
    require_sizes(op, "f1", f1);
    require_sizes(op, "f2", f2);
    require_type(op, "f2", f2, f1.scalar_type(), "like f1");
    require_same_device(op, "f2", f2, f1);
    require(f1.size(0) == f2.size(0) && f1.size(1) == f2.size(1), op, ": f2 has shape ", Shape{f2},
            ", must have the B and C of f1, ", Shape{f1});
    Lookup l = lookup_geometry(op, "f1", f1, coords, f1.size(1), radius);
    l.rows = f2.size(2);
    l.columns = f2.size(3);
    checked_numel(op, {l.batch, l.side * l.side, l.height, l.width});
    return l;
}

// Of both gradients; `other` is f2 for the gradient of f1, and f1 for that of f2.
inline Lookup lookup_backward_geometry(const char* op, const Tensor& grad, const char* name,
                                       const Tensor& other, const Tensor& coords, int64_t radius) {
    require_sizes(op, "grad", grad);
    require_sizes(op, name, other);
    require_type(op, name, other, grad.scalar_type(), "like grad");
    require_same_device(op, name, other, grad);
    require(grad.size(0) == other.size(0), op, ": ", name, " has shape ", Shape{other},
            ", must have the B of grad, ", Shape{grad});
    Lookup l = lookup_geometry(op, "grad", grad, coords, other.size(1), radius);
    require(grad.size(1) == l.side * l.side, op, ": grad has shape ", Shape{grad},
            ", its second size must be (2 * radius + 1)^2, ", l.side * l.side);
    return l;
}

inline Lookup lookup_f1_geometry(const char* op, const Tensor& grad, const Tensor& f2, const Tensor& coords,
                                 int64_t radius) {
    Lookup l = lookup_backward_geometry(op, grad, "f2", f2, coords, radius);
    l.rows = f2.size(2);
    l.columns = f2.size(3);
    checked_numel(op, {l.batch, l.channels, l.height, l.width});
    return l;
}

inline Lookup lookup_f2_geometry(const char* op, const Tensor& grad, const Tensor& f1, const Tensor& coords,
                                 int64_t radius, int64_t rows, int64_t columns) {
    Lookup l = lookup_backward_geometry(op, grad, "f1", f1, coords, radius);
    require(f1.size(2) == l.height && f1.size(3) == l.width, op, ": f1 has shape ", Shape{f1},
            ", must have the H and W of grad, ", Shape{grad});
    require_range(op, "height", rows, 0, kMaxSize);
    require_range(op, "width", columns, 0, kMaxSize);
    l.rows = rows;
    l.columns = columns;
    checked_numel(op, {l.batch, l.channels, l.rows, l.columns});
    return l;
}

}  // namespace vidseg
