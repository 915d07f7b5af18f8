// Decoding of the JPEGs that frame databases hold: baseline, three components, chroma of full or half
// resolution. Pixels are those of libjpeg, bit for bit; no more is decoded than a window needs.
//
// libjpeg-turbo spends most of its time on Huffman codes, one bit buffer's worth after the other with a check
// for markers in between. Here an interval between markers is copied without its stuffing first, a look-up
// gives two codes with their values, two intervals are decoded in turn, because the next look-up must wait
// for the one before, and two blocks are transformed at a time.
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
    // Planes with the pixels of `wanted` that lie in the picture. False where the file is of another kind, or
    // damaged in what was read of it, or the processor lacks AVX2: libjpeg shall decode it, or say what is
    // wrong.
    bool decode(const uint8_t* data, size_t size, const Window& wanted, Region& out);

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
        const Quantizer* quantizer;
    };

    // An interval that is being decoded.
    struct Lane {
        std::vector<uint8_t> bytes;  // without stuffing
        size_t count = 0;            // of them
        BitReader reader{nullptr};
        std::array<int16_t, 3> predictors{};
        int64_t mcus = 0;         // still to be decoded
        bool whole = false;       // these are all that it has
        int row = 0, column = 0;  // of the next MCU

        void start(const uint8_t* from, size_t size, int64_t mcu_count, bool to_the_end);
        bool ends_well() const;
    };

    bool make_tables();
    bool make_huffman_tables(const JpegLayout::Segment& segment);
    bool make_quantizers(const JpegLayout::Segment& segment, std::array<bool, 4>& there);
    bool plan_blocks();
    void make_planes(const Mcus& mcus);
    bool decode_intervals(const uint8_t* data, size_t size, const Mcus& mcus);
    bool decode_lanes(const Mcus& mcus);
    bool decode_lane(Lane& lane, const Mcus& mcus);
    void step(Lane& lane) const;
    static bool is_inside(const Lane& lane, const Mcus& mcus);
    BlockTarget target(const Block& block, const Lane& lane, const Mcus& mcus);
    BlockTarget nowhere(const Block& block);

    JpegLayout layout_;
    std::vector<uint8_t> made_;  // the Huffman segments that the tables were made of
    std::array<Tables, 2> tables_;
    std::array<Quantizer, 4> quantizers_{};
    std::vector<Block> blocks_;
    std::array<Lane, 2> lanes_;
    Planes planes_;
    std::array<uint8_t, 64> unused_;  // takes blocks outside of the window
};

}  // namespace vidseg
