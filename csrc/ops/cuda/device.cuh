// What kernels use beyond C++: shared memory, asynchronous copies, tensor cores. tests/emulation has a twin
// of this file for the host, in which a missing barrier or wait changes results.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <type_traits>

namespace vidseg {

// One uninitialized S for each block, at most 48 KiB.
template <class S>
__device__ S& block_memory() {
    static_assert(sizeof(S) <= 48 * 1024);
    __shared__ __align__(128) unsigned char bytes[sizeof(S)];
    return *reinterpret_cast<S*>(bytes);
}

// Starts a copy of `valid` bytes to shared memory and zeros the rest of `Bytes` (4, 8 or 16). Both addresses
// are aligned to `Bytes`. The data is there after wait_for_copies, for other threads after a barrier too.
template <int Bytes>
__device__ void copy_async(void* to, const void* from, int valid) {
    const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared), "l"(from), "n"(Bytes),
                 "r"(valid)
                 : "memory");
}

// Closes a group of copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups of this thread but the last `Pending`.
template <int Pending>
__device__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Matrices of 16 x 16 in the registers of a warp. All 32 threads call each function together. Addresses are
// aligned to 32 bytes and row lengths are multiples of 16 bytes.
template <class T>
struct Fragments {
    using Element = std::conditional_t<std::is_same_v<T, torch::headeronly::Half>, __half, __nv_bfloat16>;
    // Left factor, column by column: element (m, k) is at k * stride + m.
    using Left = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, Element, nvcuda::wmma::col_major>;
    // Right factor, row by row: element (k, n) is at k * stride + n.
    using Right =
        nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, 16, 16, 16, Element, nvcuda::wmma::row_major>;
    using Sum = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;

    template <class Fragment>
    __device__ static void load(Fragment& fragment, const T* from, int stride) {
        nvcuda::wmma::load_matrix_sync(fragment, reinterpret_cast<const Element*>(from), stride);
    }
    __device__ static void clear(Sum& sum) { nvcuda::wmma::fill_fragment(sum, 0.0f); }
    __device__ static void add_product(Sum& sum, const Left& left, const Right& right) {
        nvcuda::wmma::mma_sync(sum, left, right, sum);
    }
    // Row by row: element (m, n) is at m * stride + n.
    __device__ static void store(float* to, const Sum& sum, int stride) {
        nvcuda::wmma::store_matrix_sync(to, sum, stride, nvcuda::wmma::mem_row_major);
    }
};

__device__ inline void sync_warp() { __syncwarp(); }

// Sum over the 32 threads of a warp, which call it together; all get it.
template <class A>
__device__ A sum_of_warp(A value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    }
    return value;
}

}  // namespace vidseg
