// The encoder of video frames as a C function, for ctypes: the workers of a conversion encode without torch.

#include <cstdint>
#include <cstdio>
#include <new>
#include <utility>
#include <vector>

#include "common/check.h"
#include "encoder/frame.h"
#include "frames/frame_size.h"
#include "frames/jpeg.h"
#include "frames/planes.h"

namespace vidseg {
namespace {

enum Status : int { kDone = 0, kInvalidArgument = 1, kFailed = 2, kOutOfMemory = 3 };

thread_local char message[512];

int failure(Status status, const char* text) {
    std::snprintf(message, sizeof message, "%s", text);
    return status;
}

}  // namespace
}  // namespace vidseg

extern "C" {

// Encodes a frame and its smaller copies. Returns 0, or the kind of the error that `vidseg_encoder_error`
// describes: 1 an argument, 2 the frame, 3 memory.
__attribute__((visibility("default"))) int vidseg_encode_planes(VidsegFrame* frame) {
    using namespace vidseg;
    try {
        const auto [kr, kb] = frame->luma_weights;
        require(kr > 0.0 && kb > 0.0 && kr + kb < 1.0, "kr ", kr, " and kb ", kb,
                ": must be positive with a sum below 1");
        require_frame_size(frame->height, frame->width);
        require(frame->chroma == 420 || frame->chroma == 444, "chroma is ", frame->chroma,
                ", must be 420 or 444");
        require(frame->levels >= 0 && frame->levels <= kMostLevels, "levels is ", frame->levels,
                ", must be 0 to ", kMostLevels);
        const EncodeOptions options =
            encode_options(frame->quality, frame->restart_interval, frame->optimize != 0);
        thread_local Planes planes;
        thread_local JpegEncoder encoder;
        thread_local std::vector<uint8_t> jpegs;
        planes.resize(static_cast<int>(frame->width), static_cast<int>(frame->height),
                      static_cast<Chroma>(frame->chroma));
        const auto view = [&](int i) {
            return PlaneView{frame->planes[i], frame->sizes[i], frame->strides[i]};
        };
        import_planes(view(0), view(1), view(2), {kr, kb, frame->full_range != 0}, planes);
        jpegs.clear();
        encode_levels(encoder, planes, options, static_cast<int>(frame->levels), jpegs,
                      [&](int level) { frame->ends[level] = static_cast<int64_t>(jpegs.size()); });
        frame->data = jpegs.data();
        return kDone;
    } catch (const std::invalid_argument& error) {
        return failure(kInvalidArgument, error.what());
    } catch (const std::bad_alloc&) {
        return failure(kOutOfMemory, "not enough memory to encode a frame");
    } catch (const std::exception& error) {
        return failure(kFailed, error.what());
    }
}

// Returns the message of the last error of this thread.
__attribute__((visibility("default"))) const char* vidseg_encoder_error() { return vidseg::message; }

}  // extern "C"
