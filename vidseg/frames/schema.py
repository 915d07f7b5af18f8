"""The on-disk format of frames.db and the databases beside it: tables, keys, frame names.

See docs/frame_databases.md.

`Images` has the column names and meanings of dataset2database 1.2, so that its readers can read our files. Rows are in
frame order: the rowid is the frame number, and a frame is found by one integer look-up.
"""

import re
import sqlite3
import sys
from collections.abc import Collection
from pathlib import Path

__all__ = [
    "DATABASE_NAME",
    "DATABASE_NAMES",
    "FORMAT",
    "STREAM_FORMAT",
    "STREAM_MARK",
    "STREAM_TABLES",
    "TABLES",
    "TIMESTAMPS",
    "FrameDatabaseError",
    "check_tables",
    "connect_read_only",
    "frame_name",
    "frame_number",
    "guard",
    "holds_stream",
    "raise_interrupt",
]

DATABASE_NAME = "frames.db"
DATABASE_NAMES = {"rgb": DATABASE_NAME, "flow": "flow.db", "motion": "motion.db", "residual": "residual.db"}
"""Name of the database of each modality; all are in the folder of their video and have as many rows."""
COUNT_NAME = "n_frames"
FORMAT = "vidseg frames 1"
STREAM_FORMAT = "vidseg video 1"  # the frames are a video stream instead of JPEGs
STREAM_MARK = 0x76734756  # SQLite's application_id of such a file: found without opening the database
TIMESTAMPS = "timestamps"  # the only BLOB of meta: seconds as little-endian float64, one for each frame

_META = "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID"
TABLES = (
    # ObjId: <video>/frame_%05d, from 1; frames: a JPEG; size: its width in pixels
    "CREATE TABLE Images(ObjId TEXT PRIMARY KEY, frames BLOB NOT NULL, size INT)",
    _META,
    # level 1: half the side, 2: a quarter; frame: number from 1, as the rowid of Images
    "CREATE TABLE Levels(level INT NOT NULL, frame INT NOT NULL, jpeg BLOB NOT NULL, PRIMARY KEY(level, frame))",
)
STREAM_TABLES = (
    # key_frame: number of the first frame of a group, from 1; packets: see packet_group.py
    "CREATE TABLE Stream(key_frame INTEGER PRIMARY KEY, packets BLOB NOT NULL)",
    _META,
)

_NAME = re.compile(r"(?:.*/)?frame_([0-9]{1,18})", re.DOTALL)  # a video name may contain any character

# Limits of files from elsewhere, far above those of any real file.
MAX_LEVELS = 8
MAX_SIDE = 65535  # pixels; the limit of JPEG
_MAX_TABLES = 1000  # tables, indices, views and triggers
_MAX_COLUMNS = 100
_LONGEST_VALUE = 1 << 28  # bytes of one cell
_HEADER = 100  # bytes of an SQLite file before its pages
_MARK = slice(68, 72)  # application_id
_STEPS = 100_000  # steps of SQLite's virtual machine between two checks for Ctrl-C


class FrameDatabaseError(RuntimeError):
    """A frame database or a frame cannot be read or written; the message has the file, the frame and the reason."""


def frame_name(video: str, number: int) -> str:
    """Return the ObjId of frame `number` (from 1) of `video`."""
    return f"{video}/frame_{number:05d}"


def frame_number(name: object) -> int | None:
    """Return the frame number of an ObjId, or None if it has none."""
    match = _NAME.fullmatch(str(name))
    return int(match[1]) if match else None


def holds_stream(path: str | Path) -> bool:
    """Return whether a frame database holds a video stream, by the header of the file; False if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            header = file.read(_HEADER)
    except OSError:
        return False
    return int.from_bytes(header[_MARK], "big") == STREAM_MARK


def guard(connection: sqlite3.Connection) -> None:
    """Prepare a connection for a file from elsewhere: functions in its schema do not run, and Ctrl-C ends a query."""
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    # Python handles signals when it runs code; a query without this handler would run to its end first.
    connection.set_progress_handler(lambda: 0, _STEPS)
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)


def raise_interrupt(error: sqlite3.Error) -> None:
    """Raise KeyboardInterrupt if a query ended because of Ctrl-C, which SQLite reports as an error of its own."""
    if str(error) == "interrupted":
        raise KeyboardInterrupt from error


def check_tables(connection: sqlite3.Connection, names: Collection[str]) -> set[str]:
    """Return which of the named tables a database has, after checking that they are ordinary tables.

    A view, a virtual table or a generated column is a program that runs when a row is read.

    Raises:
        ValueError: one of the names is no table, or has generated columns.
        sqlite3.Error: the schema cannot be read.
    """
    rows = connection.execute(
        "SELECT type, name, rootpage FROM sqlite_master WHERE type != 'index' LIMIT ?", (_MAX_TABLES + 1,)
    ).fetchall()
    if len(rows) > _MAX_TABLES:
        raise ValueError(f"it has more than {_MAX_TABLES} tables")
    wanted, found = {name.casefold() for name in names}, set()
    for kind, name, root_page in rows:
        if kind == "trigger" or not isinstance(name, str) or name.casefold() not in wanted:
            continue
        if kind != "table" or not root_page:
            raise ValueError(f"{name} is a {'virtual table' if kind == 'table' else kind}, not a table")
        columns = connection.execute(f'PRAGMA table_xinfo("{name}")').fetchmany(_MAX_COLUMNS + 1)
        if len(columns) > _MAX_COLUMNS:
            raise ValueError(f"table {name} has more than {_MAX_COLUMNS} columns")
        generated = [column[1] for column in columns if column[6]]
        if generated:
            raise ValueError(f"table {name} has the generated column {generated[0]!r:.60}")
        found.add(name)
    return found & set(names)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a database read-only and immutable: without locks, a journal or new files.

    Raises:
        FileNotFoundError: no such file.
        FrameDatabaseError: SQLite cannot open it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such frame database")
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        guard(connection)
    except sqlite3.Error as error:
        raise FrameDatabaseError(f"{path}: cannot open: {error}") from error
    return connection
