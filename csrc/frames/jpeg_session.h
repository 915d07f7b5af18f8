// Shared by encoder and decoder: errors of libjpeg as exceptions, limits, the header.
//
// Between a call of setjmp and the end of the calling function only libjpeg runs; no object with a destructor
// exists there.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>

// jpeglib.h needs stdio's types first
#include <jerror.h>
#include <jpeglib.h>

#include "common/check.h"
#include "region.h"

namespace vidseg {

constexpr int64_t kMaxPixels = int64_t{1} << 28;  // 16384 x 16384; larger headers are damaged or hostile
constexpr int kMaxScans = 200;                    // small progressive files can have thousands of scans

struct ErrorManager {
    jpeg_error_mgr base;  // first member: libjpeg passes a pointer to it
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    bool damaged;
    int padded;  // restart markers after exactly the padding of cut_region
};

inline ErrorManager* manager(j_common_ptr info) { return reinterpret_cast<ErrorManager*>(info->err); }

inline void on_error(j_common_ptr info) {
    ErrorManager* errors = manager(info);
    (*errors->base.format_message)(info, errors->message);
    longjmp(errors->jump, 1);
}

// Warnings about lost pixels. The other warnings (unusual headers, bytes after the end) do not affect the
// picture.
inline bool means_damage(int code) {
    switch (code) {
        case JWRN_HIT_MARKER:
        case JWRN_HUFF_BAD_CODE:
        case JWRN_JPEG_EOF:
        case JWRN_MUST_RESYNC:
        case JWRN_NOT_SEQUENTIAL:
        case JWRN_BOGUS_PROGRESSION:
            return true;
        default:
            return false;
    }
}

inline void on_message(j_common_ptr info, int level) {
    ErrorManager* errors = manager(info);
    if (level < 0 && errors->base.msg_code == JWRN_EXTRANEOUS_DATA &&
        errors->base.msg_parm.i[0] == kPaddingBytes) {
        ++errors->padded;
    }
    if (level < 0 && !errors->damaged && means_damage(errors->base.msg_code)) {
        errors->damaged = true;
        (*errors->base.format_message)(info, errors->message);
    }
}

inline void on_progress(j_common_ptr info) {
    auto* decompress = reinterpret_cast<j_decompress_ptr>(info);
    if (decompress->input_scan_number > kMaxScans) {
        ErrorManager* errors = manager(info);
        std::snprintf(errors->message, sizeof errors->message, "more than %d scans", kMaxScans);
        longjmp(errors->jump, 1);
    }
}

inline jpeg_error_mgr* prepare(ErrorManager& errors) {
    jpeg_std_error(&errors.base);
    errors.base.error_exit = on_error;
    errors.base.emit_message = on_message;
    errors.message[0] = '\0';
    errors.damaged = false;
    errors.padded = 0;
    return &errors.base;
}

inline bool read_header(jpeg_decompress_struct& info, ErrorManager& errors, const uint8_t* data,
                        size_t size) {
    if (setjmp(errors.jump)) {
        jpeg_abort_decompress(&info);
        return false;
    }
    jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
    jpeg_read_header(&info, TRUE);
    return true;
}

inline void check_header(const jpeg_decompress_struct& info) {
    check(info.image_width > 0 && info.image_height > 0, "a JPEG without pixels");
    check(static_cast<int64_t>(info.image_width) * info.image_height <= kMaxPixels, "a JPEG of ",
          info.image_width, "x", info.image_height, " pixels is larger than any video frame");
    check(info.jpeg_color_space != JCS_CMYK && info.jpeg_color_space != JCS_YCCK,
          "a CMYK JPEG cannot be a video frame; convert it to RGB or gray first");
}

inline void check_done(bool ok, const ErrorManager& errors) {
    if (!ok || errors.damaged) fail("damaged JPEG: ", errors.message);
}

}  // namespace vidseg
