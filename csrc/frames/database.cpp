#include "database.h"

#include <pthread.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "error.h"

namespace vidseg {
namespace {

constexpr size_t kMaxIdle = 64;  // connections kept open while nobody reads from them

struct CloseConnection {
    void operator()(sqlite3* connection) const { sqlite3_close_v2(connection); }
};
struct FinalizeStatement {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using ConnectionHandle = std::unique_ptr<sqlite3, CloseConnection>;
using StatementHandle = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

// Tells a file apart from another one that took its name.
struct FileIdentity {
    dev_t device;
    ino_t inode;
    off_t size;
    int64_t modified;
    bool operator==(const FileIdentity& other) const {
        return device == other.device && inode == other.inode && size == other.size &&
               modified == other.modified;
    }
};

FileIdentity identify(const std::string& path) {
    struct stat info;
    check(stat(path.c_str(), &info) == 0, "cannot open: ", std::strerror(errno));
    check(S_ISREG(info.st_mode), "cannot open: not a regular file");
    return {info.st_dev, info.st_ino, info.st_size,
            int64_t{info.st_mtim.tv_sec} * 1000000000 + info.st_mtim.tv_nsec};
}

// A file: URI, in which any byte other than these must be escaped.
std::string file_uri(const std::string& path) {
    static const char* digits = "0123456789ABCDEF";
    std::string uri = "file:";
    for (const unsigned char byte : path) {
        const bool plain = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                           (byte >= '0' && byte <= '9') || byte == '/' || byte == '.' || byte == '_' ||
                           byte == '-';
        if (plain) {
            uri += static_cast<char>(byte);
        } else {
            uri += '%';
            uri += digits[byte >> 4];
            uri += digits[byte & 15];
        }
    }
    return uri + "?mode=ro&immutable=1";
}

// The number in "<video>/frame_00012"; -1 where there is none.
int64_t frame_number(const std::string& name) {
    const size_t slash = name.rfind('/');
    const std::string tail = slash == std::string::npos ? name : name.substr(slash + 1);
    const std::string head = "frame_";
    if (tail.compare(0, head.size(), head) != 0 || tail.size() == head.size() ||
        tail.size() > head.size() + 18) {
        return -1;
    }
    int64_t number = 0;
    for (size_t i = head.size(); i < tail.size(); ++i) {
        if (tail[i] < '0' || tail[i] > '9') return -1;
        number = number * 10 + (tail[i] - '0');
    }
    return number;
}

struct Connection {
    std::string path;
    FileIdentity identity;
    ConnectionHandle handle;
    StatementHandle image, level;  // after handle: destroyed before it

