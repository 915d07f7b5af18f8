// Decoding of the JPEGs that frame databases hold: baseline, three components, chroma of full or half
// resolution. Pixels are those of libjpeg, bit for bit; no more is decoded than a window needs.
//
// libjpeg-turbo spends most of its time on Huffman codes, one bit buffer's worth after the other with a check
// for markers in between. Here an interval between markers is copied without its stuffing first, a look-up
// gives code and value together, and two blocks are transformed at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "huffman.h"
#include "idct.h"
#include "jpeg.h"
#include "layout.h"
#include "planes.h"

namespace vidseg {

class BaselineDecoder {
  public:
    // The pixels of `wanted` that lie in the picture. False where the file is of another kind, or damaged in
    // what was read of it, or the processor lacks AVX2: libjpeg shall decode it, or say what is wrong.
    bool decode(const uint8_t* data, size_t size, const Window& wanted, Region& out);

    // Indices of coefficients, and a run behind the last.
    static constexpr int kIndices = 64 + HuffmanTable::kEndOfBlock;

  private:
    // An MCU has 6 blocks at most; the end is checked after each.
    static constexpr size_t kSlack = 6 * BitReader::kBlockBytes + 16;

    // MCUs, right and bottom excluded.
    using Mcus = Window;

    struct Tables {
        HuffmanTable dc, ac;
        PairTable ac_pairs;
        bool has_dc = false, has_ac = false;
    };

    // One of the blocks of an MCU: its tables, and where its samples go.
    struct Block {
        int component;
        int x, y;      // from the MCU's first sample in the plane
        int mcu_side;  // of the plane's samples
        const Tables *dc, *ac;
        const int16_t* quantiser;
    };

    bool make_tables();
    bool make_huffman_tables(const JpegLayout::Segment& segment);
    bool make_quantisers(const JpegLayout::Segment& segment, std::array<bool, 4>& there);
    bool plan_blocks();
    void make_planes(const Mcus& mcus);
    bool decode_intervals(const uint8_t* data, size_t size, const Mcus& mcus);
    bool decode_interval(size_t count, int64_t first, int64_t last, int64_t stop, const Mcus& mcus);
    void transform(const BlockPair& pair, size_t block, const int (&ends)[2], int column, int row);

    JpegLayout layout_;
    std::vector<uint8_t> made_;  // the Huffman segments that the tables were made of
    std::array<Tables, 2> tables_;
    std::array<std::array<int16_t, kIndices>, 4> quantisers_{};
    std::vector<Block> blocks_;
    std::vector<uint8_t> bytes_;  // an interval without stuffing
    Planes planes_;
};

}  // namespace vidseg
