// A fuzzer of everything that the loader does with bytes from outside: JPEGs and database files. See
// tests/fuzz/run.
//
// The first byte says what the rest is: even, a JPEG, whose regions are decoded, resampled and written out;
// odd, a frames.db, whose frames are filled into a batch. Whatever the bytes are, the answer is pixels or an
// exception.

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "fill.h"
#include "sample.h"

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
    const int denominator = 1 << (input.next() & 3);
    vidseg::Sampler sampler(matrix, 24, 16);
    vidseg::JpegDecoder decoder;
    int width = 0, height = 0;
    decoder.read_size(input.data, input.size, &width, &height);
    if (int64_t{width} * height > 1 << 22) return;  // legal, but a fuzzer should not wait for it
    vidseg::Region region;
    decoder.decode_region(input.data, input.size, sampler.window(1), denominator, region);
    std::vector<uint32_t> pixels(24 * 16);
    sampler.sample(region, denominator, pixels.data());
    vidseg::OutputFormat format;
    format.type = static_cast<vidseg::SampleType>(denominator & 3);
    std::vector<uint8_t> out(pixels.size() * 3 * format.sample_bytes());
    vidseg::write_pixels(pixels.data(), pixels.size(), format, pixels.size() * format.sample_bytes(),
                         out.data());
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
    plan.colour_offsets = offsets;
    plan.colour_codes = nullptr;
    plan.colour_parameters = nullptr;
    vidseg::FillOptions options;
    options.replace = input.size % 2 == 1;
    std::vector<uint8_t> out(3 * 3 * 16 * 24);
    std::vector<int64_t> shown(3);
    vidseg::fill(plan, options, out.data(), shown.data());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Reader input{data, size};
    try {
        if (input.next() % 2 == 0) {
            fuzz_jpeg(input);
        } else {
            fuzz_database(input);
        }
    } catch (const std::runtime_error&) {  // the one kind of error that the library throws
    }
    return 0;
}
