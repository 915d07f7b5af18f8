"""Decoding of video files with PyAV: every frame once, in presentation order, with its time.

FFmpeg's decoders return frames in presentation order. Their timestamps may be missing (raw streams) or unordered (AVI
stores decoding order). The order of the frames is kept and the timestamps are repaired.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
from av.video.stream import VideoStream

__all__ = ["DamagedVideoError", "TimedFrame", "VideoError", "VideoSource", "at_rate", "open_video"]

_SHORTFALL_SECONDS = 1.0
_SHORTFALL_FRACTION = 0.05


class VideoError(RuntimeError):
    """Raised for a video without any decodable frame; the message names the cause."""


class DamagedVideoError(VideoError):
    """Raised for a damaged video if the options refuse damaged videos."""


@dataclass
class TimedFrame:
    """Decoded frame (`av.VideoFrame`) with its presentation time in seconds."""

    frame: Any  # av.VideoFrame
    time: float


@dataclass
class VideoSource:
    """Video file opened for one pass over its frames.

    Args:
        path: the video file.
        start: time of the first frame, in seconds from the start of the video; None: the first frame.
        stop: end time, exclusive; None: the end of the video.

    Attributes:
        damage: faults found while decoding, one sentence each; complete after the pass.
        properties: properties of the stream, such as codec, fps and container.
    """

    path: Path
    start: float | None = None
    stop: float | None = None
    damage: list[str] = field(default_factory=list)
    properties: dict[str, str | int | float | None] = field(default_factory=dict)

    def __iter__(self) -> Iterator[TimedFrame]:
        """Yield the frames in presentation order.

        Raises:
            VideoError: the file is empty or not a video, has no video stream, or no frame can be decoded.
        """
        with open_video(self.path) as (container, stream):
            self._describe(container, stream)
            yield from self._frames(container, stream)

    def _describe(self, container: Any, stream: VideoStream) -> None:
        context = stream.codec_context
        rate = stream.average_rate or stream.guessed_rate
        aspect = stream.sample_aspect_ratio
        self.properties = {
            "container": container.format.name,
            "codec": context.name,
            "pixel_format": context.pix_fmt,
            "source_width": context.width,
            "source_height": context.height,
            "fps": float(rate) if rate else None,
            "sample_aspect_ratio": f"{aspect.numerator}:{aspect.denominator}" if aspect else None,
        }

    def _frames(self, container: Any, stream: VideoStream) -> Iterator[TimedFrame]:
        origin = (container.start_time or 0) / av.time_base
        start = None if self.start is None else origin + self.start
        stop = None if self.stop is None else origin + self.stop
        step = 1.0 / (self.properties["fps"] or 25.0)  # type: ignore[operator]
        count, time = 0, origin - step
        for frame in self._decode_from(container, stream, start if self.start else None):
            time = frame.time if frame.time is not None else time + step
            if stop is not None and time >= stop - 1e-6:
                break
            if start is None or time >= start - 1e-6:
                count += 1
                yield TimedFrame(frame, time)
        else:
            self._check_end(container, stream, time + step - origin)
        if count == 0:
            raise VideoError(self._nothing_decoded())

    def _decode_from(self, container: Any, stream: VideoStream, start: float | None) -> Iterator[Any]:
        """Yield all frames, or those from the last key frame before `start`."""
        if start is not None:
            found = self._after_search(container, stream, start)
            if found is not None:
                yield from found
                return
            self.damage.clear()
            container.seek(0)
        yield from self._decode(container, stream)

    def _after_search(self, container: Any, stream: VideoStream, start: float) -> Iterator[Any] | None:
        """Return the frames from a key frame before `start`.

        Returns None for files without an index, and where the seek ends after `start` (MPEG transport streams).
        """
        try:
            container.seek(int(start * av.time_base), backward=True)
        except av.error.FFmpegError:
            return None
        frames = self._decode(container, stream)
        first = next(frames, None)
        if first is None or first.time is None or first.time > start + 1e-6:
            return None
        return itertools.chain([first], frames)

    def _decode(self, container: Any, stream: VideoStream) -> Iterator[Any]:
        errors, number = 0, 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                self.damage.append(f"reading stops after frame {number}: {_reason(error)}")
                break
            if packet.is_corrupt:
                self.damage.append(f"the packet after frame {number} is truncated")
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                errors += 1
                if errors <= 3:
                    self.damage.append(f"a packet after frame {number} cannot be decoded: {_reason(error)}")
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damage.append(f"frame {number} is decoded with errors")
                number += 1
                yield frame
        if errors > 3:
            self.damage.append(f"number of packets that cannot be decoded: {errors}")

    def _check_end(self, container: Any, stream: VideoStream, end: float) -> None:
        """Record damage for truncated files whose container reports no error."""
        expected = _duration(container, stream)
        if expected is not None and expected - end > max(_SHORTFALL_SECONDS, _SHORTFALL_FRACTION * expected):
            self.damage.append(f"ends at {end:.2f} s, but the header says {expected:.2f} s; the file may be truncated")

    def _nothing_decoded(self) -> str:
        if self.damage:
            return f"no frame could be decoded: {self.damage[0]}"
        if self.start is not None or self.stop is not None:
            return f"no frame between {self.start or 0:g} s and {self.stop or float('inf'):g} s"
        return "the video stream has no frames"


def at_rate(frames: Iterator[TimedFrame], fps: float) -> Iterator[TimedFrame]:
    """Resample frames to a constant rate by timestamp.

    Output frame k is the frame displayed k / fps seconds after the first frame; frames are repeated or dropped as
    needed.

    Args:
        frames: frames in presentation order.
        fps: frames per second, greater than 0.
    """
    first = shown = None
    count, gap = 0, 0.0
    for current in frames:
        if shown is None or first is None:
            first = shown = current
            continue
        gap = current.time - shown.time if current.time > shown.time else gap
        while first.time + count / fps < current.time - 1e-6:
            yield TimedFrame(shown.frame, first.time + count / fps)
            count += 1
        shown = TimedFrame(current.frame, max(current.time, shown.time))
    if shown is None or first is None:
        return
    while (
        count == 0 or first.time + count / fps < shown.time + gap - 1e-6
    ):  # the last frame has the duration of the one before
        yield TimedFrame(shown.frame, first.time + count / fps)
        count += 1


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, VideoStream]]:
    """Open a file as a PyAV container and select its video stream; both are closed at the end of the context.

    Raises:
        VideoError: the file is empty, not a video, or has no video stream.
    """
    try:
        if path.stat().st_size == 0:
            raise VideoError("the file is empty")
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"FFmpeg cannot open this file as a video ({_reason(error)})") from error
    with container:
        stream = _video_stream(container)
        stream.thread_count = 1  # videos are decoded in parallel; threads within one video only add memory
        yield container, stream


def _video_stream(container: Any) -> VideoStream:
    attached = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & attached]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError(f"no video stream (streams: {', '.join(kinds) or 'none'})")
    best = container.streams.best("video")
    stream = next((candidate for candidate in streams if candidate is best), streams[0])
    if stream.codec_context is None:
        raise VideoError("this FFmpeg build does not support the codec")
    return stream


def _duration(container: Any, stream: VideoStream) -> float | None:
    """Return the duration of the video in seconds according to the header."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "")  # Matroska: 00:00:10.333000000
    parts = tag.split(":")
    if len(parts) == 3 and all(part.replace(".", "", 1).isdecimal() for part in parts):
        hours, minutes, seconds = map(float, parts)
        return 3600 * hours + 60 * minutes + seconds
    return container.duration / av.time_base if container.duration else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
