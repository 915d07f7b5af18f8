"""Frames of a video file by their numbers, decoding no more than lies between them and the key frames before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av.error
import numpy as np

from vidseg.videos.decoding import open_video
from vidseg.videos.frame_index import FrameIndex

__all__ = ["FrameReader"]


class FrameReader:
    """A video file opened for reading frames by number; rising numbers cost least.

    Frames are told by their presentation times, so that a number means the same frame wherever decoding began. What
    does not come out of the decoder after a key frame (a gradual refresh, a container that seeks badly) is looked for
    from the beginning of the file.

    Args:
        path: the file.
        index: its frames.
        canceled: asked after each decoded frame; once it is True, nothing more is decoded.

    Raises:
        VideoError: the file cannot be opened.
    """

    def __init__(self, path: Path, index: FrameIndex, *, canceled: Callable[[], bool] = lambda: False) -> None:
        self._path, self._index, self._canceled = path, index, canceled
        self._open = contextlib.ExitStack()
        self._before: tuple[int, Any] | None = None  # numbers and frames, decoded last and before that
        self._last: tuple[int, Any] | None = None
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._position, self._from_start = -1, True
        self._rewind()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and its decoder."""
        self._frames = iter(())
        self._before = self._last = None
        self._open.close()

    def read(self, number: int) -> Any | None:
        """The frame, an `av.VideoFrame`; None where it cannot be decoded without errors, or when canceled.

        Raises:
            IndexError: the file has no such frame.
        """
        if not 0 <= number < len(self._index):
            raise IndexError(f"frame {number} of a video of {len(self._index)} frames")
        before = -1 if self._before is None else self._before[0]
        if self._from_start and before < number < self._position:
            return None  # passed by already
        key = self._index.key_before(number)
        if self._position > number or self._index.keys[key] > self._position + 1:
            self._seek(key)
        frame = self._advance(number)
        if frame is None and not self._from_start and not self._canceled():
            self._rewind()
            frame = self._advance(number)
        return frame

    def nearest(self, number: int) -> tuple[int, Any] | None:
        """After `read(number)` gave None: the nearest frame that can be decoded, and its number."""
        found = [item for item in (self._before, self._last) if item is not None and item[0] != number]
        return min(found, key=lambda item: abs(item[0] - number), default=None)

    def _advance(self, number: int) -> Any | None:
        """Decode up to a frame; None where the decoder passes it by."""
        while self._position < number:
            item = next(self._frames, None)
            self._before, self._last = self._last or self._before, item
            self._position = len(self._index) if item is None else item[0]
            if self._canceled():
                return None
        return self._last[1] if self._last is not None and self._position == number else None

    def _rewind(self) -> None:
        self._open.close()
        self._container, self._stream = self._open.enter_context(open_video(self._path))
        self._before = self._last = None
        self._position, self._from_start = -1, True
        self._frames = self._decoded()

    def _seek(self, key: int) -> None:
        if key == 0:
            self._rewind()
            return
        try:
            self._container.seek(int(self._index.key_stamps[key]), stream=self._stream, backward=True)
        except av.error.FFmpegError:  # a container that cannot be searched
            self._rewind()
            return
        self._before = self._last = None
        self._position, self._from_start = int(self._index.keys[key]) - 1, False
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        """Numbers and frames from here on, without those that are damaged."""
        count = -1
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):  # a frame that lies behind damage is missed by who wants it
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                count += 1
                number = count if self._index.stamps is None else self._number(frame.pts)
                if number is not None and not frame.is_corrupt:
                    yield number, frame

    def _number(self, stamp: int | None) -> int | None:
        stamps = self._index.stamps
        if stamp is None or stamps is None:
            return None
        number = int(np.searchsorted(stamps, stamp))
        return number if number < len(stamps) and stamps[number] == stamp else None
