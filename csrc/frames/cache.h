// In-memory caches of frames: encoded JPEGs or decoded pixels.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "database.h"
#include "jpeg.h"

namespace vidseg {

struct FrameKey {
    int64_t video;  // number in the data set
    int64_t frame;
    int level;
    int denominator;  // 0 for a JPEG
    bool operator==(const FrameKey& other) const {
        return video == other.video && frame == other.frame && level == other.level &&
               denominator == other.denominator;
    }
};

// Keeps frames until `limit` bytes are used, without evicting any: in a pass over all videos in random order,
// as in training, eviction does not raise the hit rate. Thread-safe.
template <class Frame>
class FrameCache {
  public:
    explicit FrameCache(int64_t limit) : limit_(limit) {}

    // Returns the frame or null, and counts a hit or a miss.
    std::shared_ptr<const Frame> find(const FrameKey& key) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = frames_.find(key);
        ++(found == frames_.end() ? misses_ : hits_);
        return found == frames_.end() ? nullptr : found->second;
    }

    // Returns whether a frame of this many bytes fits.
    bool has_room(int64_t bytes) const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return used_ + bytes <= limit_;
    }

    void insert(const FrameKey& key, std::shared_ptr<const Frame> frame, int64_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (used_ + bytes <= limit_ && frames_.emplace(key, std::move(frame)).second) used_ += bytes;
    }

    // hits, misses, bytes, frames
    std::vector<int64_t> statistics() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return {hits_, misses_, used_, static_cast<int64_t>(frames_.size())};
    }

  private:
    struct Hash {
        size_t operator()(const FrameKey& key) const {
            uint64_t hash = static_cast<uint64_t>(key.video) * 0x9E3779B97F4A7C15ULL;
            hash = (hash ^ static_cast<uint64_t>(key.frame)) * 0xBF58476D1CE4E5B9ULL;
            hash = (hash ^ static_cast<uint64_t>(key.level * 16 + key.denominator)) * 0x94D049BB133111EBULL;
            return static_cast<size_t>(hash ^ (hash >> 31));
        }
    };

    mutable std::mutex mutex_;
    const int64_t limit_;
    int64_t used_ = 0, hits_ = 0, misses_ = 0;
    std::unordered_map<FrameKey, std::shared_ptr<const Frame>, Hash> frames_;
};

// Caches of one loader: frames of one kind, and the number of levels of each video, so that a video whose
// frames are all cached is not opened.
class Caches {
  public:
    std::unique_ptr<FrameCache<std::vector<uint8_t>>> encoded;
    std::unique_ptr<FrameCache<Region>> decoded;

    int levels(int64_t video, VideoReader& reader) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto found = levels_.find(video);
            if (found != levels_.end()) return found->second;
        }
        const int count = reader.levels();
        const std::lock_guard<std::mutex> lock(mutex_);
        levels_.emplace(video, count);
        return count;
    }

  private:
    std::mutex mutex_;
    std::unordered_map<int64_t, int> levels_;
};

}  // namespace vidseg
