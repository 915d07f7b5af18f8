// Vectors of 16 bytes in plain C++, for processors without vector code of their own. The comments are those
// of the operations of every set; in a set with two halves, each applies to both.

namespace vidseg {
namespace VIDSEG_SET {

constexpr int kHalves = 1;             // halves of 16 bytes
constexpr bool kSelectsBytes = false;  // whether `select_bytes` is one instruction

struct Words {
    int16_t v[8];
};
struct Ints {
    int32_t v[4];
};
// 32-bit values for the words of a vector: for the low and for the high four of each half.
struct Sums {
    Ints low, high;
};
struct Floats {
    float v[4];
};

// Makes a vector from `of(i)`, its element i.
template <class Vector, class Of>
inline Vector make(const Of& of) {
    Vector made;
    const int count = static_cast<int>(sizeof made.v / sizeof made.v[0]);
    for (int i = 0; i < count; ++i) made.v[i] = static_cast<std::decay_t<decltype(made.v[0])>>(of(i));
    return made;
}
inline int saturate(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// ---- loading and storing, at addresses of any alignment

inline Words load_words(const int16_t* from) {
    Words made;
    std::memcpy(&made, from, sizeof made);
    return made;
}
inline void store_words(Words a, void* to) { std::memcpy(to, &a, sizeof a); }
// The eight words at `one` in the first half, those at `other` in the second one.
inline Words load_halves(const int16_t* one, const int16_t*) { return load_words(one); }
// As many bytes as a vector has words.
inline Words widen_bytes(const uint8_t* from) {
    return make<Words>([=](int i) { return from[i]; });
}
// Eight bytes at `one` for the first half, at `other` for the second one.
inline Words widen_eight(const void* one, const void*) {
    return widen_bytes(static_cast<const uint8_t*>(one));
}
// Value k in the whole of half k.
inline Ints repeat_in_halves(const uint32_t* from) {
    return make<Ints>([=](int) { return static_cast<int32_t>(*from); });
}
// Words at[0], at[0] + 1, at[1], at[1] + 1, and so on.
inline Words gather_pairs(const int16_t* row, const int* at) {
    return make<Words>([=](int i) { return row[at[i / 2] + i % 2]; });
}
// First half of `low`, first half of `high`, second half of `low`, second half of `high`.
inline void store_parts(Words low, Words high, void* to) {
    std::memcpy(to, &low, sizeof low);
    std::memcpy(static_cast<char*>(to) + sizeof low, &high, sizeof high);
}

// ---- 16-bit integers; sums, differences and products wrap

inline Words words(int value) {
    return make<Words>([=](int) { return value; });
}
inline Words operator+(Words a, Words b) {
    return make<Words>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Words operator-(Words a, Words b) {
    return make<Words>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Words operator*(Words a, Words b) {
    return make<Words>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Words operator|(Words a, Words b) {
    return make<Words>([&](int i) { return a.v[i] | b.v[i]; });
}
// The high halves of the products.
inline Words high_product(Words a, Words b) {
    return make<Words>([&](int i) { return a.v[i] * b.v[i] >> 16; });
}
inline Words clamp_words(Words a, int low, int high) {
    return make<Words>([&](int i) { return saturate(a.v[i], low, high); });
}
template <int Bits>
inline Words shift_left(Words a) {
    return make<Words>([&](int i) { return static_cast<uint16_t>(a.v[i]) << Bits; });
}
template <int Bits>
inline Words shift_right(Words a) {
    return make<Words>([&](int i) { return a.v[i] >> Bits; });
}
template <int Bits>
inline Words shift_right_unsigned(Words a) {
    return make<Words>([&](int i) { return static_cast<uint16_t>(a.v[i]) >> Bits; });
}
// Words 0 to 3, or 4 to 7, of each half of a and b in turn.
inline Words interleave_low(Words a, Words b) {
    return make<Words>([&](int i) { return i % 2 == 0 ? a.v[i / 2] : b.v[i / 2]; });
}
inline Words interleave_high(Words a, Words b) {
    return make<Words>([&](int i) { return i % 2 == 0 ? a.v[4 + i / 2] : b.v[4 + i / 2]; });
}
// Words 0 to 3 and 4 to 7 of each half in turn.
inline Words interleave_quarters(Words a) {
    return make<Words>([&](int i) { return a.v[i / 2 + i % 2 * 4]; });
}
// Byte i of a half is the byte control[i] of that half of a, or 0 if that is 0x80.
inline Words select_bytes(Words a, const uint8_t* control) {
    uint8_t from[sizeof a], made[sizeof a];
    std::memcpy(from, &a, sizeof a);
    for (size_t i = 0; i < sizeof a; ++i)
        made[i] = control[i] >= sizeof a ? uint8_t{0} : from[i / 16 * 16 + control[i]];
    std::memcpy(&a, made, sizeof a);
    return a;
}
// Transposes each half of eight vectors.
inline void transpose(Words (&v)[8]) {
    Words made[8];
    for (int i = 0; i < 8; ++i) made[i] = make<Words>([&](int k) { return v[k].v[i]; });
    for (int i = 0; i < 8; ++i) v[i] = made[i];
}
// Saturates to -128 to 127 and adds 128. Of each half eight bytes of a and eight of b: of the first one at
// `one` and `one` + `stride`, of the second one at `other` and `other` + `other_stride`.
inline void store_rows(Words a, Words b, uint8_t* one, size_t stride, uint8_t*, size_t) {
    for (int i = 0; i < 8; ++i) {
        one[i] = static_cast<uint8_t>(saturate(a.v[i], -128, 127) + 128);
        one[stride + static_cast<size_t>(i)] = static_cast<uint8_t>(saturate(b.v[i], -128, 127) + 128);
    }
}
// Saturates to 0 to 255.
inline void store_bytes(Words a, uint8_t* to) {
    for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(saturate(a.v[i], 0, 255));
}

// ---- 32-bit integers; sums of the kernels do not overflow

inline Ints ints(int value) {
    return make<Ints>([=](int) { return value; });
}
inline Ints operator+(Ints a, Ints b) {
    return make<Ints>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Ints operator-(Ints a, Ints b) {
    return make<Ints>([&](int i) { return a.v[i] - b.v[i]; });
}
inline Sums operator+(Sums a, Sums b) { return {a.low + b.low, a.high + b.high}; }
inline Sums operator-(Sums a, Sums b) { return {a.low - b.low, a.high - b.high}; }
template <int Bits>
inline Ints shift_right(Ints a) {
    return make<Ints>([&](int i) { return a.v[i] >> Bits; });
}
// The high 16 bits of each, in both words of it.
inline Words high_words(Ints a) {
    return make<Words>([&](int i) { return static_cast<uint32_t>(a.v[i / 2]) >> 16; });
}
// a[0] * b[0] + a[1] * b[1], a[2] * b[2] + a[3] * b[3], and so on. As Ints, b has the low word first.
inline Ints pair_sums(Words a, Words b) {
    return make<Ints>([&](int i) { return a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1]; });
}
inline Ints pair_sums(Words a, Ints b) {
    return make<Ints>(
        [&](int i) { return a.v[2 * i] * static_cast<int16_t>(b.v[i]) + a.v[2 * i + 1] * (b.v[i] >> 16); });
}
// a * of_a + b * of_b
inline Sums weigh(Words a, Words b, int of_a, int of_b) {
    return {make<Ints>([&](int i) { return a.v[i] * of_a + b.v[i] * of_b; }),
            make<Ints>([&](int i) { return a.v[4 + i] * of_a + b.v[4 + i] * of_b; })};
}
inline Sums weigh(Words a, Words b, const int16_t* weights) { return weigh(a, b, weights[0], weights[1]); }
// Adds the same of a vector of bytes: of bytes 0 to 7 of each half to sums[0], of bytes 8 to 15 to sums[1].
inline void add_bytes(const uint8_t* a, const uint8_t* b, int of_a, int of_b, Sums (&sums)[2]) {
    for (int k = 0; k < 2; ++k)
        sums[k] = sums[k] + weigh(widen_bytes(a + 8 * k), widen_bytes(b + 8 * k), of_a, of_b);
}
// a << Bits
template <int Bits>
inline Sums widen_shifted(Words a) {
    return {make<Ints>([&](int i) { return a.v[i] * (1 << Bits); }),
            make<Ints>([&](int i) { return a.v[4 + i] * (1 << Bits); })};
}
// Saturates to 16 bits. In each half: those of `low`, then those of `high`.
inline Words narrow(Ints low, Ints high) {
    return make<Words>([&](int i) { return saturate(i < 4 ? low.v[i] : high.v[i - 4], -32768, 32767); });
}
template <int Bits>
inline Words narrow_shifted(Sums a) {
    return narrow(shift_right<Bits>(a.low), shift_right<Bits>(a.high));
}
// The same of a + (1 << (Bits - 1)), which rounds.
template <int Bits>
inline Words narrow_rounded(Sums a) {
    return narrow_shifted<Bits>(Sums{a.low + ints(1 << (Bits - 1)), a.high + ints(1 << (Bits - 1))});
}
// Saturates to 0 to 255: the four of sums[0] (both halves of it), those of sums[1], and so on.
inline void store_sixteen(const Ints (&sums)[4], void* to) {
    for (int i = 0; i < 16; ++i)
        static_cast<uint8_t*>(to)[i] = static_cast<uint8_t>(saturate(sums[i / 4].v[i % 4], 0, 255));
}
// Saturates to 0 to 255: one value of four bytes for each half.
inline void store_fours(Ints a, uint32_t* to) {
    uint32_t made = 0;
    for (int i = 0; i < 4; ++i) made |= static_cast<uint32_t>(saturate(a.v[i], 0, 255)) << (8 * i);
    *to = made;
}

// ---- floats

inline Floats floats(float value) {
    return make<Floats>([=](int) { return value; });
}
inline Floats operator+(Floats a, Floats b) {
    return make<Floats>([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats operator*(Floats a, Floats b) {
    return make<Floats>([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats to_floats(Ints a) {
    return make<Floats>([&](int i) { return a.v[i]; });
}
// Toward 0, of values that fit.
inline Ints truncate(Floats a) {
    return make<Ints>([&](int i) { return a.v[i]; });
}
// (pixels[i] >> shift) & 255
inline Floats load_channel(const uint32_t* pixels, int shift) {
    return make<Floats>([&](int i) { return static_cast<int>(pixels[i] >> shift & 255); });
}
// Writes to an address that is aligned to the vector, past the caches where the processor can. `end_streams`
// makes it visible to other threads.
inline void stream(Floats a, float* to) { std::memcpy(to, &a, sizeof a); }

}  // namespace VIDSEG_SET
}  // namespace vidseg
