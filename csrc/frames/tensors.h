// Tensors as arguments and results of the operators of this library.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "common/check.h"
#include "common/tensors.h"

namespace vidseg {

template <class Value>
struct TensorType;
template <>
struct TensorType<uint8_t> {
    static constexpr ScalarType type = ScalarType::Byte;
    static constexpr const char* name = "uint8";
};
template <>
struct TensorType<int64_t> {
    static constexpr ScalarType type = ScalarType::Long;
    static constexpr const char* name = "int64";
};
template <>
struct TensorType<float> {
    static constexpr ScalarType type = ScalarType::Float;
    static constexpr const char* name = "float32";
};
template <>
struct TensorType<double> {
    static constexpr ScalarType type = ScalarType::Double;
    static constexpr const char* name = "float64";
};

// The elements of an argument of any shape.
template <class Value>
const Value* values_of(const Tensor& tensor, const char* name) {
    require(tensor.is_cpu() && tensor.scalar_type() == TensorType<Value>::type && tensor.is_contiguous(),
            name, " must be a contiguous ", TensorType<Value>::name, " tensor on the CPU");
    return tensor.const_data_ptr<Value>();
}

// The elements of an argument of this shape; a size of -1 stands for any.
template <class Value>
const Value* values_of(const Tensor& tensor, const char* name, std::initializer_list<int64_t> shape) {
    bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
    int64_t axis = 0;
    for (const int64_t size : shape) {
        fits = fits && (size < 0 || tensor.size(axis) == size);
        ++axis;
    }
    if (!fits) {
        std::ostringstream expected;
        for (const int64_t size : shape) {
            expected << (expected.tellp() > 0 ? ", " : "");
            size < 0 ? expected << "any" : expected << size;
        }
        require(false, name, " must have the shape (", expected.str(), "), has ", Shape{tensor});
    }
    return values_of<Value>(tensor, name);
}

inline Tensor make_tensor(const std::vector<int64_t>& sizes, ScalarType type) {
    return torch::stable::empty(sizes, type);
}

// A vector with a copy of the values.
template <class Value>
Tensor tensor_of(const std::vector<Value>& values) {
    Tensor tensor = make_tensor({static_cast<int64_t>(values.size())}, TensorType<Value>::type);
    if (!values.empty()) {
        std::memcpy(tensor.mutable_data_ptr<Value>(), values.data(), values.size() * sizeof(Value));
    }
    return tensor;
}

}  // namespace vidseg
