// A fuzzer of the loader's own JPEG decoder, with libjpeg as the reference.
//
// The first four bytes are a window, in 1/256 of the picture; the rest is a JPEG. If the decoder accepts the
// whole picture, libjpeg must accept it too, with the same pixels. If it accepts the window, its pixels are
// those of the whole picture. Pixels are compared only if no block can overflow 16 bits during the inverse
// DCT (no encoder writes such blocks): libjpeg's vector code saturates in some places and wraps around in
// others.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "baseline.h"
#include "jpeg_session.h"
#include "upsample.h"

namespace {

constexpr int kMostPixels = 1 << 18;  // larger pictures are legal, but slow

// Decodes a window to RGBX. Returns false if the decoder leaves the file to libjpeg.
bool decode(const uint8_t* data, size_t size, const vidseg::Window& window, vidseg::Region& pixels) {
    static vidseg::BaselineDecoder decoder;
    static vidseg::Region planar;
    if (!decoder.decode(data, size, window, planar)) return false;
    vidseg::planes_to_pixels(planar, window, pixels);
    return true;
}

constexpr int kLargestSum = 5000;  // of a block's absolute coefficients; times 4 * 1.4 it fits 16 bits

// Returns whether all blocks are within the range of 16-bit arithmetic. Only libjpeg runs after setjmp.
bool is_in_range(jpeg_decompress_struct& info, vidseg::ErrorManager& errors) {
    if (setjmp(errors.jump)) return false;
    jvirt_barray_ptr* planes = jpeg_read_coefficients(&info);
    for (int i = 0; i < info.num_components; ++i) {
        const jpeg_component_info& component = info.comp_info[i];
        if (component.quant_table == nullptr) return false;
        for (JDIMENSION row = 0; row < component.height_in_blocks; ++row) {
            JBLOCKARRAY blocks =
                info.mem->access_virt_barray(reinterpret_cast<j_common_ptr>(&info), planes[i], row, 1, FALSE);
            for (JDIMENSION column = 0; column < component.width_in_blocks; ++column) {
                int64_t sum = 0;
                for (int k = 0; k < DCTSIZE2; ++k) {
                    sum += std::abs(int64_t{blocks[0][column][k]} * component.quant_table->quantval[k]);
                }
                if (sum > kLargestSum) return false;
            }
        }
    }
    return true;
}

bool has_usual_blocks(const uint8_t* data, size_t size) {
    jpeg_decompress_struct info{};
    vidseg::ErrorManager errors;
    info.err = vidseg::prepare(errors);
    jpeg_create_decompress(&info);
    const bool usual = vidseg::read_header(info, errors, data, size) && is_in_range(info, errors);
    jpeg_destroy_decompress(&info);
    return usual;
}

[[noreturn]] void report(const char* what, int x, int y) {
    std::fprintf(stderr, "%s at pixel (%d, %d)\n", what, x, y);
    std::abort();
}

void compare(const vidseg::Region& ours, const vidseg::Window& window, const vidseg::Image& expected) {
    for (int y = window.top; y < window.bottom; ++y) {
        for (int x = window.left; x < window.right; ++x) {
            const uint32_t pixel = ours.row(y - ours.window.top)[x - ours.window.left];
            const uint8_t* rgb = &expected.rgb[(static_cast<size_t>(y) * expected.width + x) * 3];
            if ((pixel & 0xFFFFFF) != (rgb[0] | rgb[1] << 8 | uint32_t{rgb[2]} << 16)) {
                report("another color than libjpeg's", x, y);
            }
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4) return 0;
    const uint8_t* sides = data;
    data += 4;
    size -= 4;
    static vidseg::JpegDecoder libjpeg;
    static vidseg::Region region;
    int width = 0, height = 0;
    try {
        libjpeg.read_size(data, size, &width, &height);
    } catch (const std::runtime_error&) {
        // The decoder must survive headers that libjpeg refuses.
        decode(data, size, {0, 0, 64, 64}, region);
        return 0;
    }
    if (int64_t{width} * height > kMostPixels) return 0;
    const vidseg::Window whole{0, 0, width, height};
    const int left = width * sides[0] / 256, top = height * sides[1] / 256;
    const vidseg::Window part{left, top, left + 1 + (width - left - 1) * sides[2] / 256,
                              top + 1 + (height - top - 1) * sides[3] / 256};
    vidseg::Image expected;
    std::string damage;
    try {
        libjpeg.decode(data, size, expected);
    } catch (const std::runtime_error& error) {
        damage = error.what();
    }
    const bool comparable = damage.empty() && has_usual_blocks(data, size);
    if (decode(data, size, whole, region)) {
        if (!damage.empty()) report(("accepted, although libjpeg reports: " + damage).c_str(), 0, 0);
        if (comparable) compare(region, whole, expected);
    }
    if (decode(data, size, part, region) && comparable) compare(region, part, expected);
    return 0;
}
