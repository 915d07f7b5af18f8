// Drives the fuzzer without libFuzzer: every seed as it is, then mutations of them, the same ones in every
// run.
//
// Usage: mutate COUNT SEED_FILE...

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

class Random {
  public:
    uint64_t below(uint64_t bound) {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ % bound;
    }

  private:
    uint64_t state_ = 88172645463325252ULL;
};

Bytes mutated(const std::vector<Bytes>& seeds, Random& random) {
    Bytes bytes = seeds[random.below(seeds.size())];
    for (uint64_t count = 1 + random.below(4); count > 0 && !bytes.empty(); --count) {
        const size_t at = random.below(bytes.size());
        switch (random.below(5)) {
            case 0:
                bytes[at] = static_cast<uint8_t>(random.below(256));
                break;
            case 1:
                bytes[at] ^= static_cast<uint8_t>(1U << random.below(8));
                break;
            case 2:
                bytes.resize(at);
                break;
            case 3:
                bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at));
                break;
            default: {  // a piece of another seed
                const Bytes& other = seeds[random.below(seeds.size())];
                const size_t from = random.below(other.size()), length = random.below(64);
                for (size_t i = 0; i < length && from + i < other.size() && at + i < bytes.size(); ++i) {
                    bytes[at + i] = other[from + i];
                }
            }
        }
    }
    return bytes;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<Bytes> seeds;
    for (int i = 2; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
        LLVMFuzzerTestOneInput(seeds.back().data(), seeds.back().size());
    }
    if (seeds.empty()) return 2;
    Random random;
    const long count = std::atol(argv[1]);
    for (long i = 0; i < count; ++i) {
        const Bytes bytes = mutated(seeds, random);
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%ld inputs\n", count + static_cast<long>(seeds.size()));
    return 0;
}
