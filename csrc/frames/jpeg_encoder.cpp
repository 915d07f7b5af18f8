#include <algorithm>
#include <cstring>
#include <vector>

#include "jpeg.h"
#include "jpeg_session.h"

namespace vidseg {
namespace {

// A libjpeg destination that appends to a vector.
struct VectorDestination {
    jpeg_destination_mgr base;
    std::vector<uint8_t>* out;
    size_t start;
};

bool grow(VectorDestination* destination) {
    std::vector<uint8_t>& out = *destination->out;
    const size_t used = out.size();
    try {
        out.resize(used + std::max<size_t>(used - destination->start, 32768));
    } catch (const std::exception&) {
        return false;
    }
    destination->base.next_output_byte = out.data() + used;
    destination->base.free_in_buffer = out.size() - used;
    return true;
}

void destination_start(j_compress_ptr info) {
    auto* destination = reinterpret_cast<VectorDestination*>(info->dest);
    if (!grow(destination)) ERREXIT1(info, JERR_OUT_OF_MEMORY, 0);
}

boolean destination_full(j_compress_ptr info) {
    auto* destination = reinterpret_cast<VectorDestination*>(info->dest);
    if (!grow(destination)) ERREXIT1(info, JERR_OUT_OF_MEMORY, 1);
    return TRUE;
}

void destination_end(j_compress_ptr info) {
    auto* destination = reinterpret_cast<VectorDestination*>(info->dest);
    destination->out->resize(destination->out->size() - destination->base.free_in_buffer);
}

VectorDestination vector_destination(std::vector<uint8_t>& out) {
    VectorDestination destination;
    destination.base.init_destination = destination_start;
    destination.base.empty_output_buffer = destination_full;
    destination.base.term_destination = destination_end;
    destination.out = &out;
    destination.start = out.size();
    return destination;
}

bool write_planes(jpeg_compress_struct& info, ErrorManager& errors, const Planes& planes,
                  const EncodeOptions& options) {
    if (setjmp(errors.jump)) {
        jpeg_abort_compress(&info);
        return false;
    }
    const bool halved = planes.chroma == Chroma::k420;
    info.image_width = static_cast<JDIMENSION>(planes.width);
    info.image_height = static_cast<JDIMENSION>(planes.height);
    info.input_components = 3;
    info.in_color_space = planes.chroma == Chroma::kNone ? JCS_RGB : JCS_YCbCr;
    jpeg_set_defaults(&info);
    jpeg_set_colorspace(&info, info.in_color_space);  // no conversion; RGB gets an Adobe marker
    jpeg_set_quality(&info, options.quality, TRUE);
    info.comp_info[0].h_samp_factor = info.comp_info[0].v_samp_factor = halved ? 2 : 1;
    info.dct_method = JDCT_ISLOW;
    info.optimize_coding = options.optimize ? TRUE : FALSE;
    info.restart_interval =
        static_cast<unsigned>(options.restart_interval < 0 ? restart_interval_for(planes.width, planes.chroma)
                                                           : options.restart_interval);
    info.raw_data_in = TRUE;
    jpeg_start_compress(&info, TRUE);
    const Plane* sources[3] = {&planes.y, &planes.cb, &planes.cr};
    JSAMPROW rows[3][16];
    JSAMPARRAY components[3] = {rows[0], rows[1], rows[2]};
    const int luma_rows = halved ? 16 : 8;
    while (info.next_scanline < info.image_height) {
        const int first = static_cast<int>(info.next_scanline);
        for (int c = 0; c < 3; ++c) {
            const int count = c == 0 ? luma_rows : 8;
            const int start = c == 0 || !halved ? first : first / 2;
            for (int i = 0; i < count; ++i) rows[c][i] = const_cast<JSAMPROW>(sources[c]->row(start + i));
        }
        jpeg_write_raw_data(&info, components, static_cast<JDIMENSION>(luma_rows));
    }
    jpeg_finish_compress(&info);
    return true;
}

bool copy_coefficients(jpeg_decompress_struct& from, jpeg_compress_struct& to, ErrorManager& errors,
                       int restart_interval, bool optimize) {
    if (setjmp(errors.jump)) {
        jpeg_abort_compress(&to);
        jpeg_abort_decompress(&from);
        return false;
    }
    jvirt_barray_ptr* coefficients = jpeg_read_coefficients(&from);
    jpeg_copy_critical_parameters(&from, &to);
    to.restart_interval = static_cast<unsigned>(restart_interval);
    to.optimize_coding = optimize ? TRUE : FALSE;
    jpeg_write_coefficients(&to, coefficients);
    jpeg_finish_compress(&to);
    jpeg_finish_decompress(&from);
    return true;
}

}  // namespace

struct JpegEncoder::State {
    jpeg_compress_struct info;
    ErrorManager errors;
};

JpegEncoder::JpegEncoder() : state_(std::make_unique<State>()) { create(); }

void JpegEncoder::create() {
    std::memset(&state_->info, 0, sizeof state_->info);
    state_->info.err = prepare(state_->errors);
    jpeg_create_compress(&state_->info);
}

JpegEncoder::~JpegEncoder() { jpeg_destroy_compress(&state_->info); }

EncodeOptions encode_options(int64_t quality, int64_t restart_interval, bool optimize) {
    require(quality >= 1 && quality <= 100, "quality is ", quality, ", must be 1 to 100");
    require(restart_interval >= -1 && restart_interval <= 65535, "restart_interval is ", restart_interval,
            ", must be 0 to 65535, or -1 for automatic");
    return {static_cast<int>(quality), static_cast<int>(restart_interval), optimize};
}

void JpegEncoder::encode(const Planes& planes, const EncodeOptions& options, std::vector<uint8_t>& out) {
    VectorDestination destination = vector_destination(out);
    state_->info.err = prepare(state_->errors);
    state_->info.dest = &destination.base;
    const bool ok = write_planes(state_->info, state_->errors, planes, options);
    state_->info.dest = nullptr;
    if (options.optimize || !ok) {  // libjpeg would use this frame's Huffman tables for the next one
        jpeg_destroy_compress(&state_->info);
        create();
    }
    check(ok, "a frame of ", planes.width, "x", planes.height,
          " pixels could not be encoded: ", state_->errors.message);
}

namespace {

// Owns both sides of a transcoding. libjpeg's destroy functions accept structs that were never created.
struct Recoder {
    jpeg_decompress_struct from;
    jpeg_compress_struct to;
    jpeg_progress_mgr progress;
    ErrorManager errors;

