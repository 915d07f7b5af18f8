"""Reader of frames.db: decoded frames, JPEGs, metadata.

A `FrameDatabase` has no open file. The compiled library keeps a bounded pool of connections per process, so that an
object can be shared by threads, pickled, and used in a parent process and its forked children.

torch is imported by the first read, so that metadata of many databases are read without it.
"""

from __future__ import annotations

import itertools
import operator
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeGuard

import numpy as np

from vidseg.frames.schema import (
    MAX_LEVELS,
    MAX_SIDE,
    STREAM_FORMAT,
    TIMESTAMPS,
    FrameDatabaseError,
    check_tables,
    connect_read_only,
    frame_number,
    raise_interrupt,
)

if TYPE_CHECKING:
    import torch

    from vidseg.frames.stored_stream import StoredStream

    Indices = Iterable[int] | np.ndarray | torch.Tensor

__all__ = ["FrameDatabase"]

_STREAMED = 16  # number of frames that `stream` decodes at a time
_MAX_ENTRIES = 1000  # of the metadata
_LONGEST_ENTRY = 1 << 24  # bytes, except the timestamps
_SMALLEST_ROW = 4  # bytes that a row needs at least in its file


class FrameDatabase:
    """The frames of one video.

    `video[0]` is one frame, uint8 (H, W, 3); `video[2:5]` are several, uint8 (T, H, W, 3); iteration yields all frames.

    Reads databases of `FrameWriter` (JPEGs), of `StreamWriter` (a video stream), and of dataset2database 1.2 (no key,
    rows in any order, no metadata). Frame indices count from 0 in temporal order, whatever the order of the rows.

    Args:
        path: a frames.db file, or its folder.

    Attributes:
        meta: the metadata, see docs/frame_databases.md.
        coded: the video stream; None if the frames are JPEGs.

    Raises:
        FileNotFoundError: no such file.
        FrameDatabaseError: not a frame database, or a database without frames.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / "frames.db" if path.is_dir() else path
        self.closed = False
        self._frame_size: tuple[int, int] | None = None
        connection = connect_read_only(self.path)
        try:
            most = self.path.stat().st_size // _SMALLEST_ROW
            self.meta: dict[str, Any] = _read_meta(connection)
            # rowid of each frame; None: frame i has rowid i + 1, as in every file of FrameWriter
            self._rows: np.ndarray | None = None
            if "format" in self.meta:
                self._count = _whole(self.meta, "frames", 0, most)
            else:
                self._rows = _frame_order(connection, most)
                self._count = len(self._rows)
            _check_meta(self.meta)
            self.coded: StoredStream | None = None
            if self.meta.get("format") == STREAM_FORMAT:
                from vidseg.frames.stored_stream import StoredStream

                self.coded = StoredStream(self.path, self.meta, self._count)
        except sqlite3.Error as error:
            raise_interrupt(error)
            raise FrameDatabaseError(f"{self.path}: not a frame database: {error}") from error
        except (OverflowError, ValueError) as error:
            raise FrameDatabaseError(f"{self.path}: not a frame database: {error}") from error
        finally:
            connection.close()
        if self._count == 0:
            raise FrameDatabaseError(f"{self.path}: has no frames; convert its video again")

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        height, width = self.frame_size
        form = f"{self.levels} levels" if self.coded is None else self.coded.codec
        return f"FrameDatabase({str(self.path)!r}: {len(self)} frames of {width}x{height}, {form})"

    def __enter__(self) -> FrameDatabase:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Make later reads raise ValueError. No file is open between reads, so that nothing needs to be freed."""
        self.closed = True

    @property
    def name(self) -> str:
        """Name of the video: the name of the database's folder."""
        return self.path.resolve().parent.name

    @property
    def store(self) -> Literal["jpeg", "video"]:
        """What the frames are stored as: one JPEG each, or a video stream."""
        return "jpeg" if self.coded is None else "video"

    @property
    def levels(self) -> int:
        """Number of smaller copies of each frame; level k has 1 / 2**k of the width and height."""
        return int(self.meta.get("levels", 0))

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the stored frames in pixels."""
        if self._frame_size is None:
            if "height" in self.meta:
                self._frame_size = int(self.meta["height"]), int(self.meta["width"])
            else:
                _, height, width, _ = self.decode([0]).shape
                self._frame_size = height, width
        return self._frame_size

    @property
    def timestamps(self) -> np.ndarray | None:
        """Presentation time of each frame in seconds, float64 (T,); None for databases of dataset2database 1.2."""
        if not self.meta:
            return None
        connection = connect_read_only(self.path)
        try:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (TIMESTAMPS,)).fetchone()
        except sqlite3.Error as error:
            raise_interrupt(error)
            raise FrameDatabaseError(f"{self.path}: the timestamps cannot be read: {error}") from error
        finally:
            connection.close()
        if row is None:
            return None
        if not isinstance(row[0], bytes) or len(row[0]) % 8:
            raise FrameDatabaseError(f"{self.path}: the timestamps are not a BLOB of float64")
        timestamps = np.frombuffer(row[0], "<f8").copy()
        if not np.isfinite(timestamps).all():
            raise FrameDatabaseError(f"{self.path}: the timestamps are not finite numbers")
        return timestamps

    def read(self, indices: Indices, *, level: int = 0) -> list[bytes]:
        """Return the stored JPEGs, in the order of the indices.

        Args:
            indices: frame numbers from 0, in any order, with or without repetitions.
            level: 0 for the frames themselves, k for the copies with 1 / 2**k of the width and height.

        Raises:
            IndexError: an index is negative or not below `len(self)`.
            ValueError: the database does not have that level, or is closed.
            FrameDatabaseError: a frame is missing or unreadable; the message names it. Or the database holds a video
                stream.
        """
        if self.coded is not None:
            raise FrameDatabaseError(
                f"{self.path}: holds a video stream instead of JPEGs; use decode(), or convert the video with "
                "`--store jpeg`"
            )
        from vidseg.frames.jpeg import split_blobs
        from vidseg.frames.native import operators

        rows = self._rows_for(indices, level)
        if len(rows) == 0:
            return []
        try:
            data, offsets = operators.read(str(self.path), level, rows)
        except RuntimeError as error:
            raise self._explain(error, level) from None
        return split_blobs(data, offsets)

    def decode(
        self, indices: Indices | SupportsIndex, size: int | tuple[int, int] | None = None, level: int | None = None
    ) -> torch.Tensor:
        """Decode frames.

        Args:
            indices: frame numbers from 0, in any order, with or without repetitions; or one number.
            size: (height, width) in pixels, or one number for a square. Whole frames are resampled to this size without
                keeping their aspect ratio (bilinear, antialiased when shrinking). None: the stored size.
            level: stored copy to decode. None: the smallest one that is at least `size`.

        Returns:
            uint8 (T, H, W, 3) in RGB, in the order of the indices; (H, W, 3) for one number.

        Raises:
            IndexError: an index is negative or not below `len(self)`.
            ValueError: the size is not positive, or the database does not have that level, or is closed.
            FrameDatabaseError: a frame is missing or damaged; the message names it.
        """
        import torch

        from vidseg.frames.native import operators

        if not isinstance(indices, Iterable):
            return self.decode([operator.index(indices)], size, level)[0]
        height, width = (0, 0) if size is None else _sides(size)
        if level is None:
            level = self.level_for(height, width) if size is not None else 0
        rows = self._rows_for(indices, level)
        if len(rows) == 0:
            full = self.frame_size
            sides = (height, width) if size is not None else tuple(-(-side >> level) for side in full)
            return torch.empty((0, *sides, 3), dtype=torch.uint8)
        if self.coded is not None:
            return self.coded.rgb(rows.numpy() - 1, *((height, width) if size is not None else self.frame_size))
        try:
            frames: torch.Tensor = operators.decode(str(self.path), level, rows, height, width)
        except RuntimeError as error:
            raise self._explain(error, level) from None
        return frames

    def __getitem__(self, index: SupportsIndex | slice) -> torch.Tensor:
        """Decode one frame, uint8 (H, W, 3), or the frames of a slice, uint8 (T, H, W, 3), in RGB.

        Args:
            index: from 0; negative numbers count from the end. Use `decode` for a list of frame numbers.

        Raises:
            IndexError: there is no such frame.
            TypeError: neither an integer nor a slice.
            FrameDatabaseError: a frame is missing or damaged; the message names it.
        """
        if isinstance(index, slice):
            return self.decode(range(len(self))[index])
        if not _is_number(index):
            raise TypeError(f"{self.path}: index {index!r} is neither an integer nor a slice; use decode() for a list")
        number = index.__index__()
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.path}: frame {number} of a video of {len(self)} frames")
        return self.decode(number % len(self))

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield every frame in order, uint8 (H, W, 3)."""
        return self.stream()

    def stream(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        step: int = 1,
        size: int | tuple[int, int] | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield decoded frames one by one; decodes 16 at a time, so that memory use does not grow with the video.

        Args:
            start: first frame, from 0.
            stop: one more than the last frame. None: the end of the video.
            step: distance between consecutive frames.
            size: as for `decode`.

        Yields:
            uint8 (H, W, 3), RGB.

        Raises:
            ValueError: step below 1.
            IndexError: start or stop outside 0 to `len(self)`.
            FrameDatabaseError: a frame is missing or damaged; the message names it.
        """
        stop = len(self) if stop is None else stop
        if step < 1:
            raise ValueError(f"step={step} must be at least 1")
        if not (0 <= start <= len(self) and 0 <= stop <= len(self)):
            raise IndexError(f"{self.path}: frames {start} to {stop} of a video of {len(self)} frames")
        numbers = np.arange(start, stop, step)
        if self.coded is not None:
            self._rows_for(numbers, 0)
            sides = self.frame_size if size is None else _sides(size)
            return (planes.rgb(sides) for _, planes in self.coded.frames(numbers.tolist()))
        return itertools.chain.from_iterable(
            self.decode(numbers[first : first + _STREAMED], size) for first in range(0, len(numbers), _STREAMED)
        )

    def level_for(self, height: int, width: int) -> int:
        """Return the level of the smallest copy that is at least (height, width); 0 if even the frame is smaller."""
        full_height, full_width = self.frame_size
        fits = (k for k in range(self.levels, 0, -1) if full_height >> k >= height and full_width >> k >= width)
        return next(fits, 0)

    def decoded_size(self, index: int, level: int = 0) -> tuple[int, int]:
        """Decode one frame, or one of its copies, and return its (height, width).

        Raises:
            FrameDatabaseError: it is missing or damaged.
        """
        _, height, width, _ = self.decode([index], level=level).shape
        return height, width

    def verify(self) -> list[str]:
        """Check the database and decode every frame; returns one sentence per fault."""
        from vidseg.frames.verification import verify

        return verify(self)

    def _rows_for(self, indices: Indices, level: int) -> torch.Tensor:
        import torch

        if self.closed:
            raise ValueError(f"{self.path}: the FrameDatabase is closed; open it again")
        if not 0 <= level <= self.levels:
            raise ValueError(f"{self.path}: level {level} of a database with levels 0 to {self.levels}")
        numbers = np.asarray(indices if hasattr(indices, "__len__") else list(indices))
        if numbers.size == 0:
            return torch.empty(0, dtype=torch.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise IndexError(f"{self.path}: frame indices must be a flat list of integers, got {indices!r}")
        numbers = numbers.astype(np.int64)
        outside = numbers[(numbers < 0) | (numbers >= self._count)]
        if outside.size:
            raise IndexError(f"{self.path}: frame {outside[0]} is outside 0 to {self._count - 1}")
        rows = numbers + 1 if self._rows is None else self._rows[numbers]
        return torch.from_numpy(np.ascontiguousarray(rows))

    def _explain(self, error: RuntimeError, level: int) -> FrameDatabaseError:
        """Convert an error of the library about a row to one with the file and the frame number."""
        text = str(error).splitlines()[0]
        row, separator, reason = text.partition(": ")
        if not separator or not row.startswith("row "):
            return FrameDatabaseError(f"{self.path}: {text}")
        number = int(row.removeprefix("row "))
        frame = number - 1 if self._rows is None else int(np.flatnonzero(self._rows == number)[0])
        where = f"frame {frame}" + (f" (level {level})" if level else "")
        return FrameDatabaseError(f"{self.path}: {where}: {reason}")


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a `size=` argument.

    Raises:
        ValueError: a side below 1 pixel.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size {size}: both sides must be at least 1 pixel")
    return height, width


def _read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    tables = check_tables(connection, ("Images", "Stream", "meta", "Levels"))
    if not tables & {"Images", "Stream"}:
        raise ValueError("it has no table Images or Stream")
    if "meta" not in tables:
        return {}
    meta: dict[str, Any] = {}
    for key, size, value in connection.execute(
        # Values that are too long are not read, only named.
        "SELECT substr(key, 1, 100), length(value), CASE WHEN length(value) <= ?1 THEN value END FROM meta"
        " WHERE key != ?2 LIMIT ?3",
        (_LONGEST_ENTRY, TIMESTAMPS, _MAX_ENTRIES + 1),
    ):
        if len(meta) == _MAX_ENTRIES:
            raise ValueError(f"its metadata have more than {_MAX_ENTRIES} entries")
        if (size or 0) > _LONGEST_ENTRY:
            raise ValueError(f"the entry {key!r:.60} of its metadata has {size} bytes, more than {_LONGEST_ENTRY}")
        meta[str(key)] = value
    return meta


def _whole(meta: dict[str, Any], key: str, least: int, most: int) -> int:
    """Return an integer of the metadata.

    Raises:
        ValueError: it is missing, not an integer, or out of range.
    """
    value = meta.get(key)
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"the entry {key!r} of its metadata is {value!r:.40}, expected {least} to {most}")
    return value


def _check_meta(meta: dict[str, Any]) -> None:
    """Check the numbers that memory and time of reading depend on.

    Raises:
        ValueError: a number is out of range.
    """
    if "levels" in meta:
        _whole(meta, "levels", 0, MAX_LEVELS)
    for key in ("height", "width"):
        if key in meta or {"height", "width"} & meta.keys():
            _whole(meta, key, 1, MAX_SIDE)
    for key, unit in (("fps", "frames per second"), ("duration", "seconds")):
        value = meta.get(key)
        if value is not None and not (isinstance(value, int | float) and 0 <= value < 1e9):
            raise ValueError(f"the entry {key!r} of its metadata is {value!r:.40}, expected a number of {unit}")


def _frame_order(connection: sqlite3.Connection, most: int) -> np.ndarray:
    """The rowids of a published database in frame order; the first row of each frame number is used.

    Raises:
        ValueError: a row has no frame number, or there are more than `most` rows.
    """
    rows: dict[int, int] = {}
    names = connection.execute("SELECT rowid, ObjId FROM Images ORDER BY rowid")
    for count, (rowid, name) in enumerate(names):
        if count >= most:
            raise ValueError(f"it has more rows than a file of its size can have ({most})")
        number = frame_number(name)
        if number is None:
            raise ValueError(f"row {rowid} has the ObjId {name!r:.80}, which is not <video>/frame_<number>")
        rows.setdefault(number, rowid)
    return np.array([rows[number] for number in sorted(rows)], dtype=np.int64)


def _is_number(index: object) -> TypeGuard[SupportsIndex]:
    """Whether an index is one integer: Python's, NumPy's or a tensor without dimensions."""
    return hasattr(index, "__index__") and getattr(index, "ndim", 0) == 0
