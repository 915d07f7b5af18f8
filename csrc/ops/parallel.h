// Parallel loops over kernels that call run_simd.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "common/simd.h"

namespace vidseg {

// Calls body(begin, end) for ranges of 0 to count - 1, each of at least `grain` numbers, in PyTorch's
// threads. An error inside a parallel region loses its message, so the instruction set is detected before it.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
    simd_level();
    torch::stable::parallel_for(0, count, grain, body);
}

}  // namespace vidseg
