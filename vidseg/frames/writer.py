"""Writer of frames.db and the databases beside it: a database is published complete or not at all."""

import os
import re
import secrets
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from vidseg.frames.schema import (
    COUNT_NAME,
    DATABASE_NAME,
    DATABASE_NAMES,
    FORMAT,
    TABLES,
    TIMESTAMPS,
    FrameDatabaseError,
    connect_read_only,
    frame_name,
)

__all__ = ["DatabaseWriter", "FrameWriter", "remove_temporary_files", "temporary_files"]

# The names of temporary files: those of the file to write, 16 random hexadecimal digits, and this suffix.
_SUFFIX = ".tmp"
_NAMES = "|".join(map(re.escape, (*DATABASE_NAMES.values(), COUNT_NAME)))
_TEMPORARY = re.compile(rf"(?:{_NAMES})\.[0-9a-f]{{16}}\.tmp(?:-journal)?")


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files of writers of `folder`, sorted; other files with the suffix .tmp are not among them.

    Args:
        folder: folder of a video; may be missing.
    """
    try:
        return sorted(path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name))
    except OSError:  # missing, or a name that is too long to exist
        return []


def remove_temporary_files(folder: Path) -> None:
    """Delete the temporary files that a killed writer has left in the folder of a video."""
    for path in temporary_files(folder):
        path.unlink(missing_ok=True)


class DatabaseWriter:
    """Writes one database and its n_frames, under a temporary name until all data is on disk and verified.

    Base class of the writers of each kind of rows. Use them as context managers: a normal exit publishes the database,
    an exception removes the temporary files. Memory use does not depend on the length of the video.

    Args:
        path: the frames.db to write, or another database beside it, which has no n_frames. Its folder, which is made if
            needed, is the name of the video. An existing database is replaced.
        meta: additional entries of the meta table: text, integers or floats.

    Attributes:
        count: number of frames so far.
        timestamps: their presentation times in seconds.

    Raises:
        OSError: the folder cannot be made or written to.
        FrameDatabaseError: SQLite cannot write, or reading back gives other data.
    """

    _format = FORMAT
    _tables: Sequence[str] = TABLES
    _pragmas: Sequence[str] = ()

    def __init__(self, path: str | Path, *, meta: Mapping[str, str | int | float | None] | None = None) -> None:
        self.path = Path(path)
        self.meta = dict(meta or {})
        self.count = 0
        self._crc32 = 0  # of all BLOBs so far
        self.timestamps: list[float] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._video = self.path.resolve().parent.name
        self._temporary = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}{_SUFFIX}")
        try:
            self._connection = sqlite3.connect(self._temporary, isolation_level=None)
            # The temporary file is deleted after any failure, so that SQLite need not be able to recover it.
            # No page is read again: a small cache, of 256 KiB, fits the processor's.
            pragmas = (*self._pragmas, "cache_size=-256", "journal_mode=OFF", "synchronous=OFF")
            for statement in (*(f"PRAGMA {pragma}" for pragma in pragmas), *self._tables, "BEGIN"):
                self._connection.execute(statement)
        except sqlite3.Error as error:
            self.discard()
            raise self._failure(error) from error

    def __enter__(self) -> "DatabaseWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def finish(self) -> None:
        """Write the metadata, verify the file on disk, and rename it to its final name.

        Raises:
            FrameDatabaseError: no frame was added, SQLite cannot write, or reading back gives other data.
        """
        if self.count == 0:
            self.discard()
            raise FrameDatabaseError(f"{self.path}: no frame was added")
        try:
            self._write_meta()
            self._connection.execute("COMMIT")
            self._connection.close()
            self._read_back()
            _sync(self._temporary)
            if self.path.name == DATABASE_NAME:
                self._write_count()  # first: a video counts as converted when its database has the final name
            self._temporary.replace(self.path)
            _sync(self.path.parent)
        except sqlite3.Error as error:
            raise self._failure(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `finish`."""
        if hasattr(self, "_connection"):
            self._connection.close()
        for path in (self._temporary, Path(f"{self._temporary}-journal")):
            path.unlink(missing_ok=True)

    def _write_meta(self) -> None:
        rows: dict[str, object] = {
            **{key: value for key, value in self.meta.items() if value is not None},
            **self._own_meta(),
            "format": self._format,
            "frames": self.count,
            "crc32": self._crc32,
        }
        if self.timestamps:
            rows[TIMESTAMPS] = np.asarray(self.timestamps, "<f8").tobytes()
        self._connection.executemany("INSERT INTO meta VALUES (?, ?)", sorted(rows.items()))

    def _write_count(self) -> None:
        count_file = self._temporary.with_name(f"{COUNT_NAME}.{secrets.token_hex(8)}{_SUFFIX}")
        try:
            count_file.write_text(str(self.count))
            _sync(count_file)
            count_file.replace(self.path.with_name(COUNT_NAME))
        finally:
            count_file.unlink(missing_ok=True)

    def _own_meta(self) -> dict[str, object]:
        """Entries of the meta table that the kind of rows needs."""
        return {}

    def _stamp(self, timestamp: float | None) -> None:
        """Take the time of the next frame.

        Raises:
            ValueError: a timestamp for some frames only.
        """
        if self.count and (timestamp is None) != (not self.timestamps):
            raise ValueError(f"{self.path}: frame {self.count}: give every frame a timestamp, or none")
        if timestamp is not None:
            self.timestamps.append(timestamp)

    def _read_back(self) -> None:
        """Compare the stored rows with those that were added; raise FrameDatabaseError if they differ."""
        raise NotImplementedError

    def _failure(self, error: sqlite3.Error) -> FrameDatabaseError:
        return FrameDatabaseError(f"{self.path}: cannot write: {error}")


