"""Decoding of video files with PyAV: every frame once, in presentation order, with its time.

FFmpeg's decoders return frames in presentation order. Their timestamps may be missing (raw streams), wild or unordered
(AVI stores decoding order), or restart (joined transport streams). The order of the frames is kept and the times are
repaired, see `FrameClock`.
"""

import errno
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import av.error
from av.video.stream import VideoStream

from vidseg.videos.clock import DISCONTINUITY, LONGEST_RUN, FrameClock, TimedFrame
from vidseg.videos.container_crop import FrameCropper, Margins, read_margins
from vidseg.videos.frame_size import MAX_PIXELS
from vidseg.videos.opening import VideoError, open_video, reason_of

__all__ = ["DamagedVideoError", "DecoderTap", "TimedFrame", "VideoError", "VideoSource", "at_rate", "frame_clock"]

_NO_RESOURCES = (errno.ENOMEM, errno.EAGAIN)  # of a decoder that cannot be opened: memory, threads
_SHORTFALL_SECONDS = 1.0
_SHORTFALL_FRACTION = 0.05
_HELD_BYTES = 256 << 20  # most memory for frames whose times are not decided yet
_JOINT_PACKETS = 2  # packets between one that is marked as truncated and the joint that causes it
_CLOCKS_RESTART = frozenset({"mpegts", "mpeg"})
# Containers whose streams have durations of their own. Others have one for the whole file, which may be that of the
# sound.
_OWN_DURATION = frozenset({"mov", "avi", "mxf", "nut"})


class DamagedVideoError(VideoError):
    """Raised for a damaged video if the options refuse damaged videos."""


class DecoderTap(Protocol):
    """Reads what a decoder knows about frames besides their pixels, during one pass of a `VideoSource`."""

    def open(self, stream: VideoStream, margins: Margins | None) -> None:
        """Set up the decoder before its first packet. `margins`: pixels that the container hides, or None."""

    def packet(self, packet: Any) -> None:
        """See an `av.Packet` of the stream before it is decoded."""

    def frame(self, frame: Any, cropped: Any) -> Any:
        """Return what takes the place of a frame; called in presentation order, also for frames before `start`.

        Args:
            frame: `av.VideoFrame` as decoded.
            cropped: the same without the margins.
        """


