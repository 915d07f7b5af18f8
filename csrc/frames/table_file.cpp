#include "table_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

namespace vidseg {
namespace {

constexpr const char* kFormat = "vidseg frames 1";
constexpr int kMaxDepth = 20;  // of a tree; SQLite's limit
constexpr int64_t kMaxPayload = int64_t{1} << 28;
constexpr int64_t kSmallestRow = 4;  // bytes that a row needs at least in its file

enum PageType : uint8_t { kLeafIndex = 0x0A, kInteriorTable = 0x05, kLeafTable = 0x0D };

uint32_t read_big(const uint8_t* bytes, int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 8 | bytes[i];
    return value;
}

// A bounds-checked reader of a range of bytes.
class Cursor {
  public:
    Cursor(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
    size_t left() const { return static_cast<size_t>(end_ - at_); }
    const uint8_t* at() const { return at_; }

    bool skip(size_t count) {
        if (count > left()) return false;
        at_ += count;
        return true;
    }

    bool varint(int64_t* value) {
        uint64_t result = 0;
        for (int i = 0; i < 9; ++i) {
            if (at_ == end_) return false;
            const uint8_t byte = *at_++;
            if (i == 8) {
                *value = static_cast<int64_t>(result << 8 | byte);
                return true;
            }
            result = result << 7 | (byte & 0x7F);
            if ((byte & 0x80) == 0) break;
        }
        *value = static_cast<int64_t>(result);
        return true;
    }

  private:
    const uint8_t* at_;
    const uint8_t* end_;
};

// One column of a record: its serial type and the offset of its bytes in the record.
struct Column {
    int64_t type = 0;
    size_t offset = 0;
    size_t size = 0;
    bool is_blob() const { return type >= 12 && type % 2 == 0; }
    bool is_text() const { return type >= 13 && type % 2 == 1; }
};

size_t column_size(int64_t type) {
    static const size_t sizes[] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0};
    return type >= 12 ? static_cast<size_t>(type - 12) / 2 : sizes[type];
}

// The first columns of a record, of which the first `available` of `total` bytes are in memory.
bool read_columns(const uint8_t* record, size_t available, int64_t total, Column* columns, int count) {
    Cursor cursor(record, available);
    int64_t header = 0;
    if (!cursor.varint(&header) || header < 1 || static_cast<uint64_t>(header) > available) return false;
    cursor = Cursor(record, static_cast<size_t>(header));
    cursor.varint(&header);
    size_t offset = static_cast<size_t>(header);
    for (int i = 0; i < count; ++i) {
        if (!cursor.varint(&columns[i].type) || columns[i].type < 0 || columns[i].type > 2 * kMaxPayload)
            return false;
        columns[i].offset = offset;
        columns[i].size = column_size(columns[i].type);
        offset += columns[i].size;
        if (static_cast<int64_t>(offset) > total) return false;
    }
    return true;
}

bool read_integer(const uint8_t* record, size_t available, const Column& column, int64_t* value) {
    if (column.type == 8 || column.type == 9) {
        *value = column.type - 8;
        return true;
    }
    if (column.type < 1 || column.type > 6 || column.offset + column.size > available) return false;
    const uint8_t* bytes = record + column.offset;
    uint64_t result = (bytes[0] & 0x80) != 0 ? ~uint64_t{0} : 0;
    for (size_t i = 0; i < column.size; ++i) result = result << 8 | bytes[i];
    *value = static_cast<int64_t>(result);
    return true;
}

std::string_view text_of(const uint8_t* record, size_t available, const Column& column) {
    if (!column.is_text() || column.offset + column.size > available) return {};
    return {reinterpret_cast<const char*>(record) + column.offset, column.size};
}

// Header of a tree page, and the offset of its cells.
struct TreePage {
    uint8_t type = 0;
    int cells = 0;
    size_t pointers = 0;
    uint32_t right = 0;

    bool parse(const std::vector<uint8_t>& page, size_t usable, bool first) {
        const size_t start = first ? 100 : 0;
        if (start + 12 > usable) return false;
        type = page[start];
        cells = static_cast<int>(read_big(&page[start + 3], 2));
        right = read_big(&page[start + 8], 4);
        pointers = start + (type == kInteriorTable ? 12 : 8);
        return pointers + size_t{2} * static_cast<size_t>(cells) <= usable;
    }

