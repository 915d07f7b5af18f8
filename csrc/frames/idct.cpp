#include "idct.h"

#include "common/check.h"
#include "common/simd.h"

namespace vidseg {

#if defined(__x86_64__)
namespace {

constexpr int kConstBits = 13;
constexpr int kPassBits = 2;  // fractional bits between the passes

constexpr int fixed(double value) { return static_cast<int>(value * (1 << kConstBits) + 0.5); }

constexpr int k0298 = fixed(0.298631336), k0390 = fixed(0.390180644), k0541 = fixed(0.541196100),
              k0765 = fixed(0.765366865), k0899 = fixed(0.899976223), k1175 = fixed(1.175875602),
              k1501 = fixed(1.501321110), k1847 = fixed(1.847759065), k1961 = fixed(1.961570560),
              k2053 = fixed(2.053119869), k2562 = fixed(2.562915447), k3072 = fixed(3.072711026);

// 32-bit sums of the low and the high half of each lane's columns.
struct Sums {
    __m256i low, high;
};

// Returns a * of_a + b * of_b for 16-bit a and b.
VIDSEG_AVX2 inline Sums weigh(__m256i a, __m256i b, int of_a, int of_b) {
    const __m256i weights = _mm256_set1_epi32((of_a & 0xFFFF) | of_b * 65536);
    return {_mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weights),
            _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weights)};
}
VIDSEG_AVX2 inline Sums scale(__m256i a) {  // a << kConstBits
    const __m256i zero = _mm256_setzero_si256();
    return {_mm256_srai_epi32(_mm256_unpacklo_epi16(zero, a), 16 - kConstBits),
            _mm256_srai_epi32(_mm256_unpackhi_epi16(zero, a), 16 - kConstBits)};
}
VIDSEG_AVX2 inline Sums add(Sums a, Sums b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
VIDSEG_AVX2 inline Sums subtract(Sums a, Sums b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
template <int Shift>
VIDSEG_AVX2 inline __m256i descale(Sums sums) {
    const __m256i half = _mm256_set1_epi32(1 << (Shift - 1));
    return _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(sums.low, half), Shift),
                              _mm256_srai_epi32(_mm256_add_epi32(sums.high, half), Shift));
}

// One dimension of eight columns in each lane: v[k] is coefficient k before and sample k after. Algorithm of
// Loeffler, Ligtenberg and Moschytz (ICASSP 1989), with the multiplications grouped as in libjpeg.
template <int Shift>
VIDSEG_AVX2 inline void transform(__m256i (&v)[8]) {
    const Sums even2 = weigh(v[2], v[6], k0541, k0541 - k1847);
    const Sums even3 = weigh(v[2], v[6], k0541 + k0765, k0541);
    const Sums even0 = scale(_mm256_add_epi16(v[0], v[4]));
    const Sums even1 = scale(_mm256_sub_epi16(v[0], v[4]));
    const Sums sum0 = add(even0, even3), sum3 = subtract(even0, even3);
    const Sums sum1 = add(even1, even2), sum2 = subtract(even1, even2);

    const __m256i z3 = _mm256_add_epi16(v[7], v[3]), z4 = _mm256_add_epi16(v[5], v[1]);
    const Sums turn3 = weigh(z3, z4, k1175 - k1961, k1175);
    const Sums turn4 = weigh(z3, z4, k1175, k1175 - k0390);
    const Sums odd0 = add(weigh(v[7], v[1], k0298 - k0899, -k0899), turn3);
    const Sums odd1 = add(weigh(v[5], v[3], k2053 - k2562, -k2562), turn4);
    const Sums odd2 = add(weigh(v[5], v[3], -k2562, k3072 - k2562), turn3);
    const Sums odd3 = add(weigh(v[7], v[1], -k0899, k1501 - k0899), turn4);

    v[0] = descale<Shift>(add(sum0, odd3));
    v[7] = descale<Shift>(subtract(sum0, odd3));
    v[1] = descale<Shift>(add(sum1, odd2));
    v[6] = descale<Shift>(subtract(sum1, odd2));
    v[2] = descale<Shift>(add(sum2, odd1));
    v[5] = descale<Shift>(subtract(sum2, odd1));
    v[3] = descale<Shift>(add(sum3, odd0));
    v[4] = descale<Shift>(subtract(sum3, odd0));
}

// Transposes each lane.
VIDSEG_AVX2 inline void transpose(__m256i (&v)[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
        for (int half = 0; half < 2; ++half) {
            b[4 * i + 2 * half] = _mm256_unpacklo_epi32(a[4 * i + half], a[4 * i + 2 + half]);
            b[4 * i + 2 * half + 1] = _mm256_unpackhi_epi32(a[4 * i + half], a[4 * i + 2 + half]);
        }
    }
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = _mm256_unpacklo_epi64(b[i], b[4 + i]);
        v[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[4 + i]);
    }
}

VIDSEG_AVX2 inline __m128i load_row(const Quantizer& quantizer, int row) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(quantizer.data() + 8 * row));
}

}  // namespace

VIDSEG_AVX2 void inverse_dct(const BlockPair& blocks, const BlockTarget& first, const BlockTarget& second) {
    __m256i v[8];
    for (int row = 0; row < 8; ++row) {
        const __m256i coefficients =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(blocks.coefficients + 16 * row));
        const __m256i steps = _mm256_inserti128_si256(_mm256_castsi128_si256(load_row(*first.quantizer, row)),
                                                      load_row(*second.quantizer, row), 1);
        v[row] = _mm256_mullo_epi16(coefficients, steps);
    }
    transform<kConstBits - kPassBits>(v);
    transpose(v);
    transform<kConstBits + kPassBits + 3>(v);
    transpose(v);
    const __m256i center = _mm256_set1_epi8(-128);
    for (int row = 0; row < 8; row += 2) {
        const __m256i two = _mm256_add_epi8(_mm256_packs_epi16(v[row], v[row + 1]), center);
        const __m128i one = _mm256_castsi256_si128(two), other = _mm256_extracti128_si256(two, 1);
        uint8_t* to = first.to + static_cast<size_t>(row) * first.stride;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), one);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + first.stride), _mm_unpackhi_epi64(one, one));
        to = second.to + static_cast<size_t>(row) * second.stride;
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), other);
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + second.stride), _mm_unpackhi_epi64(other, other));
    }
}

#else

void inverse_dct(const BlockPair&, const BlockTarget&, const BlockTarget&) {
    fail("internal error: no vector code on this processor");
}

#endif

}  // namespace vidseg
