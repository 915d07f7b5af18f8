// Shared by the CUDA kernels: launches on PyTorch's current stream, loops over any number of elements.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../checks.h"
#include "divider.cuh"

namespace vidseg {

using torch::stable::accelerator::DeviceGuard;

constexpr int kThreads = 256;

template <class... Params, class... Args>
void launch(const char* op, const Tensor& like, dim3 grid, dim3 block, void (*kernel)(Params...),
            const Args&... args) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = static_cast<cudaStream_t>(stream);
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args...);
    if (error != cudaSuccess) throw std::runtime_error(std::string(op) + ": " + cudaGetErrorString(error));
}

// Grid with one thread per element of `count`; beyond its maximum, threads loop.
inline dim3 grid_for(int64_t count) {
    return dim3(static_cast<unsigned>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, 1 << 20)));
}

__device__ inline int64_t first_element() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

__device__ inline int64_t element_step() { return int64_t{gridDim.x} * blockDim.x; }

}  // namespace vidseg
