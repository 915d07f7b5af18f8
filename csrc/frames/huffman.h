// Huffman decoder of baseline JPEGs (ITU-T T.81, annex F.2), for bytes without stuffing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vidseg {

// Reads bits, most significant first. It does not check for the end of the data: the owner compares
// `consumed` with the size from time to time and provides enough readable bytes after the end for the reads
// in between, plus 16.
class BitReader {
  public:
    // A block has at most 64 symbols of 16 bits, each with 16 bits of value.
    static constexpr size_t kBlockBytes = 64 * 4;

    explicit BitReader(const uint8_t* data) : start_(data), next_(data) {}

    // Afterwards at least 56 bits are available: two symbols, or five look-ups.
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

// Meaning of a code: a run of zero coefficients, then a value. `bits` counts the bits of both.
struct Symbol {
    int16_t value;
    uint8_t run;
    uint8_t bits;  // 0: longer than the look-up; the value then is 0 or refers to the code, see `make`
};

class HuffmanTable {
  public:
    static constexpr int kLookup = 11;
    static constexpr int kEndOfBlock = 128;  // its run, which moves any index beyond 63

    // `lengths`: numbers of codes of 1 to 16 bits; `symbols`: their symbols in the order of the codes.
    // Returns false for an invalid prefix code and for symbols that baseline files do not have.
    bool make(const uint8_t* lengths, const uint8_t* symbols, int count, bool of_dc);

    // Reads the next symbol. A code that does not exist gives a run of 64.
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
    std::array<int32_t, 17> limit_{};   // per length: upper bound of its codes, as 16 bits
    std::array<int32_t, 17> offset_{};  // per length: from code to index in symbols_
    std::array<uint8_t, 256> symbols_{};
};

// Look-up of two short symbols at once, because a look-up can begin only after the previous one.
class PairTable {
  public:
    // A single symbol appears twice. If none was found, or if the block ends, `next` exceeds any index of a
    // block.
    struct Pair {
        int16_t first, second;  // values
        uint8_t first_at;       // index relative to the next coefficient
        uint8_t next;           // relative index after both; the second value is at the one before
        uint8_t bits;           // of both symbols
        bool ends;              // the block ends with these symbols
    };

    void make(const HuffmanTable& table);
    const Pair& look_up(const BitReader& reader) const { return pairs_[reader.peek(HuffmanTable::kLookup)]; }

  private:
    std::array<Pair, 1 << HuffmanTable::kLookup> pairs_;
};

}  // namespace vidseg
