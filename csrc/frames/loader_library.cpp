// Operators of torch.ops.vidseg_frames for the loader: filling of batches, and caches.

#include <torch/csrc/stable/library.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "color_operations.h"
#include "fill.h"
#include "frame_size.h"
#include "output_tensors.h"
#include "packing.h"
#include "tensors.h"

namespace vidseg {
namespace {

// Caches of this process, by the number that Python holds.
class CacheTable {
  public:
    int64_t add(std::shared_ptr<Caches> caches) {
        const std::lock_guard<std::mutex> lock(mutex_);
        caches_.emplace(++last_, std::move(caches));
        return last_;
    }
    std::shared_ptr<Caches> find(int64_t number) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = caches_.find(number);
        require(found != caches_.end(), "there is no cache ", number);
        return found->second;
    }
    void remove(int64_t number) {
        const std::lock_guard<std::mutex> lock(mutex_);
        caches_.erase(number);
    }

  private:
    std::mutex mutex_;
    std::map<int64_t, std::shared_ptr<Caches>> caches_;
    int64_t last_ = 0;
};

CacheTable& cache_table() {
    static CacheTable* const table = new CacheTable;  // never destroyed: threads may outlive statics
    return *table;
}

int64_t open_cache(int64_t limit, bool decoded) {
    require(limit > 0, "a cache of ", limit, " bytes");
    auto caches = std::make_shared<Caches>();
    if (decoded) {
        caches->decoded = std::make_unique<FrameCache<Region>>(limit);
    } else {
        caches->encoded = std::make_unique<FrameCache<std::vector<uint8_t>>>(limit);
    }
    return cache_table().add(std::move(caches));
}

void close_cache(int64_t number) { cache_table().remove(number); }

// hits, misses, bytes, frames
Tensor cache_statistics(int64_t number) {
    const std::shared_ptr<Caches> caches = cache_table().find(number);
    const std::vector<int64_t> values =
        caches->decoded ? caches->decoded->statistics() : caches->encoded->statistics();
    return tensor_of(values);
}

std::vector<std::string> read_paths(const Tensor& bytes, const Tensor& ends, int64_t clips) {
    const uint8_t* text = values_of<uint8_t>(bytes, "paths", {-1});
    const int64_t* end = values_of<int64_t>(ends, "path_ends", {clips});
    std::vector<std::string> paths;
    int64_t start = 0;
    for (int64_t i = 0; i < clips; ++i) {
        require(end[i] > start && end[i] <= bytes.numel(), "path_ends must increase and stay within paths");
        paths.emplace_back(reinterpret_cast<const char*>(text) + start, static_cast<size_t>(end[i] - start));
        start = end[i];
    }
    return paths;
}

// Whether (B, C, T, H, W) is a view of contiguous memory (B, T, C, H, W).
bool is_transposed(const Tensor& out) {
    const int64_t plane = out.size(3) * out.size(4);
    const std::array<int64_t, 5> strides = {out.size(1) * out.size(2) * plane, plane, out.size(1) * plane,
                                            out.size(4), 1};
    for (int axis = 0; axis < 5; ++axis) {
        if (out.size(axis) > 1 && out.stride(axis) != strides[static_cast<size_t>(axis)]) return false;
    }
    return true;
}

Tensor fill_batch(Tensor out, Tensor paths, Tensor path_ends, Tensor videos, Tensor frames, Tensor matrices,
                  Tensor color_offsets, Tensor color_codes, Tensor color_parameters, Tensor normalization,
                  Tensor vectors, int64_t stack, int64_t background, bool planar, bool bgr, double enlarge,
                  bool replace, int64_t threads, int64_t cache, Tensor cancel) {
    require(out.is_cpu() && out.dim() == 5, "out must be a CPU tensor of 5 dimensions");
    require(frames.dim() == 2, "frames must have the shape (B, T)");
    require(threads >= 1 && threads <= 1024, "threads is ", threads, ", must be 1 to 1024");
    const int64_t clips = frames.size(0), length = frames.size(1);
    const int64_t channels = out.size(planar ? 1 : 4), height = out.size(planar ? 3 : 2),
                  width = out.size(planar ? 4 : 3);
    require(stack >= 1 && (stack == 1 || planar) && length % stack == 0, "stack is ", stack,
            ", must be 1 or, with planes, divide the number of frames");
    const bool color = vectors.dim() != 3;
    require(out.size(0) == clips && out.size(planar ? 2 : 1) == length / stack &&
                channels == (color ? 3 : 2) * stack,
            "out must have the shape (B, C, T, H, W) or (B, T, H, W, C), with 3 channels, or 2 for vectors");
    require(background >= 0 && background <= 255, "background is ", background, ", must be 0 to 255");
    require_frame_size(height, width);

    // (B, T, C, H, W) is passed as its transpose, in which the planes of a frame are adjacent.
    const bool frames_first = planar && is_transposed(out);
    require(out.is_contiguous() || frames_first, "out must be contiguous, or (B, T, C, H, W) transposed");

    FillPlan plan;
    plan.frames_first = frames_first;
    plan.stack = static_cast<int>(stack);
    if (!color) plan.vectors = values_of<float>(vectors, "vectors", {clips, 2, 3});
    plan.clips = clips;
    plan.frames_per_clip = length;
    plan.height = static_cast<int>(height);
    plan.width = static_cast<int>(width);
    plan.paths = read_paths(paths, path_ends, clips);
    plan.videos = values_of<int64_t>(videos, "videos", {clips});
    plan.frames = values_of<int64_t>(frames, "frames", {clips, length});
    plan.matrices = values_of<double>(matrices, "matrices", {clips, 3, 3});
    plan.color_offsets = values_of<int64_t>(color_offsets, "color_offsets", {clips + 1});
    plan.color_codes = values_of<int64_t>(color_codes, "color_codes", {-1});
    const int64_t operations = color_codes.numel();
    plan.color_parameters =
        values_of<double>(color_parameters, "color_parameters", {operations, kColorParameters});
    for (int64_t i = 0; i <= clips; ++i) {
        require(plan.color_offsets[i] >= (i == 0 ? 0 : plan.color_offsets[i - 1]) &&
                    plan.color_offsets[i] <= operations,
                "color_offsets must rise from 0 to the number of operations");
    }

    FillOptions options;
    options.format = output_format(out, normalization, planar, bgr);
    options.threads = static_cast<int>(threads);
    require(enlarge >= 1.0 && enlarge <= 2.0, "enlarge is ", enlarge, ", must be 1 to 2");
    options.enlarge = enlarge;
    options.background = static_cast<uint32_t>(background) * 0x010101U;
    options.replace = replace;
    options.cancel = values_of<uint8_t>(cancel, "cancel", {1});
    std::shared_ptr<Caches> caches;
    if (cache != 0) caches = cache_table().find(cache);
    options.caches = caches.get();

    Tensor shown = make_tensor({clips, length}, ScalarType::Long);
    int64_t* positions = shown.mutable_data_ptr<int64_t>();
    std::fill(positions, positions + clips * length, int64_t{-1});
    if (clips > 0 && length > 0) {
        fill(plan, options, static_cast<uint8_t*>(out.mutable_data_ptr()), positions);
    }
    return shown;
}

// Writes uint8 (B, T, H, W, 3) in RGB to a batch, as `fill` writes decoded frames.
void write_batch(Tensor out, Tensor pixels, Tensor normalization, bool planar, bool bgr) {
    const uint8_t* rgb = values_of<uint8_t>(pixels, "pixels", {-1, -1, -1, -1, 3});
    const int64_t clips = pixels.size(0), frames = pixels.size(1), height = pixels.size(2),
                  width = pixels.size(3);
    require(out.is_cpu() && out.dim() == 5, "out must be a CPU tensor of 5 dimensions");
    require(out.size(0) == clips && out.size(planar ? 2 : 1) == frames &&
                out.size(planar ? 3 : 2) == height && out.size(planar ? 4 : 3) == width &&
                out.size(planar ? 1 : 4) == 3,
            "out must have the shape (B, 3, T, H, W) or (B, T, H, W, 3) of the pixels");
    const bool frames_first = planar && is_transposed(out);
    require(out.is_contiguous() || frames_first, "out must be contiguous, or (B, T, C, H, W) transposed");
    const OutputFormat format = output_format(out, normalization, planar, bgr);
    const size_t count = static_cast<size_t>(height * width), plane = count * format.sample_bytes();
    const bool by_channel = planar && !frames_first;
    std::vector<uint32_t> row(count);
    auto* to = static_cast<uint8_t*>(out.mutable_data_ptr());
    for (int64_t clip = 0; clip < clips; ++clip) {
        for (int64_t t = 0; t < frames; ++t, rgb += 3 * count) {
            unpack_pixels(rgb, count, row.data());
            const auto first = static_cast<size_t>(clip * frames * 3 + t * (by_channel ? 1 : 3));
            write_pixels(row.data(), count, format, by_channel ? static_cast<size_t>(frames) * plane : plane,
                         to + first * plane);
        }
    }
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vidseg_frames, m) {
    m.def(
        "fill(Tensor(a!) out, Tensor paths, Tensor path_ends, Tensor videos, Tensor frames, Tensor matrices, "
        "Tensor color_offsets, Tensor color_codes, Tensor color_parameters, Tensor normalization, Tensor "
        "vectors, int stack, int background, bool planar, "
        "bool bgr, float enlarge, bool replace, int threads, int cache, Tensor cancel) -> Tensor");
    m.def("write(Tensor(a!) out, Tensor pixels, Tensor normalization, bool planar, bool bgr) -> ()");
    m.def("open_cache(int limit, bool decoded) -> int");
    m.def("close_cache(int number) -> ()");
    m.def("cache_statistics(int number) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(vidseg_frames, CompositeExplicitAutograd, m) {
    m.impl("fill", TORCH_BOX(&fill_batch));
    m.impl("write", TORCH_BOX(&write_batch));
    m.impl("open_cache", TORCH_BOX(&open_cache));
    m.impl("close_cache", TORCH_BOX(&close_cache));
    m.impl("cache_statistics", TORCH_BOX(&cache_statistics));
}

}  // namespace vidseg
