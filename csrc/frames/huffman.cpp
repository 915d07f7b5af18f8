#include "huffman.h"

#include <algorithm>

namespace vidseg {
namespace {

constexpr int kLongest = 16;
constexpr int kMostDcBits = 11, kMostAcBits = 10;  // T.81, tables F.1 and F.2, for samples of 8 bits

// Returns the value whose `size` bits are the most significant ones of `bits` (16).
int16_t extend(uint32_t bits, int size) {
    if (size == 0) return 0;
    const int value = static_cast<int>(bits >> (16 - size));
    return static_cast<int16_t>(value < 1 << (size - 1) ? value - (1 << size) + 1 : value);
}

}  // namespace

// `bits_behind`: the 16 bits after the code.
Symbol HuffmanTable::meaning(uint8_t symbol, int length, uint32_t bits_behind) const {
    const int size = of_dc_ ? symbol : symbol & 15;
    uint8_t run = of_dc_ ? 0 : symbol >> 4;
    if (!of_dc_ && size == 0 && run != 15) run = kEndOfBlock;
    return {extend(bits_behind, size), run, static_cast<uint8_t>(length + size)};
}

bool HuffmanTable::make(const uint8_t* lengths, const uint8_t* symbols, int count, bool of_dc) {
    of_dc_ = of_dc;
    lookup_.fill({0, 0, 0});
    std::copy_n(symbols, count, symbols_.begin());
    int32_t code = 0;
    int place = 0;
    for (int length = 1; length <= kLongest; ++length) {
        offset_[length] = place - code;
        for (int i = 0; i < lengths[length - 1]; ++i, ++place, ++code) {
            if (place >= count || code >= 1 << length) return false;
            const uint8_t symbol = symbols[place];
            const int size = of_dc ? symbol : symbol & 15;
            if (size > (of_dc ? kMostDcBits : kMostAcBits)) return false;
            // End-of-band runs exist in progressive files only.
            if (!of_dc && size == 0 && symbol != 0 && symbol != 0xF0) return false;
            if (length > kLookup) continue;
            const int free = kLookup - length;  // bits after the code in the look-up
            for (int behind = 0; behind < 1 << free; ++behind) {
                lookup_[static_cast<size_t>(code << free | behind)] =
                    size > free ? Symbol{static_cast<int16_t>(symbol << 4 | length), 0, 0}
                                : meaning(symbol, length, static_cast<uint32_t>(behind) << (16 - free));
            }
        }
        limit_[length] = code << (kLongest - length);
        code <<= 1;
    }
    return place == count;
}

// `known`: result of the look-up, symbol and length of the code, or 0.
Symbol HuffmanTable::long_symbol(int known, uint32_t bits) const {
    if (known != 0) return meaning(static_cast<uint8_t>(known >> 4), known & 15, bits << (known & 15) >> 16);
    const auto code = static_cast<int32_t>(bits >> 16);
    int length = kLookup + 1;
    while (length <= kLongest && code >= limit_[length]) ++length;
    if (length > kLongest) return {0, 64, kLongest};
    const int place = offset_[length] + (code >> (kLongest - length));
    return meaning(symbols_[static_cast<size_t>(place)], length, bits << length >> 16);
}

void PairTable::make(const HuffmanTable& table) {
    constexpr int kLookup = HuffmanTable::kLookup;
    for (uint32_t bits = 0; bits < pairs_.size(); ++bits) {
        const Symbol& first = table.looked_up(bits);
        const Symbol& second = table.looked_up(bits << first.bits & (pairs_.size() - 1));
        Pair& pair = pairs_[bits];
        if (first.bits == 0) {
            pair = {0, 0, 0, HuffmanTable::kEndOfBlock, 0, false};
            continue;
        }
        const auto next = static_cast<uint8_t>(first.run + 1);
        pair = {first.value, first.value, first.run,
                next,        first.bits,  first.run >= HuffmanTable::kEndOfBlock};
        if (pair.ends || second.bits == 0 || first.bits + second.bits > kLookup) continue;
        pair.second = second.value;
        pair.next = static_cast<uint8_t>(pair.next + second.run + 1);
        pair.bits = static_cast<uint8_t>(first.bits + second.bits);
        pair.ends = second.run >= HuffmanTable::kEndOfBlock;
    }
}

}  // namespace vidseg
