// Reader of frames.db files, with a pool of open SQLite connections that all threads of a process share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace vidseg {

// In place of a level: the packets of a video stream.
constexpr int64_t kStream = -1;

// Calls `use(position, data, size)` for each row in order. The bytes are valid only during the call.
//
// Level 0 reads `Images` by rowid. Levels from 1 read `Levels` by frame number, kStream reads `Stream` by the
// number of the first frame of a group. The message of an error in one row begins with "row <number>: ".
using UseBlob = std::function<void(int64_t position, const uint8_t* data, size_t size)>;
void read_blobs(const std::string& path, int64_t level, const int64_t* rows, int64_t count,
                const UseBlob& use);

// The open database of one video, for one thread. It must be short-lived, because fork() waits until it is
// destroyed.
class VideoReader {
  public:
    // Does not open the file: frames in a cache do not need it.
    explicit VideoReader(const std::string& path);
    ~VideoReader();
    VideoReader(const VideoReader&) = delete;
    VideoReader& operator=(const VideoReader&) = delete;

    // Number of smaller copies of each frame.
    int levels();
    // Number of frames according to the database.
    int64_t frames();
    // Calls `use(data, size)` with the JPEG of a frame. Frames are counted from 0 in frame order, which can
    // differ from the order of the rows.
    void read(int level, int64_t frame, const std::function<void(const uint8_t* data, size_t size)>& use);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace vidseg
