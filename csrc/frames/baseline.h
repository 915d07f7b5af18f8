// Decoder of the JPEGs in frame databases: baseline, three components, YCbCr with chroma of full or half
// resolution, or channels without color conversion. The pixels equal those of libjpeg bit for bit. Only the
// part that a window needs is decoded.
//
// libjpeg-turbo spends most of its time on Huffman codes: it reads one code after another and checks for
// markers in between. This decoder first copies an interval between markers without its stuffing bytes. One
// table look-up gives two codes with their values. Two intervals are decoded alternately, because a look-up
// depends on the previous one of the same interval, and two blocks are transformed at a time.
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
    // Decodes the planes of the pixels of `wanted` that lie in the picture. Returns false if the file is of
    // another kind or if the part that was read is damaged; the caller then uses libjpeg, which decodes the
    // file or reports the error.
    //
    // `channels`: 2 leaves the third plane of a picture without color conversion undefined.
    bool decode(const uint8_t* data, size_t size, const Window& wanted, Region& out, int channels = 3);

  private:
    // An MCU has at most 6 blocks; the end of the data is checked after each MCU.
    static constexpr size_t kSlack = 6 * BitReader::kBlockBytes + 16;

    // A rectangle of MCUs; right and bottom are exclusive.
    using Mcus = Window;

    struct Tables {
        HuffmanTable dc, ac;
        PairTable ac_pairs;
        bool has_dc = false, has_ac = false;
    };

    // A block of an MCU: its tables and the position of its samples.
    struct Block {
        int component;
        int x, y;      // relative to the MCU's first sample in the plane
        int mcu_side;  // in samples of the plane
        const Tables *dc, *ac;
        const Quantizer* quantizer;
    };

    // State of an interval during decoding.
    struct Lane {
        std::vector<uint8_t> bytes;  // without stuffing
        size_t count = 0;            // number of bytes
        BitReader reader{nullptr};
        std::array<int16_t, 3> predictors{};
        int64_t mcus = 0;         // still to be decoded
        bool whole = false;       // `mcus` are all MCUs of the interval
        int row = 0, column = 0;  // position of the next MCU

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
    struct BothLanes;
    struct OneLane;
    template <int Bytes>
    bool decode_both(const Mcus& mcus);
    template <int Bytes>
    bool decode_rest(Lane& lane, const Mcus& mcus);
    void step(Lane& lane) const;
    static bool is_inside(const Lane& lane, const Mcus& mcus);
    BlockTarget target(const Block& block, const Lane& lane, const Mcus& mcus);
    BlockTarget nowhere(const Block& block);

    JpegLayout layout_;
    std::vector<uint8_t> made_;  // Huffman segments of the current tables
    std::array<Tables, 2> tables_;
    std::array<Quantizer, 4> quantizers_{};
    std::vector<Block> blocks_;
    int components_ = 3;  // that are wanted
    std::array<Lane, 2> lanes_;
    Planes planes_;
    std::array<uint8_t, 64> unused_;  // target of blocks outside the window
};

}  // namespace vidseg
