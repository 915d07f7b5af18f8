// Frames of a video decoder, in the decoder's memory, as regions that a `Sampler` reads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "jpeg.h"
#include "planes.h"

namespace vidseg {

// Resolution of chroma: half in both directions, half across, full, or none (gray).
enum class Sampling { k420 = 420, k422 = 422, k444 = 444, kGray = 400 };

struct VideoFrame {
    PlaneView y, cb, cr;  // as stored; chroma of gray frames is not read
    int width = 0;        // of the stored luma plane
    int height = 0;
    Sampling sampling = Sampling::k420;
    int step = 1;         // bytes from one chroma sample to the next, 2 if Cb and Cr are interleaved
    int orientation = 1;  // EXIF number, 1 (as stored) to 8
    ColorEncoding encoding;
};

// Copies parts of frames. Range and matrix become those of JPEG (see planes.h), so that a part has the pixels
// that a conversion stores, before compression. Chroma of 4:2:2 is interpolated to full resolution.
class FrameImporter {
  public:
    // Copies the pixels of `wanted`, a part of the frame as displayed that may extend beyond it, and those
    // around it that chroma is interpolated from. Throws if a plane is too small for the frame.
    void import(const VideoFrame& frame, const Window& wanted, Region& out);

  private:
    std::array<std::vector<uint8_t>, 3> turned_, spread_;
};

}  // namespace vidseg
