// Tensors of PyTorch's ABI-stable interface.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <ostream>

namespace vidseg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Streams a tensor's shape as (2, 3, 4). Built at every check, formatted only when the check fails.
struct Shape {
    const Tensor& tensor;
};

inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
    out << '(';
    for (int64_t d = 0; d < shape.tensor.dim(); ++d) out << (d ? ", " : "") << shape.tensor.size(d);
    return out << ')';
}

}  // namespace vidseg
