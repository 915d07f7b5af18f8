#include "idct.h"

namespace vidseg {
namespace {

constexpr int kConstBits = 13;
constexpr int kPassBits = 2;  // fractional bits between the passes

constexpr int fixed(double value) { return static_cast<int>(value * (1 << kConstBits) + 0.5); }

constexpr int k0298 = fixed(0.298631336), k0390 = fixed(0.390180644), k0541 = fixed(0.541196100),
              k0765 = fixed(0.765366865), k0899 = fixed(0.899976223), k1175 = fixed(1.175875602),
              k1501 = fixed(1.501321110), k1847 = fixed(1.847759065), k1961 = fixed(1.961570560),
              k2053 = fixed(2.053119869), k2562 = fixed(2.562915447), k3072 = fixed(3.072711026);

}  // namespace
}  // namespace vidseg

#define VIDSEG_KERNELS "frames/idct_kernels.h"
#include "common/each_set.h"

namespace vidseg {

template <>
void inverse_dct<16>(const BlockPair& blocks, const BlockTarget& first, const BlockTarget& second) {
    baseline::inverse_both(blocks, first, second);
}

#if defined(__x86_64__)
#if VIDSEG_SET_OF_X86
namespace widest = avx2;
#else
namespace widest = baseline;
#endif
template <>
VIDSEG_AVX2 void inverse_dct<32>(const BlockPair& blocks, const BlockTarget& first,
                                 const BlockTarget& second) {
    widest::inverse_both(blocks, first, second);
}
#endif

}  // namespace vidseg
