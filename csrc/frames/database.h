// Reading of frames.db files: a pool of open SQLite connections shared by all threads of a process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace vidseg {

// Calls `use(position, data, size)` for each row in order; the bytes are valid during the call only.
//
// level 0 reads `Images` by rowid; level 1, 2, ... reads `Levels`, whose frame numbers are given instead of
// rowids. Errors that concern one row begin with "row <number>: ".
using UseBlob = std::function<void(int64_t position, const uint8_t* data, size_t size)>;
void read_blobs(const std::string& path, int64_t level, const int64_t* rows, int64_t count,
                const UseBlob& use);

}  // namespace vidseg
