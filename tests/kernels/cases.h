// Cases of the kernel program. Each runs a kernel on an input that depends on a seed alone, and prints its
// name with a checksum of the output. The lines must be those of recorded.txt, whatever the processor: see
// build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <type_traits>
#include <vector>

namespace cases {

// The same numbers everywhere, unlike the distributions of <random>.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ULL + 0xD1B54A32D192ED03ULL) {}

    uint64_t next() {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ * 0x2545F4914F6CDD1DULL;
    }
    int below(int bound) { return static_cast<int>((next() >> 33) % static_cast<uint64_t>(bound)); }
    double unit() { return static_cast<double>(next() >> 11) / 9007199254740992.0; }

    std::vector<uint8_t> bytes(size_t count) {
        std::vector<uint8_t> values(count);
        for (uint8_t& value : values) value = static_cast<uint8_t>(next() >> 56);
        return values;
    }
    // Whole numbers from -most to most: sums of their products are exact, in any order.
    template <class Value>
    std::vector<Value> whole(size_t count, int most) {
        std::vector<Value> values(count);
        for (Value& value : values) value = static_cast<Value>(below(2 * most + 1) - most);
        return values;
    }

  private:
    uint64_t state_;
};

// FNV-1a, 64 bits.
class Checksum {
  public:
    void add(const void* data, size_t size) {
        const auto* bytes = static_cast<const uint8_t*>(data);
        for (size_t i = 0; i < size; ++i) value_ = (value_ ^ bytes[i]) * 0x100000001B3ULL;
    }
    template <class Value>
    void add(const Value& value) {
        static_assert(std::is_arithmetic_v<Value>);
        add(&value, sizeof value);
    }
    uint64_t value() const { return value_; }

  private:
    uint64_t value_ = 0xCBF29CE484222325ULL;
};

inline void report(const std::string& name, const Checksum& sum) {
    std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(sum.value()));
}

template <class Value>
void report(const std::string& name, const std::vector<Value>& values) {
    Checksum sum;
    sum.add(values.data(), values.size() * sizeof(Value));
    report(name, sum);
}

// Reports the error of `body` instead of its result if it throws.
template <class Body>
void attempt(const std::string& name, const Body& body) {
    try {
        body();
    } catch (const std::exception& error) {
        std::printf("%s error: %s\n", name.c_str(), error.what());
    }
}

// A frame of (height, width, 3) with areas, edges, saturated colors and grain.
inline std::vector<uint8_t> picture(int height, int width, uint64_t seed) {
    Random random(seed);
    std::vector<uint8_t> rgb;
    rgb.reserve(static_cast<size_t>(height) * width * 3);
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const bool edge = (x * 5 + y * 3) % 64 > 40, flat = x < width / 4 && y < height / 4;
            for (int c = 0; c < 3; ++c) {
                const int slope = (x * (3 + c) + y * (5 - c)) * 255 / (8 * (width + height));
                const int value = edge ? (c == static_cast<int>(seed % 3) ? 255 : 0) : 40 + slope;
                const int grain = flat ? 0 : random.below(25) - 12;
                rgb.push_back(static_cast<uint8_t>(value + grain < 0     ? 0
                                                   : value + grain > 255 ? 255
                                                                         : value + grain));
            }
        }
    }
    return rgb;
}

void decode(const std::string& folder);  // of JPEGs
void sample();
void recolor();
void write();
void operate();

}  // namespace cases
