// Decodes the files on its command line with the loader's own decoder: a line with the hash of the planes and the
// pixels of each, or with the name of one that the decoder leaves to libjpeg.
#include "baseline.h"
#include "upsample.h"

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>

namespace {

// FNV-1a
uint64_t hash(uint64_t state, const void* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) state = (state ^ static_cast<const uint8_t*>(bytes)[i]) * 0x100000001b3;
    return state;
}

}  // namespace

int main(int count, char** names) {
    vidseg::BaselineDecoder decoder;
    vidseg::Region region, pixels;
    for (int i = 1; i < count; ++i) {
        std::ifstream file(names[i], std::ios::binary);
        const std::vector<uint8_t> bytes(std::istreambuf_iterator<char>(file), {});
        const int most = std::numeric_limits<int>::max() / 2;
        const vidseg::Window all{0, 0, most, most};
        if (!decoder.decode(bytes.data(), bytes.size(), all, region)) {
            std::puts(names[i]);
            continue;
        }
        vidseg::planes_to_pixels(region, all, pixels);
        uint64_t state = hash(0xcbf29ce484222325, pixels.pixels.data(), 4 * pixels.pixels.size());
        for (const vidseg::Plane* plane : {&region.planes.y, &region.planes.cb, &region.planes.cr})
            state = hash(state, plane->pixels.data(), plane->pixels.size());
        std::printf("%016" PRIx64 "\n", state);
    }
}
