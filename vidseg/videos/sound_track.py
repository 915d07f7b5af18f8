"""Copying the sound of a video file or of a stream into a video that is written from its frames."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from vidseg.videos.opening import VideoError, open_container, reason_of

__all__ = ["ArrivingSound", "SoundTrack"]

_CODEC = "aac"  # of sound in a form that the container does not hold
_END: Any = object()


class SoundTrack:
    """Sound of a video file, written between the frames of another file.

    Packets are copied unchanged if the container holds their codec, else the sound is encoded again as AAC. The file
    is read up to the time of the frames, so that memory does not grow with its length.

    Args:
        path: video file with the sound; the track is empty if the file has none.

    Raises:
        VideoError: FFmpeg cannot open the file.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self._source: Any = open_container(path)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"FFmpeg cannot open this file as a video ({reason_of(error)})") from error
        self._prepare(self._source)

    def _prepare(self, source: Any) -> None:
        self._input: Any = source.streams.best("audio")
        if self._input is not None and self._input.codec_context is None:
            self._input = None  # of a codec that this FFmpeg does not know
        self._output: Any = None
        self._container: Any = None
        self._first, self._last = 0.0, -(2**62)
        self._packets: Iterator[Any] = iter(())

    def __bool__(self) -> bool:
        """Whether there is sound."""
        return self._input is not None

    def open(self, container: Any, first: float) -> None:
        """Add a stream to a container before its first packet.

        Args:
            container: PyAV's output container.
            first: time of the first frame on the clock of the file with the sound, in seconds; the new file begins
                there.
        """
        if self._input is None:
            return
        self._container, self._first = container, first
        if self._input.codec_context.name in container.supported_codecs:
            self._output = container.add_stream_from_template(self._input)
            found = self._copied()
        else:
            self._output = container.add_stream(_CODEC, rate=self._input.codec_context.sample_rate or 44100)
            found = self._encoded()
        self._packets = found

    def write(self, until: float | None = None) -> None:
        """Write the packets up to a time on the clock of the file with the sound, in seconds; None: all."""
        for packet in self._packets:
            if packet is None:
                return
            if until is not None and packet.pts * float(packet.time_base) + self._first > until:
                self._packets = itertools.chain([packet], self._packets)
                return
            self._container.mux(packet)

    def close(self) -> None:
        """Close the file with the sound."""
        self._source.close()

    def _copied(self) -> Iterator[Any]:
        shift: int | None = None
        for packet in self._demuxed():
            if packet is None:
                yield None
                continue
            if packet.pts is None or packet.dts is None:
                continue
            if shift is None:
                shift = round(self._first / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            if packet.dts < max(0, self._last + 1):  # before the first frame, or a clock that restarts
                continue
            self._last = packet.dts
            packet.stream = self._output
            yield packet

    def _encoded(self) -> Iterator[Any]:
        rate = self._output.codec_context.sample_rate
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
        samples: int | None = None  # from the first frame of the new file to the next samples, which leave no gaps
        for frame in itertools.chain(self._decoded(), [_END]):
            if frame is None:
                yield None
                continue
            if samples is None and frame is not _END:
                samples = round((frame.pts * float(frame.time_base) - self._first) * rate)
            for part in resampler.resample(None if frame is _END else frame) if samples is not None else ():
                part.pts, part.time_base = samples, Fraction(1, rate)
                samples = part.samples + (samples or 0)
                yield from self._output.encode(part)
        if samples is not None:
            yield from self._output.encode(None)

    def _decoded(self) -> Iterator[Any]:
        """Yield the samples from the first frame of the video on; None: the next ones have not arrived yet."""
        for packet in self._demuxed():
            if packet is None:
                yield None
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue  # a damaged packet; the sound goes on with the next one
            for frame in frames:
                if frame.pts is not None and frame.pts * float(frame.time_base) >= self._first - 1e-3:
                    yield frame

    def _demuxed(self) -> Iterator[Any]:
        """Yield the packets; None: the next ones have not arrived yet."""
        packets = self._source.demux(self._input)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return  # the sound of a damaged file ends where it cannot be read any more
            if packet.size:
                yield packet


class ArrivingSound(SoundTrack):
    """Sound of a stream that can be read only once: its packets are added as they arrive with those of the frames.

    Args:
        container: PyAV's container of the stream; it must stay open as long as packets are written.
    """

    def __init__(self, container: Any) -> None:
        self._arrived: deque[Any] = deque()
        self._ended = False
        self._prepare(container)

    @property
    def stream(self) -> Any:
        """PyAV's stream of the sound, whose packets are to be added; None: the source has no sound."""
        return self._input

    def close(self) -> None:
        """Do nothing: the container belongs to the reader of the frames."""

    def add(self, packet: Any) -> None:
        """Add the next packet."""
        self._arrived.append(packet)

    def write(self, until: float | None = None) -> None:
        """See `SoundTrack.write`; packets that have not arrived yet are written by a later call."""
        self._ended = until is None
        super().write(until)

    def _demuxed(self) -> Iterator[Any]:
        while True:
            while self._arrived:
                packet = self._arrived.popleft()
                if packet.size:
                    yield packet
            if self._ended:
                return
            yield None
