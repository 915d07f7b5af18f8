#include "baseline.h"

#include <algorithm>
#include <cstring>

#include "block_decoder.h"
#include "idct.h"
#include "jpeg_session.h"
#include "common/simd.h"

namespace vidseg {
namespace {

// A block with only a DC coefficient is constant.
void fill_block(int16_t coefficient, const BlockTarget& target) {
    const auto mean = static_cast<int16_t>(coefficient * (*target.quantizer)[0]);
    const int value = (std::clamp(mean * 4, -32768, 32767) + 16) >> 5;
    const auto sample = static_cast<uint8_t>(std::clamp(value, -128, 127) + 128);
    for (int row = 0; row < 8; ++row) {
        std::memset(target.to + static_cast<size_t>(row) * target.stride, sample, 8);
    }
}

template <int Bytes>
void transform(const BlockPair& pair, const BlockTarget (&targets)[2], const int (&ends)[2]) {
    if (ends[0] == kEmptyEnd && ends[1] == kEmptyEnd) {
        fill_block(pair.coefficients[0], targets[0]);
        fill_block(pair.coefficients[BlockPair::kSecond], targets[1]);
    } else {
        inverse_dct<Bytes>(pair, targets[0], targets[1]);
    }
}

}  // namespace

bool BaselineDecoder::decode(const uint8_t* data, size_t size, const Window& wanted, Region& out,
                             int channels) {
    if (!layout_.read(data, size) || layout_.components != 3) return false;
    if (int64_t{layout_.width} * layout_.height > kMaxPixels) return false;
    if (!make_tables() || !plan_blocks()) return false;
    if (layout_.mcu_width == 16 && layout_.width <= 4)
        return false;  // libjpeg replicates chroma of 2 samples
    const Window inside = wanted.within(layout_.width, layout_.height);
    const Mcus mcus = {
        std::max(0, inside.left - kChromaMargin) / layout_.mcu_width,
        std::max(0, inside.top - kChromaMargin) / layout_.mcu_height,
        (std::min(layout_.width, inside.right + kChromaMargin) - 1) / layout_.mcu_width + 1,
        (std::min(layout_.height, inside.bottom + kChromaMargin) - 1) / layout_.mcu_height + 1};
    make_planes(mcus);
    components_ = layout_.adobe ? channels : 3;
    if (!decode_intervals(data, size, mcus)) return false;
    std::swap(out.planes, planes_);
    out.pixels.clear();
    out.planar = true;
    out.denominator = 1;
    out.full_width = layout_.width;
    out.full_height = layout_.height;
    out.window = inside;
    out.left = mcus.left * layout_.mcu_width;
    out.top = mcus.top * layout_.mcu_height;
    return true;
}

// Components must be Y, Cb and Cr, or channels that an Adobe marker calls RGB. Without a marker that names
// the color space, libjpeg derives it from the component identifiers; of two markers it believes JFIF.
bool BaselineDecoder::plan_blocks() {
    blocks_.clear();
    const bool channels = layout_.adobe;
    if (channels && (layout_.jfif || layout_.adobe_transform != 0)) return false;
    for (int i = 0; i < 3; ++i) {
        const JpegLayout::Component& component = layout_.component[i];
        if (component.across != component.down || (!channels && component.name != i + 1)) return false;
        if ((i > 0 || channels) && component.across != 1) return false;
        for (int y = 0; y < component.down; ++y) {
            for (int x = 0; x < component.across; ++x) {
                blocks_.push_back({i, 8 * x, 8 * y, 8 * component.across, &tables_[component.dc_table],
                                   &tables_[component.ac_table], &quantizers_[component.quantizer]});
            }
        }
    }
    return true;
}

bool BaselineDecoder::make_tables() {
    std::vector<uint8_t> huffman;
    for (const JpegLayout::Segment& segment : layout_.segments) {
        const auto begin = layout_.headers.begin() + static_cast<std::ptrdiff_t>(segment.at);
        const auto end = layout_.headers.begin() + static_cast<std::ptrdiff_t>(segment.end);
        if (segment.marker == kHuffmanTables) huffman.insert(huffman.end(), begin, end);
    }
    const bool known = !made_.empty() && huffman == made_;
    made_.clear();  // no valid tables until all are made
    for (Tables& tables : tables_)
        tables.has_dc = tables.has_dc && known, tables.has_ac = tables.has_ac && known;
    std::array<bool, 4> quantized{};
    for (const JpegLayout::Segment& segment : layout_.segments) {
        if (segment.marker == kHuffmanTables && !known && !make_huffman_tables(segment)) return false;
        if (segment.marker == kQuantizers && !make_quantizers(segment, quantized)) return false;
    }
    made_ = std::move(huffman);
    for (const JpegLayout::Component& component : layout_.component) {
        if (component.dc_table > 1 || component.ac_table > 1 || component.quantizer > 3) return false;
        if (!tables_[component.dc_table].has_dc || !tables_[component.ac_table].has_ac) return false;
        if (!quantized[component.quantizer]) return false;
    }
    return true;
}

bool BaselineDecoder::make_huffman_tables(const JpegLayout::Segment& segment) {
    const uint8_t* at = layout_.headers.data() + segment.at + 4;
    const uint8_t* end = layout_.headers.data() + segment.end;
    while (at < end) {
        if (end - at < 17) return false;
        const int kind = at[0] >> 4, number = at[0] & 15;
        int count = 0;
        for (int length = 0; length < 16; ++length) count += at[1 + length];
        if (kind > 1 || number > 1 || count > 256 || end - at < 17 + count) return false;
        Tables& tables = tables_[number];
        HuffmanTable& table = kind == 0 ? tables.dc : tables.ac;
        if (!table.make(at + 1, at + 17, count, kind == 0)) return false;
        if (kind == 1) tables.ac_pairs.make(table);
        (kind == 0 ? tables.has_dc : tables.has_ac) = true;
        at += 17 + count;
    }
    return true;
}

bool BaselineDecoder::make_quantizers(const JpegLayout::Segment& segment, std::array<bool, 4>& there) {
    const uint8_t* at = layout_.headers.data() + segment.at + 4;
    const uint8_t* end = layout_.headers.data() + segment.end;
    while (at < end) {
        const int number = at[0] & 15;
        if (at[0] >> 4 != 0 || number > 3 || end - at < 65) return false;  // only 8-bit tables
        for (int index = 0; index < 64; ++index) quantizers_[number][natural(index)] = at[1 + index];
        there[number] = true;
        at += 65;
    }
    return true;
}

void BaselineDecoder::make_planes(const Mcus& mcus) {
    const bool halved = layout_.mcu_width == 16;
    planes_.width = std::min(mcus.width() * layout_.mcu_width, layout_.width - mcus.left * layout_.mcu_width);
    planes_.height =
        std::min(mcus.height() * layout_.mcu_height, layout_.height - mcus.top * layout_.mcu_height);
    planes_.chroma = layout_.adobe ? Chroma::kNone : halved ? Chroma::k420 : Chroma::k444;
    for (Plane* plane : {&planes_.y, &planes_.cb, &planes_.cr}) {
        const int divisor = halved && plane != &planes_.y ? 2 : 1;
        plane->width = (planes_.width + divisor - 1) / divisor;
        plane->height = (planes_.height + divisor - 1) / divisor;
        plane->stride = mcus.width() * layout_.mcu_width / divisor;
        plane->rows = mcus.height() * layout_.mcu_height / divisor;
        plane->pixels.resize(static_cast<size_t>(plane->stride) * plane->rows);
    }
}

bool BaselineDecoder::decode_intervals(const uint8_t* data, size_t size, const Mcus& mcus) {
    const int64_t columns = layout_.columns(), total = columns * layout_.rows();
    const int64_t interval = layout_.restart_interval == 0 ? total : layout_.restart_interval;
    const int64_t final = (mcus.bottom - 1) * columns + mcus.right - 1;
    IntervalReader intervals(data, size, layout_.entropy);
    bool waiting = false;  // lanes_[0] waits for a second interval
    for (int64_t number = 0; number * interval <= final; ++number) {
        const int64_t first = number * interval, last = std::min(total, first + interval) - 1;
        const uint8_t* bytes = nullptr;
        size_t count = 0;
        if (!intervals.next(number, last == total - 1, &bytes, &count)) return false;
        const int64_t top = first / columns, bottom = last / columns;
        if (bottom < mcus.top) continue;
        if (top == bottom && (last % columns < mcus.left || first % columns >= mcus.right)) continue;
        // An interval is decoded to its end, which detects damage in it.
        const int64_t stop = layout_.restart_interval == 0 ? final : last;
        Lane& lane = lanes_[waiting ? 1 : 0];
        lane.start(bytes, count, stop - first + 1, stop == last);
        lane.row = static_cast<int>(top);
        lane.column = static_cast<int>(first % columns);
        if (waiting && !decode_lanes(mcus)) return false;
        waiting = !waiting;
    }
    return !waiting || decode_lane(lanes_[0], mcus);
}

void BaselineDecoder::Lane::start(const uint8_t* from, size_t size, int64_t mcu_count, bool to_the_end) {
    if (bytes.size() < size + kSlack) bytes.resize(size + kSlack);
    count = static_cast<size_t>(copy_unstuffed(from, size, bytes.data()) - bytes.data());
    mcus = mcu_count;
    whole = to_the_end;
    reader = BitReader(bytes.data());
    predictors.fill(0);
}

// Returns whether nothing beyond the end was read and, of a whole interval, nothing is left.
bool BaselineDecoder::Lane::ends_well() const {
    const size_t consumed = reader.consumed();
    return consumed <= 8 * count && (!whole || 8 * count - consumed < 8);
}

void BaselineDecoder::step(Lane& lane) const {
    --lane.mcus;
    if (++lane.column == layout_.columns()) {
        lane.column = 0;
        ++lane.row;
    }
}

// Decodes two intervals alternately, block by block, so that the look-ups of one hide the latency of the
// other, until one of them ends.
struct BaselineDecoder::BothLanes {
    template <int Bytes>
    static VIDSEG_INLINE void run(BaselineDecoder* decoder, const Mcus* mcus, bool* done) {
        *done = decoder->decode_both<Bytes>(*mcus);
    }
};
template <int Bytes>
VIDSEG_INLINE bool BaselineDecoder::decode_both(const Mcus& mcus) {
    Lane &one = lanes_[0], &two = lanes_[1];
    BitReader reader = one.reader, other = two.reader;
    BlockPair pair;
    for (; one.mcus > 0 && two.mcus > 0; step(one), step(two)) {
        const bool inside[2] = {is_inside(one, mcus), is_inside(two, mcus)};
        for (const Block& block : blocks_) {
            pair.clear<Bytes>();
            int ends[2];
            decode_two_blocks(reader, other, block.dc->dc, block.ac->ac, block.ac->ac_pairs,
                              one.predictors[block.component], two.predictors[block.component],
                              pair.coefficients, ends);
            if (!is_whole(ends[0]) || !is_whole(ends[1])) return false;
            if ((!inside[0] && !inside[1]) || block.component >= components_) continue;
            const BlockTarget targets[2] = {inside[0] ? target(block, one, mcus) : nowhere(block),
                                            inside[1] ? target(block, two, mcus) : nowhere(block)};
            transform<Bytes>(pair, targets, ends);
        }
        if (reader.consumed() > 8 * one.count || other.consumed() > 8 * two.count) return false;
    }
    one.reader = reader;
    two.reader = other;
    return true;
}

// Decodes the rest of one interval, two of its blocks at a time.
struct BaselineDecoder::OneLane {
    template <int Bytes>
    static VIDSEG_INLINE void run(BaselineDecoder* decoder, Lane* lane, const Mcus* mcus, bool* done) {
        *done = decoder->decode_rest<Bytes>(*lane, *mcus);
    }
};
template <int Bytes>
VIDSEG_INLINE bool BaselineDecoder::decode_rest(Lane& lane, const Mcus& mcus) {
    BitReader reader = lane.reader;
    BlockPair pair;
    for (; lane.mcus > 0; step(lane)) {
        const bool inside = is_inside(lane, mcus);
        for (size_t place = 0; place < blocks_.size(); place += 2) {
            pair.clear<Bytes>();
            int ends[2] = {kEmptyEnd, kEmptyEnd};
            BlockTarget targets[2] = {nowhere(blocks_[place]), nowhere(blocks_[place])};
            for (size_t k = 0; k < 2 && place + k < blocks_.size(); ++k) {
                const Block& block = blocks_[place + k];
                BlockDecoder decoder(reader, block.ac->ac, block.ac->ac_pairs,
                                     pair.coefficients + k * BlockPair::kSecond);
                if (!decoder.begin(block.dc->dc, lane.predictors[block.component])) return false;
                ends[k] = decoder.finish();
                if (!is_whole(ends[k])) return false;
                if (inside && block.component < components_) targets[k] = target(block, lane, mcus);
            }
            if (inside) transform<Bytes>(pair, targets, ends);
        }
        if (reader.consumed() > 8 * lane.count) return false;
    }
    lane.reader = reader;
    return lane.ends_well();
}

bool BaselineDecoder::decode_lanes(const Mcus& mcus) {
    bool done = false;
    run_simd<BothLanes, Simd::avx2>(this, &mcus, &done);
    return done && decode_lane(lanes_[0], mcus) && decode_lane(lanes_[1], mcus);
}

bool BaselineDecoder::decode_lane(Lane& lane, const Mcus& mcus) {
    bool done = false;
    run_simd<OneLane, Simd::avx2>(this, &lane, &mcus, &done);
    return done;
}

bool BaselineDecoder::is_inside(const Lane& lane, const Mcus& mcus) {
    return lane.column >= mcus.left && lane.column < mcus.right && lane.row >= mcus.top &&
           lane.row < mcus.bottom;
}

// Returns the target of a block of the lane's MCU.
BlockTarget BaselineDecoder::target(const Block& block, const Lane& lane, const Mcus& mcus) {
    Plane& plane = block.component == 0 ? planes_.y : block.component == 1 ? planes_.cb : planes_.cr;
    uint8_t* to = plane.row((lane.row - mcus.top) * block.mcu_side + block.y) +
                  (lane.column - mcus.left) * block.mcu_side + block.x;
    return {to, static_cast<size_t>(plane.stride), block.quantizer};
}

BlockTarget BaselineDecoder::nowhere(const Block& block) { return {unused_.data(), 8, block.quantizer}; }

}  // namespace vidseg
