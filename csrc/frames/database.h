// Reading of frames.db files: a pool of open SQLite connections shared by all threads of a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace vidseg {

// Calls `use(position, data, size)` for each row in order; the bytes are valid during the call only.
//
// level 0 reads `Images` by rowid; level 1, 2, ... reads `Levels`, whose frame numbers are given instead of
// rowids. Errors that concern one row begin with "row <number>: ".
using UseBlob = std::function<void(int64_t position, const uint8_t* data, size_t size)>;
void read_blobs(const std::string& path, int64_t level, const int64_t* rows, int64_t count,
                const UseBlob& use);

// One video's database, open for as long as the object lives; for one thread. No process may fork meanwhile,
// so keep it short.
class VideoReader {
  public:
    // Opens nothing yet: a frame that is found in a cache needs no file.
    explicit VideoReader(const std::string& path);
    ~VideoReader();
    VideoReader(const VideoReader&) = delete;
    VideoReader& operator=(const VideoReader&) = delete;

    // Number of smaller copies of each frame.
    int levels();
    // Number of frames, as the database says.
    int64_t frames();
    // Calls `use(data, size)` with the JPEG of a frame, counted from 0 in frame order, whatever the order of
    // the rows.
    void read(int level, int64_t frame, const std::function<void(const uint8_t* data, size_t size)>& use);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace vidseg
