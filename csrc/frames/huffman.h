// Huffman decoding of baseline JPEGs (ITU-T T.81, annex F.2), for bytes whose stuffing has been removed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vidseg {

// Reads bits from the highest of each byte on. Never checks for the end: whoever makes one asks `consumed`
// from time to time, and has as many readable bytes behind the end as may be taken until then, and 16.
class BitReader {
  public:
    // A block takes at most 64 symbols of 16 bits, each with 16 bits of value.
    static constexpr size_t kBlockBytes = 64 * 4;

    explicit BitReader(const uint8_t* data) : start_(data), next_(data) {}

    // Afterwards at least 56 bits can be looked at and skipped: two symbols, or five look-ups.
    void refill() {
        uint64_t bytes;
        std::memcpy(&bytes, next_, sizeof bytes);
        bits_ |= __builtin_bswap64(bytes) >> count_;
        next_ += (63 - count_) >> 3;
        count_ |= 56;
    }
    uint32_t peek(int count) const { return static_cast<uint32_t>(bits_ >> (64 - count)); }
    void skip(int count) {
        bits_ <<= count;
        count_ -= count;
    }
    size_t consumed() const { return static_cast<size_t>(next_ - start_) * 8 - static_cast<size_t>(count_); }

  private:
    const uint8_t* start_ = nullptr;
    const uint8_t* next_ = nullptr;
    uint64_t bits_ = 0;
    int count_ = 0;
};

// What a code says: how many coefficients of 0 come first, then a value; its bits are those of the code and
// of the value together.
struct Symbol {
    int16_t value;
    uint8_t run;
    uint8_t bits;  // 0: longer than what was looked up; the value then is 0, or tells the code, see `make`
};

class HuffmanTable {
  public:
    static constexpr int kLookup = 11;
    static constexpr int kEndOfBlock = 128;  // its run: no index of a coefficient stays below 64 with it

    // `lengths`: how many codes have 1 to 16 bits; `symbols`: what they mean, in the order of the codes.
    // False where that is no prefix code, or a symbol does not belong into a baseline file.
    bool make(const uint8_t* lengths, const uint8_t* symbols, int count, bool of_dc);

    // The next symbol; its bits are skipped. A code that does not exist has a run of 64.
    Symbol next(BitReader& reader) const {
        Symbol symbol = lookup_[reader.peek(kLookup)];
        if (__builtin_expect(symbol.bits == 0, 0)) symbol = long_symbol(symbol.value, reader.peek(32));
        reader.skip(symbol.bits);
        return symbol;
    }
    const Symbol& looked_up(uint32_t bits) const { return lookup_[bits]; }

  private:
    Symbol long_symbol(int known, uint32_t bits) const;
    Symbol meaning(uint8_t symbol, int length, uint32_t bits_behind) const;

    bool of_dc_ = false;
    std::array<Symbol, 1 << kLookup> lookup_;
    std::array<int32_t, 17> limit_{};   // of 16 bits: codes of a length are below it
    std::array<int32_t, 17> offset_{};  // of a length: from code to place in symbols_
    std::array<uint8_t, 256> symbols_{};
};

// Two symbols at once, where both are short, because a look-up can begin only after the one before it.
class PairTable {
  public:
    // One symbol alone stands here twice. Where nothing was found, or the block ends, `next` is beyond any
    // block.
    struct Pair {
        int16_t first, second;  // values
        uint8_t first_at;       // indices of coefficients from the first one not known yet on
        uint8_t next;           // where the coefficients behind both begin; the second is the one before
        uint8_t bits;           // of both
        bool ends;              // the block, with the second or with both
    };

    void make(const HuffmanTable& table);
    const Pair& look_up(const BitReader& reader) const { return pairs_[reader.peek(HuffmanTable::kLookup)]; }

  private:
    std::array<Pair, 1 << HuffmanTable::kLookup> pairs_;
};

}  // namespace vidseg
