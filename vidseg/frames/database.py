"""Reading of frames.db: raw JPEGs, decoded frames, metadata. Writes nothing.

A `FrameDatabase` holds no open file. The compiled library keeps a bounded pool of connections for each process, so an
object may be shared by threads, pickled, and used on both sides of a fork.
"""

import itertools
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from vidseg.frames.jpeg import split_blobs
from vidseg.frames.native import operators
from vidseg.frames.schema import TIMESTAMPS, FrameDatabaseError, connect_read_only, frame_number

__all__ = ["FrameDatabase"]

_STREAMED = 16  # frames that are decoded together when a video is read from end to end

Indices = Iterable[int] | np.ndarray | torch.Tensor


class FrameDatabase:
    """The frames of one video.

    Reads what `FrameWriter` writes and what dataset2database 1.2 wrote (no key, rows in any order, no metadata).
    Frame indices count from 0, in frame order, whatever the order of the rows.

    Args:
        path: a frames.db file, or the folder that holds one.

    Raises:
        FileNotFoundError: no such file.
        FrameDatabaseError: not a frame database, or without any frame.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / "frames.db" if path.is_dir() else path
        self.closed = False
        self._frame_size: tuple[int, int] | None = None
        connection = connect_read_only(self.path)
        try:
            self.meta: dict[str, Any] = _read_meta(connection)
            # rowid of each frame; None: frame i has rowid i + 1, which every file of our own form has
            self._rows: np.ndarray | None = None
            if "format" in self.meta:
                self._count = int(self.meta["frames"])
            else:
                self._rows = _frame_order(connection)
                self._count = len(self._rows)
        except (sqlite3.Error, KeyError, ValueError) as error:
            raise FrameDatabaseError(f"{self.path}: not a frame database: {error}") from error
        finally:
            connection.close()
        if self._count == 0:
            raise FrameDatabaseError(f"{self.path}: holds no frames; convert its video again")

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        height, width = self.frame_size
        return f"FrameDatabase({str(self.path)!r}: {len(self)} frames of {width}x{height}, {self.levels} levels)"

    def __enter__(self) -> "FrameDatabase":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Refuse further reading. No file is open in between reads, so nothing needs to be freed."""
        self.closed = True

    @property
    def name(self) -> str:
        """The video's name: the name of the folder that holds the database."""
        return self.path.resolve().parent.name

    @property
    def levels(self) -> int:
        """How many smaller copies each frame has; level k has 1 / 2**k of the side."""
        return int(self.meta.get("levels", 0))

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the stored frames."""
        if self._frame_size is None:
            if "height" in self.meta:
                self._frame_size = int(self.meta["height"]), int(self.meta["width"])
            else:
                _, height, width, _ = self.decode([0]).shape
                self._frame_size = height, width
        return self._frame_size

    @property
    def timestamps(self) -> np.ndarray | None:
        """Presentation time of each frame in seconds, float64 (T,); None in files of the published form."""
        if not self.meta:
            return None
        connection = connect_read_only(self.path)
        try:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (TIMESTAMPS,)).fetchone()
        except sqlite3.Error as error:
            raise FrameDatabaseError(f"{self.path}: the timestamps cannot be read: {error}") from error
        finally:
            connection.close()
        return None if row is None else np.frombuffer(row[0], "<f8").copy()

    def read(self, indices: Indices, *, level: int = 0) -> list[bytes]:
        """Return the stored JPEGs, in the order asked, repetitions included.

        Args:
            indices: frame numbers from 0.
            level: 0 for the frames themselves, k for the copies with 1 / 2**k of the side.

        Raises:
            IndexError: an index is negative or not below `len(self)`.
            ValueError: the database does not have that level, or is closed.
            FrameDatabaseError: a row is missing or unreadable; names the frame.
        """
        rows = self._rows_for(indices, level)
        if len(rows) == 0:
            return []
        try:
            data, offsets = operators.read(str(self.path), level, rows)
        except RuntimeError as error:
            raise self._explain(error, level) from None
        return split_blobs(data, offsets)

    def decode(
        self, indices: Indices, size: int | tuple[int, int] | None = None, level: int | None = None
    ) -> torch.Tensor:
        """Return decoded frames, uint8 (T, H, W, 3) in RGB, in the order asked, repetitions included.

        Args:
            indices: frame numbers from 0.
            size: (height, width), or one number for a square: each whole frame is resampled to exactly that, whatever
                its proportions (bilinear, antialiased where it shrinks). None keeps the stored size.
            level: which stored copy to decode; None takes the smallest one that is at least `size`.

        Raises:
            IndexError: an index is negative or not below `len(self)`.
            ValueError: the size is not positive, or the database does not have that level, or is closed.
            FrameDatabaseError: a frame is missing or damaged; names it.
        """
        height, width = (0, 0) if size is None else (size, size) if isinstance(size, int) else size
        if size is not None and (height < 1 or width < 1):
            raise ValueError(f"size {size}: both sides must be at least 1 pixel")
        if level is None:
            level = self.level_for(height, width) if size is not None else 0
        rows = self._rows_for(indices, level)
        if len(rows) == 0:
            full = self.frame_size
            sides = (height, width) if size is not None else tuple(-(-side >> level) for side in full)
            return torch.empty((0, *sides, 3), dtype=torch.uint8)
        try:
            frames: torch.Tensor = operators.decode(str(self.path), level, rows, height, width)
        except RuntimeError as error:
            raise self._explain(error, level) from None
        return frames

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Every frame in order, uint8 (H, W, 3)."""
        return self.stream()

    def stream(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        step: int = 1,
        size: int | tuple[int, int] | None = None,
    ) -> Iterator[torch.Tensor]:
        """Decode frames one after the other, a few ahead of their use, so that memory stays flat in a long video.

        Args:
            start: first frame, from 0.
            stop: one more than the last; None for the end of the video.
            step: from one frame to the next.
            size: as for `decode`.

        Yields:
            uint8 (H, W, 3), RGB.

        Raises:
            ValueError: step below 1.
            IndexError: start or stop outside 0 to `len(self)`.
            FrameDatabaseError: a frame is missing or damaged; names it.
        """
        stop = len(self) if stop is None else stop
        if step < 1:
            raise ValueError(f"step={step} must be at least 1")
        if not (0 <= start <= len(self) and 0 <= stop <= len(self)):
            raise IndexError(f"{self.path}: frames {start} to {stop} of a video of {len(self)}")
        numbers = np.arange(start, stop, step)
        return itertools.chain.from_iterable(
            self.decode(numbers[first : first + _STREAMED], size) for first in range(0, len(numbers), _STREAMED)
        )

    def level_for(self, height: int, width: int) -> int:
        """The smallest stored copy whose sides are at least (height, width); 0 where even the frame is smaller."""
        full_height, full_width = self.frame_size
        fits = (k for k in range(self.levels, 0, -1) if full_height >> k >= height and full_width >> k >= width)
        return next(fits, 0)

    def verify(self) -> list[str]:
        """Check everything that can be checked, decoding every frame; return what is wrong, one sentence each."""
        from vidseg.frames.verification import verify

        return verify(self)

    def _rows_for(self, indices: Indices, level: int) -> torch.Tensor:
        if self.closed:
            raise ValueError(f"{self.path}: is closed")
        if not 0 <= level <= self.levels:
            raise ValueError(f"{self.path}: has levels 0 to {self.levels}, not {level}")
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
        """Put the file and the frame number in front of what the library said about a row."""
        text = str(error).splitlines()[0]
        row, separator, reason = text.partition(": ")
        if not separator or not row.startswith("row "):
            return FrameDatabaseError(f"{self.path}: {text}")
        number = int(row.removeprefix("row "))
        frame = number - 1 if self._rows is None else int(np.flatnonzero(self._rows == number)[0])
        where = f"frame {frame}" + (f" (level {level})" if level else "")
        return FrameDatabaseError(f"{self.path}: {where}: {reason}")


def _read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "Images" not in tables:
        raise ValueError("it has no table Images")
    if "meta" not in tables:
        return {}
    return dict(connection.execute("SELECT key, value FROM meta WHERE key != ?", (TIMESTAMPS,)))


def _frame_order(connection: sqlite3.Connection) -> np.ndarray:
    """The rowids of a published database in frame order; of rows with the same frame number the first counts."""
    rows: dict[int, int] = {}
    for rowid, name in connection.execute("SELECT rowid, ObjId FROM Images ORDER BY rowid"):
        number = frame_number(name)
        if number is None:
            raise ValueError(f"row {rowid} has the ObjId {name!r}, which is not <video>/frame_<number>")
        rows.setdefault(number, rowid)
    return np.array([rows[number] for number in sorted(rows)], dtype=np.int64)
