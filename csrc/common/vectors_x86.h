// Vectors of SSE2 and of AVX2; see vectors.h, which includes this file once for each. What the operations do
// is written in vectors_plain.h.

// Names of intrinsics and types: 16 bytes, or with two halves 32 bytes.
#if VIDSEG_HALVES == 1
#define VIDSEG_MM(name) _mm_##name
#define VIDSEG_SI(name) _mm_##name##_si128
#define VIDSEG_VECTOR __m128i
#define VIDSEG_VECTOR_OF_FLOATS __m128
#else
#define VIDSEG_MM(name) _mm256_##name
#define VIDSEG_SI(name) _mm256_##name##_si256
#define VIDSEG_VECTOR __m256i
#define VIDSEG_VECTOR_OF_FLOATS __m256
#endif

namespace vidseg {
namespace VIDSEG_SET {

constexpr int kHalves = VIDSEG_HALVES;
constexpr bool kSelectsBytes = VIDSEG_HALVES == 2;

struct Words {
    VIDSEG_VECTOR v;
};
struct Ints {
    VIDSEG_VECTOR v;
};
struct Sums {
    Ints low, high;
};
struct Floats {
    VIDSEG_VECTOR_OF_FLOATS v;
};

// ---- loading and storing

VIDSEG_TARGET inline Words load_words(const int16_t* from) {
    return {VIDSEG_SI(loadu)(reinterpret_cast<const VIDSEG_VECTOR*>(from))};
}
VIDSEG_TARGET inline void store_words(Words a, void* to) {
    VIDSEG_SI(storeu)(static_cast<VIDSEG_VECTOR*>(to), a.v);
}
VIDSEG_TARGET inline Words load_halves(const int16_t* one, const int16_t* other) {
    const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(one));
#if VIDSEG_HALVES == 1
    static_cast<void>(other);
    return {low};
#else
    const __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(other));
    return {_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1)};
#endif
}
VIDSEG_TARGET inline Words widen_bytes(const uint8_t* from) {
#if VIDSEG_HALVES == 1
    return {_mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)), _mm_setzero_si128())};
#else
    return {_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
#endif
}
VIDSEG_TARGET inline Words widen_eight(const void* one, const void* other) {
    const __m128i low = _mm_loadl_epi64(static_cast<const __m128i*>(one));
#if VIDSEG_HALVES == 1
    static_cast<void>(other);
    return {_mm_unpacklo_epi8(low, _mm_setzero_si128())};
#else
    return {_mm256_cvtepu8_epi16(
        _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), static_cast<const __m64*>(other))))};
#endif
}
VIDSEG_TARGET inline Ints repeat_in_halves(const uint32_t* from) {
#if VIDSEG_HALVES == 1
    return {_mm_set1_epi32(static_cast<int>(*from))};
#else
    const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return {
        _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(both), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))};
#endif
}
VIDSEG_TARGET inline __m128i load_pair(const int16_t* from) {
    int pair;
    std::memcpy(&pair, from, sizeof pair);
    return _mm_cvtsi32_si128(pair);
}
VIDSEG_TARGET inline __m128i load_pairs(const int16_t* row, const int* at) {
    return _mm_unpacklo_epi64(_mm_unpacklo_epi32(load_pair(row + at[0]), load_pair(row + at[1])),
                              _mm_unpacklo_epi32(load_pair(row + at[2]), load_pair(row + at[3])));
}
VIDSEG_TARGET inline Words gather_pairs(const int16_t* row, const int* at) {
#if VIDSEG_HALVES == 1
    return {load_pairs(row, at)};
#else
    return {_mm256_inserti128_si256(_mm256_castsi128_si256(load_pairs(row, at)), load_pairs(row, at + 4), 1)};
#endif
}
VIDSEG_TARGET inline void store_parts(Words low, Words high, void* to) {
    auto* out = static_cast<VIDSEG_VECTOR*>(to);
#if VIDSEG_HALVES == 1
    _mm_storeu_si128(out, low.v);
    _mm_storeu_si128(out + 1, high.v);
#else
    _mm256_storeu_si256(out, _mm256_permute2x128_si256(low.v, high.v, 0x20));
    _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(low.v, high.v, 0x31));
