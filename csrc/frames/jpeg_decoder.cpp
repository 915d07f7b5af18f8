#include <algorithm>
#include <cstring>

#include "baseline.h"
#include "jpeg.h"
#include "jpeg_session.h"
#include "upsample.h"

namespace vidseg {
namespace {

bool read_rows(jpeg_decompress_struct& info, ErrorManager& errors, uint8_t* out) {
    if (setjmp(errors.jump)) {
        jpeg_abort_decompress(&info);
        return false;
    }
    info.out_color_space = JCS_RGB;
    info.dct_method = JDCT_ISLOW;
    jpeg_start_decompress(&info);
    const size_t row_bytes = static_cast<size_t>(info.output_width) * 3;
    while (info.output_scanline < info.output_height) {
        JSAMPROW rows[4];
        for (int i = 0; i < 4; ++i) {
            const size_t y = std::min<size_t>(info.output_scanline + i, info.output_height - 1);
            rows[i] = out + y * row_bytes;
        }
        jpeg_read_scanlines(&info, rows, std::min<JDIMENSION>(4, info.output_height - info.output_scanline));
    }
    jpeg_finish_decompress(&info);
    return true;
}

// Decodes the columns and rows of `window`, given at the scaled size, and widens it to the boundaries that
// libjpeg can crop to. The caller has made room for rows of the full width.
bool read_window(jpeg_decompress_struct& info, ErrorManager& errors, Window& window, uint32_t* out) {
    if (setjmp(errors.jump)) {
        jpeg_abort_decompress(&info);
        return false;
    }
    jpeg_start_decompress(&info);
    const JDIMENSION full_width = info.output_width;
    JDIMENSION left = static_cast<JDIMENSION>(window.left), width = static_cast<JDIMENSION>(window.width());
    if (width < full_width) jpeg_crop_scanline(&info, &left, &width);
    window.left = static_cast<int>(left);
    window.right = static_cast<int>(left + width);
    if (window.top > 0) jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(window.top));
    while (info.output_scanline < static_cast<JDIMENSION>(window.bottom)) {
        JSAMPROW row = reinterpret_cast<JSAMPROW>(out + (info.output_scanline - window.top) * size_t{width});
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_abort_decompress(&info);  // rows after the window are not needed
    return true;
}

bool scale_output(jpeg_decompress_struct& info, ErrorManager& errors, int denominator) {
    if (setjmp(errors.jump)) {
        jpeg_abort_decompress(&info);
        return false;
    }
    info.out_color_space = JCS_EXT_RGBX;
    info.dct_method = JDCT_ISLOW;
    info.scale_num = 1;
    info.scale_denom = static_cast<unsigned>(denominator);
    jpeg_calc_output_dimensions(&info);
    return true;
}

int divide_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

}  // namespace

struct JpegDecoder::State {
    BaselineDecoder baseline;
    Region pixels;
    std::vector<uint8_t> cut;

