// A fuzzer of the reader of SQLite's pages: the input is a frames.db. Every frame is read at every level, and
// some that do not exist.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "table_file.h"

namespace {

constexpr int64_t kMostFrames = 64;

// A file in memory that keeps its name; its content changes with each input.
class Scratch {
  public:
    Scratch()
        : descriptor_(memfd_create("frames", 0)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
        if (descriptor_ < 0) std::abort();
    }
    ~Scratch() { close(descriptor_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    const std::string& fill(const uint8_t* data, size_t size) {
        if (ftruncate(descriptor_, 0) != 0 ||
            pwrite(descriptor_, data, size, 0) != static_cast<ssize_t>(size)) {
            std::abort();
        }
        return path_;
    }

  private:
    int descriptor_;
    std::string path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static Scratch scratch;
    const auto file = vidseg::TableFile::open(scratch.fill(data, size));
    if (file == nullptr) return 0;
    static volatile uint8_t sum = 0;  // every byte that the reader returns is read
    for (int level = 0; level <= file->levels() + 1; ++level) {
        const int64_t last = file->frames();
        for (int64_t frame = -1; frame <= std::min(last, kMostFrames); ++frame) {
            const uint8_t* bytes = nullptr;
            size_t count = 0;
            if (!file->read(level, frame, &bytes, &count)) continue;
            if (frame < 0 || frame >= last || level > file->levels()) std::abort();  // does not exist
            for (size_t i = 0; i < count; ++i) sum = static_cast<uint8_t>(sum + bytes[i]);
        }
    }
    return 0;
}
