// Vectors of NEON on 64-bit ARM; see vectors.h, which includes this file. What the operations do is written
// in vectors_plain.h.

namespace vidseg {
namespace VIDSEG_SET {

constexpr int kHalves = 1;
constexpr bool kSelectsBytes = true;

struct Words {
    int16x8_t v;
};
struct Ints {
    int32x4_t v;
};
struct Sums {
    Ints low, high;
};
struct Floats {
    float32x4_t v;
};

// ---- loading and storing

inline Words load_words(const int16_t* from) { return {vld1q_s16(from)}; }
inline void store_words(Words a, void* to) { vst1q_s16(static_cast<int16_t*>(to), a.v); }
inline Words load_halves(const int16_t* one, const int16_t*) { return load_words(one); }
inline Words widen_bytes(const uint8_t* from) { return {vreinterpretq_s16_u16(vmovl_u8(vld1_u8(from)))}; }
inline Words widen_eight(const void* one, const void*) {
    return widen_bytes(static_cast<const uint8_t*>(one));
}
inline Ints repeat_in_halves(const uint32_t* from) { return {vdupq_n_s32(static_cast<int32_t>(*from))}; }
inline Words gather_pairs(const int16_t* row, const int* at) {
    int32_t pairs[4];
    for (int i = 0; i < 4; ++i) std::memcpy(&pairs[i], row + at[i], sizeof pairs[i]);
    return {vreinterpretq_s16_s32(vld1q_s32(pairs))};
}
inline void store_parts(Words low, Words high, void* to) {
    vst1q_s16(static_cast<int16_t*>(to), low.v);
    vst1q_s16(static_cast<int16_t*>(to) + 8, high.v);
}

// ---- 16-bit integers

inline Words words(int value) { return {vdupq_n_s16(static_cast<int16_t>(value))}; }
// Sums of damaged coefficients wrap. Those of signed vectors are undefined for the compiler, which then
// rounds and shifts them by instructions that do not wrap.
inline uint16x8_t bits(int16x8_t v) { return vreinterpretq_u16_s16(v); }
inline uint32x4_t bits(int32x4_t v) { return vreinterpretq_u32_s32(v); }
inline Words operator+(Words a, Words b) { return {vreinterpretq_s16_u16(vaddq_u16(bits(a.v), bits(b.v)))}; }
inline Words operator-(Words a, Words b) { return {vreinterpretq_s16_u16(vsubq_u16(bits(a.v), bits(b.v)))}; }
inline Words operator*(Words a, Words b) { return {vmulq_s16(a.v, b.v)}; }
inline Words operator|(Words a, Words b) { return {vorrq_s16(a.v, b.v)}; }
inline Words high_product(Words a, Words b) {
    const int32x4_t low = vmull_s16(vget_low_s16(a.v), vget_low_s16(b.v)), high = vmull_high_s16(a.v, b.v);
    return {vuzp2q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high))};
}
inline Words clamp_words(Words a, int low, int high) {
    return {vmaxq_s16(vminq_s16(a.v, words(high).v), words(low).v)};
}
template <int Bits>
inline Words shift_left(Words a) {
    return {vshlq_n_s16(a.v, Bits)};
}
template <int Bits>
inline Words shift_right(Words a) {
    return {vshrq_n_s16(a.v, Bits)};
}
template <int Bits>
inline Words shift_right_unsigned(Words a) {
    return {vreinterpretq_s16_u16(vshrq_n_u16(vreinterpretq_u16_s16(a.v), Bits))};
}
inline Words interleave_low(Words a, Words b) { return {vzip1q_s16(a.v, b.v)}; }
inline Words interleave_high(Words a, Words b) { return {vzip2q_s16(a.v, b.v)}; }
inline Words interleave_quarters(Words a) { return {vzip1q_s16(a.v, vextq_s16(a.v, a.v, 4))}; }
inline Words select_bytes(Words a, const uint8_t* control) {
    return {vreinterpretq_s16_u8(vqtbl1q_u8(vreinterpretq_u8_s16(a.v), vld1q_u8(control)))};
}
inline void transpose(Words (&v)[8]) {
    int32x4_t a[8];  // a[i]: columns of rows 2k and 2k + 1
    for (int i = 0; i < 8; i += 2) {
        a[i] = vreinterpretq_s32_s16(vtrn1q_s16(v[i].v, v[i + 1].v));
        a[i + 1] = vreinterpretq_s32_s16(vtrn2q_s16(v[i].v, v[i + 1].v));
    }
    int64x2_t b[8];
    for (int i = 0; i < 8; i += 4) {
        for (int k = 0; k < 2; ++k) {
            b[i + k] = vreinterpretq_s64_s32(vtrn1q_s32(a[i + k], a[i + 2 + k]));
            b[i + 2 + k] = vreinterpretq_s64_s32(vtrn2q_s32(a[i + k], a[i + 2 + k]));
        }
    }
    for (int i = 0; i < 4; ++i) {
        v[i].v = vreinterpretq_s16_s64(vtrn1q_s64(b[i], b[4 + i]));
        v[4 + i].v = vreinterpretq_s16_s64(vtrn2q_s64(b[i], b[4 + i]));
    }
}
inline void store_rows(Words a, Words b, uint8_t* one, size_t stride, uint8_t*, size_t) {
    const uint8x8_t center = vdup_n_u8(128);
    vst1_u8(one, veor_u8(vreinterpret_u8_s8(vqmovn_s16(a.v)), center));
    vst1_u8(one + stride, veor_u8(vreinterpret_u8_s8(vqmovn_s16(b.v)), center));
}
inline void store_bytes(Words a, uint8_t* to) { vst1_u8(to, vqmovun_s16(a.v)); }

