// Index arithmetic without division instructions.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace vidseg {

struct Quotient {
    int64_t quotient, remainder;
};

// Division of indices by a number that the host knows: the quotient is the high half of a product (Granlund
// and Montgomery, "Division by invariant integers using multiplication", 1994), of 32 bits where all indices
// are below 2^31, else of 64 bits.
class Divider {
  public:
    Divider() = default;

    // For indices below `count`, and a divisor of at least 1 if there are any.
    Divider(int64_t divisor, int64_t count)
        : narrow_(count <= INT32_MAX), divisor_(std::max<int64_t>(divisor, 1)) {
        if (narrow_) divisor_ = std::min<int64_t>(divisor_, INT32_MAX);  // above all indices
        while ((uint64_t{1} << shift_) < static_cast<uint64_t>(divisor_)) ++shift_;
        const uint64_t rest = (uint64_t{1} << shift_) - static_cast<uint64_t>(divisor_);
        using Wide = unsigned __int128;
        factor_ =
            static_cast<uint64_t>((Wide{rest} << (narrow_ ? 32 : 64)) / static_cast<uint64_t>(divisor_) + 1);
    }

    __device__ int64_t divisor() const { return divisor_; }

    __device__ Quotient divide(int64_t i) const {
        if (narrow_) {
            const auto index = static_cast<uint32_t>(i);
            const auto high = static_cast<uint32_t>((uint64_t{index} * static_cast<uint32_t>(factor_)) >> 32);
            const uint32_t quotient = (high + index) >> shift_;
            return {quotient, index - quotient * static_cast<uint32_t>(divisor_)};
        }
        const auto index = static_cast<uint64_t>(i);
        const auto quotient = static_cast<int64_t>((__umul64hi(index, factor_) + index) >> shift_);
        return {quotient, i - quotient * divisor_};
    }

  private:
    bool narrow_ = true;
    uint32_t shift_ = 0;
    int64_t divisor_ = 1;
    uint64_t factor_ = 1;
};

}  // namespace vidseg
