// Stands in for CUDA's header of this name, so that the host's compiler builds the operators' .cu files and
// tests/emulation/emulator.cpp runs their kernels. It has what csrc/ops/cuda uses and no more.
#pragma once

#include <cstdint>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned width = 1, unsigned height = 1, unsigned depth = 1)
        : x(width), y(height), z(depth) {}
};

// Of the thread that runs; the emulator sets them whenever it switches threads.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

namespace emulation {

// Runs `kernel`, the function at `name`, for every thread of every block, blocks and threads in random order.
// Throws a std::runtime_error if some threads of a block end while others wait at a barrier.
void run(const void* name, dim3 grid, dim3 block, const std::function<void()>& kernel);

// Suspend the running thread until all threads of its block or its warp are there.
void wait_for_block();
void wait_for_warp();

// `bytes` of memory for the running block, the same for each call with this `owner`, filled with NaN.
void* shared_memory(const void* owner, size_t bytes);

// A copy that happens now or at the latest in the wait for its group, at random.
void copy_async(void* to, const void* from, int bytes, int valid);
void commit_copies();
void wait_for_copies(int pending);

// The index of the running thread in its warp.
int lane();

// Ends the process if a kernel breaks a rule of the hardware.
void check(bool holds, const char* rule);

}  // namespace emulation

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               const Args&... args) {
    emulation::run(reinterpret_cast<const void*>(kernel), config->gridDim, config->blockDim,
                   [&] { kernel(args...); });
    return cudaSuccess;
}

inline void __syncthreads() { emulation::wait_for_block(); }

inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
    return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> (shift & 31));
}

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
