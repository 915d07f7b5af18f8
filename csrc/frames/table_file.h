// Reader of rows of vidseg's own frames.db files, directly from SQLite's file format
// (https://www.sqlite.org/fileformat2.html).
//
// SQLite takes 0.25 ms to open a database, mostly to read the schema, and a loader with random access opens
// one database per clip. In files that vidseg wrote, whose layout is known, this reader finds a frame with a
// few page reads. For any other file, or an unexpected structure, it returns false and the caller uses
// SQLite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace vidseg {

// A file descriptor. Reads have explicit positions, so threads and forked processes can share it.
class FileHandle {
  public:
    explicit FileHandle(int descriptor) : descriptor_(descriptor) {}
    ~FileHandle();
    FileHandle(const FileHandle&) = delete;
    FileHandle& operator=(const FileHandle&) = delete;
    // Reads `size` bytes from `offset`. Returns false if there are fewer.
    bool read(int64_t offset, size_t size, uint8_t* out) const;

  private:
    int descriptor_;
};

class TableFile {
  public:
    // Returns null if the file is not a frames.db in vidseg's own format.
    static std::unique_ptr<TableFile> open(const std::string& path);

    int levels() const { return levels_; }
    int64_t frames() const { return frames_; }

    // Returns the JPEG of a frame, counted from 0, valid until the next call. False: SQLite must be used.
    bool read(int level, int64_t frame, const uint8_t** data, size_t* size);

  private:
    explicit TableFile(int descriptor) : file_(descriptor) {}
    bool read_header();
    bool read_schema();
    bool read_meta();
    bool read_page(uint32_t number, std::vector<uint8_t>& page) const;
    bool find_row(uint32_t root, int64_t row);
    bool read_payload(const std::vector<uint8_t>& page, size_t at, int64_t size, size_t local);

    FileHandle file_;
    int64_t file_size_ = 0;  // no record is larger, and no number of frames
    size_t page_size_ = 0;
    size_t usable_ = 0;                                  // bytes of a page
    uint32_t images_ = 0, levels_table_ = 0, meta_ = 0;  // root pages
    int levels_ = 0;
    int64_t frames_ = 0;
    std::vector<uint8_t> page_;
    std::vector<uint8_t> payload_;  // record of the last row
    std::vector<uint8_t> run_;      // overflow pages
};

}  // namespace vidseg