#endif
}

// ---- 16-bit integers

VIDSEG_TARGET inline Words words(int value) { return {VIDSEG_MM(set1_epi16)(static_cast<int16_t>(value))}; }
VIDSEG_TARGET inline Words operator+(Words a, Words b) { return {VIDSEG_MM(add_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Words operator-(Words a, Words b) { return {VIDSEG_MM(sub_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Words operator*(Words a, Words b) { return {VIDSEG_MM(mullo_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Words operator|(Words a, Words b) { return {VIDSEG_SI(or)(a.v, b.v)}; }
VIDSEG_TARGET inline Words high_product(Words a, Words b) { return {VIDSEG_MM(mulhi_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Words clamp_words(Words a, int low, int high) {
    return {VIDSEG_MM(max_epi16)(VIDSEG_MM(min_epi16)(a.v, words(high).v), words(low).v)};
}
template <int Bits>
VIDSEG_TARGET inline Words shift_left(Words a) {
    return {VIDSEG_MM(slli_epi16)(a.v, Bits)};
}
template <int Bits>
VIDSEG_TARGET inline Words shift_right(Words a) {
    return {VIDSEG_MM(srai_epi16)(a.v, Bits)};
}
template <int Bits>
VIDSEG_TARGET inline Words shift_right_unsigned(Words a) {
    return {VIDSEG_MM(srli_epi16)(a.v, Bits)};
}
VIDSEG_TARGET inline Words interleave_low(Words a, Words b) { return {VIDSEG_MM(unpacklo_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Words interleave_high(Words a, Words b) { return {VIDSEG_MM(unpackhi_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Words interleave_quarters(Words a) {
#if VIDSEG_HALVES == 1
    return {_mm_unpacklo_epi16(a.v, _mm_unpackhi_epi64(a.v, a.v))};
#else
    const __m128i order = _mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    return {_mm256_shuffle_epi8(a.v, _mm256_broadcastsi128_si256(order))};
#endif
}
VIDSEG_TARGET inline Words select_bytes(Words a, const uint8_t* control) {
#if VIDSEG_HALVES == 1
    uint8_t from[16], made[16];
    std::memcpy(from, &a, sizeof a);
    for (int i = 0; i < 16; ++i) made[i] = control[i] >= 16 ? uint8_t{0} : from[control[i]];
    std::memcpy(&a, made, sizeof a);
    return a;
#else
    return {_mm256_shuffle_epi8(a.v, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(control)))};
#endif
}
VIDSEG_TARGET inline void transpose(Words (&v)[8]) {
    VIDSEG_VECTOR a[8], b[8];
    for (int i = 0; i < 4; ++i) {
        a[2 * i] = VIDSEG_MM(unpacklo_epi16)(v[2 * i].v, v[2 * i + 1].v);
        a[2 * i + 1] = VIDSEG_MM(unpackhi_epi16)(v[2 * i].v, v[2 * i + 1].v);
    }
    for (int i = 0; i < 2; ++i) {
        for (int half = 0; half < 2; ++half) {
            b[4 * i + 2 * half] = VIDSEG_MM(unpacklo_epi32)(a[4 * i + half], a[4 * i + 2 + half]);
            b[4 * i + 2 * half + 1] = VIDSEG_MM(unpackhi_epi32)(a[4 * i + half], a[4 * i + 2 + half]);
        }
    }
    for (int i = 0; i < 4; ++i) {
        v[2 * i].v = VIDSEG_MM(unpacklo_epi64)(b[i], b[4 + i]);
        v[2 * i + 1].v = VIDSEG_MM(unpackhi_epi64)(b[i], b[4 + i]);
    }
}
VIDSEG_TARGET inline void store_two(__m128i rows, uint8_t* to, size_t stride) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), rows);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + stride), _mm_unpackhi_epi64(rows, rows));
}
VIDSEG_TARGET inline void store_rows(Words a, Words b, uint8_t* one, size_t stride, uint8_t* other,
                                     size_t other_stride) {
    const VIDSEG_VECTOR both =
        VIDSEG_MM(add_epi8)(VIDSEG_MM(packs_epi16)(a.v, b.v), VIDSEG_MM(set1_epi8)(-128));
#if VIDSEG_HALVES == 1
    static_cast<void>(other), static_cast<void>(other_stride);
    store_two(both, one, stride);
#else
    store_two(_mm256_castsi256_si128(both), one, stride);
    store_two(_mm256_extracti128_si256(both, 1), other, other_stride);
#endif
}

// ---- 32-bit integers

VIDSEG_TARGET inline Ints ints(int value) { return {VIDSEG_MM(set1_epi32)(value)}; }
VIDSEG_TARGET inline Ints operator+(Ints a, Ints b) { return {VIDSEG_MM(add_epi32)(a.v, b.v)}; }
VIDSEG_TARGET inline Ints operator-(Ints a, Ints b) { return {VIDSEG_MM(sub_epi32)(a.v, b.v)}; }
VIDSEG_TARGET inline Sums operator+(Sums a, Sums b) { return {a.low + b.low, a.high + b.high}; }
VIDSEG_TARGET inline Sums operator-(Sums a, Sums b) { return {a.low - b.low, a.high - b.high}; }
template <int Bits>
VIDSEG_TARGET inline Ints shift_right(Ints a) {
    return {VIDSEG_MM(srai_epi32)(a.v, Bits)};
}
VIDSEG_TARGET inline Words high_words(Ints a) {
    const VIDSEG_VECTOR high = VIDSEG_MM(srli_epi32)(a.v, 16);
    return {VIDSEG_SI(or)(high, VIDSEG_MM(slli_epi32)(high, 16))};
}
VIDSEG_TARGET inline Ints pair_sums(Words a, Words b) { return {VIDSEG_MM(madd_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Ints pair_sums(Words a, Ints b) { return {VIDSEG_MM(madd_epi16)(a.v, b.v)}; }
VIDSEG_TARGET inline Sums weigh_pairs(Words a, Words b, Ints weights) {
    return {pair_sums(interleave_low(a, b), weights), pair_sums(interleave_high(a, b), weights)};
}
VIDSEG_TARGET inline Sums weigh(Words a, Words b, int of_a, int of_b) {
    return weigh_pairs(a, b, ints((of_a & 0xFFFF) | of_b * 65536));
}
VIDSEG_TARGET inline Sums weigh(Words a, Words b, const int16_t* weights) {
    int both;
    std::memcpy(&both, weights, sizeof both);
    return weigh_pairs(a, b, ints(both));
}
VIDSEG_TARGET inline void add_bytes(const uint8_t* a, const uint8_t* b, int of_a, int of_b, Sums (&sums)[2]) {
    const VIDSEG_VECTOR zero = VIDSEG_SI(setzero)();
    const Words weights = {ints((of_a & 0xFFFF) | of_b * 65536).v};
    const VIDSEG_VECTOR one = VIDSEG_SI(loadu)(reinterpret_cast<const VIDSEG_VECTOR*>(a));
    const VIDSEG_VECTOR other = VIDSEG_SI(loadu)(reinterpret_cast<const VIDSEG_VECTOR*>(b));
    const VIDSEG_VECTOR low = VIDSEG_MM(unpacklo_epi8)(one, other),
                        high = VIDSEG_MM(unpackhi_epi8)(one, other);
    sums[0].low = sums[0].low + pair_sums(Words{VIDSEG_MM(unpacklo_epi8)(low, zero)}, weights);
    sums[0].high = sums[0].high + pair_sums(Words{VIDSEG_MM(unpackhi_epi8)(low, zero)}, weights);
    sums[1].low = sums[1].low + pair_sums(Words{VIDSEG_MM(unpacklo_epi8)(high, zero)}, weights);
    sums[1].high = sums[1].high + pair_sums(Words{VIDSEG_MM(unpackhi_epi8)(high, zero)}, weights);
}
template <int Bits>
VIDSEG_TARGET inline Sums widen_shifted(Words a) {
    const VIDSEG_VECTOR zero = VIDSEG_SI(setzero)();
    return {{VIDSEG_MM(srai_epi32)(VIDSEG_MM(unpacklo_epi16)(zero, a.v), 16 - Bits)},
            {VIDSEG_MM(srai_epi32)(VIDSEG_MM(unpackhi_epi16)(zero, a.v), 16 - Bits)}};
}
VIDSEG_TARGET inline Words narrow(Ints low, Ints high) { return {VIDSEG_MM(packs_epi32)(low.v, high.v)}; }
template <int Bits>
VIDSEG_TARGET inline Words narrow_shifted(Sums a) {
    return narrow(shift_right<Bits>(a.low), shift_right<Bits>(a.high));
}
template <int Bits>
VIDSEG_TARGET inline Words narrow_rounded(Sums a) {
    const Ints half = ints(1 << (Bits - 1));
    return narrow_shifted<Bits>(Sums{a.low + half, a.high + half});
}
VIDSEG_TARGET inline void store_bytes(Words a, uint8_t* to) {
#if VIDSEG_HALVES == 1
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(a.v, a.v));
#else
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm_packus_epi16(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1)));
#endif
}
VIDSEG_TARGET inline void store_sixteen(const Ints (&sums)[4 / VIDSEG_HALVES], void* to) {
#if VIDSEG_HALVES == 1
    const __m128i bytes = _mm_packus_epi16(narrow(sums[0], sums[1]).v, narrow(sums[2], sums[3]).v);
    _mm_storeu_si128(static_cast<__m128i*>(to), bytes);
#else
    const __m256i both = narrow(sums[0], sums[1]).v, bytes = _mm256_packus_epi16(both, both);
    _mm_storeu_si128(static_cast<__m128i*>(to),
                     _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
#endif
}
VIDSEG_TARGET inline void store_fours(Ints a, uint32_t* to) {
    const Words both = narrow(a, a);
    const VIDSEG_VECTOR bytes = VIDSEG_MM(packus_epi16)(both.v, both.v);
#if VIDSEG_HALVES == 1
    *to = static_cast<uint32_t>(_mm_cvtsi128_si32(bytes));
#else
    const uint64_t two = static_cast<uint32_t>(_mm_cvtsi128_si32(_mm256_castsi256_si128(bytes))) |
                         static_cast<uint64_t>(static_cast<uint32_t>(_mm256_extract_epi32(bytes, 4))) << 32;
    std::memcpy(to, &two, sizeof two);
#endif
}

// ---- floats

VIDSEG_TARGET inline Floats floats(float value) { return {VIDSEG_MM(set1_ps)(value)}; }
VIDSEG_TARGET inline Floats operator+(Floats a, Floats b) { return {VIDSEG_MM(add_ps)(a.v, b.v)}; }
VIDSEG_TARGET inline Floats operator*(Floats a, Floats b) { return {VIDSEG_MM(mul_ps)(a.v, b.v)}; }
VIDSEG_TARGET inline Floats to_floats(Ints a) { return {VIDSEG_MM(cvtepi32_ps)(a.v)}; }
VIDSEG_TARGET inline Ints truncate(Floats a) { return {VIDSEG_MM(cvttps_epi32)(a.v)}; }
VIDSEG_TARGET inline Floats load_channel(const uint32_t* pixels, int shift) {
    const VIDSEG_VECTOR all = VIDSEG_SI(loadu)(reinterpret_cast<const VIDSEG_VECTOR*>(pixels));
    const VIDSEG_VECTOR moved = VIDSEG_MM(srl_epi32)(all, _mm_cvtsi32_si128(shift));
    return to_floats(Ints{VIDSEG_SI (and)(moved, ints(255).v)});
}
VIDSEG_TARGET inline void stream(Floats a, float* to) { VIDSEG_MM(stream_ps)(to, a.v); }

}  // namespace VIDSEG_SET
}  // namespace vidseg

#undef VIDSEG_MM
#undef VIDSEG_SI
#undef VIDSEG_VECTOR
#undef VIDSEG_VECTOR_OF_FLOATS