    Recoder() {
        std::memset(&from, 0, sizeof from);
        std::memset(&to, 0, sizeof to);
        std::memset(&progress, 0, sizeof progress);
        from.err = to.err = prepare(errors);
        jpeg_create_decompress(&from);
        jpeg_create_compress(&to);
        progress.progress_monitor = on_progress;
        from.progress = &progress;
    }
    ~Recoder() {
        jpeg_destroy_compress(&to);
        jpeg_destroy_decompress(&from);
    }
};

}  // namespace

void recode(const uint8_t* data, size_t size, int restart_interval, bool optimize,
            std::vector<uint8_t>& out) {
    check(size > 0, "an empty JPEG");
    const auto recoder = std::make_unique<Recoder>();
    const size_t start = out.size();
    check_done(read_header(recoder->from, recoder->errors, data, size), recoder->errors);
    check_header(recoder->from);
    if (restart_interval < 0) {
        const bool halved = recoder->from.max_h_samp_factor == 2;
        const Chroma chroma = recoder->from.jpeg_color_space == JCS_RGB ? Chroma::kNone
                              : halved                                  ? Chroma::k420
                                                                        : Chroma::k444;
        restart_interval = restart_interval_for(static_cast<int>(recoder->from.image_width), chroma);
    }
    VectorDestination destination = vector_destination(out);
    recoder->to.dest = &destination.base;
    const bool ok =
        copy_coefficients(recoder->from, recoder->to, recoder->errors, restart_interval, optimize);
    if (!ok || recoder->errors.damaged) out.resize(start);
    check_done(ok, recoder->errors);
}

// A short row of MCUs whose number is prime stays one interval: a marker after each MCU would add more bytes
// than a crop saves.
constexpr int kWholeRow = 12;

// Flow has few bytes in an MCU, so that a marker after each one would double the file. Only the baseline
// decoder makes use of intervals that continue in the next row.
constexpr int kOverRows = 6;

int restart_interval_for(int width, Chroma chroma) {
    const int mcu_width = chroma == Chroma::k420 ? 16 : 8;
    const int mcus = (width + mcu_width - 1) / mcu_width;
    if (chroma == Chroma::kNone) {
        for (int interval = 4; interval <= 8; ++interval) {
            if (mcus % interval == 0) return interval;
        }
        return mcus <= kWholeRow ? mcus : kOverRows;
    }
    for (int interval = 2; interval <= 6; ++interval) {
        if (mcus % interval == 0) return interval;
    }
    return mcus <= kWholeRow ? mcus : 1;
}

}  // namespace vidseg
