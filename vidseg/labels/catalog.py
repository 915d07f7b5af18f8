"""Catalog of a data set (catalog.db): videos, classes, splits and segments in one SQLite file.

`<root>/catalog.db` stores what training needs before the first frame is read: frame count, frame size, class and split
of each video. Opening Kinetics-700 therefore takes seconds and opens none of its 650 000 databases. The schema below is
the format. Every writer uses one transaction, so an interrupted process leaves the catalog unchanged.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.frames.schema import check_tables, guard, raise_interrupt
from vidseg.labels.catalog_content import check_content
from vidseg.labels.catalog_lock import connect_to_copy, is_locked, lacks_locks, lock_holder

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = [
    "FORMAT_VERSION",
    "catalog_path",
    "check_writable",
    "read_catalog",
    "write_catalog",
]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Stored in the file as `PRAGMA user_version`; readers refuse larger versions."""

# A message of SQLite that quotes undecodable text of the file raises UnicodeDecodeError.
_SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_BUSY_SECONDS = 60.0  # time that a command waits for a writer, such as another shard
_NOTICE_SECONDS = 2.0  # time after which a log line says that it waits
# What SQLite says of a file with another schema or other text, beside the errors of damaged pages.
_DAMAGE = ("no such", "decode to UTF-8", "malformed", "cannot", "unrecognized", "error in", "unknown", "has no column")
_TABLES = ("classes", "videos", "splits", "split_videos", "segments")

SCHEMA = """
CREATE TABLE IF NOT EXISTS classes (
    id       INTEGER PRIMARY KEY,      -- for references only; the model's class number is `number`
    number   INTEGER NOT NULL UNIQUE,  -- class number in training, 0 to K - 1
    name     TEXT NOT NULL UNIQUE,     -- as in the label file, or the name of the class folder
    official INTEGER NOT NULL          -- 1: number fixed by an official class list, 0: numbered by sorted names
)

CREATE TABLE IF NOT EXISTS videos (
    id         INTEGER PRIMARY KEY,    -- for references only
    path       TEXT NOT NULL UNIQUE,   -- folder of frames.db relative to the data set: jpg/<class>/<video>
    class_id   INTEGER REFERENCES classes (id),  -- NULL: no class (unlabeled, or untrimmed with segments)
    frames     INTEGER NOT NULL,       -- number of frames
    height     INTEGER NOT NULL,       -- frame height in pixels
    width      INTEGER NOT NULL,       -- frame width in pixels
    fps        REAL NOT NULL,          -- mean frame rate, 0: unknown (database of dataset2database 1.2)
    seconds    REAL NOT NULL,          -- duration, 0: unknown
    size_bytes INTEGER NOT NULL        -- size of frames.db
)

CREATE TABLE IF NOT EXISTS splits (
    id   INTEGER PRIMARY KEY,          -- for references only
    name TEXT NOT NULL UNIQUE          -- train, val, test, or split1/train if the data set has several divisions
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
    class_id INTEGER NOT NULL REFERENCES classes (id)  -- class shown between start and stop
)

CREATE INDEX IF NOT EXISTS segments_by_video ON segments (video_id, start)
"""


def catalog_path(root: str | Path) -> Path:
    """Return the path of the data set's catalog."""
    return Path(root) / "catalog.db"


