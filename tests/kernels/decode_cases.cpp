// JPEGs: stored ones of all kinds that a video of frames may have, and those of the encoder.
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "baseline.h"
#include "cases.h"
#include "jpeg.h"
#include "planes.h"
#include "sample.h"

namespace cases {
namespace {

using vidseg::Chroma;
using vidseg::Window;

const char* const kFiles[] = {"420",           "444",  "422",         "gray",          "progressive",
                              "optimized_444", "flow", "restart_420", "restart_flow",  "restart_444",
                              "quality_100",   "tiny", "narrow",      "quality_1_420", "restart_row"};

std::vector<uint8_t> read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

void report_region(const std::string& name, const vidseg::Region& region) {
    Checksum sum;
    for (const int side : {region.full_width, region.full_height}) sum.add(side);
    const Window& window = region.window;
    for (const int side : {window.left, window.top, window.right, window.bottom}) sum.add(side);
    // without the unused byte
    for (const uint32_t pixel : region.pixels) sum.add(pixel & 0xFFFFFF);
    report(name, sum);
}

// As the loader decodes: the part that a crop needs, as planes if possible, resampled.
void load(const std::string& name, const std::vector<uint8_t>& jpeg, int width, int height) {
    struct Crop {
        const char* name;
        double left, top, across, down, skew;  // parts of the frame
        int denominator, channels;
    };
    const Crop crops[] = {{"whole", 0, 0, 1, 1, 0, 1, 3},
                          {"middle", 0.3, 0.3, 0.4, 0.5, 0, 1, 3},
                          {"half", 0, 0, 1, 1, 0, 2, 3},
                          {"quarter", 0.1, 0.2, 0.8, 0.7, 0, 4, 3},
                          {"mirrored", 0.9, 0, -0.8, 1, 0, 1, 3},
                          {"beyond", -0.4, 0.5, 1, 1, 0, 1, 3},
                          {"turned", 0.2, 0.1, 0.6, 0.7, 0.2, 1, 3},
                          {"vectors", 0, 0, 0.7, 0.7, 0, 1, 2}};
    vidseg::JpegDecoder decoder;
    vidseg::Region region;
    const int side = 32;
    for (const Crop& crop : crops) {
        const std::array<double, 9> matrix = {crop.across * width / side,
                                              -crop.skew * height / side,
                                              crop.left * width,
                                              crop.skew * width / side,
                                              crop.down * height / side,
                                              crop.top * height,
                                              0,
                                              0,
                                              1};
        vidseg::Sampler sampler(matrix, side, side, 0x336699, crop.channels);
        std::vector<uint32_t> pixels(static_cast<size_t>(side) * side);
        attempt(name + "/load/" + crop.name, [&] {
            decoder.decode_region(jpeg.data(), jpeg.size(), sampler.window(1), crop.denominator, region, true,
                                  crop.channels);
            sampler.sample(region, crop.denominator, pixels.data());
            const uint32_t defined = crop.channels == 2 ? 0xFFFF : 0xFFFFFF;
            for (uint32_t& pixel : pixels) pixel &= defined;
            report(name + "/load/" + crop.name, pixels);
        });
    }
}

void decode_file(const std::string& name, const std::vector<uint8_t>& jpeg) {
    vidseg::JpegDecoder decoder;
    vidseg::Image image;
    decoder.decode(jpeg.data(), jpeg.size(), image);
    report(name + "/rgb", image.rgb);
    vidseg::Region region;
    const int width = image.width, height = image.height;
    const Window windows[] = {{0, 0, width, height},
                              {width / 3, height / 3, width / 3 + 9, height / 3 + 6},
                              {width / 2, height / 2, width + 40, height + 40},
                              {width - 1, 0, width, height}};
    for (const int denominator : {1, 2, 4, 8}) {
        int number = 0;
        for (const Window& window : windows) {
            decoder.decode_region(jpeg.data(), jpeg.size(), window, denominator, region);
            // Larger windows than wanted are right, but the size depends on nothing but the file.
            report_region(name + "/1:" + std::to_string(denominator) + "/" + std::to_string(number++),
                          region);
        }
    }
    load(name, jpeg, width, height);
}

// Damage is refused alike, or gives the same pixels. What is refused goes to libjpeg-turbo, whose transforms
// of damaged coefficients differ between processors.
void decode_damaged(const std::string& name, const std::vector<uint8_t>& jpeg) {
    Random random(jpeg.size());
    for (int number = 0; number < 6; ++number) {
        std::vector<uint8_t> damaged = jpeg;
        if (number == 0) damaged.resize(jpeg.size() * 3 / 5);
        for (int i = 0; i < number; ++i) {
            const size_t place =
                jpeg.size() / 3 + static_cast<size_t>(random.below(static_cast<int>(jpeg.size() / 2)));
            damaged[place] ^= static_cast<uint8_t>(1 << random.below(8));
        }
        const std::string label = name + "/damaged/" + std::to_string(number);
        attempt(label, [&] {
            vidseg::BaselineDecoder decoder;
            vidseg::Region region;
            if (decoder.decode(damaged.data(), damaged.size(), {8, 8, 40, 30}, region)) {
                report_region(label, region);
            } else {
                report(label, std::vector<uint8_t>{});
            }
        });
    }
}

void encode() {
    struct Form {
        const char* name;
        Chroma chroma;
        int width, height;
        vidseg::EncodeOptions options;
    };
    const Form forms[] = {{"420", Chroma::k420, 83, 61, {90, 0, false}},
                          {"444", Chroma::k444, 83, 61, {75, 0, false}},
                          {"channels", Chroma::kNone, 64, 48, {90, -1, false}},
                          {"restarts", Chroma::k420, 128, 64, {90, -1, false}},
                          {"optimized", Chroma::k420, 50, 30, {50, 3, true}},
                          {"one_pixel", Chroma::k420, 1, 1, {90, 0, false}}};
    vidseg::JpegEncoder encoder;
    for (const Form& form : forms) {
        vidseg::Planes planes, half;
        planes.resize(form.width, form.height, form.chroma);
        const std::vector<uint8_t> rgb = picture(form.height, form.width, 11);
        if (form.chroma == Chroma::kNone) {
            vidseg::import_channels(rgb.data(), 2, 128, planes);
        } else {
            vidseg::import_rgb(rgb.data(), planes);
        }
        vidseg::halve(planes, half);
        std::vector<uint8_t> jpeg, level, again;
        encoder.encode(planes, form.options, jpeg);
        encoder.encode(half, form.options, level);
        vidseg::recode(jpeg.data(), jpeg.size(), 2, false, again);
        const std::string name = std::string("encode/") + form.name;
        report(name, jpeg);
        report(name + "/level", level);
        report(name + "/recoded", again);
        load(name, jpeg, form.width, form.height);
        load(name + "/recoded", again, form.width, form.height);
    }
}

}  // namespace

void decode(const std::string& folder) {
    for (const char* file : kFiles) {
        const std::vector<uint8_t> jpeg = read_file(folder + "/" + file + ".jpg");
        decode_file(std::string("decode/") + file, jpeg);
        if (jpeg.size() > 1000) decode_damaged(std::string("decode/") + file, jpeg);
    }
    encode();
}

}  // namespace cases
