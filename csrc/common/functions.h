// Elementary functions of plain arithmetic. Those of the C library differ in the last bit between processors
// and between versions, so pixels do not depend on them. csrc/frames is compiled with -ffp-contract=off,
// which makes the bits the same everywhere; csrc/ops uses them because loops over them are vectorized.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/simd.h"

namespace vidseg {

// exp(x) for x <= 0, exact to the last few bits: 2^n times a series of the remainder, |remainder| <= ln(2) /
// 2. Underflow stops at exp(-87) and exp(-708).
VIDSEG_INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits are now round(x / ln 2)
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float series = r * (1.0f / 5040) + (1.0f / 720);
    series = series * r + (1.0f / 120);
    series = series * r + (1.0f / 24);
    series = series * r + (1.0f / 6);
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000u + 127u) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

// ln(2) in two parts. Products of the first one and a whole number below 2^21 are exact.
constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;

VIDSEG_INLINE double exponential(double x) {
    x = x < -708.0 ? -708.0 : x;
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
    const double n = shifted - 6755399441055744.0;
    const double r = (x - n * kLn2High) - n * kLn2Low;
    double series = r * (1.0 / 6227020800) + (1.0 / 479001600);
    series = series * r + (1.0 / 39916800);
    series = series * r + (1.0 / 3628800);
    series = series * r + (1.0 / 362880);
    series = series * r + (1.0 / 40320);
    series = series * r + (1.0 / 5040);
    series = series * r + (1.0 / 720);
    series = series * r + (1.0 / 120);
    series = series * r + (1.0 / 24);
    series = series * r + (1.0 / 6);
    series = series * r + 0.5;
    series = series * r + 1.0;
    series = series * r + 1.0;
    uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4338000000000000u + 1023u) << 52;
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

// Natural logarithm of a positive number: ln(2^n m) = n ln(2) + 2 artanh((m - 1) / (m + 1)).
inline double logarithm(double x) {
    int n = 0;
    double m = std::frexp(x, &n);  // 0.5 to 1
    if (m < 0.7071067811865476) m *= 2.0, --n;
    const double s = (m - 1.0) / (m + 1.0), square = s * s;  // |s| < 0.172
    double series = 0.0;
    for (int k = 21; k > 0; k -= 2) series = series * square + 1.0 / k;
    return n * kLn2High + (n * kLn2Low + 2.0 * s * series);
}

// base^exponent for a base of 0 to 1 and an exponent above 0, correctly rounded in all but about one of a
// million cases.
inline float power(float base, float exponent) {
    if (base <= 0.0f) return 0.0f;
    return static_cast<float>(exponential(static_cast<double>(exponent) * logarithm(base)));
}

struct Direction {
    double cosine, sine;
};

inline Direction direction_of(double degrees) {
    const double rest = std::remainder(degrees, 90.0), x = rest * (3.14159265358979323846 / 180.0);
    double sine = 0.0, cosine = 0.0;
    for (int k = 17; k > 0; k -= 2) {  // x - x^3/3! + ... and 1 - x^2/2! + ..., |x| <= pi / 4
        sine = 1.0 - sine * (x * x) / ((k + 1.0) * (k + 2.0));
        cosine = 1.0 - cosine * (x * x) / (k * (k + 1.0));
    }
    sine *= x;
    switch (std::lround((degrees - rest) / 90.0) & 3) {
        case 0:
            return {cosine, sine};
        case 1:
            return {-sine, cosine};
        case 2:
            return {-cosine, -sine};
        default:
            return {sine, -cosine};
    }
}

// Density of the standard normal distribution, and the probability of a larger value for 0 <= x < 6
// (Marsaglia, Evaluating the Normal Distribution, 2004, section 3).
inline double normal_density(double x) { return exponential(-0.5 * x * x) * 0.3989422804014327; }

inline double normal_tail(double x) {
    double sum = x, term = x;
    for (int k = 3; term > 1e-17 * sum; k += 2) sum += term *= x * x / k;
    return 0.5 - normal_density(x) * sum;
}

}  // namespace vidseg
