// Pool of open files, bounded in number. A file that was replaced under the same name is detected.
#pragma once

#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "common/check.h"

namespace vidseg {

struct FileIdentity {
    dev_t device;
    ino_t inode;
    off_t size;
    int64_t modified;
    bool operator==(const FileIdentity& other) const {
        return device == other.device && inode == other.inode && size == other.size &&
               modified == other.modified;
    }

    static FileIdentity of(const std::string& path) {
        struct stat info;
        const int status = stat(path.c_str(), &info);
        check(status == 0, "cannot open: ", std::strerror(errno));
        check(S_ISREG(info.st_mode), "cannot open: not a regular file");
        return {info.st_dev, info.st_ino, info.st_size,
                int64_t{info.st_mtim.tv_sec} * 1000000000 + info.st_mtim.tv_nsec};
    }
};

template <class Opened>
class Pool {
  public:
    // Returns an unused open file, or null.
    std::unique_ptr<Opened> take(const std::string& path, const FileIdentity& identity) {
        const std::lock_guard<std::mutex> lock(mutex_);
        for (auto it = idle_.begin(); it != idle_.end(); ++it) {
            if (it->identity == identity && it->path == path) {
                std::unique_ptr<Opened> found = std::move(it->file);
                idle_.erase(it);
                return found;
            }
        }
        return nullptr;
    }

    void give_back(const std::string& path, const FileIdentity& identity, std::unique_ptr<Opened> file) {
        std::list<Entry> oldest;  // closed after the lock is released
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_front({path, identity, std::move(file)});
        if (idle_.size() > kMaxIdle) oldest.splice(oldest.begin(), idle_, std::prev(idle_.end()));
    }

    // For a forked child, which must neither use nor close SQLite handles of its parent.
    void forget() {
        for (Entry& entry : idle_) (void)entry.file.release();
        idle_.clear();
    }

  private:
    static constexpr size_t kMaxIdle = 64;

    struct Entry {
        std::string path;
        FileIdentity identity;
        std::unique_ptr<Opened> file;
    };

    std::mutex mutex_;
    std::list<Entry> idle_;
};

}  // namespace vidseg
