"""Video files and decoders kept open for further clips of the same files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vidseg.videos.frame_index import FrameIndex, read_frame_index
from vidseg.videos.frame_reader import FrameReader

__all__ = ["IndexCache", "ReaderPool"]

_INDEX_BYTES = 64 << 20  # enough for some thousand videos of a few minutes
_IDLE_BYTES = 256 << 20  # estimated memory of the idle decoders
_HELD_FRAMES = 20  # most frames that a decoder holds: 16 that others refer to, and some to be displayed


class IndexCache:
    """The most recently used frame indices; an index is read again once its file has changed.

    Thread-safe without a lock: a fork could copy a lock that another thread holds.

    Args:
        limit: largest size in bytes.
    """

    def __init__(self, limit: int = _INDEX_BYTES) -> None:
        self._limit = limit
        self._found: dict[Path, tuple[object, FrameIndex]] = {}

    def __reduce__(self) -> tuple[type[IndexCache], tuple[int]]:
        return IndexCache, (self._limit,)  # another process begins with an empty cache

    def find(self, path: Path) -> FrameIndex:
        """Return the frame index of a file.

        Raises:
            VideoError: the file is not a video, or no frame can be decoded.
        """
        identity = _identity(path)
        known, index = self._found.pop(path, (None, None))
        if index is None or known != identity:
            index = read_frame_index(path)
            size = index.bytes
            for other, (_, found) in reversed(list(self._found.items())):
                size += found.bytes
                if size > self._limit:
                    self._found.pop(other, None)
        self._found[path] = identity, index  # the last position is the most recently used
        return index

    def clear(self) -> None:
        """Free all indices."""
        self._found.clear()


def _identity(path: Path) -> object:
    try:
        state = path.stat()
    except OSError:
        return None  # opening the file raises the error
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


class ReaderPool:
    """Idle readers of the most recently used files.

    Thread-safe without a lock, as `IndexCache`. A forked process opens the files again: it shares the positions in the
    open files of its parent.

    Args:
        limit: largest number of idle readers.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: dict[Path, FrameReader] = {}
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[ReaderPool], tuple[int]]:
        return ReaderPool, (self._limit,)

    @contextlib.contextmanager
    def reader(
        self, path: Path, index: FrameIndex, numbers: Sequence[int], canceled: Callable[[], bool]
    ) -> Iterator[FrameReader]:
        """Lend a reader for the frames of one clip; see `FrameReader.begin`.

        The reader stays open afterwards, unless the clip was canceled, an error was raised or a frame was not found.

        Args:
            path: the video file.
            index: its frame index.
            numbers: frame numbers of the clip, at least one.
            canceled: called after each decoded frame; decoding stops once it returns True.

        Raises:
            VideoError: the file cannot be opened.
        """
        reader = self._take(path)
        if reader is not None and reader.index is not index:
            reader.close()
            reader = None
        reader = FrameReader(path, index) if reader is None else reader
        try:
            reader.begin(numbers, canceled=canceled)
            yield reader
        except BaseException:
            reader.close()
            raise
        if reader.failed or canceled():
            reader.close()
        else:
            self._give_back(reader)

    def close(self) -> None:
        """Close the idle readers."""
        while self._idle:
            with contextlib.suppress(KeyError):
                self._idle.popitem()[1].close()

    def _take(self, path: Path) -> FrameReader | None:
        if self._process != os.getpid():
            self._idle, self._process = {}, os.getpid()
        return self._idle.pop(path, None)

    def _give_back(self, reader: FrameReader) -> None:
        same = self._idle.pop(reader.path, None)
        if same is not None:
            same.close()
        self._idle[reader.path] = reader
        size = 0
        for count, (path, kept) in enumerate(reversed(list(self._idle.items())), start=1):
            size += kept.index.height * kept.index.width * 3 // 2 * _HELD_FRAMES
            if count > self._limit or size > _IDLE_BYTES:
                old = self._idle.pop(path, None)
                if old is not None:
                    old.close()
