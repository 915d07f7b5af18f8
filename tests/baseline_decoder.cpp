// Names the files on its command line that the loader's own decoder leaves to libjpeg.
#include "baseline.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>

int main(int count, char** names) {
    vidseg::BaselineDecoder decoder;
    vidseg::Region region;
    for (int i = 1; i < count; ++i) {
        std::ifstream file(names[i], std::ios::binary);
        const std::vector<uint8_t> bytes(std::istreambuf_iterator<char>(file), {});
        const int most = std::numeric_limits<int>::max() / 2;
        if (!decoder.decode(bytes.data(), bytes.size(), {0, 0, most, most}, region)) std::puts(names[i]);
    }
}