@dataclass
class VideoSource:
    """Video file opened for one pass over its frames.

    Args:
        path: the video file.
        start: time of the first frame, in seconds from the start of the video; None: the first frame.
        stop: end time, exclusive; None: the end of the video.
        max_pixels: largest number of pixels of a frame; a video with larger frames raises a VideoError.
        tap: reads packets and frames of the decoder and replaces the frames; None: the frames are `av.VideoFrame`.

    Attributes:
        damage: faults found while decoding, one sentence each; complete after the pass.
        properties: properties of the stream, such as codec, fps and container.
        origin: time of the start of the video on the clock of its frames, in seconds; known once iteration has begun.
    """

    path: Path
    start: float | None = None
    stop: float | None = None
    damage: list[str] = field(default_factory=list)
    properties: dict[str, str | int | float | None] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    origin: float = 0.0
    tap: DecoderTap | None = None

    def __iter__(self) -> Iterator[TimedFrame]:
        """Yield the frames in presentation order; each lasts until the next one, the last one for its own duration.

        Raises:
            VideoError: the file is empty or not a video, has no video stream, its frames are too large, or no frame can
                be decoded.
        """
        with open_video(self.path, max_pixels=self.max_pixels) as (container, stream):
            margins = read_margins(self.path, container, stream)
            self._describe(container, stream)
            if margins is not None:
                self.properties["crop"] = ",".join(map(str, margins))
            crop = (lambda frame: frame) if margins is None else FrameCropper(margins)
            tap = self.tap
            if tap is None:
                yield from self._frames(container, stream, crop)
            else:
                tap.open(stream, margins)
                yield from self._frames(container, stream, lambda frame: tap.frame(frame, crop(frame)))

    def at_rate(self, fps: float) -> Iterator[TimedFrame]:
        """Yield the frames at a constant rate, see `at_rate`; times are counted from the start of the video or clip.

        Args:
            fps: frames per second, greater than 0.
        """
        frames = iter(self)
        first = next(frames)
        return at_rate(itertools.chain([first], frames), fps, origin=self.origin + (self.start or 0.0))

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

    def _frames(self, container: Any, stream: VideoStream, form: Callable[[Any], Any]) -> Iterator[TimedFrame]:
        self.origin = (container.start_time or 0) / av.time_base
        start = None if self.start is None else self.origin + self.start
        stop = None if self.stop is None else self.origin + self.stop
        sound = _SoundEnd(container)
        time_base = stream.time_base  # PyAV makes a new fraction for each access
        stamped = (
            (form(frame), self._time(frame, time_base), _seconds(frame.duration, time_base))
            for frame in self._decode_from(container, stream, start if self.start else None, sound)
        )
        count, shown, ended = 0, None, True
        clock = frame_clock(container, stream)
        for current in clock.repaired(stamped):
            if start is None and shown is None and count == 0:
                self.origin = min(self.origin, current.time)  # the header's is that of a wild first time
            if shown is not None:
                shown.duration = current.time - shown.time
                if stop is not None and current.time >= stop - 1e-6:
                    shown.duration = stop - shown.time
                yield shown
                shown = None
            if stop is not None and current.time >= stop - 1e-6:
                ended = False
                break
            if start is None or current.time >= start - 1e-6:
                count += 1
                shown = current
        if shown is not None:
            end = shown.time + shown.duration
            shown.duration = shown.duration if stop is None else min(end, stop) - shown.time
            yield shown
            if ended and not clock.restarts and not clock.replaced:  # otherwise the header may be wrong
                self._check_end(container, stream, end - self.origin, sound.seconds - self.origin)
        self.properties["times_replaced"] = clock.replaced or None
        if count == 0:
            raise VideoError(self._nothing_decoded(stream))

    def _decode_from(
        self, container: Any, stream: VideoStream, start: float | None, sound: "_SoundEnd"
    ) -> Iterator[Any]:
        """Yield all frames, or those from the last key frame before `start`."""
        if start is not None:
            found = self._after_search(container, stream, start, sound)
            if found is not None:
                yield from found
                return
            self.damage.clear()
            container.seek(0)
        yield from self._decode(container, stream, sound)

    def _after_search(
        self, container: Any, stream: VideoStream, start: float, sound: "_SoundEnd"
    ) -> Iterator[Any] | None:
        """Return the frames from a key frame before `start`.

        Returns None for files without an index, and where the seek ends after `start` (MPEG transport streams).
        """
        try:
            container.seek(int(start * av.time_base), backward=True)
        except av.error.FFmpegError:
            return None
        frames = self._decode(container, stream, sound)
        first = next(frames, None)
        if first is None or first.time is None or first.time > start + 1e-6:
            return None
        return itertools.chain([first], frames)

    def _decode(self, container: Any, stream: VideoStream, sound: "_SoundEnd") -> Iterator[Any]:
        errors, number, count = 0, 0, 0
        last: Any = None
        cut: list[tuple[int, str]] = []  # packets marked as truncated, as the last ones before a joint are, too
        packets = container.demux(stream, *sound.streams)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                self.damage.append(f"reading stops after frame {number}: {reason_of(error)}")
                break
            if packet.stream is not stream:
                sound.see(packet)
                continue
            if last is not None and _restarts(last, packet):
                cut.clear()
            elif cut and count > cut[-1][0] + _JOINT_PACKETS:
                self.damage += [message for _, message in cut]
                cut.clear()
            if packet.is_corrupt:
                cut.append((count, f"the packet after frame {number} is truncated"))
            last, count = packet, count + 1
            if self.tap is not None:
                self.tap.packet(packet)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if error.errno in _NO_RESOURCES:
                    raise VideoError(
                        f"decoding needs more memory or threads after frame {number} (memory_limit, ulimit -u)"
                    ) from error
                errors += 1
                if errors <= 3:
                    self.damage.append(f"a packet after frame {number} cannot be decoded: {reason_of(error)}")
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damage.append(f"frame {number} is decoded with errors")
                number += 1
                yield frame
        self.damage += [message for _, message in cut]
        if errors > 3:
            self.damage.append(f"number of packets that cannot be decoded: {errors}")

    def _time(self, frame: Any, time_base: Fraction | None) -> float | None:
        """Return the time of a frame by the container, or None.

        AVI has no presentation times: PyAV returns the place of the packet of the frame, in decoding order. The
        decoding time of the packet with which the decoder returns the frame is in presentation order; FFmpeg uses it,
        too.
        """
        if self.properties["container"] != "avi":
            time: float | None = frame.time
            return time
        return None if frame.dts is None or not time_base else float(frame.dts * time_base)

    def _check_end(self, container: Any, stream: VideoStream, end: float, sound: float) -> None:
        """Record damage for truncated files whose container reports no error.

        Args:
            container: the open container.
            stream: its video stream.
            end: end of the last frame, in seconds from the start of the video.
            sound: end of the last sound, likewise.
        """
        own = _own_duration(container, stream)
        expected = own if own is not None else (container.duration or 0) / av.time_base
        reached = end if own is not None else max(end, sound)
        if expected - reached > max(_SHORTFALL_SECONDS, _SHORTFALL_FRACTION * expected):
            self.damage.append(f"ends at {end:.2f} s, but the header says {expected:.2f} s; the file may be truncated")

    def _nothing_decoded(self, stream: VideoStream) -> str:
        if self.damage and not stream.codec_context.width:  # FFmpeg sets no size that exceeds the limit
            return f"frames are larger than the limit of {self.max_pixels} pixels (max_pixels), or damaged"
        if self.damage:
            return f"no frame could be decoded: {self.damage[0]}"
        if self.start is not None or self.stop is not None:
            return f"no frame between {self.start or 0:g} s and {self.stop or float('inf'):g} s"
        return "the video stream has no frames"


