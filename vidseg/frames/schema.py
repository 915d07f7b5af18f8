"""The on-disk form of frames.db: tables, key names, frame names. See docs/frame_databases.md.

`Images` keeps the names and meaning that dataset2database 1.2 published, so that its readers work on our files. Rows
are written in frame order: rowid = frame number, and reading a frame is one integer look-up.
"""

import re
import sqlite3
from pathlib import Path

__all__ = [
    "DATABASE_NAME",
    "FORMAT",
    "TABLES",
    "TIMESTAMPS",
    "FrameDatabaseError",
    "connect_read_only",
    "frame_name",
    "frame_number",
]

DATABASE_NAME = "frames.db"
COUNT_NAME = "n_frames"
FORMAT = "vidseg frames 1"
TIMESTAMPS = "timestamps"  # the one meta value that is a BLOB: float64 little endian seconds, one for each frame

TABLES = (
    # ObjId: <video>/frame_%05d, from 1; frames: a JPEG; size: its width in pixels
    "CREATE TABLE Images(ObjId TEXT PRIMARY KEY, frames BLOB NOT NULL, size INT)",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # level 1: half the side, 2: a quarter; frame: number from 1, as the rowid of Images
    "CREATE TABLE Levels(level INT NOT NULL, frame INT NOT NULL, jpeg BLOB NOT NULL, PRIMARY KEY(level, frame))",
)

_NAME = re.compile(r"(?:.*/)?frame_(\d+)", re.DOTALL)  # a name may hold any character


class FrameDatabaseError(RuntimeError):
    """A frame database, or a frame in it, cannot be read or written; the message names both and the reason."""


def frame_name(video: str, number: int) -> str:
    """The ObjId of frame `number` (from 1) of `video`."""
    return f"{video}/frame_{number:05d}"


def frame_number(name: object) -> int | None:
    """The frame number in an ObjId, or None where it has none."""
    match = _NAME.fullmatch(str(name))
    return int(match[1]) if match else None


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a database that nobody writes to: no locks, no journal, no file is created.

    Raises:
        FileNotFoundError: there is no such file.
        FrameDatabaseError: SQLite cannot open it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such frame database")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        connection.execute("PRAGMA trusted_schema=OFF")
    except sqlite3.Error as error:
        raise FrameDatabaseError(f"{path}: cannot open: {error}") from error
    return connection
