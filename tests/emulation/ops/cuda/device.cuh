// The host's twin of csrc/ops/cuda/device.cuh, found before it by the include path.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace vidseg {

template <class S>
S& block_memory() {
    static_assert(sizeof(S) <= 48 * 1024);
    static const char owner = 0;
    return *static_cast<S*>(emulation::shared_memory(&owner, sizeof(S)));
}

template <int Bytes>
void copy_async(void* to, const void* from, int valid) {
    emulation::copy_async(to, from, Bytes, valid);
}

inline void commit_copies() { emulation::commit_copies(); }

template <int Pending>
void wait_for_copies() {
    emulation::wait_for_copies(Pending);
}

// Thread i of a warp computes row i / 2, columns i % 2 * 8 to i % 2 * 8 + 7. It reads what it needs of both
// factors at the load, as the hardware does for the whole warp.
template <class T>
struct Fragments {
    struct Left {
        float values[16];  // of row i / 2
    };
    struct Right {
        float values[16][8];
    };
    struct Sum {
        float values[8];
    };

    static void check(const void* address, size_t row_bytes) {
        emulation::check(reinterpret_cast<uintptr_t>(address) % 32 == 0, "matrices are aligned to 32 bytes");
        emulation::check(row_bytes % 16 == 0, "rows of matrices are multiples of 16 bytes");
    }
    static void load(Left& left, const T* from, int stride) {
        check(from, stride * sizeof(T));
        for (int k = 0; k < 16; ++k)
            left.values[k] = static_cast<float>(from[k * stride + emulation::lane() / 2]);
    }
    static void load(Right& right, const T* from, int stride) {
        check(from, stride * sizeof(T));
        for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) {
                right.values[k][n] = static_cast<float>(from[k * stride + emulation::lane() % 2 * 8 + n]);
            }
        }
    }
    static void clear(Sum& sum) { std::memset(&sum, 0, sizeof sum); }
    static void add_product(Sum& sum, const Left& left, const Right& right) {
        for (int k = 0; k < 16; ++k) {
            for (int n = 0; n < 8; ++n) sum.values[n] += left.values[k] * right.values[k][n];
        }
    }
    static void store(float* to, const Sum& sum, int stride) {
        check(to, stride * sizeof(float));
        for (int n = 0; n < 8; ++n) {
            to[emulation::lane() / 2 * stride + emulation::lane() % 2 * 8 + n] = sum.values[n];
        }
    }
};

inline void sync_warp() { emulation::wait_for_warp(); }

template <class A>
A sum_of_warp(A value) {
    static const char owner = 0;
    auto* values = static_cast<A*>(emulation::shared_memory(&owner, 1024 * sizeof(A)));
    const auto me = static_cast<int>(threadIdx.x);  // blocks of such kernels have one dimension
    for (int distance = 16; distance > 0; distance /= 2) {
        values[me] = value;
        emulation::wait_for_warp();
        value += values[me ^ distance];
        emulation::wait_for_warp();
    }
    return value;
}

}  // namespace vidseg