class _SoundEnd:
    """End of the sound of a container, which is demuxed only if the header has no duration of the video alone."""

    def __init__(self, container: Any) -> None:
        names = set(container.format.name.split(","))
        self.streams = [] if names & _OWN_DURATION else list(container.streams.audio)
        self.seconds = -math.inf

    def see(self, packet: Any) -> None:
        """Take note of a packet of sound."""
        if packet.pts is not None:
            self.seconds = max(self.seconds, _seconds(packet.pts + (packet.duration or 0), packet.time_base))


def frame_clock(container: Any, stream: VideoStream) -> FrameClock:
    """Return the clock that repairs the times of the frames of a stream."""
    origin = (container.start_time or 0) / av.time_base
    own = _own_duration(container, stream)
    rate = stream.average_rate or stream.guessed_rate
    return FrameClock(
        1.0 / float(rate or 25),
        discontinuous=container.format.name in _CLOCKS_RESTART,
        end=None if own is None else origin + own,
        run=min(LONGEST_RUN, _HELD_BYTES // max(1, 4 * stream.codec_context.width * stream.codec_context.height)),
    )


def at_rate(frames: Iterator[TimedFrame], fps: float, *, origin: float | None = None) -> Iterator[TimedFrame]:
    """Resample frames to a constant rate by timestamp, as FFmpeg's filter `fps` does.

    Times are rounded to the nearest multiple of 1 / fps. Output frame k is the last frame whose rounded time is at most
    k / fps; frames are repeated or dropped as needed. The last frame is repeated to the rounded end of its duration.

    Args:
        frames: frames in presentation order, with times that do not decrease.
        fps: frames per second, greater than 0.
        origin: time in seconds from which output times are counted; None: time of the first frame.

    Yields:
        At least one frame for a video that has any.
    """
    shown: TimedFrame | None = None
    tick = count = 0
    for current in frames:
        origin = current.time if origin is None else origin
        reached = _tick(current.time - origin, fps)
        if shown is None:
            tick = reached
        while shown is not None and tick < reached:
            yield TimedFrame(shown.frame, origin + tick / fps, 1.0 / fps)
            tick, count = tick + 1, count + 1
        shown = current
    if shown is None or origin is None:
        return
    end = _tick(shown.time + shown.duration - origin, fps)
    while tick < end or count == 0:
        yield TimedFrame(shown.frame, origin + tick / fps, 1.0 / fps)
        tick, count = tick + 1, count + 1


def _tick(seconds: float, fps: float) -> int:
    """Return the nearest tick; halves are rounded up."""
    return math.floor(seconds * fps + 0.5 + 1e-6)


def _own_duration(container: Any, stream: VideoStream) -> float | None:
    """Return the duration of the video stream alone in seconds according to the header, or None."""
    names = set(container.format.name.split(","))
    if names & _OWN_DURATION and stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    for key, tag in stream.metadata.items():  # Matroska: 00:00:10.333000000
        parts = tag.split(":")
        if (
            key.upper().partition("-")[0] == "DURATION"
            and len(parts) == 3
            and all(part.replace(".", "", 1).isdecimal() for part in parts)
        ):
            hours, minutes, seconds = map(float, parts)
            return 3600 * hours + 60 * minutes + seconds
    return None


def _restarts(last: Any, packet: Any) -> bool:
    """Return whether the clock of a transport stream restarts between two packets, where two recordings are joined."""
    if last.dts is None or packet.dts is None:
        return False
    jump = _seconds(packet.dts - last.dts, packet.time_base)
    return jump < 0 or jump > DISCONTINUITY


def _seconds(ticks: int | None, time_base: Fraction | None) -> float:
    # One division of integers, which rounds as a fraction does and takes a tenth of the time.
    return ticks * time_base.numerator / time_base.denominator if ticks and time_base else 0.0
