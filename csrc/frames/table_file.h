// Rows of our own frames.db, read straight from SQLite's file format
// (https://www.sqlite.org/fileformat2.html).
//
// SQLite needs a quarter of a millisecond to open a database, most of it for the schema; a loader that visits
// a hundred thousand videos at random opens one for every clip. Of a file that vidseg wrote, whose layout is
// known, a frame is found in a few page reads. Everything that is not as expected is left to SQLite: this
// reader answers exactly, or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace vidseg {

// Closes itself; positions are given with each read, so threads and forked processes may share it.
class FileHandle {
  public:
    explicit FileHandle(int descriptor) : descriptor_(descriptor) {}
    ~FileHandle();
    FileHandle(const FileHandle&) = delete;
    FileHandle& operator=(const FileHandle&) = delete;
    // All `size` bytes from `offset` on, or false.
    bool read(int64_t offset, size_t size, uint8_t* out) const;

  private:
    int descriptor_;
};

class TableFile {
  public:
    // Null where the file is not a frames.db in vidseg's own format.
    static std::unique_ptr<TableFile> open(const std::string& path);

    int levels() const { return levels_; }
    int64_t frames() const { return frames_; }

    // The JPEG of a frame, counted from 0; valid until the next call. False where SQLite should be asked.
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
    size_t page_size_ = 0;
    size_t usable_ = 0;                                  // bytes of a page
    uint32_t images_ = 0, levels_table_ = 0, meta_ = 0;  // root pages
    int levels_ = 0;
    int64_t frames_ = 0;
    std::vector<uint8_t> page_;
    std::vector<uint8_t> payload_;  // of the row that was found last
    std::vector<uint8_t> run_;      // overflow pages
};

}  // namespace vidseg
