// Loads the libraries of an unpacked wheel, whose folder is the argument, on its processor, and encodes a
// frame with the library that needs no torch. Prints a checksum of the JPEGs, which is the same for every
// processor. Another library stands for torch: the registration of the operators runs, and registers nothing.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "encoder/frame.h"

namespace {

void* load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        std::exit(1);
    }
    return library;
}

}  // namespace

int main(int, char** arguments) {
    const std::string folder = arguments[1];
    void* encoder = load(folder + "/frames/_encoder.so");
    const auto encode = reinterpret_cast<int (*)(VidsegFrame*)>(dlsym(encoder, "vidseg_encode_planes"));
    const auto error = reinterpret_cast<const char* (*)()>(dlsym(encoder, "vidseg_encoder_error"));

    constexpr int kWidth = 160, kHeight = 96;
    std::vector<uint8_t> luma(kWidth * kHeight), chroma(kWidth * kHeight / 4);
    uint32_t state = 1;
    for (std::vector<uint8_t>* plane : {&luma, &chroma}) {
        for (uint8_t& sample : *plane) {
            state = state * 1664525 + 1013904223;
            sample = static_cast<uint8_t>(64 + (state >> 26) + (&sample - plane->data()) % 97);
        }
    }
    VidsegFrame frame{};
    const std::vector<uint8_t>* planes[] = {&luma, &chroma, &chroma};
    for (int i = 0; i < 3; ++i) {
        frame.planes[i] = planes[i]->data();
        frame.sizes[i] = static_cast<int64_t>(planes[i]->size());
        frame.strides[i] = i == 0 ? kWidth : kWidth / 2;
    }
    frame.width = kWidth;
    frame.height = kHeight;
    frame.chroma = 420;
    frame.luma_weights[0] = 0.299;
    frame.luma_weights[1] = 0.114;
    frame.quality = 90;
    frame.restart_interval = 4;
    frame.levels = 2;
    if (encode(&frame) != 0) {
        std::fprintf(stderr, "%s\n", error());
        return 1;
    }
    uint64_t sum = 14695981039346656037U;
    for (int64_t i = 0; i < frame.ends[2]; ++i) sum = (sum ^ frame.data[i]) * 1099511628211U;
    std::printf("frames/_encoder.so: 3 JPEGs of %lld bytes, checksum %016llx\n",
                static_cast<long long>(frame.ends[2]), static_cast<unsigned long long>(sum));

    for (const char* name : {"frames/_frames.so", "ops/_ops.so"}) {
        load(folder + "/" + name);
        std::printf("%s: loaded\n", name);
    }
    std::fflush(stdout);
    std::_Exit(0);  // the libraries would give back what they registered nowhere
}