    jpeg_decompress_struct info;
    ErrorManager errors;
    jpeg_progress_mgr progress;
};

JpegDecoder::JpegDecoder() : state_(std::make_unique<State>()) {
    std::memset(&state_->info, 0, sizeof state_->info);
    std::memset(&state_->progress, 0, sizeof state_->progress);
    state_->info.err = prepare(state_->errors);
    jpeg_create_decompress(&state_->info);
    state_->progress.progress_monitor = on_progress;
    state_->info.progress = &state_->progress;
}

JpegDecoder::~JpegDecoder() { jpeg_destroy_decompress(&state_->info); }

void JpegDecoder::open(const uint8_t* data, size_t size) {
    check(size > 0, "an empty JPEG");
    state_->info.err = prepare(state_->errors);
    check_done(read_header(state_->info, state_->errors, data, size), state_->errors);
    try {
        check_header(state_->info);
    } catch (...) {
        jpeg_abort_decompress(&state_->info);
        throw;
    }
}

void JpegDecoder::read_size(const uint8_t* data, size_t size, int* width, int* height) {
    open(data, size);
    *width = static_cast<int>(state_->info.image_width);
    *height = static_cast<int>(state_->info.image_height);
    jpeg_abort_decompress(&state_->info);
}

void JpegDecoder::decode(const uint8_t* data, size_t size, Image& out) {
    open(data, size);
    out.width = static_cast<int>(state_->info.image_width);
    out.height = static_cast<int>(state_->info.image_height);
    out.rgb.resize(static_cast<size_t>(out.width) * out.height * 3);
    check_done(read_rows(state_->info, state_->errors, out.rgb.data()), state_->errors);
}

void JpegDecoder::decode_region(const uint8_t* data, size_t size, const Window& wanted, int denominator,
                                Region& out, bool allow_planar, int channels) {
    check(denominator == 1 || denominator == 2 || denominator == 4 || denominator == 8, "denominator is ",
          denominator, ", must be 1, 2, 4 or 8");
    if (denominator == 1 && state_->baseline.decode(data, size, wanted, out, channels)) {
        if (!allow_planar) {
            planes_to_pixels(out, wanted, state_->pixels);
            std::swap(out, state_->pixels);
        }
        return;
    }
    open(data, size);
    out.planar = false;
    out.planes = {};
    const int width = static_cast<int>(state_->info.image_width);
    const int height = static_cast<int>(state_->info.image_height);
    out.denominator = denominator;
    out.full_width = divide_up(width, denominator);
    out.full_height = divide_up(height, denominator);
    const Window inside = wanted.within(width, height);
    if (decode_cut(data, size, inside, out)) return;
    decode_window(data, size, inside, out);
}

// Decodes by restart markers. Returns false if there are none or if something is wrong; the caller then
// decodes the file with libjpeg.
bool JpegDecoder::decode_cut(const uint8_t* data, size_t size, const Window& inside, Region& out) {
    Window covered;
    int restarts = 0;
    if (!cut_region(data, size, inside, state_->cut, &covered, &restarts)) return false;
    jpeg_abort_decompress(&state_->info);
    open(state_->cut.data(), state_->cut.size());
    if (!scale_output(state_->info, state_->errors, out.denominator)) return false;
    Window window{0, 0, static_cast<int>(state_->info.output_width),
                  static_cast<int>(state_->info.output_height)};
    reserve(window, window.width(), out);
    if (!read_window(state_->info, state_->errors, window, out.pixels.data())) return false;
    const int left = covered.left / out.denominator, top = covered.top / out.denominator;
    out.window = {left, top, left + window.right, top + window.bottom};
    return !state_->errors.damaged && state_->errors.padded == restarts;
}

// Decodes with libjpeg's own cropping, which skips columns and rows of pixels but not the Huffman decoding of
// the data before them.
void JpegDecoder::decode_window(const uint8_t* data, size_t size, const Window& inside, Region& out) {
    jpeg_abort_decompress(&state_->info);
    open(data, size);
    check_done(scale_output(state_->info, state_->errors, out.denominator), state_->errors);
    const int step = 8 * std::max(state_->info.max_h_samp_factor, state_->info.max_v_samp_factor);
    // Whole MCUs around it: chroma is interpolated across the edges.
    out.window = {std::max(0, inside.left / out.denominator - step),
                  std::max(0, inside.top / out.denominator - step),
                  std::min(out.full_width, divide_up(inside.right, out.denominator) + step),
                  std::min(out.full_height, divide_up(inside.bottom, out.denominator) + step)};
    reserve(out.window, out.full_width, out);
    check_done(read_window(state_->info, state_->errors, out.window, out.pixels.data()), state_->errors);
}

void JpegDecoder::reserve(const Window& window, int width, Region& out) {
    try {
        out.pixels.resize(static_cast<size_t>(width) * window.height());
    } catch (...) {
        jpeg_abort_decompress(&state_->info);
        throw;
    }
}

}  // namespace vidseg
