"""catalog.db: which videos a data set has, their classes, splits and segments, in one SQLite file beside the frames.

A data set is a folder; `<root>/catalog.db` answers everything a training run asks before the first frame is read (how
many frames has a video, how large are they, which class, which split), so that opening Kinetics-700 takes seconds and
touches none of its 650 000 databases. The schema below is the format; every writer works in one transaction, so a
catalog is whole or unchanged whenever a process is killed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.labels.classes import add_classes

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["FORMAT_VERSION", "UNLABELED", "VideoRecord", "catalog_path", "read_catalog", "update_catalog"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Kept in the file as `PRAGMA user_version`; a reader refuses a larger one."""

UNLABELED = "unlabeled"
"""Folder under jpg/ that holds the videos without a class."""

_BUSY_SECONDS = 60.0  # how long a writer waits for another one (two shards that end together)

SCHEMA = """
CREATE TABLE IF NOT EXISTS classes (
    id       INTEGER PRIMARY KEY,      -- for references only: a model's output number is `number`
    number   INTEGER NOT NULL UNIQUE,  -- the label that training sees, 0 to K - 1
    name     TEXT NOT NULL UNIQUE,     -- as written in the label file, or the class folder's name
    official INTEGER NOT NULL          -- 1: placed by an official class list and never moved, 0: by sorted names
)

CREATE TABLE IF NOT EXISTS videos (
    id         INTEGER PRIMARY KEY,    -- for references only
    path       TEXT NOT NULL UNIQUE,   -- folder of frames.db relative to the data set: jpg/<class>/<video>
    class_id   INTEGER REFERENCES classes (id),  -- NULL: no class (unlabeled, or untrimmed with segments)
    frames     INTEGER NOT NULL,       -- number of frames
    height     INTEGER NOT NULL,       -- of a frame, pixels
    width      INTEGER NOT NULL,       -- of a frame, pixels
    fps        REAL NOT NULL,          -- mean frame rate, 0: not known (database of dataset2database 1.2)
    seconds    REAL NOT NULL,          -- duration, 0: not known
    size_bytes INTEGER NOT NULL        -- size of frames.db
)

CREATE TABLE IF NOT EXISTS splits (
    id   INTEGER PRIMARY KEY,          -- for references only
    name TEXT NOT NULL UNIQUE          -- train, val, test, or split1/train where the data set has several divisions
)

CREATE TABLE IF NOT EXISTS split_videos (
    split_id INTEGER NOT NULL REFERENCES splits (id) ON DELETE CASCADE,  -- a split may have no videos
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,  -- a video may be in several splits
    PRIMARY KEY (split_id, video_id)
) WITHOUT ROWID

CREATE INDEX IF NOT EXISTS split_videos_by_video ON split_videos (video_id)

CREATE TABLE IF NOT EXISTS segments (
    id       INTEGER PRIMARY KEY,      -- for references only
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,  -- an untrimmed video
    start    REAL NOT NULL,            -- seconds from the first frame, inclusive
    stop     REAL NOT NULL,            -- seconds from the first frame, exclusive
    class_id INTEGER NOT NULL REFERENCES classes (id)  -- what is to be seen between start and stop
)

CREATE INDEX IF NOT EXISTS segments_by_video ON segments (video_id, start)
"""


@dataclass(frozen=True)
class VideoRecord:
    """One converted video, as a row of the catalog.

    Attributes:
        path: folder of its frames.db relative to the data set, with forward slashes: `jpg/run/clip_1`.
        label: class name, or None.
        frames: number of frames.
        height: of a frame, pixels.
        width: of a frame, pixels.
        fps: mean frame rate, 0 where it is not known.
        seconds: duration, 0 where it is not known.
        size_bytes: size of frames.db.
        split: split that the video belongs to, or None to leave its splits as they are.
    """

    path: str
    label: str | None
    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    size_bytes: int
    split: str | None = None


