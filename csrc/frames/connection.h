// One frames.db opened through SQLite, with the statements that read frames.
#pragma once

#include <sqlite3.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/check.h"
#include "database.h"
#include "pool.h"

namespace vidseg {

struct CloseConnection {
    void operator()(sqlite3* connection) const { sqlite3_close_v2(connection); }
};
struct FinalizeStatement {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using ConnectionHandle = std::unique_ptr<sqlite3, CloseConnection>;
using StatementHandle = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

// Returns a file: URI in which all bytes except letters, digits and / . _ - are escaped.
inline std::string file_uri(const std::string& path) {
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

// Returns the number in "<video>/frame_00012", or -1 if there is none.
inline int64_t frame_number(const std::string& name) {
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

// A database connection. Files may come from elsewhere: only ordinary tables are read, and memory and time
// are bounded by the size of the file.
struct Connection {
    static constexpr int kLongestRow = 1 << 28;  // bytes
    static constexpr int64_t kSmallestRow = 4;   // bytes that a row needs at least in its file
    static constexpr int64_t kMostTables = 1000;

    int64_t file_size = 0;
    ConnectionHandle handle;
    StatementHandle image, level, group;  // after handle: destroyed before it

    explicit Connection(const std::string& path) {
        sqlite3* opened = nullptr;
        const int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
        const int status = sqlite3_open_v2(file_uri(path).c_str(), &opened, flags, nullptr);
        handle.reset(opened);
        check(status == SQLITE_OK, "cannot open: ", opened ? sqlite3_errmsg(opened) : "out of memory");
        // The schema is untrusted: SQLite must not run functions or triggers in it.
        sqlite3_db_config(opened, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
        sqlite3_exec(opened, "PRAGMA cache_size=32", nullptr, nullptr, nullptr);
        sqlite3_limit(opened, SQLITE_LIMIT_LENGTH, kLongestRow);
        file_size = FileIdentity::of(path).size;
        require_tables();
    }

    // Views, virtual tables and generated columns are programs that run when a row is read.
    void require_tables() const {
        const StatementHandle list = prepare(
            "SELECT type, name, rootpage, sql LIKE '%as%' FROM sqlite_master WHERE type IN ('table', "
            "'view')");
        int status = SQLITE_OK;
        int64_t count = 0;
        while ((status = sqlite3_step(list.get())) == SQLITE_ROW) {
            check(++count <= kMostTables, "not a frame database: it has more than ", kMostTables, " tables");
            const auto* name = reinterpret_cast<const char*>(sqlite3_column_text(list.get(), 1));
            if (name == nullptr) continue;
            const char* table = nullptr;
            for (const char* own : {"Images", "Levels", "Stream", "meta"}) {
                if (sqlite3_stricmp(name, own) == 0) table = own;
            }
            if (table == nullptr) continue;
            const auto* kind = reinterpret_cast<const char*>(sqlite3_column_text(list.get(), 0));
            const bool ordinary = kind != nullptr && std::strcmp(kind, "table") == 0;
            check(ordinary && sqlite3_column_int64(list.get(), 2) > 0, "not a frame database: ", table,
                  " is a view or a virtual table");
            // A generated column is declared with AS.
            if (sqlite3_column_int(list.get(), 3) != 0) require_stored_columns(table);
        }
        check(status == SQLITE_DONE, "not a frame database: ", sqlite3_errmsg(handle.get()));
    }

    void require_stored_columns(const char* table) const {
        const StatementHandle columns = prepare((std::string("PRAGMA table_xinfo(") + table + ")").c_str());
        constexpr int kHidden = 6;
        while (sqlite3_step(columns.get()) == SQLITE_ROW) {
            check(sqlite3_column_int(columns.get(), kHidden) == 0, "not a frame database: table ", table,
                  " has a generated column");
        }
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
        if (level_number == kStream) {
            if (!group) group = prepare("SELECT packets FROM Stream WHERE key_frame = ?1");
            return group.get();
        }
        if (!level) level = prepare("SELECT jpeg FROM Levels WHERE level = ?2 AND frame = ?1");
        return level.get();
    }

    // Calls `use` with the JPEG or the packets of one row, which is valid only during the call.
    template <class Use>
    void read(int64_t level_number, int64_t row, const Use& use) {
        sqlite3_stmt* statement = statement_for(level_number);
        sqlite3_reset(statement);
        sqlite3_bind_int64(statement, 1, row);
        if (level_number > 0) sqlite3_bind_int64(statement, 2, level_number);
        const int status = sqlite3_step(statement);
        check(status != SQLITE_DONE || level_number != kStream, "not in the database");
        check(status != SQLITE_DONE, "not in the database (level ", level_number, ")");
        check(status == SQLITE_ROW, sqlite3_errmsg(handle.get()));
        check(sqlite3_column_type(statement, 0) == SQLITE_BLOB, "holds no BLOB");
        const auto* data = static_cast<const uint8_t*>(sqlite3_column_blob(statement, 0));
        const int size = sqlite3_column_bytes(statement, 0);
        check(data != nullptr && size > 0, "holds an empty BLOB");
        use(data, static_cast<size_t>(size));
        sqlite3_reset(statement);
    }

    // Metadata of the database, read once.
    struct Contents {
        int levels = 0;
        int64_t frames = 0;
        std::vector<int64_t> rows;  // rowid of each frame in files of dataset2database; empty: frame + 1
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
        check(contents.frames >= 0 && contents.frames <= file_size / kSmallestRow, "its metadata say ",
              contents.frames, " frames, more than a file of its size can have");
    }

    // Files of dataset2database 1.2 have no metadata and their rows are in any order.
    void read_order(Contents& contents) const {
        const StatementHandle list = prepare("SELECT rowid, ObjId FROM Images ORDER BY rowid");
        std::vector<std::pair<int64_t, int64_t>> numbered;  // frame number, row
        int status = SQLITE_OK;
        int64_t names = 0;  // bytes of all names: pages that rows share would make them exceed the file
        while ((status = sqlite3_step(list.get())) == SQLITE_ROW) {
            names += kSmallestRow + sqlite3_column_bytes(list.get(), 1);
            check(names <= file_size, "it has more rows than a file of its size can have");
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
                continue;  // the first of rows with equal numbers is used
            contents.rows.push_back(numbered[i].second);
        }
        contents.frames = static_cast<int64_t>(contents.rows.size());
    }

    std::unique_ptr<Contents> known;
};

}  // namespace vidseg
