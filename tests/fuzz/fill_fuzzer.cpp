// A fuzzer of everything that the loader does with bytes from outside: JPEGs, database files and the pictures
// of video decoders. See tests/fuzz/run.
//
// The first byte says what the rest is: a multiple of 3, a JPEG, whose regions are decoded, resampled and
// written out; one more, a frames.db, whose frames are filled into a batch; two more, planes of a video
// frame. Whatever the bytes are, the answer is pixels or an exception.

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "fill.h"
#include "sample.h"
#include "video_frame.h"

namespace {

// Numbers for the crop come from the front of the input, pixels from the rest.
struct Reader {
    const uint8_t* data;
    size_t size;
    int next() {
        if (size == 0) return 0;
        --size;
        return *data++;
    }
};

std::array<double, 9> read_matrix(Reader& input) {
    const double scale = (input.next() + 1) / 32.0;
    std::array<double, 9> matrix{
        scale, 0, input.next() * 2.0, 0, (input.next() + 1) / 32.0, input.next() * 2.0, 0, 0, 1};
    const int bend = input.next();
    if (bend & 1) matrix[0] = -matrix[0];
    if (bend & 2) matrix[1] = matrix[3] = bend / 512.0;
    if (bend & 4) matrix[6] = bend / 65536.0;
    return matrix;
}

void fuzz_jpeg(Reader input) {
    const std::array<double, 9> matrix = read_matrix(input);
    const int kind = input.next(), denominator = 1 << (kind & 3);
    const bool allow_planar = (kind & 4) == 0;
    const bool vectors = (kind & 8) != 0;
    vidseg::Sampler sampler(matrix, 24, 16, vectors ? 0x808080U : 0U);
    vidseg::JpegDecoder decoder;
    int width = 0, height = 0;
    decoder.read_size(input.data, input.size, &width, &height);
    if (int64_t{width} * height > 1 << 22) return;  // legal, but a fuzzer should not wait for it
    vidseg::Region region;
    decoder.decode_region(input.data, input.size, sampler.window(1), denominator, region, allow_planar);
    std::vector<uint32_t> pixels(24 * 16);
    sampler.sample(region, denominator, pixels.data());
    vidseg::OutputFormat format;
    format.type = static_cast<vidseg::SampleType>(denominator & 3);
    std::vector<uint8_t> out(pixels.size() * (vectors ? 2 : 3) * format.sample_bytes());
    const size_t plane = pixels.size() * format.sample_bytes();
    if (!vectors) return vidseg::write_pixels(pixels.data(), pixels.size(), format, plane, out.data());
    format.planar = (kind & 16) == 0;
    const auto factor = static_cast<float>(matrix[1]), scale = static_cast<float>(matrix[0]);
    const vidseg::VectorMap map = {{{scale, factor, -scale}, {factor, scale, 0.0F}}};
    vidseg::write_vectors(pixels.data(), pixels.size(), format, map, plane, out.data());
}

// What fill_planes in video_library.cpp does; its strides and sizes come from a decoder.
void fuzz_planes(Reader input) {
    const std::array<double, 9> matrix = read_matrix(input);
    const int width = input.next() % 64 + 1, height = input.next() % 64 + 1, kind = input.next();
    const int strides[3] = {input.next(), input.next(), input.next()};
    const auto view = [&](int plane) {
        const size_t begin = input.size * plane / 3, end = input.size * (plane + 1) / 3;
        return vidseg::PlaneView{input.data + begin, static_cast<int64_t>(end - begin), strides[plane]};
    };
    constexpr vidseg::Sampling kSamplings[] = {vidseg::Sampling::k420, vidseg::Sampling::k444,
                                               vidseg::Sampling::k422, vidseg::Sampling::kGray};
    vidseg::VideoFrame frame{view(0), view(1), view(2), width, height, kSamplings[kind & 3]};
    frame.step = kind & 4 ? 2 : 1;
    frame.orientation = (kind >> 3 & 7) + 1;
    frame.encoding = {kind & 64 ? 0.2126 : 0.299, kind & 64 ? 0.0722 : 0.114, (kind & 128) != 0};
    vidseg::Sampler sampler(matrix, 24, 16);
    vidseg::Region region;
    vidseg::FrameImporter importer;
    importer.import(frame, sampler.window(1), region);
    std::vector<uint32_t> pixels(24 * 16);
    sampler.sample(region, 1, pixels.data());
}

void fuzz_database(Reader input) {
    const std::array<double, 9> matrix = read_matrix(input);
    static const std::string path = [] {
        const char* folder = std::getenv("TMPDIR");
        return std::string(folder != nullptr ? folder : "/tmp") + "/vidseg_fuzz_" + std::to_string(getpid()) +
               ".db";
    }();
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, input.data, input.size) != static_cast<ssize_t>(input.size)) std::abort();
    close(file);
    const float vectors[6] = {-1.0F, 0.0F, 256.0F, 0.5F, static_cast<float>(matrix[4]), 0.0F};
    const int64_t video = 0, frames[3] = {0, 2, 1}, offsets[2] = {0, 0};
    vidseg::FillPlan plan;
    plan.clips = 1;
    plan.frames_per_clip = 3;
    plan.height = 16;
    plan.width = 24;
    plan.paths = {path};
    plan.videos = &video;
    plan.frames = frames;
    plan.matrices = matrix.data();
    plan.color_offsets = offsets;
    plan.color_codes = nullptr;
    plan.color_parameters = nullptr;
    if (input.size % 4 > 1) {
        plan.vectors = vectors;
        plan.stack = 3;
    }
    vidseg::FillOptions options;
    options.replace = input.size % 2 == 1;
    options.background = plan.vectors == nullptr ? 0U : 0x808080U;
    std::vector<uint8_t> out(3 * 3 * 16 * 24);
    std::vector<int64_t> shown(3);
    vidseg::fill(plan, options, out.data(), shown.data());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Reader input{data, size};
    try {
        switch (input.next() % 3) {
            case 0:
                fuzz_jpeg(input);
                break;
            case 1:
                fuzz_database(input);
                break;
            default:
                fuzz_planes(input);
        }
    } catch (const std::runtime_error&) {  // the one kind of error that the library throws
    }
    return 0;
}
