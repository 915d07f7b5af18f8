// Tensors that samples of frames are written to.
#pragma once

#include "output.h"
#include "tensors.h"

namespace vidseg {

inline SampleType sample_type(ScalarType type) {
    switch (type) {
        case ScalarType::Byte:
            return SampleType::kUint8;
        case ScalarType::Half:
            return SampleType::kFloat16;
        case ScalarType::BFloat16:
            return SampleType::kBfloat16;
        case ScalarType::Float:
            return SampleType::kFloat32;
        default:
            raise<std::invalid_argument>("out must be uint8, float16, bfloat16 or float32");
    }
}

inline OutputFormat output_format(const Tensor& out, const Tensor& normalization, bool planar, bool bgr) {
    OutputFormat format;
    format.type = sample_type(out.scalar_type());
    format.planar = planar;
    format.bgr = bgr;
    const double* constants = values_of<double>(normalization, "normalization", {2, 3});
    for (int c = 0; c < 3; ++c) {
        format.scale[c] = static_cast<float>(constants[c]);
        format.offset[c] = static_cast<float>(constants[3 + c]);
    }
    return format;
}

}  // namespace vidseg
