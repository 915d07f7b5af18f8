#include "fill.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <mutex>
#include <system_error>
#include <thread>

#include "color.h"
#include "common/check.h"
#include "sample.h"

namespace vidseg {
namespace {

constexpr double kAlmost = 1 - 1e-6;

// Keeps the error of the earliest piece in the order of the plan, independent of the order in which threads
// report errors.
class FirstError {
  public:
    void report(int64_t piece, const std::string& message) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (piece >= piece_) return;
        message_ = message;
        piece_ = piece;
    }
    bool any() const { return piece_ != kNone; }
    // Returns whether an earlier piece failed; the result of this piece is then not needed.
    bool before(int64_t piece) const { return piece_ < piece; }
    const std::string& message() const { return message_; }

  private:
    static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
    std::mutex mutex_;
    std::atomic<int64_t> piece_{kNone};
    std::string message_;
};

// State of one thread for one batch.
class Worker {
  public:
    Worker(const FillPlan& plan, const FillOptions& options, uint8_t* out, int64_t* shown)
        : plan_(plan), options_(options), out_(out), shown_(shown) {
        pixels_.resize(static_cast<size_t>(plan.height) * plan.width);
    }

    // Fills frames first to last - 1 of one clip.
    void fill(int64_t clip, int64_t first, int64_t last) {
        VideoReader reader(plan_.paths[static_cast<size_t>(clip)]);
        std::array<double, 9> matrix;
        std::copy_n(plan_.matrices + 9 * clip, 9, matrix.begin());
        Sampler sampler(matrix, plan_.width, plan_.height, options_.background, channels());
        Source source = choose_source(plan_.videos[clip], reader, sampler);
        for (int64_t t = first; t < last; ++t) {
            if (canceled()) return;
            const int64_t position = clip * plan_.frames_per_clip + t;
            shown_[position] = show(reader, source, plan_.frames[position], sampler);
            recolor(clip);
            write(clip, t);
        }
    }

    bool canceled() const {
        return options_.cancel != nullptr && __atomic_load_n(options_.cancel, __ATOMIC_RELAXED) != 0;
    }

  private:
    int channels() const { return plan_.vectors == nullptr ? 3 : 2; }

    // The copy of the frames to read, its scale, and the part of it.
    struct Source {
        int64_t video = 0;
        int level = 0;
        int denominator = 1;
        Window window;
        int divisor() const { return (1 << level) * denominator; }
    };

    // Chooses the smallest copy that is enlarged by at most the factor that the options allow.
    Source choose_source(int64_t video, VideoReader& reader, const Sampler& sampler) const {
        Source source;
        source.video = video;
        const int levels = options_.caches ? options_.caches->levels(video, reader) : reader.levels();
        const double shrink = sampler.least_shrink();
        while (source.level < levels && shrink * options_.enlarge >= (2 << source.level) * kAlmost)
            ++source.level;
        while (source.denominator < 8 && shrink >= 2 * source.divisor() * kAlmost) source.denominator *= 2;
        source.window = sampler.window(1 << source.level);
        return source;
    }

    // Writes the pixels of a frame, or of its replacement, to pixels_ and returns the number of the frame.
    int64_t show(VideoReader& reader, const Source& source, int64_t frame, Sampler& sampler) {
        try {
            return show_exactly(reader, source, frame, sampler);
        } catch (const std::exception& error) {
            const std::string reason =
                "frame " + std::to_string(frame) +
                (source.level > 0 ? " (level " + std::to_string(source.level) + ")" : "") + ": " +
                error.what();
            check(options_.replace, reason);
            const int64_t count = reader.frames();
            check(count > 0, reason);
            const int64_t near = std::clamp<int64_t>(frame, 0, count - 1);
            for (int64_t distance = 0; distance < count; ++distance) {
                for (const int64_t other : {near - distance, near + distance}) {
                    if (other < 0 || other >= count || other == frame || canceled()) continue;
                    try {
                        return show_exactly(reader, source, other, sampler);
                    } catch (const std::exception&) {
                        continue;  // the error of the requested frame is reported
                    }
                }
            }
            fail(reason, "; nor can any other frame of the video be read");
        }
    }

    int64_t show_exactly(VideoReader& reader, const Source& source, int64_t frame, Sampler& sampler) {
        auto* cache = options_.caches ? options_.caches->decoded.get() : nullptr;
        const FrameKey key{source.video, frame, source.level, source.denominator};
        if (cache != nullptr) {
            if (const std::shared_ptr<const Region> found = cache->find(key)) {
                sampler.sample(*found, source.divisor(), pixels_.data());
                return frame;
            }
        }
        with_jpeg(reader, source, frame, [&](const uint8_t* data, size_t size) {
            if (cache == nullptr || !keep(*cache, key, data, size)) {
                decoder_.decode_region(data, size, source.window, source.denominator, region_, true,
                                       channels());
            }
        });
        sampler.sample(region_, source.divisor(), pixels_.data());
        return frame;
    }

