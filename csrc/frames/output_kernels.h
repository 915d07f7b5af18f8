// Rows of float samples of output.cpp for one instruction set; see common/each_set.h. They are written past
// the caches: a batch exceeds these and is not read soon.

namespace vidseg {
namespace VIDSEG_SET {
namespace {

constexpr size_t kFloats = 4 * kHalves;

// Number of samples, at most `count`, before `out` is aligned to a vector.
VIDSEG_TARGET inline size_t unaligned(const float* out, size_t count) {
    constexpr size_t kBytes = kFloats * sizeof(float);
    return std::min(count, (kBytes - reinterpret_cast<uintptr_t>(out) % kBytes) % kBytes / sizeof(float));
}

VIDSEG_TARGET void write_floats(const uint32_t* pixels, size_t count, int shift, float scale, float offset,
                                float* out) {
    size_t i = unaligned(out, count);
    write_floats_portable(pixels, i, shift, scale, offset, out);
    const Floats scales = floats(scale), offsets = floats(offset);
    for (; i + kFloats <= count; i += kFloats)
        stream(load_channel(pixels + i, shift) * scales + offsets, out + i);
    write_floats_portable(pixels + i, count - i, shift, scale, offset, out + i);
}

VIDSEG_TARGET void write_vector_floats(const uint32_t* pixels, size_t count, const std::array<float, 3>& row,
                                       float* out) {
    size_t i = unaligned(out, count);
    write_vector_floats_portable(pixels, i, row, out);
    const Floats first = floats(row[0]), second = floats(row[1]), offset = floats(row[2]);
    for (; i + kFloats <= count; i += kFloats) {
        const Floats sum = load_channel(pixels + i, 0) * first + load_channel(pixels + i, 8) * second;
        stream(sum + offset, out + i);
    }
    write_vector_floats_portable(pixels + i, count - i, row, out + i);
}

}  // namespace
}  // namespace VIDSEG_SET
}  // namespace vidseg
