"""Random access to the frames of a video file, decoding from the nearest key frame."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av.error
import numpy as np

from vidseg.videos.container_crop import FrameCropper
from vidseg.videos.frame_index import FrameIndex
from vidseg.videos.opening import open_video

__all__ = ["FrameReader"]


class FrameReader:
    """Video file opened for reading frames by number; increasing numbers are fastest.

    Frames are identified by their presentation timestamps, so a number denotes the same frame wherever decoding starts.
    Frames that the decoder does not return after a key frame (gradual refresh, containers with inexact seeking) are
    decoded from the start of the file.

    Args:
        path: the video file.
        index: frame index of the file.
        canceled: called after each decoded frame; decoding stops once it returns True.

    Raises:
        VideoError: the file cannot be opened.
    """

    def __init__(self, path: Path, index: FrameIndex, *, canceled: Callable[[], bool] = lambda: False) -> None:
        self._path, self._index, self._canceled = path, index, canceled
        self._crop = (lambda frame: frame) if index.margins is None else FrameCropper(index.margins)
        self._open = contextlib.ExitStack()
        self._before: tuple[int, Any] | None = None  # numbers and frames decoded last and before that
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
        """Return frame `number` as `av.VideoFrame`; None if it cannot be decoded without errors, or if canceled.

        Raises:
            IndexError: `number` is out of range.
        """
        if not 0 <= number < len(self._index):
            raise IndexError(
                f"{self._path}: frame {number} is out of range; the number of frames is {len(self._index)}"
            )
        before = -1 if self._before is None else self._before[0]
        if self._from_start and before < number < self._position:
            return None  # the decoder has passed this frame
        key = self._index.key_before(number)
        if self._position > number or self._index.keys[key] > self._position + 1:
            self._seek(key)
        frame = self._advance(number)
        if frame is None and not self._from_start and not self._canceled():
            self._rewind()
            frame = self._advance(number)
        return frame

    def nearest(self, number: int) -> tuple[int, Any] | None:
        """Return (number, frame) of the decodable frame nearest to `number`; call it after `read(number)` returned
        None."""
        found = [item for item in (self._before, self._last) if item is not None and item[0] != number]
        return min(found, key=lambda item: abs(item[0] - number), default=None)

    def _advance(self, number: int) -> Any | None:
        """Decode up to frame `number`; return None if the decoder skips it."""
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
        except av.error.FFmpegError:  # a container without seeking
            self._rewind()
            return
        self._before = self._last = None
        self._position, self._from_start = int(self._index.keys[key]) - 1, False
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        """Yield number and frame from the current position on, without damaged frames."""
        count = -1
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):  # frames after the damage are reported missing by `read`
                return
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                count += 1
                number = count if self._index.stamps is None else self._number(frame.pts)
                if number is not None and not frame.is_corrupt:
                    yield number, self._crop(frame)

    def _number(self, stamp: int | None) -> int | None:
        stamps = self._index.stamps
        if stamp is None or stamps is None:
            return None
        number = int(np.searchsorted(stamps, stamp))
        return number if number < len(stamps) and stamps[number] == stamp else None
