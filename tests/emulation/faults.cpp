// Tests of the emulator itself: `faults KIND` runs a kernel with one fault of that kind and prints whether
// its results are right. `faults none` has no fault; `faults division` compares Divider with the processor's
// division.
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include "cuda_runtime.h"
#include "ops/cuda/device.cuh"
#include "ops/cuda/divider.cuh"

namespace vidseg {
namespace {

enum class Fault { none, barrier, second_barrier, wait, divergence, bound, warp, alignment };

constexpr int kThreads = 64, kRounds = 3;

struct Memory {
    float values[kThreads];
};

// Reverses each round of 64 values, through shared memory.
void reverse(Fault fault, const float* in, float* out) {
    auto& memory = block_memory<Memory>();
    const int me = static_cast<int>(threadIdx.x);
    for (int round = 0; round < kRounds; ++round) {
        const float* from = in + round * kThreads + me + (fault == Fault::bound ? 1 : 0);
        if (fault == Fault::alignment)
            from = reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(from) + 2);
        copy_async<4>(&memory.values[me], from, 4);
        commit_copies();
        if (fault != Fault::wait) wait_for_copies<0>();
        if (fault == Fault::divergence && me >= 32) return;
        if (fault != Fault::barrier) __syncthreads();
        out[round * kThreads + me] = memory.values[kThreads - 1 - me];
        if (fault != Fault::second_barrier) __syncthreads();
    }
}

// Each warp reverses its own values.
void reverse_in_warps(Fault fault, const float* in, float* out) {
    auto& memory = block_memory<Memory>();
    const int me = static_cast<int>(threadIdx.x);
    memory.values[me] = in[me];
    if (fault != Fault::warp) sync_warp();
    out[me] = memory.values[me / 32 * 32 + 31 - me % 32];
}

bool runs_right(Fault fault) {
    constexpr int count = kThreads * kRounds;
    const std::unique_ptr<float[]> in(new float[count]), out(new float[count]);
    for (int i = 0; i < count; ++i) in[i] = static_cast<float>(i);
    cudaLaunchConfig_t config{};
    config.blockDim = dim3(kThreads);
    cudaLaunchKernelEx(&config, reverse, fault, in.get(), out.get());
    for (int i = 0; i < count; ++i) {
        if (out[i] != in[i / kThreads * kThreads + kThreads - 1 - i % kThreads]) return false;
    }
    cudaLaunchKernelEx(&config, reverse_in_warps, fault, in.get(), out.get());
    for (int i = 0; i < kThreads; ++i) {
        if (out[i] != in[i / 32 * 32 + 31 - i % 32]) return false;
    }
    return true;
}

bool divides_right() {
    const int64_t edges[] = {1,
                             2,
                             3,
                             7,
                             255,
                             256,
                             641,
                             65536,
                             65537,
                             INT32_MAX - 1,
                             INT32_MAX,
                             int64_t{1} << 31,
                             (int64_t{1} << 32) + 15,
                             (int64_t{1} << 40) - 1,
                             int64_t{1} << 59};
    for (int64_t count : {int64_t{1000}, int64_t{INT32_MAX}, int64_t{INT32_MAX} + 1, int64_t{1} << 60}) {
        for (int64_t divisor : edges) {
            const Divider divider(divisor, count);
            for (int64_t multiple : edges) {
                for (int64_t i : {multiple - 1, multiple, multiple + 1, count - multiple,
                                  count / divisor * divisor - 1, count / divisor * divisor}) {
                    if (i < 0 || i >= count) continue;
                    const Quotient got = divider.divide(i);
                    if (got.quotient != i / divisor || got.remainder != i % divisor) {
                        std::printf("%lld / %lld\n", static_cast<long long>(i),
                                    static_cast<long long>(divisor));
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

}  // namespace
}  // namespace vidseg

int main(int, char** arguments) {
    const std::string names[] = {"none",       "barrier", "second_barrier", "wait",
                                 "divergence", "bound",   "warp",           "alignment"};
    const std::string kind = arguments[1];
    bool right = kind == "division" ? vidseg::divides_right() : true;
    for (int i = 0; i < 8; ++i) {
        try {
            if (kind == names[i]) right = vidseg::runs_right(static_cast<vidseg::Fault>(i));
        } catch (const std::exception& error) {
            std::printf("%s\n", error.what());
            return 1;
        }
    }
    std::printf("%s\n", right ? "right" : "wrong");
    return 0;
}
