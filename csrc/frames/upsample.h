// Decoded video pictures to RGB, as they would look when stored as JPEGs, without the loss.
#pragma once

#include "jpeg.h"
#include "planes.h"

namespace vidseg {

// The pixels of `wanted` (of the whole picture, where it reaches beyond it, at least one of them) from a
// picture in JPEG's colours. Halved chroma is interpolated and turned into RGB with libjpeg's arithmetic.
void planes_to_region(const Planes& planes, const Window& wanted, Region& out);

}  // namespace vidseg
