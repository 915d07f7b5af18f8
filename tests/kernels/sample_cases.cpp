// Resampling: crops, levels and warps of pixels and of planes; conversion between RGB, planes and video
// frames.
#include <array>

#include "cases.h"
#include "packing.h"
#include "planes.h"
#include "resize.h"
#include "sample.h"
#include "upsample.h"

namespace cases {
namespace {

using vidseg::Chroma;

constexpr int kWidth = 93, kHeight = 71;  // of the stored frame

struct Form {
    const char* name;
    bool planar;
    Chroma chroma;
};
constexpr Form kForms[] = {{"pixels", false, Chroma::k444},
                           {"420", true, Chroma::k420},
                           {"444", true, Chroma::k444},
                           {"channels", true, Chroma::kNone}};

vidseg::Region region_of(const Form& form, int width, int height, uint64_t seed) {
    const std::vector<uint8_t> rgb = picture(height, width, seed);
    vidseg::Region region;
    region.full_width = region.window.right = width;
    region.full_height = region.window.bottom = height;
    region.planar = form.planar;
    if (!form.planar) {
        region.pixels.resize(static_cast<size_t>(width) * height);
        vidseg::unpack_pixels(rgb.data(), region.pixels.size(), region.pixels.data());
        return region;
    }
    region.planes.resize(width, height, form.chroma);
    if (form.chroma == Chroma::kNone) {
        vidseg::import_channels(rgb.data(), 3, 0, region.planes);
    } else {
        vidseg::import_rgb(rgb.data(), region.planes);
    }
    return region;
}

struct Map {
    const char* name;
    std::array<double, 9> matrix;  // to the stored frame
    int width, height;             // of the output
};

const Map kMaps[] = {
    {"crop", {1, 0, 13, 0, 1, 9, 0, 0, 1}, 40, 32},
    {"shifted", {1, 0, 13.25, 0, 1, 9.5, 0, 0, 1}, 40, 32},
    {"mirrored", {-1, 0, 80, 0, 1, 3, 0, 0, 1}, 56, 56},
    {"enlarged", {0.61, 0, 20.3, 0, 0.47, 11.7, 0, 0, 1}, 65, 33},
    {"shrunk", {1.31, 0, 3.1, 0, 1.19, 2.2, 0, 0, 1}, 57, 49},
    {"shrunk_more", {2.9, 0, 0, 0, 2.2, 0, 0, 0, 1}, 32, 32},
    {"shrunk_most", {11.6, 0, 0, 0, 8.9, 0, 0, 0, 1}, 8, 8},
    {"uneven", {4.1, 0, 5, 0, 0.7, 8, 0, 0, 1}, 17, 63},
    {"mirrored_shrunk", {-1.7, 0, 90.5, 0, -1.5, 70, 0, 0, 1}, 48, 40},
    {"beyond", {1.4, 0, -31, 0, 1.4, 40, 0, 0, 1}, 64, 48},
    {"outside", {1, 0, 300, 0, 1, 0, 0, 0, 1}, 9, 7},
    {"row", {1.2, 0, 1, 0, 3, 4, 0, 0, 1}, 71, 1},
    {"column", {3, 0, 1, 0, 1.2, 4, 0, 0, 1}, 1, 53},
    {"pixel", {50, 0, 20, 0, 50, 10, 0, 0, 1}, 1, 1},
    {"turned", {0.866, -0.5, 30, 0.5, 0.866, 2, 0, 0, 1}, 49, 41},
    {"turned_little", {0.999, -0.02, 1.5, 0.02, 0.999, -2.5, 0, 0, 1}, 90, 66},
    {"turned_enlarged", {0.4, -0.3, 33.3, 0.3, 0.4, 22.2, 0, 0, 1}, 64, 64},
    {"turned_smoothed", {1.5, -0.9, 25, 0.7, 1.6, -8, 0, 0, 1}, 40, 33},
    {"turned_averaged", {3.1, -1.4, 20, 1.2, 2.8, -9, 0, 0, 1}, 27, 23},
    {"transposed", {0, 1.1, 4, 1.3, 0, 2, 0, 0, 1}, 44, 60},
    {"perspective", {1.1, 0.1, 2, -0.05, 1.2, 6, 0.002, 0.001, 1}, 61, 45},
    {"perspective_averaged", {4.1, 0.3, 2, 0.1, 3.6, 1, 0.004, -0.002, 1}, 23, 19},
    {"warped_outside", {1, 0.2, 400, -0.2, 1, 90, 0, 0, 1}, 21, 13},
    {"scaled_by_last", {2, 0, 26, 0, 2, 18, 0, 0, 2}, 40, 32},
};

void sample_regions() {
    for (const Form& form : kForms) {
        const vidseg::Region whole = region_of(form, kWidth, kHeight, 5);
        const vidseg::Region copy = region_of(form, (kWidth + 1) / 2, (kHeight + 1) / 2, 6);
        for (const Map& map : kMaps) {
            std::vector<uint32_t> pixels(static_cast<size_t>(map.width) * map.height);
            const auto sample = [&](const std::string& name, const vidseg::Region& region, int divisor,
                                    int channels) {
                attempt(name, [&] {
                    vidseg::Sampler sampler(map.matrix, map.width, map.height, 0x80FF01, channels);
                    sampler.sample(region, divisor, pixels.data());
                    for (uint32_t& pixel : pixels) pixel &= channels == 2 ? 0xFFFF : 0xFFFFFF;
                    report(name, pixels);
                });
            };
            const std::string name = std::string("sample/") + form.name + "/" + map.name;
            sample(name, whole, 1, 3);
            sample(name + "/copy", copy, 2, 3);
            if (form.chroma == Chroma::kNone) sample(name + "/vectors", whole, 1, 2);
        }
    }
}

// One sampler is used for all frames of a clip.
void sample_again() {
    vidseg::Sampler sampler(kMaps[4].matrix, 57, 49);
    std::vector<uint32_t> pixels(57 * 49);
    for (const Form& form : kForms) {
        sampler.sample(region_of(form, kWidth, kHeight, 8), 1, pixels.data());
        report(std::string("sample/again/") + form.name, pixels);
    }
}

void convert_planes() {
    for (const Form& form : kForms) {
        if (!form.planar) continue;
        for (const int width : {1, 2, 5, 16, 31, 33, 70}) {
            const vidseg::Region planar = region_of(form, width, 19, 7);
            vidseg::Region out;
            const std::string name = std::string("planes/") + form.name + "/" + std::to_string(width);
            vidseg::planes_to_pixels(planar, {0, 0, width, 19}, out);
            report(name, out.pixels);
            vidseg::planes_to_pixels(planar, {width / 3, 3, width, 10}, out);
            report(name + "/part", out.pixels);
        }
    }
}

void report_plane(Checksum& sum, const vidseg::Plane& plane) {
    for (int y = 0; y < plane.rows; ++y) sum.add(plane.row(y), static_cast<size_t>(plane.stride));
}

void report_planes(const std::string& name, const vidseg::Planes& planes) {
    Checksum sum;
    for (const vidseg::Plane* plane : {&planes.y, &planes.cb, &planes.cr}) report_plane(sum, *plane);
    report(name, sum);
}

void import_frames() {
    struct Encoding {
        const char* name;
        vidseg::ColorEncoding encoding;
    };
    const Encoding encodings[] = {{"bt601_full", {0.299, 0.114, true}},
                                  {"bt601", {0.299, 0.114, false}},
                                  {"bt709", {0.2126, 0.0722, false}},
                                  {"bt709_full", {0.2126, 0.0722, true}},
                                  {"bt2020", {0.2627, 0.0593, false}}};
    Random random(9);
    const std::vector<uint8_t> bytes = random.bytes(3 * 80 * 60);
    const vidseg::PlaneView views[3] = {{bytes.data(), 80 * 60, 80},
                                        {bytes.data() + 80 * 60, 80 * 60, 80},
                                        {bytes.data() + 2 * 80 * 60, 80 * 60, 80}};
    for (const Chroma chroma : {Chroma::k420, Chroma::k444}) {
        for (const int width : {1, 17, 64, 79}) {
            const int height = width == 1 ? 1 : 37;
            const std::string size = std::to_string(static_cast<int>(chroma)) + "/" + std::to_string(width);
            vidseg::Planes planes, half;
            planes.resize(width, height, chroma);
            for (const Encoding& from : encodings) {
                vidseg::import_planes(views[0], views[1], views[2], from.encoding, planes);
                report_planes("import/" + size + "/" + from.name, planes);
            }
            vidseg::import_rgb(picture(height, width, 10).data(), planes);
            report_planes("import/" + size + "/rgb", planes);
            vidseg::halve(planes, half);
            report_planes("import/" + size + "/halved", half);
        }
    }
}

void resize_frames() {
    vidseg::Image image;
    image.width = 67;
    image.height = 45;
    image.rgb = picture(image.height, image.width, 12);
    const int sizes[][2] = {{67, 45}, {20, 13}, {112, 112}, {1, 1}, {67, 7}, {200, 45}};
    for (const auto& [width, height] : sizes) {
        std::vector<uint8_t> out(static_cast<size_t>(width) * height * 3);
        vidseg::resize_rgb(image, width, height, out.data());
        report("resize/" + std::to_string(width) + "x" + std::to_string(height), out);
    }
}

}  // namespace

void sample() {
    sample_regions();
    sample_again();
    convert_planes();
    import_frames();
    resize_frames();
}

}  // namespace cases