    // Decodes the whole frame into the cache if there is room.
    bool keep(FrameCache<Region>& cache, const FrameKey& key, const uint8_t* data, size_t size) {
        int width = 0, height = 0;
        decoder_.read_size(data, size, &width, &height);
        const int64_t most = int64_t{4} * width * height / (key.denominator * key.denominator);
        if (!cache.has_room(most)) return false;
        decoder_.decode_region(data, size, {0, 0, width, height}, key.denominator, region_, true, channels());
        cache.insert(key, std::make_shared<const Region>(region_), static_cast<int64_t>(region_.bytes()));
        return true;
    }

    template <class Use>
    void with_jpeg(VideoReader& reader, const Source& source, int64_t frame, const Use& use) {
        auto* cache = options_.caches ? options_.caches->encoded.get() : nullptr;
        const FrameKey key{source.video, frame, source.level, 0};
        if (cache != nullptr) {
            if (const auto found = cache->find(key)) return use(found->data(), found->size());
        }
        reader.read(source.level, frame, [&](const uint8_t* data, size_t size) {
            use(data, size);
            if (cache != nullptr && cache->has_room(static_cast<int64_t>(size))) {
                cache->insert(key, std::make_shared<const std::vector<uint8_t>>(data, data + size),
                              static_cast<int64_t>(size));
            }
        });
    }

    void recolor(int64_t clip) {
        const int64_t first = plan_.color_offsets[clip], count = plan_.color_offsets[clip + 1] - first;
        change_colors(plan_.color_codes + first, plan_.color_parameters + kColorParameters * first, count,
                      {plan_.height, plan_.width}, frame_, scratch_, pixels_.data());
    }

    void write(int64_t clip, int64_t t) {
        const size_t sample = options_.format.sample_bytes();
        const size_t plane = pixels_.size() * sample, frames = static_cast<size_t>(plan_.frames_per_clip);
        const size_t count = static_cast<size_t>(channels()), stack = static_cast<size_t>(plan_.stack);
        // In (C, T, H, W) the planes of a channel are adjacent, in (T, C, H, W) and (T, H, W, C) those of a
        // frame. Frame s of a stack has channels s * C to (s + 1) * C - 1.
        const bool by_channel = options_.format.planar && !plan_.frames_first;
        const size_t step = by_channel ? frames / stack * plane : plane, frame = static_cast<size_t>(t);
        uint8_t* to = out_ + static_cast<size_t>(clip) * count * frames * plane;
        to += by_channel ? frame % stack * count * step + frame / stack * plane : frame * count * plane;
        if (plan_.vectors == nullptr)
            return write_pixels(pixels_.data(), pixels_.size(), options_.format, step, to);
        VectorMap map;
        std::memcpy(&map, plan_.vectors + 6 * clip, sizeof map);
        write_vectors(pixels_.data(), pixels_.size(), options_.format, map, step, to);
    }

    const FillPlan& plan_;
    const FillOptions& options_;
    uint8_t* out_;
    int64_t* shown_;
    JpegDecoder decoder_;
    Region region_;
    std::vector<uint32_t> pixels_;
    ColorFrame frame_;
    ColorScratch scratch_;
};

// Threads that are joined when an exception or the end of the calling thread unwinds the stack, too: the
// destructor of a running std::thread ends the process.
struct Helpers {
    std::vector<std::thread> threads;

    void join() {
        for (std::thread& thread : threads) thread.join();
        threads.clear();
    }
    ~Helpers() { join(); }
};

}  // namespace

bool fill(const FillPlan& plan, const FillOptions& options, uint8_t* out, int64_t* shown) {
    // Threads take pieces of clips: small enough to balance the load, large enough to open a video rarely.
    const int64_t share = plan.clips * plan.frames_per_clip / (int64_t{8} * options.threads);
    const int64_t piece = std::clamp<int64_t>(share, 1, std::min<int64_t>(16, plan.frames_per_clip));
    const int64_t pieces_per_clip = (plan.frames_per_clip + piece - 1) / piece;
    const int64_t pieces = plan.clips * pieces_per_clip;
    std::atomic<int64_t> next{0};
    std::atomic<bool> canceled{false};
    FirstError error;

    const auto work = [&] {
        int64_t number = 0, clip = 0;
        try {
            Worker worker(plan, options, out, shown);
            // If a later piece has failed, the thread still fills this one, because the first error of the
            // plan is reported.
            while ((number = next.fetch_add(1)) < pieces && !error.before(number)) {
                clip = number / pieces_per_clip;
                const int64_t first = number % pieces_per_clip * piece;
                worker.fill(clip, first, std::min(first + piece, plan.frames_per_clip));
                if (worker.canceled()) canceled = true;
                if (canceled) return;
            }
        } catch (const std::exception& problem) {
            error.report(number, plan.paths[static_cast<size_t>(clip)] + ": " + problem.what());
        }
    };

    Helpers helpers;
    const int64_t wanted = std::min<int64_t>(options.threads, pieces) - 1;
    for (int64_t i = 0; i < wanted; ++i) {
        try {
            helpers.threads.emplace_back(work);
        } catch (const std::system_error&) {
            break;  // no more threads available: the running ones do the work
        }
    }
    work();
    helpers.join();
    check(!error.any(), error.message());
    return !canceled;
}

}  // namespace vidseg