    size_t cell(const std::vector<uint8_t>& page, int number) const {
        return read_big(&page[pointers + size_t{2} * static_cast<size_t>(number)], 2);
    }
};

}  // namespace

FileHandle::~FileHandle() { ::close(descriptor_); }

bool FileHandle::read(int64_t offset, size_t size, uint8_t* out) const {
    while (size > 0) {
        const ssize_t count = ::pread(descriptor_, out, size, offset);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return false;
        offset += count;
        out += count;
        size -= static_cast<size_t>(count);
    }
    return true;
}

std::unique_ptr<TableFile> TableFile::open(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return nullptr;
    std::unique_ptr<TableFile> file(new TableFile(descriptor));
    struct stat info;
    if (::fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) return nullptr;
    file->file_size_ = info.st_size;
    if (!file->read_header() || !file->read_schema() || !file->read_meta()) return nullptr;
    return file;
}

bool TableFile::read_header() {
    uint8_t header[100];
    if (!file_.read(0, sizeof header, header)) return false;
    if (std::memcmp(header, "SQLite format 3", 16) != 0) return false;
    const uint32_t size = read_big(header + 16, 2);
    page_size_ = size == 1 ? 65536 : size;
    if (page_size_ < 512 || (page_size_ & (page_size_ - 1)) != 0) return false;
    if (header[18] != 1 || header[19] != 1) return false;  // not a rollback journal
    if (header[20] > page_size_ - 480) return false;
    usable_ = page_size_ - header[20];
    return read_big(header + 56, 4) == 1;  // UTF-8
}

bool TableFile::read_page(uint32_t number, std::vector<uint8_t>& page) const {
    if (number == 0) return false;
    page.resize(page_size_);
    return file_.read(static_cast<int64_t>(number - 1) * static_cast<int64_t>(page_size_), page_size_,
                      page.data());
}

bool TableFile::read_schema() {
    TreePage tree;
    if (!read_page(1, page_) || !tree.parse(page_, usable_, true) || tree.type != kLeafTable) return false;
    for (int i = 0; i < tree.cells; ++i) {
        const size_t at = tree.cell(page_, i);
        if (at >= usable_) return false;
        Cursor cursor(&page_[at], usable_ - at);
        int64_t size = 0, row = 0, root = 0;
        if (!cursor.varint(&size) || !cursor.varint(&row) || size < 1) return false;
        const size_t available = std::min(cursor.left(), static_cast<size_t>(std::min(size, kMaxPayload)));
        Column columns[4];  // type, name, table, root page
        if (!read_columns(cursor.at(), available, size, columns, 4)) return false;
        if (text_of(cursor.at(), available, columns[0]) != "table") continue;
        if (!read_integer(cursor.at(), available, columns[3], &root) || root < 1 || root > 0x7FFFFFFF)
            return false;
        const std::string_view name = text_of(cursor.at(), available, columns[1]);
        if (name == "Images") images_ = static_cast<uint32_t>(root);
        if (name == "Levels") levels_table_ = static_cast<uint32_t>(root);
        if (name == "meta") meta_ = static_cast<uint32_t>(root);
    }
    return images_ != 0 && levels_table_ != 0 && meta_ != 0;
}

// A table WITHOUT ROWID is an index whose records are (key, value); its few entries fit on one page.
bool TableFile::read_meta() {
    TreePage tree;
    if (!read_page(meta_, page_) || !tree.parse(page_, usable_, false) || tree.type != kLeafIndex)
        return false;
    bool own = false;
    levels_ = -1;
    frames_ = -1;
    for (int i = 0; i < tree.cells; ++i) {
        const size_t at = tree.cell(page_, i);
        if (at >= usable_) return false;
        Cursor cursor(&page_[at], usable_ - at);
        int64_t size = 0, value = 0;
        if (!cursor.varint(&size) || size < 1) return false;
        const size_t available = std::min(cursor.left(), static_cast<size_t>(std::min(size, kMaxPayload)));
        Column columns[2];
        if (!read_columns(cursor.at(), available, size, columns, 2)) return false;
        const std::string_view key = text_of(cursor.at(), available, columns[0]);
        if (key == "format") own = text_of(cursor.at(), available, columns[1]) == kFormat;
        if (key != "frames" && key != "levels") continue;
        if (!read_integer(cursor.at(), available, columns[1], &value) || value < 0) return false;
        if (key == "frames") frames_ = value;
        if (key == "levels") levels_ = static_cast<int>(std::min<int64_t>(value, 8));
    }
    return own && frames_ > 0 && frames_ <= file_size_ / kSmallestRow && levels_ >= 0;
}

// Reads the record of a row into payload_.
bool TableFile::find_row(uint32_t root, int64_t row) {
    uint32_t number = root;
    for (int depth = 0; depth < kMaxDepth; ++depth) {
        TreePage tree;
        if (!read_page(number, page_) || !tree.parse(page_, usable_, number == 1)) return false;
        const bool leaf = tree.type == kLeafTable;
        if (!leaf && tree.type != kInteriorTable) return false;
        int low = 0, high = tree.cells;  // first cell whose row is at least the wanted one
        while (low < high) {
            const int middle = (low + high) / 2;
            const size_t at = tree.cell(page_, middle);
            if (at + 4 >= usable_) return false;
            Cursor cursor(&page_[at], usable_ - at);
            int64_t size = 0, key = 0;
            if (leaf ? !cursor.varint(&size) : !cursor.skip(4)) return false;
            if (!cursor.varint(&key)) return false;
            if (key < row) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if (!leaf) {
            const size_t at = low < tree.cells ? tree.cell(page_, low) : 0;
            number = low < tree.cells ? read_big(&page_[at], 4) : tree.right;
            continue;
        }
        if (low == tree.cells) return false;
        const size_t at = tree.cell(page_, low);
        Cursor cursor(&page_[at], usable_ - at);
        int64_t size = 0, key = 0;
        if (!cursor.varint(&size) || !cursor.varint(&key) || key != row || size < 1 ||
            size > std::min(kMaxPayload, file_size_))
            return false;
        // Size of the part of a record on its page: section 1.6 of the format.
        const int64_t most = static_cast<int64_t>(usable_) - 35;
        const int64_t least = (static_cast<int64_t>(usable_) - 12) * 32 / 255 - 23;
        const int64_t tail = least + (size - least) % (static_cast<int64_t>(usable_) - 4);
        const int64_t local = size <= most ? size : tail <= most ? tail : least;
        return read_payload(page_, static_cast<size_t>(cursor.at() - page_.data()), size,
                            static_cast<size_t>(local));
    }
    return false;
}

bool TableFile::read_payload(const std::vector<uint8_t>& page, size_t at, int64_t size, size_t local) {
    const bool spills = static_cast<int64_t>(local) < size;
    if (at + local + (spills ? 4 : 0) > usable_) return false;
    payload_.assign(page.begin() + static_cast<std::ptrdiff_t>(at),
                    page.begin() + static_cast<std::ptrdiff_t>(at + local));
    uint32_t next = spills ? read_big(&page[at + local], 4) : 0;
    size_t left = static_cast<size_t>(size) - local;
    while (left > 0) {
        // The pages of a chain are usually consecutive: the rest is read at once and used up to the first
        // jump.
        if (next == 0) return false;
        const size_t content = usable_ - 4;
        const size_t pages = std::min<size_t>((left + content - 1) / content, 64);
        run_.resize(pages * page_size_);
        const int64_t offset = static_cast<int64_t>(next - 1) * static_cast<int64_t>(page_size_);
        if (!file_.read(offset, run_.size(), run_.data())) {  // the last pages of the file
            run_.resize(page_size_);
            if (!file_.read(offset, run_.size(), run_.data())) return false;
        }
        for (size_t i = 0; i < run_.size() / page_size_ && left > 0; ++i) {
            const uint8_t* bytes = &run_[i * page_size_];
            const size_t count = std::min(left, content);
            payload_.insert(payload_.end(), bytes + 4, bytes + 4 + count);
            left -= count;
            const uint32_t follower = read_big(bytes, 4);
            const bool jumps = follower != next + 1;
            next = follower;
            if (jumps) break;
        }
    }
    return true;
}

bool TableFile::read(int level, int64_t frame, const uint8_t** data, size_t* size) {
    if (frame < 0 || frame >= frames_ || level < 0 || level > levels_) return false;
    Column columns[3];
    if (level == 0) {  // ObjId, frames, size; row numbers are frame numbers from 1
        if (!find_row(images_, frame + 1)) return false;
        if (!read_columns(payload_.data(), payload_.size(), static_cast<int64_t>(payload_.size()), columns,
                          2)) {
            return false;
        }
    } else {  // level, frame, jpeg; a frame's levels were written one after the other
        int64_t found_level = 0, found_frame = 0;
        if (!find_row(levels_table_, frame * levels_ + level)) return false;
        if (!read_columns(payload_.data(), payload_.size(), static_cast<int64_t>(payload_.size()), columns,
                          3) ||
            !read_integer(payload_.data(), payload_.size(), columns[0], &found_level) ||
            !read_integer(payload_.data(), payload_.size(), columns[1], &found_frame) ||
            found_level != level || found_frame != frame + 1) {
            return false;
        }
    }
    const Column& blob = columns[level == 0 ? 1 : 2];
    if (!blob.is_blob() || blob.size == 0) return false;
    *data = payload_.data() + blob.offset;
    *size = blob.size;
    return true;
}

}  // namespace vidseg
