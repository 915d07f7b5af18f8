// Samples of a batch: types, layouts, color order, normalization, vectors.
#include <algorithm>
#include <cstring>

#include "cases.h"
#include "output.h"
#include "packing.h"

namespace cases {
namespace {

using vidseg::OutputFormat;
using vidseg::SampleType;

struct Type {
    const char* name;
    SampleType type;
};
constexpr Type kTypes[] = {{"uint8", SampleType::kUint8},
                           {"float16", SampleType::kFloat16},
                           {"bfloat16", SampleType::kBfloat16},
                           {"float32", SampleType::kFloat32}};
constexpr size_t kCounts[] = {1, 3, 7, 16, 33, 255, 2048, 2500};

std::vector<uint32_t> pixels_of(size_t count, uint64_t seed) {
    Random random(seed);
    std::vector<uint32_t> pixels(count);
    for (uint32_t& pixel : pixels)
        pixel = static_cast<uint32_t>(random.next() >> 32);  // the unused byte, too
    return pixels;
}

// Calls write(out) with an output that begins at `shift` samples after an aligned address, and reports what
// it wrote.
template <class Write>
void report_samples(const std::string& name, size_t bytes, size_t shift, const Write& write) {
    alignas(64) static uint8_t memory[1 << 16];
    std::memset(memory, 0xA5, sizeof memory);
    write(memory + 64 + shift);
    Checksum sum;
    sum.add(memory, bytes + shift + 128);  // nothing else is written
    report(name, sum);
}

void write_colors(const Type& type) {
    OutputFormat format;
    format.type = type.type;
    const float scales[2][3] = {{1.0F / 255, 1.0F / 255, 1.0F / 255}, {0.0171248F, 0.0175070F, 0.0174292F}};
    const float offsets[2][3] = {{0, 0, 0}, {-2.1179039F, -2.0357144F, -1.8044444F}};
    for (const bool planar : {true, false}) {
        for (const bool bgr : {false, true}) {
            for (int norm = 0; norm < 2; ++norm) {
                format.planar = planar;
                format.bgr = bgr;
                std::copy_n(scales[norm], 3, format.scale.begin());
                std::copy_n(offsets[norm], 3, format.offset.begin());
                for (const size_t count : kCounts) {
                    const std::vector<uint32_t> pixels = pixels_of(count, count);
                    const size_t plane = count * format.sample_bytes();
                    const std::string name = std::string("write/") + type.name +
                                             (planar ? "/planar" : "/interleaved") + (bgr ? "/bgr" : "/rgb") +
                                             (norm ? "/imagenet/" : "/unit/") + std::to_string(count);
                    report_samples(name, 3 * plane, norm * format.sample_bytes(), [&](uint8_t* out) {
                        vidseg::write_pixels(pixels.data(), count, format, plane, out);
                    });
                }
            }
        }
    }
}

void write_flow(const Type& type) {
    OutputFormat format;
    format.type = type.type;
    const vidseg::VectorMap maps[] = {{{{0.15686275F, 0, -20.078432F}, {0, 0.15686275F, -20.078432F}}},
                                      {{{-1, 0, 255}, {0, 1, 0}}},
                                      {{{0.6F, -0.8F, 12.5F}, {0.8F, 0.6F, -31.25F}}}};
    for (const bool planar : {true, false}) {
        format.planar = planar;
        for (int map = 0; map < 3; ++map) {
            for (const size_t count : kCounts) {
                const std::vector<uint32_t> pixels = pixels_of(count, 100 + count);
                const size_t plane = count * format.sample_bytes();
                const std::string name = std::string("vectors/") + type.name +
                                         (planar ? "/planar/" : "/interleaved/") + std::to_string(map) + "/" +
                                         std::to_string(count);
                report_samples(name, 2 * plane, map * format.sample_bytes(), [&](uint8_t* out) {
                    vidseg::write_vectors(pixels.data(), count, format, maps[map], plane, out);
                });
            }
        }
    }
}

void pack() {
    for (const size_t count : kCounts) {
        const std::vector<uint32_t> pixels = pixels_of(count, 200 + count);
        for (const bool bgr : {false, true}) {
            report_samples(std::string("pack/") + (bgr ? "bgr/" : "rgb/") + std::to_string(count), 3 * count,
                           1, [&](uint8_t* out) { vidseg::pack_pixels(pixels.data(), count, bgr, out); });
        }
        const std::vector<uint8_t> rgb = Random(count).bytes(3 * count);
        std::vector<uint32_t> unpacked(count);
        vidseg::unpack_pixels(rgb.data(), count, unpacked.data());
        report("unpack/" + std::to_string(count), unpacked);
    }
}

// The largest and the smallest numbers of half precision.
void write_extremes() {
    std::vector<uint32_t> pixels(256);
    for (uint32_t value = 0; value < 256; ++value) pixels[value] = value * 0x010101;
    for (const Type& type : kTypes) {
        if (type.type == SampleType::kUint8) continue;
        for (const float scale : {1e-7F, 1e-6F, 3e-8F, 257.0F, -300.0F, 1e30F}) {
            OutputFormat format;
            format.type = type.type;
            format.scale = {scale, -scale, scale};
            std::vector<uint8_t> out(3 * 256 * format.sample_bytes());
            vidseg::write_pixels(pixels.data(), 256, format, 256 * format.sample_bytes(), out.data());
            char name[64];
            std::snprintf(name, sizeof name, "write/%s/scale/%g", type.name, static_cast<double>(scale));
            report(name, out);
        }
    }
}

}  // namespace

void write() {
    for (const Type& type : kTypes) {
        write_colors(type);
        write_flow(type);
    }
    pack();
    write_extremes();
}

}  // namespace cases