class FrameWriter(DatabaseWriter):
    """Writes one frames.db of JPEGs, complete or not at all.

        with FrameWriter("data/jpg/run/clip_1/frames.db", levels=2) as writer:
            writer.add(jpeg, width=340, timestamp=0.0, levels=(half, quarter))

    Args:
        path: the frames.db to write, or another database beside it, which has no n_frames. Its folder, which is made if
            needed, is the name of the video. An existing database is replaced.
        levels: number of smaller copies of each frame.
        meta: additional entries of the meta table: text, integers or floats.

    Raises:
        OSError: the folder cannot be made or written to.
        FrameDatabaseError: SQLite cannot write, or reading back gives other data.
    """

    # A JPEG fills its last page by half: small pages waste less, and are read as fast.
    _pragmas = ("page_size=1024",)

    def __init__(
        self, path: str | Path, *, levels: int = 0, meta: Mapping[str, str | int | float | None] | None = None
    ) -> None:
        super().__init__(path, meta=meta)
        self.levels = levels

    def __enter__(self) -> "FrameWriter":
        return self

    def add(self, jpeg: bytes, *, width: int, timestamp: float | None = None, levels: Sequence[bytes] = ()) -> None:
        """Append one frame.

        Args:
            jpeg: JPEG of the frame, stored unchanged.
            width: width of the frame in pixels.
            timestamp: presentation time in seconds; for all frames of a video or for none.
            levels: JPEGs of the smaller copies, the one of half the side first.

        Raises:
            ValueError: a wrong number of levels, or a timestamp for some frames only.
            FrameDatabaseError: SQLite cannot write.
        """
        if len(levels) != self.levels:
            raise ValueError(f"{self.path}: frame {self.count} has {len(levels)} levels, expected {self.levels}")
        self._stamp(timestamp)
        number = self.count + 1
        try:
            self._connection.execute(
                "INSERT INTO Images VALUES (?, ?, ?)", (frame_name(self._video, number), jpeg, width)
            )
            for level, copy in enumerate(levels, start=1):
                self._connection.execute("INSERT INTO Levels VALUES (?, ?, ?)", (level, number, copy))
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._crc32 = zlib.crc32(jpeg, self._crc32)
        self.count = number

    def _own_meta(self) -> dict[str, object]:
        return {"levels": self.levels}

    def _read_back(self) -> None:
        """Compare the stored frames with those that were added, by count and checksum."""
        connection = connect_read_only(self._temporary)
        try:
            checksum, count = 0, 0
            for rowid, jpeg in connection.execute("SELECT rowid, frames FROM Images ORDER BY rowid"):
                count += 1
                checksum = zlib.crc32(jpeg, checksum) if rowid == count else -1
            (copies,) = connection.execute("SELECT count(*) FROM Levels").fetchone()
        finally:
            connection.close()
        if (count, checksum, copies) != (self.count, self._crc32, self.count * self.levels):
            raise FrameDatabaseError(
                f"{self.path}: reading back gives {count} frames and {copies} level copies that differ from the "
                f"{self.count} frames written; check the disk"
            )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
