// Operators of torch.ops.vidseg_frames on databases, JPEGs and frames: schemas, argument checks, conversion
// of tensors.

#include <sqlite3.h>
#include <torch/csrc/stable/library.h>

#include <cstdio>
#include <cstring>
#include <tuple>

#include <jpeglib.h>

#include "color.h"
#include "database.h"
#include "frame_size.h"
#include "jpeg.h"
#include "planes.h"
#include "resize.h"
#include "tensors.h"
#include "common/simd.h"

namespace vidseg {
namespace {

const int64_t* rows_of(const Tensor& rows) { return values_of<int64_t>(rows, "rows", {-1}); }

// Concatenated blobs and the offset of each; the last offset is the end.
class BlobList {
  public:
    std::vector<uint8_t>& bytes() { return bytes_; }
    void mark() { offsets_.push_back(static_cast<int64_t>(bytes_.size())); }

    std::tuple<Tensor, Tensor> tensors() const { return {tensor_of(bytes_), tensor_of(offsets_)}; }

  private:
    std::vector<uint8_t> bytes_;
    std::vector<int64_t> offsets_{0};
};

std::tuple<Tensor, Tensor> read(std::string path, int64_t level, Tensor rows) {
    BlobList blobs;
    read_blobs(path, level, rows_of(rows), rows.numel(), [&](int64_t, const uint8_t* data, size_t size) {
        blobs.bytes().insert(blobs.bytes().end(), data, data + size);
        blobs.mark();
    });
    return blobs.tensors();
}

// Height and width 0 stand for the size of the first frame, which all others must share.
Tensor decode(std::string path, int64_t level, Tensor rows, int64_t height, int64_t width) {
    require(rows.numel() > 0, "rows must not be empty");
    const bool own_size = height == 0 && width == 0;
    if (!own_size) require_frame_size(height, width);
    thread_local JpegDecoder decoder;
    Image image;
    Tensor out;
    uint8_t* pixels = nullptr;
    read_blobs(path, level, rows_of(rows), rows.numel(), [&](int64_t i, const uint8_t* data, size_t size) {
        decoder.decode(data, size, image);
        if (i == 0) {
            if (own_size) {
                height = image.height;
                width = image.width;
            }
            out = make_tensor({rows.numel(), height, width, 3}, ScalarType::Byte);
            pixels = out.mutable_data_ptr<uint8_t>();
        }
        check(!own_size || (image.height == height && image.width == width), "is ", image.width, "x",
              image.height, " pixels, but the first frame asked for is ", width, "x", height,
              "; give a size to decode them together");
        resize_rgb(image, static_cast<int>(width), static_cast<int>(height), pixels + i * height * width * 3);
    });
    return out;
}

Tensor decode_jpeg(Tensor data) {
    const uint8_t* bytes = values_of<uint8_t>(data, "data");
    JpegDecoder decoder;
    Image image;
    decoder.decode(bytes, static_cast<size_t>(data.numel()), image);
    Tensor out = make_tensor({image.height, image.width, 3}, ScalarType::Byte);
    std::memcpy(out.mutable_data_ptr<uint8_t>(), image.rgb.data(), image.rgb.size());
    return out;
}

// Encodes the frame and `levels` successively halved copies, in this order.
std::tuple<Tensor, Tensor> encode(Planes& planes, const EncodeOptions& options, int64_t levels) {
    require(levels >= 0 && levels <= 8, "levels is ", levels, ", must be 0 to 8");
    thread_local JpegEncoder encoder;
    BlobList blobs;
    encode_levels(encoder, planes, options, static_cast<int>(levels), blobs.bytes(),
                  [&](int) { blobs.mark(); });
    return blobs.tensors();
}

Chroma chroma_of(int64_t chroma) {
    require(chroma == 420 || chroma == 444, "chroma is ", chroma, ", must be 420 or 444");
    return static_cast<Chroma>(chroma);
}

std::tuple<Tensor, Tensor> encode_rgb(Tensor frame, int64_t chroma, int64_t quality, int64_t restart_interval,
                                      bool optimize, int64_t levels) {
    const uint8_t* rgb = values_of<uint8_t>(frame, "frame", {-1, -1, 3});
    require_frame_size(frame.size(0), frame.size(1));
    const EncodeOptions options = encode_options(quality, restart_interval, optimize);
    thread_local Planes planes;
    planes.resize(static_cast<int>(frame.size(1)), static_cast<int>(frame.size(0)), chroma_of(chroma));
    import_rgb(rgb, planes);
    return encode(planes, options, levels);
}

// Channels of optical flow are two; the third one of the JPEG is then constant, so that it takes few bytes.
constexpr uint8_t kMissingChannel = 128;

std::tuple<Tensor, Tensor> encode_channels(Tensor channels, int64_t quality, int64_t restart_interval,
                                           bool optimize, int64_t levels) {
    const uint8_t* values = values_of<uint8_t>(channels, "channels", {-1, -1, -1});
    const int64_t count = channels.size(0);
    require(count == 2 || count == 3, "channels has ", count, " channels, must have 2 or 3");
    require_frame_size(channels.size(1), channels.size(2));
    const EncodeOptions options = encode_options(quality, restart_interval, optimize);
    thread_local Planes planes;
    planes.resize(static_cast<int>(channels.size(2)), static_cast<int>(channels.size(1)), Chroma::kNone);
    import_channels(values, static_cast<int>(count), kMissingChannel, planes);
    return encode(planes, options, levels);
}

Tensor recode_jpeg(Tensor data, int64_t restart_interval, bool optimize) {
    const EncodeOptions options = encode_options(90, restart_interval, optimize);
    std::vector<uint8_t> out;
    recode(values_of<uint8_t>(data, "data"), static_cast<size_t>(data.numel()), options.restart_interval,
           optimize, out);
    return tensor_of(out);
}

Tensor resize(Tensor frame, int64_t height, int64_t width) {
    const uint8_t* rgb = values_of<uint8_t>(frame, "frame", {-1, -1, 3});
    require_frame_size(frame.size(0), frame.size(1));
    require_frame_size(height, width);
    Image image{static_cast<int>(frame.size(1)), static_cast<int>(frame.size(0)), {rgb, rgb + frame.numel()}};
    Tensor out = make_tensor({height, width, 3}, ScalarType::Byte);
    resize_rgb(image, static_cast<int>(width), static_cast<int>(height), out.mutable_data_ptr<uint8_t>());
    return out;
}

Tensor apply_colors_to_frames(Tensor frames, Tensor codes, Tensor parameters) {
    const uint8_t* pixels = values_of<uint8_t>(frames, "frames", {-1, -1, -1, 3});
    require_frame_size(frames.size(1), frames.size(2));
    const int64_t* operations = values_of<int64_t>(codes, "codes", {-1});
    const double* values = values_of<double>(parameters, "parameters", {codes.numel(), kColorParameters});
    Tensor out = make_tensor({frames.size(0), frames.size(1), frames.size(2), 3}, ScalarType::Byte);
    uint8_t* to = out.mutable_data_ptr<uint8_t>();
    const FrameSize size{static_cast<int>(frames.size(1)), static_cast<int>(frames.size(2))};
    const int64_t frame = frames.size(1) * frames.size(2) * 3;
    ColorScratch scratch;
    ColorFrame planes;
    planes.resize(size);
    prepare_colors(operations, values, codes.numel(), size, scratch);
    for (int64_t t = 0; t < frames.size(0); ++t) {
        planes.split_rgb(pixels + t * frame);
        apply_colors(planes, scratch);
        planes.join_rgb(to + t * frame);
    }
    return out;
}

#define VIDSEG_TEXT_OF(x) #x
#define VIDSEG_TEXT(x) VIDSEG_TEXT_OF(x)

std::string versions() {
    return std::string("libjpeg-turbo ") + VIDSEG_TEXT(LIBJPEG_TURBO_VERSION) + ", SQLite " +
           sqlite3_libversion();
}

std::string simd() { return simd_name(); }

}  // namespace

STABLE_TORCH_LIBRARY(vidseg_frames, m) {
    m.def("read(str path, int level, Tensor rows) -> (Tensor, Tensor)");
    m.def("decode(str path, int level, Tensor rows, int height, int width) -> Tensor");
    m.def("decode_jpeg(Tensor data) -> Tensor");
    m.def(
        "encode_rgb(Tensor frame, int chroma, int quality, int restart_interval, bool optimize, int levels) "
        "-> (Tensor, "
        "Tensor)");
    m.def(
        "encode_channels(Tensor channels, int quality, int restart_interval, bool optimize, int levels) -> "
        "(Tensor, Tensor)");
    m.def("recode_jpeg(Tensor data, int restart_interval, bool optimize) -> Tensor");
    m.def("resize(Tensor frame, int height, int width) -> Tensor");
    m.def("apply_colors(Tensor frames, Tensor codes, Tensor parameters) -> Tensor");
    m.def("color_operations() -> str");
    m.def("versions() -> str");
    m.def("simd() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(vidseg_frames, CompositeExplicitAutograd, m) {
    m.impl("read", TORCH_BOX(&read));
    m.impl("decode", TORCH_BOX(&decode));
    m.impl("decode_jpeg", TORCH_BOX(&decode_jpeg));
    m.impl("encode_rgb", TORCH_BOX(&encode_rgb));
    m.impl("encode_channels", TORCH_BOX(&encode_channels));
    m.impl("recode_jpeg", TORCH_BOX(&recode_jpeg));
    m.impl("resize", TORCH_BOX(&resize));
    m.impl("apply_colors", TORCH_BOX(&apply_colors_to_frames));
    m.impl("color_operations", TORCH_BOX(&describe_colors));
    m.impl("versions", TORCH_BOX(&versions));
    m.impl("simd", TORCH_BOX(&simd));
}

}  // namespace vidseg
