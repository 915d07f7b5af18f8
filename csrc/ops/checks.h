// Checks of arguments before a kernel runs, and dispatch on the floating types.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <sstream>
#include <type_traits>
#include <vector>

#include "common/check.h"
#include "common/tensors.h"

// For functions that CPU and CUDA kernels share.
#if defined(__CUDACC__)
#define VIDSEG_HOST_DEVICE __host__ __device__
#else
#define VIDSEG_HOST_DEVICE
#endif

namespace vidseg {

inline void require_dim(const char* op, const char* name, const Tensor& tensor, int64_t dim,
                        const char* layout) {
    require(tensor.dim() == dim, op, ": ", name, " has shape ", Shape{tensor}, ", must have ", dim,
            " dimensions ", layout);
}

inline void require_range(const char* op, const char* name, int64_t value, int64_t low, int64_t high) {
    require(value >= low, op, ": ", name, " is ", value, ", must be at least ", low);
    require(value <= high, op, ": ", name, " is ", value, ", must be at most ", high);
}

// Positions are products of two sizes. With sizes up to 2^30, they and their sums fit in 64 bits.
constexpr int64_t kMaxSize = int64_t{1} << 30;

inline bool is_float(ScalarType type) {
    return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
           type == ScalarType::BFloat16;
}

inline void require_float(const char* op, const char* name, const Tensor& tensor) {
    require(is_float(tensor.scalar_type()), op, ": ", name, " is ",
            torch::headeronly::toString(tensor.scalar_type()),
            ", must be float64, float32, float16 or bfloat16");
}

inline void require_type(const char* op, const char* name, const Tensor& tensor, ScalarType type,
                         const char* as) {
    require(tensor.scalar_type() == type, op, ": ", name, " is ",
            torch::headeronly::toString(tensor.scalar_type()), ", must be ",
            torch::headeronly::toString(type), " ", as);
}

inline void require_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& first) {
    require(tensor.is_cuda() == first.is_cuda() && tensor.get_device_index() == first.get_device_index(), op,
            ": ", name, " is on ", tensor.is_cuda() ? "cuda:" : "cpu:", tensor.get_device_index(),
            ", must be on the device of the other tensors, ",
            first.is_cuda() ? "cuda:" : "cpu:", first.get_device_index());
}

// Returns the number of elements of an output. Requires that 8 bytes per element fit into 64 bits.
inline int64_t checked_numel(const char* op, std::initializer_list<int64_t> sizes) {
    int64_t numel = 1;
    bool fits = true;
    for (int64_t size : sizes) {
        if (size == 0) return 0;
        fits = fits && !__builtin_mul_overflow(numel, size, &numel);
    }
    // room for 8 bytes per element
    fits = fits && numel <= INT64_MAX / 8;
    if (!fits) {
        std::ostringstream shape;
        for (int64_t size : sizes) shape << (shape.tellp() ? ", " : "") << size;
        require(false, op, ": the output's shape (", shape.str(), ") overflows a 64-bit number of bytes");
    }
    return numel;
}

inline Tensor new_empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType type) {
    return torch::stable::new_empty(like, sizes, type);
}

// float16 and bfloat16 are computed in float32.
template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls `body` with a zero of the C++ type of `type`, which is one of the four floating types.
template <class Body>
void with_float_type(ScalarType type, Body&& body) {
    switch (type) {
        case ScalarType::Float:
            return body(float{});
        case ScalarType::Double:
            return body(double{});
        case ScalarType::Half:
            return body(torch::headeronly::Half{});
        default:
            return body(torch::headeronly::BFloat16{});
    }
}

}  // namespace vidseg