// ---- 32-bit integers

inline Ints ints(int value) { return {vdupq_n_s32(value)}; }
inline Ints operator+(Ints a, Ints b) { return {vreinterpretq_s32_u32(vaddq_u32(bits(a.v), bits(b.v)))}; }
inline Ints operator-(Ints a, Ints b) { return {vreinterpretq_s32_u32(vsubq_u32(bits(a.v), bits(b.v)))}; }
inline Sums operator+(Sums a, Sums b) { return {a.low + b.low, a.high + b.high}; }
inline Sums operator-(Sums a, Sums b) { return {a.low - b.low, a.high - b.high}; }
template <int Bits>
inline Ints shift_right(Ints a) {
    return {vshrq_n_s32(a.v, Bits)};
}
inline Words high_words(Ints a) {
    const int16x8_t all = vreinterpretq_s16_s32(a.v);
    return {vtrn2q_s16(all, all)};
}
inline Ints pair_sums(Words a, Words b) {
    return {vpaddq_s32(vmull_s16(vget_low_s16(a.v), vget_low_s16(b.v)), vmull_high_s16(a.v, b.v))};
}
inline Ints pair_sums(Words a, Ints b) { return pair_sums(a, Words{vreinterpretq_s16_s32(b.v)}); }
inline Ints weigh_four(int16x4_t a, int16x4_t b, int of_a, int of_b) {
    return {vmlal_n_s16(vmull_n_s16(a, static_cast<int16_t>(of_a)), b, static_cast<int16_t>(of_b))};
}
inline Sums weigh(Words a, Words b, int of_a, int of_b) {
    return {weigh_four(vget_low_s16(a.v), vget_low_s16(b.v), of_a, of_b),
            weigh_four(vget_high_s16(a.v), vget_high_s16(b.v), of_a, of_b)};
}
inline Sums weigh(Words a, Words b, const int16_t* weights) { return weigh(a, b, weights[0], weights[1]); }
inline void add_bytes(const uint8_t* a, const uint8_t* b, int of_a, int of_b, Sums (&sums)[2]) {
    for (int k = 0; k < 2; ++k) {
        const int16x8_t one = widen_bytes(a + 8 * k).v, other = widen_bytes(b + 8 * k).v;
        const auto first = static_cast<int16_t>(of_a), second = static_cast<int16_t>(of_b);
        const int32x4_t low = vmlal_n_s16(sums[k].low.v, vget_low_s16(one), first);
        const int32x4_t high = vmlal_n_s16(sums[k].high.v, vget_high_s16(one), first);
        sums[k].low.v = vmlal_n_s16(low, vget_low_s16(other), second);
        sums[k].high.v = vmlal_n_s16(high, vget_high_s16(other), second);
    }
}
template <int Bits>
inline Sums widen_shifted(Words a) {
    return {{vshll_n_s16(vget_low_s16(a.v), Bits)}, {vshll_n_s16(vget_high_s16(a.v), Bits)}};
}
inline Words narrow(Ints low, Ints high) { return {vcombine_s16(vqmovn_s32(low.v), vqmovn_s32(high.v))}; }
template <int Bits>
inline Words narrow_shifted(Sums a) {
    return narrow(shift_right<Bits>(a.low), shift_right<Bits>(a.high));
}
// Not by rounding shifts: their sums do not wrap, which gives other pixels for damaged coefficients.
template <int Bits>
inline Words narrow_rounded(Sums a) {
    const Ints half = ints(1 << (Bits - 1));
    return narrow_shifted<Bits>(Sums{a.low + half, a.high + half});
}
inline void store_sixteen(const Ints (&sums)[4], void* to) {
    const uint8x8_t low = vqmovun_s16(narrow(sums[0], sums[1]).v),
                    high = vqmovun_s16(narrow(sums[2], sums[3]).v);
    vst1q_u8(static_cast<uint8_t*>(to), vcombine_u8(low, high));
}
inline void store_fours(Ints a, uint32_t* to) {
    const uint8x8_t bytes = vqmovun_s16(narrow(a, a).v);
    vst1_lane_u32(to, vreinterpret_u32_u8(bytes), 0);
}

// ---- floats

inline Floats floats(float value) { return {vdupq_n_f32(value)}; }
inline Floats operator+(Floats a, Floats b) { return {vaddq_f32(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {vmulq_f32(a.v, b.v)}; }
inline Floats to_floats(Ints a) { return {vcvtq_f32_s32(a.v)}; }
inline Ints truncate(Floats a) { return {vcvtq_s32_f32(a.v)}; }
inline Floats load_channel(const uint32_t* pixels, int shift) {
    const uint32x4_t moved = vshlq_u32(vld1q_u32(pixels), vdupq_n_s32(-shift));
    return {vcvtq_f32_u32(vandq_u32(moved, vdupq_n_u32(255)))};
}
inline void stream(Floats a, float* to) { vst1q_f32(to, a.v); }

}  // namespace VIDSEG_SET
}  // namespace vidseg