def catalog_path(root: str | Path) -> Path:
    """Path of the data set's catalog."""
    return Path(root) / "catalog.db"


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raises ValueError where `path` is not a catalog that this version reads."""
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"{path}: not a catalog ({error}); remove it and run `vidseg labels scan {path.parent}`"
        ) from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: written in format {version} by a newer vidseg; this one reads format {FORMAT_VERSION}, update it"
        )
    if version == 0 or "videos" not in tables:
        raise ValueError(
            f"{path}: an SQLite file, but not a vidseg catalog; remove it and run `vidseg labels scan {path.parent}`"
        )


def read_catalog(root: str | Path) -> sqlite3.Connection:
    """Opens the catalog for reading; close it with `contextlib.closing`.

    Raises:
        FileNotFoundError: there is no catalog.
        ValueError: the file is not a catalog, or of a newer format.
    """
    path = catalog_path(root)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the data set has no catalog; run `vidseg labels scan {root}` to make it")
    # mode=rw, not ro: where a writer was killed, SQLite has to roll its journal back before anyone can read. On a
    # read-only disk SQLite opens for reading by itself.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)
    try:
        check_format(connection, path)
    except ValueError:
        connection.close()
        raise
    return connection


@contextmanager
def write_catalog(root: str | Path) -> Iterator[Database]:
    """The catalog of `root` (made where there is none) inside one transaction: committed at the end or not at all."""
    from sqlite_utils import Database

    path = catalog_path(root)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            raise _write_error(path, error) from error
        try:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in SCHEMA.split("\n\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            check_format(connection, path)
            yield Database(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            # Disk full may have rolled back already.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise _write_error(path, error) from error
            raise
    finally:
        connection.close()


def _write_error(path: Path, error: sqlite3.DatabaseError) -> Exception:
    if isinstance(error, sqlite3.OperationalError):
        return OSError(f"{path}: cannot write the catalog ({error}); it is as it was before")
    return ValueError(f"{path}: not a catalog ({error}); remove it and run `vidseg labels scan {path.parent}`")


def update_catalog(root: str | Path, records: Iterable[VideoRecord]) -> None:
    """Adds videos to the catalog of `root`, or replaces what it says of them; all in one transaction.

    A label that only repeats the class folder's name never replaces a label already there, which came from a label
    file; nor does None. A split takes the place of the video's other splits of the same division (`split1/train` that
    of `split1/test`, `train` that of `val`). New classes come after those already known, in sorted order.

    Raises:
        ValueError: a path that is not of the form `jpg/<class>/<video>`, or names that cannot be stored.
        OSError: the catalog cannot be written; it is as it was before.
    """
    with write_catalog(root) as db:
        stage_records(db, records)
        merge_staged(db)


def stage_records(db: Database, records: Iterable[VideoRecord]) -> None:
    """Puts records into the temporary table `staged`; of two with one path the later stays."""
    db.conn.execute(
        "CREATE TEMP TABLE staged (path TEXT PRIMARY KEY, label TEXT, from_folder INTEGER, frames INTEGER,"
        " height INTEGER, width INTEGER, fps REAL, seconds REAL, size_bytes INTEGER, split TEXT) WITHOUT ROWID"
    )
    db.conn.executemany("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, records))


def _row(record: VideoRecord) -> tuple[str, str | None, bool, int, int, int, float, float, int, str | None]:
    parts = record.path.split("/")
    if len(parts) != 3 or parts[0] != "jpg" or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"video path {record.path!r}: expected jpg/<class>/<video>, relative to the data set")
    if record.label == "" or record.split == "":
        raise ValueError(f"{record.path}: an empty label or split; use None")
    try:
        "".join((record.path, record.label or "", record.split or "")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{record.path!r}: the name is not valid UTF-8; rename the video") from error
    return (
        record.path,
        record.label,
        record.label == parts[1],
        record.frames,
        record.height,
        record.width,
        record.fps,
        record.seconds,
        record.size_bytes,
        record.split,
    )


def merge_staged(db: Database) -> None:
    """Inserts or replaces the videos, classes and splits of the table `staged`."""
    conn = db.conn
    add_classes(
        conn,
        [
            name
            for (name,) in conn.execute(
                "SELECT DISTINCT s.label FROM staged s LEFT JOIN videos v USING (path)"
                " WHERE s.label IS NOT NULL AND NOT (s.from_folder AND v.class_id IS NOT NULL)"
            )
        ],
    )
    # Rows go in by path (staged is sorted by it), so that reading a data set in the order of its paths reads the file
    # from front to back.
    conn.execute(
        "INSERT INTO videos (path, class_id, frames, height, width, fps, seconds, size_bytes)"
        " SELECT s.path,"
        "   CASE WHEN s.label IS NULL OR (s.from_folder AND v.class_id IS NOT NULL) THEN v.class_id ELSE c.id END,"
        "   s.frames, s.height, s.width, s.fps, s.seconds, s.size_bytes"
        " FROM staged s LEFT JOIN videos v USING (path) LEFT JOIN classes c ON c.name = s.label"
        " WHERE true ORDER BY s.path"
        " ON CONFLICT (path) DO UPDATE SET class_id = excluded.class_id, frames = excluded.frames,"
        "   height = excluded.height, width = excluded.width, fps = excluded.fps, seconds = excluded.seconds,"
        "   size_bytes = excluded.size_bytes"
    )
    names = [name for (name,) in conn.execute("SELECT DISTINCT split FROM staged WHERE split IS NOT NULL")]
    for split_id, name in zip(split_ids(db, names), names, strict=True):
        division = [row_id for row_id, other in conn.execute("SELECT id, name FROM splits") if _same(name, other)]
        conn.execute(
            f"DELETE FROM split_videos WHERE split_id IN ({','.join('?' * len(division))}) AND video_id IN"
            " (SELECT v.id FROM staged s JOIN videos v USING (path) WHERE s.split = ?)",
            (*division, name),
        )
        conn.execute(
            "INSERT INTO split_videos SELECT ?, v.id FROM staged s JOIN videos v USING (path) WHERE s.split = ?",
            (split_id, name),
        )
    conn.execute("DROP TABLE staged")
    logger.debug("catalog: %d videos", db["videos"].count)


def _same(split: str, other: str) -> bool:
    """Whether two splits belong to one division of the data set, which has a video once."""
    return split.rpartition("/")[0] == other.rpartition("/")[0]


def split_ids(db: Database, names: Iterable[str]) -> list[int]:
    """Row ids of the named splits, which are made where they do not exist."""
    ids = []
    for name in names:
        db.conn.execute("INSERT OR IGNORE INTO splits (name) VALUES (?)", (name,))
        ids.append(db.conn.execute("SELECT id FROM splits WHERE name = ?", (name,)).fetchone()[0])
    return ids
