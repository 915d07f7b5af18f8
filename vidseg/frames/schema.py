"""The on-disk format of frames.db: tables, keys, frame names. See docs/frame_databases.md.

`Images` has the column names and meanings of dataset2database 1.2, so that its readers can read our files. Rows are in
frame order: the rowid is the frame number, and a frame is found by one integer look-up.
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
TIMESTAMPS = "timestamps"  # the only BLOB of meta: seconds as little-endian float64, one for each frame

TABLES = (
    # ObjId: <video>/frame_%05d, from 1; frames: a JPEG; size: its width in pixels
    "CREATE TABLE Images(ObjId TEXT PRIMARY KEY, frames BLOB NOT NULL, size INT)",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # level 1: half the side, 2: a quarter; frame: number from 1, as the rowid of Images
    "CREATE TABLE Levels(level INT NOT NULL, frame INT NOT NULL, jpeg BLOB NOT NULL, PRIMARY KEY(level, frame))",
)

_NAME = re.compile(r"(?:.*/)?frame_(\d+)", re.DOTALL)  # a video name may contain any character


class FrameDatabaseError(RuntimeError):
    """A frame database or a frame cannot be read or written; the message has the file, the frame and the reason."""


def frame_name(video: str, number: int) -> str:
    """Return the ObjId of frame `number` (from 1) of `video`."""
    return f"{video}/frame_{number:05d}"


def frame_number(name: object) -> int | None:
    """Return the frame number of an ObjId, or None if it has none."""
    match = _NAME.fullmatch(str(name))
    return int(match[1]) if match else None


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open a database read-only and immutable: without locks, a journal or new files.

    Raises:
        FileNotFoundError: no such file.
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
