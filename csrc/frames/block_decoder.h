// Decoding of the coefficients of one block, or of two blocks of separate intervals at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "huffman.h"
#include "idct.h"
#include "common/simd.h"

namespace vidseg {

// Coefficients are indexed in zigzag order. Positions behind the last one are written but never used.
struct Places {
    static constexpr int kIndices =
        64 + HuffmanTable::kEndOfBlock;  // largest index plus the run of an end code
    std::array<uint8_t, kIndices> of;
    Places() {
        int row = 0, column = 0;
        for (int index = 0; index < kIndices; ++index) {
            of[index] =
                index < 64 ? static_cast<uint8_t>(BlockPair::place(row, column)) : BlockPair::kNowhere;
            if (index >= 63) continue;
            if ((row + column) % 2 == 0) {
                if (column == 7) {
                    ++row;
                } else {
                    ++column;
                    if (row > 0) --row;
                }
            } else if (row == 7) {
                ++column;
            } else {
                ++row;
                if (column > 0) --column;
            }
        }
    }
};
inline const Places kPlaces;

// Position in row-major order of a zigzag index.
inline size_t natural(int index) { return size_t{kPlaces.of[index]} / 16 * 8 + kPlaces.of[index] % 16; }

// Result of decoding a block: the index after the last coefficient or, for a block that ends early, the index
// of its end code plus the run of that code.
constexpr int kFullEnd = 64;
constexpr int kEmptyEnd = 1 + HuffmanTable::kEndOfBlock + 1;
inline bool is_whole(int end) { return end == kFullEnd || end >= kEmptyEnd; }

// Decoder of one block. All functions are inlined into the callers, which keeps the reader in registers.
class BlockDecoder {
  public:
    VIDSEG_INLINE BlockDecoder(BitReader& reader, const HuffmanTable& ac, const PairTable& pairs,
                               int16_t* out)
        : reader_(reader), ac_(ac), pairs_(pairs), out_(out) {}

    // Decodes the DC coefficient. Returns false for a code that does not exist.
    VIDSEG_INLINE bool begin(const HuffmanTable& dc, int16_t& predictor) {
        reader_.refill();
        const Symbol difference = dc.next(reader_);
        predictor = static_cast<int16_t>(predictor + difference.value);
        put(0, predictor);
        return difference.run == 0;
    }
    VIDSEG_INLINE void refill() { reader_.refill(); }  // sufficient for four look-ups

    // Looks up the next two symbols. Returns false if the block ends with them or if one is long; `pass` then
    // decides.
    VIDSEG_INLINE bool look() {
        pair_ = &pairs_.look_up(reader_);
        next_ = index_ + pair_->next;
        return __builtin_expect(next_ < 64, 1);
    }
    VIDSEG_INLINE void take() {
        put(index_ + pair_->first_at, pair_->first);
        put(next_ - 1, pair_->second);
        reader_.skip(pair_->bits);
        index_ = next_;
    }
    // Returns whether the block continues after the symbols of `look`.
    VIDSEG_INLINE bool pass() {
        if (pair_->ends &&
            next_ < 64 + HuffmanTable::kEndOfBlock + 1) {  // an end code, not the last coefficient
            put(index_ + pair_->first_at, pair_->first);
            reader_.skip(pair_->bits);
            index_ = next_;
            return false;
        }
        reader_.refill();
        const Symbol symbol = ac_.next(reader_);
        put(index_ + symbol.run, symbol.value);
        index_ += symbol.run + 1;
        return index_ < 64;
    }
    // Decodes the rest of the block.
    VIDSEG_INLINE int finish() {
        const auto step = [this]() __attribute__((always_inline)) {
            if (!look()) return false;
            take();
            return true;
        };
        do {
            do reader_.refill();
            while (step() && step() && step() && step());
        } while (pass());
        return index_;
    }
    VIDSEG_INLINE bool looked_beyond() const { return next_ >= 64; }
    VIDSEG_INLINE int index() const { return index_; }

  private:
    VIDSEG_INLINE void put(int index, int value) { out_[kPlaces.of[index]] = static_cast<int16_t>(value); }

    BitReader& reader_;
    const HuffmanTable& ac_;
    const PairTable& pairs_;
    int16_t* out_;
    const PairTable::Pair* pair_ = nullptr;
    int index_ = 1, next_ = 0;
};

// Decodes two blocks with the same tables from separate readers.
VIDSEG_INLINE void decode_two_blocks(BitReader& reader, BitReader& other, const HuffmanTable& dc,
                                     const HuffmanTable& ac, const PairTable& pairs, int16_t& predictor,
                                     int16_t& other_predictor, int16_t* out, int (&ends)[2]) {
    BlockDecoder first(reader, ac, pairs, out);
    BlockDecoder second(other, ac, pairs, out + BlockPair::kSecond);
    const bool begun = first.begin(dc, predictor) & second.begin(dc, other_predictor);
    const auto step = [&]() __attribute__((always_inline)) {
        if (!(first.look() & second.look())) return false;
        first.take();
        second.take();
        return true;
    };
    for (;;) {
        do {
            first.refill();
            second.refill();
        } while (step() && step() && step() && step());
        if (first.looked_beyond()) {
            if (!first.pass()) {
                second.finish();
                break;
            }
        } else if (!second.pass()) {
            first.finish();
            break;
        }
    }
    ends[0] = begun ? first.index() : 0;
    ends[1] = second.index();
}

}  // namespace vidseg