def check_format(connection: sqlite3.Connection, path: Path, *, content: bool) -> None:
    """Check that `path` is a catalog of a supported format, with ordinary tables and without triggers.

    Args:
        connection: the open file.
        path: the file, for messages.
        content: check the values of all rows, too.

    Raises:
        ValueError: it is not; the message says what to do.
        sqlite3.Error: the file is locked, or cannot be read.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    try:
        tables = check_tables(connection, (*_TABLES, "timelines", "video_classes", "video_values", "label_changes"))
    except ValueError as error:
        raise _explain(path, error) from error
    trigger = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' LIMIT 1").fetchone()
    if trigger is not None:
        raise ValueError(
            f"{path}: the catalog has the trigger {trigger[0]!r:.60}, which vidseg does not run; remove the trigger"
        )
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: written in format {version} by a newer vidseg; update vidseg, which reads format {FORMAT_VERSION}"
        )
    if version == 0 or not tables >= set(_TABLES):
        raise ValueError(f"{path}: not a vidseg catalog; {_rebuild(path)}")
    if content:
        try:
            check_content(connection, tables)
        except ValueError as error:
            raise ValueError(f"{path}: damaged catalog: {error}; {_rebuild(path)}") from error


def _rebuild(path: Path) -> str:
    return (
        f"keep it under another name and run `vidseg labels scan {path.parent}`, which lists the videos again; splits"
        " and segments come from `vidseg labels apply`"
    )


def _explain(path: Path, error: Exception) -> Exception:
    """Return the exception for an error of SQLite: whether the file is locked, cannot be accessed, or is no catalog."""
    if isinstance(error, sqlite3.Error):
        raise_interrupt(error)
    if isinstance(error, sqlite3.Error) and lacks_locks(error, path):
        return OSError(
            f"{path}: the file system has no file locks, so the catalog cannot be written safely; it is unchanged. Run"
            " the command on the machine that has the disk, mount the disk with locks, or use a data set folder on a"
            " local disk"
        )
    if isinstance(error, sqlite3.Error) and is_locked(error):
        return TimeoutError(
            f"{path}: locked by {lock_holder(path)} for more than {_BUSY_SECONDS:.0f} seconds. The catalog is not"
            " damaged: run the command again when that process has finished; `lsof` and `fuser` show who uses the file"
        )
    if isinstance(error, sqlite3.OperationalError) and not any(sign in str(error) for sign in _DAMAGE):
        return OSError(f"{path}: cannot access the catalog ({error}); it is unchanged")
    return ValueError(f"{path}: not a catalog ({error!s:.300}); {_rebuild(path)}")


def _begin(connection: sqlite3.Connection, path: Path, *statements: str) -> None:
    """Begin a transaction, waiting for a writer; a log line says so after a moment.

    Raises:
        sqlite3.Error: the file stays locked, or cannot be read.
    """
    for seconds in (_NOTICE_SECONDS, _BUSY_SECONDS - _NOTICE_SECONDS):
        connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        try:
            for statement in statements:
                connection.execute(statement).fetchone()
            break
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if seconds != _NOTICE_SECONDS or not is_locked(error) or lacks_locks(error, path):
                raise
            logger.warning(
                "%s: locked by %s; waiting up to %.0f seconds", path, lock_holder(path), _BUSY_SECONDS - _NOTICE_SECONDS
            )
    connection.execute(f"PRAGMA busy_timeout = {round(_BUSY_SECONDS * 1000)}")


@contextmanager
def read_catalog(root: str | Path, *, content: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the catalog for reading, in one transaction; it is closed at the end of the context.

    Where the file system has no file locks, a local copy is read.

    Args:
        root: folder of the data set.
        content: check the values of all rows before they are read.

    Raises:
        FileNotFoundError: the data set or its catalog does not exist.
        ValueError: the file is not a catalog, is damaged, or has a newer format.
        TimeoutError: another process keeps the catalog locked.
        OSError: the file cannot be read.
    """
    path = catalog_path(root)
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: folder not found")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the data set has no catalog; run `vidseg labels scan {root}` to create it")
    connection = None
    try:
        connection = _connect(path)
        check_format(connection, path, content=content)
        yield connection
    except _SQLITE_ERRORS as error:
        raise _explain(path, error) from error
    finally:
        if connection is not None:
            connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open a catalog, or a copy of it, and begin to read.

    Raises:
        sqlite3.Error: SQLite cannot read it.
        OSError: it cannot be copied.
    """
    connection = None
    try:
        # mode=rw, not ro: after a writer was killed, SQLite has to roll back its journal before the file can be read.
        # On a read-only disk SQLite falls back to read-only access.
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        guard(connection)
        _begin(connection, path, "BEGIN", "SELECT count(*) FROM sqlite_master")
    except _SQLITE_ERRORS as error:
        if connection is not None:
            connection.close()
        if not isinstance(error, sqlite3.Error) or not lacks_locks(error, path):
            raise
        logger.info("%s: the file system has no file locks; reading a copy", path)
        connection = connect_to_copy(path)
        guard(connection)
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


@contextmanager
def write_catalog(root: str | Path, *, create: bool = True) -> Iterator[Database]:
    """Open the catalog of `root` in one transaction, committed at the end of the context.

    Args:
        root: folder of the data set.
        create: create a missing catalog.

    Raises:
        FileNotFoundError: the folder does not exist, or the catalog does not and `create` is False.
        ValueError: the file is not a catalog, is damaged, or has a newer format.
        TimeoutError: another process keeps the catalog locked.
        OSError: the catalog cannot be written, or its file system has no locks; it is unchanged.
    """
    from sqlite_utils import Database

    path = catalog_path(root)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{root}: folder not found")
    if not create and not path.is_file():
        raise FileNotFoundError(f"{path}: the data set has no catalog; run `vidseg labels scan {root}` to create it")
    try:
        connection = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    try:
        try:
            guard(connection)
            connection.execute("PRAGMA foreign_keys = ON")
            _begin(connection, path, "BEGIN IMMEDIATE")
        except _SQLITE_ERRORS as error:
            raise _explain(path, error) from error
        try:
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in SCHEMA.split("\n\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
            check_format(connection, path, content=True)
            yield Database(connection)
            connection.execute("COMMIT")
        except BaseException as error:
            # A full disk may already have caused a rollback.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, _SQLITE_ERRORS):
                raise _explain(path, error) from error
            raise
    finally:
        connection.close()


def check_writable(root: str | Path) -> None:
    """Check, before long work, that the catalog of `root` can be written; creates it if it is missing.

    Raises:
        ValueError: the file is not a catalog, or has a newer format.
        TimeoutError: another process keeps the catalog locked.
        OSError: the catalog cannot be written, or its file system has no locks.
    """
    with write_catalog(root):
        pass
