#include "database.h"

#include <pthread.h>

#include <new>
#include <shared_mutex>

#include "connection.h"
#include "common/check.h"
#include "pool.h"
#include "table_file.h"

namespace vidseg {
namespace {

// fork() waits until no thread is inside SQLite or the pool, so that the child inherits neither a held lock
// nor an inconsistent state.
std::shared_mutex fork_guard;

// Open files of this process. Never destroyed, because threads may read while statics are destroyed.
struct OpenFiles {
    Pool<Connection> connections;
    Pool<TableFile> tables;
};

OpenFiles& open_files() {
    static OpenFiles* const instance = [] {
        const auto before = [] { fork_guard.lock(); };
        const auto in_parent = [] { fork_guard.unlock(); };
        const auto in_child = [] {
            new (&fork_guard)
                std::shared_mutex;  // glibc identifies the owner by thread number, which differs in the child
            open_files().connections.forget();
            open_files().tables.forget();
        };
        pthread_atfork(before, in_parent, in_child);
        return new OpenFiles;
    }();
    return *instance;
}

// Takes an open file from a pool or opens it. Returns it to the pool unless an error occurred.
template <class Opened>
class Lease {
  public:
    template <class Open>
    Lease(Pool<Opened>& pool, const std::string& path, const Open& open)
        : pool_(pool), path_(path), identity_(FileIdentity::of(path)), file_(pool.take(path, identity_)) {
        if (!file_) file_ = open(path);
    }
    ~Lease() {
        if (keep_ && file_) pool_.give_back(path_, identity_, std::move(file_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Opened* get() const { return file_.get(); }
    void keep(bool whether) { keep_ = whether; }

  private:
    Pool<Opened>& pool_;
    std::string path_;
    FileIdentity identity_;
    std::unique_ptr<Opened> file_;
    bool keep_ = false;
};

std::unique_ptr<Connection> connect(const std::string& path) { return std::make_unique<Connection>(path); }

}  // namespace

void read_blobs(const std::string& path, int64_t level, const int64_t* rows, int64_t count,
                const UseBlob& use) {
    OpenFiles& files = open_files();  // registers the fork handlers before the first lock
    const std::shared_lock<std::shared_mutex> no_fork(fork_guard);
    Lease<Connection> connection(files.connections, path, connect);
    for (int64_t i = 0; i < count; ++i) {
        try {
            connection.get()->read(level, rows[i],
                                   [&](const uint8_t* data, size_t size) { use(i, data, size); });
        } catch (const std::exception& error) {
            fail("row ", rows[i], ": ", error.what());
        }
    }
    connection.keep(true);
}

struct VideoReader::State {
    explicit State(const std::string& file) : files(open_files()), path(file), no_fork(fork_guard) {}

    // Null if the file is not in vidseg's own format.
    TableFile* table() {
        if (!table_lease) {
            table_lease = std::make_unique<Lease<TableFile>>(files.tables, path, TableFile::open);
            table_lease->keep(true);
        }
        return table_lease->get();
    }

    Connection& connection() {
        if (!connection_lease) {
            connection_lease = std::make_unique<Lease<Connection>>(files.connections, path, connect);
            connection_lease->keep(true);
        }
        return *connection_lease->get();
    }

    OpenFiles& files;
    std::string path;
    std::shared_lock<std::shared_mutex> no_fork;  // before the leases: released after them
    std::unique_ptr<Lease<TableFile>> table_lease;
    std::unique_ptr<Lease<Connection>> connection_lease;
};

VideoReader::VideoReader(const std::string& path) : state_(std::make_unique<State>(path)) {}

VideoReader::~VideoReader() = default;

int VideoReader::levels() {
    TableFile* table = state_->table();
    return table != nullptr ? table->levels() : state_->connection().contents().levels;
}

int64_t VideoReader::frames() {
    TableFile* table = state_->table();
    return table != nullptr ? table->frames() : state_->connection().contents().frames;
}

void VideoReader::read(int level, int64_t frame,
                       const std::function<void(const uint8_t* data, size_t size)>& use) {
    const uint8_t* data = nullptr;
    size_t size = 0;
    if (TableFile* table = state_->table(); table != nullptr && table->read(level, frame, &data, &size)) {
        return use(data, size);
    }
    Connection& connection = state_->connection();
    state_->connection_lease->keep(false);
    const std::vector<int64_t>& rows = connection.contents().rows;
    check(frame >= 0, "frame numbers begin with 0");
    check(rows.empty() || frame < static_cast<int64_t>(rows.size()), "the video has ", rows.size(),
          " frames");
    connection.read(level, rows.empty() ? frame + 1 : rows[static_cast<size_t>(frame)], use);
    state_->connection_lease->keep(true);
}

}  // namespace vidseg
