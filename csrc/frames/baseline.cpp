#include "baseline.h"

#include <algorithm>
#include <cstring>

#include "idct.h"
#include "jpeg_session.h"
#include "upsample.h"
#include "vectorised.h"

namespace vidseg {
namespace {

// Indices of coefficients run along diagonals; what lies behind the last one is never used as a value.
struct Places {
    std::array<uint8_t, BaselineDecoder::kIndices> of;
    Places() {
        int row = 0, column = 0;
        for (int index = 0; index < BaselineDecoder::kIndices; ++index) {
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
const Places kPlaces;

// What `decode_block` answers: the index behind the last coefficient, or for a block that ends early the
// index of its end and the end's run.
constexpr int kFullEnd = 64;
constexpr int kEmptyEnd = 1 + HuffmanTable::kEndOfBlock + 1;
bool is_whole(int end) { return end == kFullEnd || end >= kEmptyEnd; }

// Decodes and dequantises. Compiled into its caller, with the reader in registers.
__attribute__((always_inline)) inline int decode_block(BitReader& reader, const HuffmanTable& dc,
                                                       const HuffmanTable& ac, const PairTable& ac_pairs,
                                                       const int16_t* quantiser, int16_t& predictor,
                                                       int16_t* out) {
    const auto put = [&](int index, int value) {
        out[kPlaces.of[index]] = static_cast<int16_t>(value * quantiser[index]);
    };
    reader.refill();
    const Symbol difference = dc.next(reader);
    if (difference.run != 0) return 0;
    predictor = static_cast<int16_t>(predictor + difference.value);
    put(0, predictor);
    int index = 1;
    const auto step = [&]() __attribute__((always_inline)) {
        const PairTable::Pair& pair = ac_pairs.look_up(reader);
        const int next = index + pair.next;
        if (__builtin_expect(next < 64, 1)) {
            put(index + pair.first_at, pair.first);
            put(next - 1, pair.second);
            reader.skip(pair.bits);
            index = next;
            return true;
        }
        // The end of the block, perhaps between the two, or a long symbol.
        reader.refill();
        const Symbol symbol = ac.next(reader);
        reader.refill();
        put(index + symbol.run, symbol.value);
        index += symbol.run + 1;
        return index < 64;
    };
    do reader.refill();  // enough for four look-ups
    while (step() && step() && step() && step());
    return index;
}

// A block of one coefficient has one value everywhere.
void fill_block(int16_t mean, uint8_t* out, size_t stride) {
    const int value = (std::clamp(mean * 4, -32768, 32767) + 16) >> 5;
    const auto sample = static_cast<uint8_t>(std::clamp(value, -128, 127) + 128);
    for (int row = 0; row < 8; ++row) std::memset(out + static_cast<size_t>(row) * stride, sample, 8);
}

}  // namespace

bool BaselineDecoder::decode(const uint8_t* data, size_t size, const Window& wanted, Region& out) {
    static const bool fast = prefers_avx2();
    if (!fast || !layout_.read(data, size) || layout_.components != 3 || layout_.adobe) return false;
    if (int64_t{layout_.width} * layout_.height > kMaxPixels) return false;
    if (!make_tables() || !plan_blocks()) return false;
    if (layout_.mcu_width == 16 && layout_.width <= 4) return false;  // libjpeg repeats chroma of 2 samples
    const Window inside = wanted.within(layout_.width, layout_.height);
    const Mcus mcus = {
        std::max(0, inside.left - kChromaMargin) / layout_.mcu_width,
        std::max(0, inside.top - kChromaMargin) / layout_.mcu_height,
        (std::min(layout_.width, inside.right + kChromaMargin) - 1) / layout_.mcu_width + 1,
        (std::min(layout_.height, inside.bottom + kChromaMargin) - 1) / layout_.mcu_height + 1};
    make_planes(mcus);
    if (!decode_intervals(data, size, mcus)) return false;
    const int left = mcus.left * layout_.mcu_width, top = mcus.top * layout_.mcu_height;
    planes_to_region(planes_,
                     {inside.left - left, inside.top - top, inside.right - left, inside.bottom - top}, out);
    out.full_width = layout_.width;
    out.full_height = layout_.height;
    out.window = inside;
    return true;
}

// Components must be Y, Cb and Cr; libjpeg finds that out by their names where no marker says it.
bool BaselineDecoder::plan_blocks() {
    blocks_.clear();
    for (int i = 0; i < 3; ++i) {
        const JpegLayout::Component& component = layout_.component[i];
        if (component.name != i + 1 || component.across != component.down) return false;
        if (i > 0 && component.across != 1) return false;
        for (int y = 0; y < component.down; ++y) {
            for (int x = 0; x < component.across; ++x) {
                blocks_.push_back({i, 8 * x, 8 * y, 8 * component.across, &tables_[component.dc_table],
                                   &tables_[component.ac_table], quantisers_[component.quantiser].data()});
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
    made_.clear();  // until all are made
    for (Tables& tables : tables_)
        tables.has_dc = tables.has_dc && known, tables.has_ac = tables.has_ac && known;
    std::array<bool, 4> quantised{};
    for (const JpegLayout::Segment& segment : layout_.segments) {
        if (segment.marker == kHuffmanTables && !known && !make_huffman_tables(segment)) return false;
        if (segment.marker == kQuantisers && !make_quantisers(segment, quantised)) return false;
    }
    made_ = std::move(huffman);
    for (const JpegLayout::Component& component : layout_.component) {
        if (component.dc_table > 1 || component.ac_table > 1 || component.quantiser > 3) return false;
        if (!tables_[component.dc_table].has_dc || !tables_[component.ac_table].has_ac) return false;
        if (!quantised[component.quantiser]) return false;
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

bool BaselineDecoder::make_quantisers(const JpegLayout::Segment& segment, std::array<bool, 4>& there) {
    const uint8_t* at = layout_.headers.data() + segment.at + 4;
    const uint8_t* end = layout_.headers.data() + segment.end;
    while (at < end) {
        const int number = at[0] & 15;
        if (at[0] >> 4 != 0 || number > 3 || end - at < 65) return false;  // of 8 bits
        for (int index = 0; index < 64; ++index) quantisers_[number][index] = at[1 + index];
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
    planes_.chroma = halved ? Chroma::k420 : Chroma::k444;
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
    for (int64_t number = 0; number * interval <= final; ++number) {
        const int64_t first = number * interval, last = std::min(total, first + interval) - 1;
        const uint8_t* bytes = nullptr;
        size_t count = 0;
        if (!intervals.next(number, last == total - 1, &bytes, &count)) return false;
        const int64_t top = first / columns, bottom = last / columns;
        if (bottom < mcus.top) continue;
        if (top == bottom && (last % columns < mcus.left || first % columns >= mcus.right)) continue;
        if (bytes_.size() < count + kSlack) bytes_.resize(count + kSlack);
        const uint8_t* end = copy_unstuffed(bytes, count, bytes_.data());
        count = static_cast<size_t>(end - bytes_.data());
        // An interval is decoded to its end, which shows damage; the whole picture is not.
        const int64_t stop = layout_.restart_interval == 0 ? final : last;
        if (!decode_interval(count, first, last, stop, mcus)) return false;
    }
    return true;
}

// MCUs `first` to `stop` of an interval of `count` bytes; all of it if `stop` is its last one.
VIDSEG_AVX2 bool BaselineDecoder::decode_interval(size_t count, int64_t first, int64_t last, int64_t stop,
                                                  const Mcus& mcus) {
    BitReader reader(bytes_.data());
    int16_t predictors[3] = {};
    BlockPair pair;
    int row = static_cast<int>(first / layout_.columns()),
        column = static_cast<int>(first % layout_.columns());
    for (int64_t mcu = first; mcu <= stop; ++mcu) {
        const bool inside =
            column >= mcus.left && column < mcus.right && row >= mcus.top && row < mcus.bottom;
        for (size_t block = 0; block < blocks_.size(); block += 2) {
            clear(pair);
            int ends[2] = {kEmptyEnd, kEmptyEnd};
            for (size_t k = 0; k < 2 && block + k < blocks_.size(); ++k) {
                const Block& to = blocks_[block + k];
                ends[k] = decode_block(reader, to.dc->dc, to.ac->ac, to.ac->ac_pairs, to.quantiser,
                                       predictors[to.component], pair.coefficients + k * BlockPair::kSecond);
                if (!is_whole(ends[k])) return false;
            }
            if (inside) transform(pair, block, ends, column - mcus.left, row - mcus.top);
        }
        if (reader.consumed() > 8 * count) return false;
        if (++column == layout_.columns()) {
            column = 0;
            ++row;
        }
    }
    return stop < last || 8 * count - reader.consumed() < 8;
}

// Two blocks, or one, to samples.
void BaselineDecoder::transform(const BlockPair& pair, size_t block, const int (&ends)[2], int column,
                                int row) {
    uint8_t nowhere[64];
    uint8_t* to[2] = {nowhere, nowhere};
    size_t stride[2] = {8, 8};
    for (size_t k = 0; k < 2 && block + k < blocks_.size(); ++k) {
        const Block& place = blocks_[block + k];
        Plane& plane = place.component == 0 ? planes_.y : place.component == 1 ? planes_.cb : planes_.cr;
        to[k] = plane.row(row * place.mcu_side + place.y) + column * place.mcu_side + place.x;
        stride[k] = static_cast<size_t>(plane.stride);
    }
    if (ends[0] == kEmptyEnd && ends[1] == kEmptyEnd) {
        fill_block(pair.coefficients[0], to[0], stride[0]);
        fill_block(pair.coefficients[BlockPair::kSecond], to[1], stride[1]);
    } else {
        inverse_dct(pair, to[0], stride[0], to[1], stride[1]);
    }
}

}  // namespace vidseg
