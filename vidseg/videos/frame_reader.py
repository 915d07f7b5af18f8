"""Random access to the frames of a video file, decoding from the nearest key frame."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import av.error

from vidseg.videos.container_crop import FrameCropper
from vidseg.videos.frame_index import FrameIndex
from vidseg.videos.opening import open_video

__all__ = ["FrameReader"]

# Values of FFmpeg's `skip_frame`: decode every frame, or only those that other frames may refer to.
_ALL: Final = "DEFAULT"
_REFERENCES: Final = "NONREF"


class FrameReader:
    """Video file opened for reading frames by number; increasing numbers are fastest.

    Frames are identified by their presentation timestamps, so a number denotes the same frame wherever decoding starts.
    Frames that the decoder does not return after a key frame (gradual refresh, containers with inexact seeking) are
    decoded from the start of the file.

    A reader can be kept for further clips of the same file, see `begin`.

    Args:
        path: the video file.
        index: frame index of the file.
        canceled: called after each decoded frame; decoding stops once it returns True.

    Raises:
        VideoError: the file cannot be opened.
    """

    def __init__(self, path: Path, index: FrameIndex, *, canceled: Callable[[], bool] = lambda: False) -> None:
        self.path, self.index, self._canceled = path, index, canceled
        self._crop = (lambda frame: frame) if index.margins is None else FrameCropper(index.margins)
        self._open = contextlib.ExitStack()
        self._before: tuple[int, Any] | None = None  # numbers and frames decoded last and before that
        self._last: tuple[int, Any] | None = None
        self._frames: Iterator[tuple[int, Any]] = iter(())
        self._position, self._from_start, self._key = -1, True, 0
        self._wanted: set[int] = set()  # timestamps of the frames that `begin` announced
        self._end = -1  # the last one of them
        self.failed = False  # a frame was not found where the index has it
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

    def begin(self, numbers: Sequence[int], *, canceled: Callable[[], bool] = lambda: False) -> None:
        """Announce the frames of a clip before they are read.

        The decoder skips other frames up to the last one of the clip if no frame refers to them. It continues from its
        position if decoding from the key frame before the clip leads there, so that the result for a clip does not
        depend on the clips before it.

        Args:
            numbers: frame numbers, at least one.
            canceled: as for the class, for this clip.
        """
        self._canceled = canceled
        stamps, first = self.index.stamps, min(numbers)
        if stamps is not None and self.index.discardable and not self.failed:
            self._wanted = set(stamps[list(numbers)].tolist())
            self._end = max(self._wanted)
        if self._position > first or self.index.key_before(first) != self._key:
            self._position = len(self.index)  # `read` seeks

    def read(self, number: int) -> Any | None:
        """Return frame `number` as `av.VideoFrame`; None if it cannot be decoded without errors, or if canceled.

        Raises:
            IndexError: `number` is out of range.
        """
        if not 0 <= number < len(self.index):
            raise IndexError(f"{self.path}: frame {number} is out of range; the number of frames is {len(self.index)}")
        before = -1 if self._before is None else self._before[0]
        if self.failed and self._from_start and before < number < self._position:
            return None  # the decoder has passed this frame
        key = self.index.key_before(number)
        if self._position > number or self.index.keys[key] > self._position + 1:
            self._seek(key)
        frame = self._advance(number)
        if frame is None and not self._canceled():
            frame = self._search(number, key)
        return frame

    def _search(self, number: int, key: int) -> Any | None:
        """Decode every frame, from the key frame and then from the start, to find one that is missing."""
        skipped, self.failed = bool(self._wanted), True
        self._wanted = set()
        if skipped:
            self._seek(key)
            frame = self._advance(number)
            if frame is not None or self._canceled():
                return frame
        if self._from_start:
            return None
        self._rewind()
        return self._advance(number)

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
            self._position = len(self.index) if item is None else item[0]
            if self._canceled():
                return None
        return self._last[1] if self._last is not None and self._position == number else None

    def _rewind(self) -> None:
        self._open.close()
        self._container, self._stream = self._open.enter_context(open_video(self.path))
        self._before = self._last = None
        self._position, self._from_start, self._key = -1, True, 0
        self._frames = self._decoded()

    def _seek(self, key: int) -> None:
        if key == 0:
            self._rewind()
            return
        try:
            self._container.seek(int(self.index.key_stamps[key]), stream=self._stream, backward=True)
        except av.error.FFmpegError:  # a container without seeking
            self._rewind()
            return
        self._before = self._last = None
        self._position, self._from_start, self._key = int(self.index.keys[key]) - 1, False, key
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        """Yield number and frame from the current position on, without damaged frames."""
        count, skips = -1, False
        packets, context = self._container.demux(self._stream), self._stream.codec_context
        context.skip_frame = _ALL
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):  # frames after the damage are reported missing by `read`
                return
            if skips != self._skips(packet):
                skips = not skips
                context.skip_frame = _REFERENCES if skips else _ALL
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                count += 1
                number = count if self.index.stamps is None else self._number(frame.pts)
                if number is not None and not frame.is_corrupt:
                    yield number, self._crop(frame)

    def _skips(self, packet: Any) -> bool:
        """Return whether the frame of a packet is not wanted; later frames may be those of the next clip."""
        stamp = packet.pts
        return bool(self._wanted) and stamp is not None and stamp < self._end and stamp not in self._wanted

    def _number(self, stamp: int | None) -> int | None:
        stamps = self.index.stamps
        if stamp is None or stamps is None:
            return None
        following = self._position + 1  # nearly always
        if following < len(stamps) and stamps[following] == stamp:
            return following
        number = int(stamps.searchsorted(stamp))
        return number if number < len(stamps) and stamps[number] == stamp else None