    Connection(const std::string& file, const FileIdentity& id) : path(file), identity(id) {
        sqlite3* opened = nullptr;
        const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
        const int status = sqlite3_open_v2(file_uri(path).c_str(), &opened, flags, nullptr);
        handle.reset(opened);
        check(status == SQLITE_OK, "cannot open: ", opened ? sqlite3_errmsg(opened) : "out of memory");
        // The schema comes from outside: no function or trigger in it may run.
        sqlite3_db_config(opened, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
        sqlite3_exec(opened, "PRAGMA cache_size=32", nullptr, nullptr, nullptr);
    }

    StatementHandle prepare(const char* sql) const {
        sqlite3_stmt* statement = nullptr;
        const int status =
            sqlite3_prepare_v3(handle.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
        check(status == SQLITE_OK, "not a frame database: ", sqlite3_errmsg(handle.get()));
        return StatementHandle(statement);
    }

    sqlite3_stmt* statement_for(int64_t level_number) {
        if (level_number == 0) {
            if (!image) image = prepare("SELECT frames FROM Images WHERE rowid = ?1");
            return image.get();
        }
        if (!level) level = prepare("SELECT jpeg FROM Levels WHERE level = ?2 AND frame = ?1");
        return level.get();
    }

    // Calls `use` with the JPEG in one row; it is valid during the call only.
    template <class Use>
    void read(int64_t level_number, int64_t row, const Use& use) {
        sqlite3_stmt* statement = statement_for(level_number);
        sqlite3_reset(statement);
        sqlite3_bind_int64(statement, 1, row);
        if (level_number > 0) sqlite3_bind_int64(statement, 2, level_number);
        const int status = sqlite3_step(statement);
        check(status != SQLITE_DONE, "not in the database (level ", level_number, ")");
        check(status == SQLITE_ROW, sqlite3_errmsg(handle.get()));
        check(sqlite3_column_type(statement, 0) == SQLITE_BLOB, "holds no BLOB");
        const auto* data = static_cast<const uint8_t*>(sqlite3_column_blob(statement, 0));
        const int size = sqlite3_column_bytes(statement, 0);
        check(data != nullptr && size > 0, "holds an empty BLOB");
        use(data, static_cast<size_t>(size));
        sqlite3_reset(statement);
    }

    // What the database says of itself, read once.
    struct Contents {
        int levels = 0;
        int64_t frames = 0;
        std::vector<int64_t> rows;  // rowid of each frame, in files of the published form; empty: frame + 1
    };

    const Contents& contents() {
        if (!known) {
            known = std::make_unique<Contents>();
            try {
                if (has_meta()) {
                    read_meta(*known);
                } else {
                    read_order(*known);
                }
            } catch (...) {
                known.reset();
                throw;
            }
        }
        return *known;
    }

    bool has_meta() const {
        const StatementHandle find =
            prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'");
        return sqlite3_step(find.get()) == SQLITE_ROW;
    }

    void read_meta(Contents& contents) const {
        const StatementHandle find =
            prepare("SELECT key, CAST(value AS INT) FROM meta WHERE key IN ('frames', 'levels')");
        int status = SQLITE_OK;
        while ((status = sqlite3_step(find.get())) == SQLITE_ROW) {
            const auto* key = reinterpret_cast<const char*>(sqlite3_column_text(find.get(), 0));
            const int64_t value = sqlite3_column_int64(find.get(), 1);
            if (key == nullptr) continue;
            if (std::strcmp(key, "frames") == 0) contents.frames = value;
            if (std::strcmp(key, "levels") == 0)
                contents.levels = static_cast<int>(std::clamp<int64_t>(value, 0, 8));
        }
        check(status == SQLITE_DONE, "its metadata cannot be read: ", sqlite3_errmsg(handle.get()));
    }

    // Files of the published form have no metadata and rows in any order.
    void read_order(Contents& contents) const {
        const StatementHandle list = prepare("SELECT rowid, ObjId FROM Images ORDER BY rowid");
        std::vector<std::pair<int64_t, int64_t>> numbered;  // frame number, row
        int status = SQLITE_OK;
        while ((status = sqlite3_step(list.get())) == SQLITE_ROW) {
            const int64_t row = sqlite3_column_int64(list.get(), 0);
            const auto* name = reinterpret_cast<const char*>(sqlite3_column_text(list.get(), 1));
            const int64_t number = frame_number(name == nullptr ? "" : name);
            check(number >= 0, "row ", row, " has the ObjId '", name == nullptr ? "" : name,
                  "', which is not <video>/frame_<number>");
            numbered.emplace_back(number, row);
        }
        check(status == SQLITE_DONE, "its frames cannot be listed: ", sqlite3_errmsg(handle.get()));
        std::stable_sort(numbered.begin(), numbered.end(),
                         [](const auto& one, const auto& other) { return one.first < other.first; });
        for (size_t i = 0; i < numbered.size(); ++i) {
            if (i > 0 && numbered[i].first == numbered[i - 1].first)
                continue;  // of equal numbers the first row counts
            contents.rows.push_back(numbered[i].second);
        }
        contents.frames = static_cast<int64_t>(contents.rows.size());
    }

    std::unique_ptr<Contents> known;
};

class Pool {
  public:
    std::unique_ptr<Connection> take(const std::string& path) {
        const FileIdentity identity = identify(path);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            for (auto it = idle_.begin(); it != idle_.end(); ++it) {
                if ((*it)->path == path && (*it)->identity == identity) {
                    std::unique_ptr<Connection> found = std::move(*it);
                    idle_.erase(it);
                    return found;
                }
            }
        }
        return std::make_unique<Connection>(path, identity);
    }

    void give_back(std::unique_ptr<Connection> connection) {
        std::unique_ptr<Connection> oldest;  // closed after the lock is released
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_front(std::move(connection));
        if (idle_.size() > kMaxIdle) {
            oldest = std::move(idle_.back());
            idle_.pop_back();
        }
    }

    // A forked child may neither use nor close what its parent opened: SQLite forbids both.
    void forget() {
        for (auto& connection : idle_) (void)connection.release();
        idle_.clear();
    }

  private:
    std::mutex mutex_;
    std::list<std::unique_ptr<Connection>> idle_;
};

// fork() waits until no thread is inside SQLite or the pool, so that the child gets neither a held lock nor a
// torn state.
std::shared_mutex fork_guard;

Pool& pool() {
    static Pool* const instance = [] {
        const auto before = [] { fork_guard.lock(); };
        const auto in_parent = [] { fork_guard.unlock(); };
        const auto in_child = [] {
            new (&fork_guard)
                std::shared_mutex;  // glibc knows the owner by its thread number, which is another one here
            pool().forget();
        };
        pthread_atfork(before, in_parent, in_child);
        return new Pool;  // lives as long as the process: threads may still read while statics are destroyed
    }();
    return *instance;
}

class Lease {
  public:
    explicit Lease(const std::string& path) : connection_(pool().take(path)) {}
    ~Lease() {
        if (reusable_) pool().give_back(std::move(connection_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Connection* operator->() const { return connection_.get(); }
    void keep() { reusable_ = true; }

  private:
    std::unique_ptr<Connection> connection_;
    bool reusable_ = false;  // a connection that threw is closed, not kept
};

}  // namespace

void read_blobs(const std::string& path, int64_t level, const int64_t* rows, int64_t count,
                const UseBlob& use) {
    pool();  // registers the fork handlers before the first lock
    const std::shared_lock<std::shared_mutex> no_fork(fork_guard);
    Lease connection(path);
    for (int64_t i = 0; i < count; ++i) {
        try {
            connection->read(level, rows[i], [&](const uint8_t* data, size_t size) { use(i, data, size); });
        } catch (const std::exception& error) {
            fail("row ", rows[i], ": ", error.what());
        }
    }
    connection.keep();
}

struct VideoReader::State {
    explicit State(const std::string& file) : path(file), no_fork(fork_guard) {}

    Connection& connection() {
        if (!lease) lease = std::make_unique<Lease>(path);
        return *lease->operator->();
    }

    std::string path;
    std::shared_lock<std::shared_mutex> no_fork;  // before the lease: released after it
    std::unique_ptr<Lease> lease;
    bool reusable = true;
};

VideoReader::VideoReader(const std::string& path) {
    pool();
    state_ = std::make_unique<State>(path);
}

VideoReader::~VideoReader() {
    if (state_->lease && state_->reusable) state_->lease->keep();
}

int VideoReader::levels() { return state_->connection().contents().levels; }

int64_t VideoReader::frames() { return state_->connection().contents().frames; }

void VideoReader::read(int level, int64_t frame,
                       const std::function<void(const uint8_t* data, size_t size)>& use) {
    Connection& connection = state_->connection();
    const std::vector<int64_t>& rows = connection.contents().rows;
    check(frame >= 0, "frame numbers begin with 0");
    check(rows.empty() || frame < static_cast<int64_t>(rows.size()), "the video has ", rows.size(),
          " frames");
    state_->reusable = false;
    connection.read(level, rows.empty() ? frame + 1 : rows[static_cast<size_t>(frame)], use);
    state_->reusable = true;
}

}  // namespace vidseg
