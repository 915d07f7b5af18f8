"""Copying the sound of a video file into a video that is written from its frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from vidseg.videos.opening import VideoError, open_container, reason_of

__all__ = ["SoundTrack"]

_CODEC = "aac"  # of sound in a form that the container does not hold


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
        self._input: Any = self._source.streams.best("audio")
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
            if until is not None and packet.pts * float(packet.time_base) + self._first > until:
                self._packets = itertools.chain([packet], self._packets)
                return
            self._container.mux(packet)

    def close(self) -> None:
        """Close the file with the sound."""
        self._source.close()

    def _copied(self) -> Iterator[Any]:
        base = self._input.time_base
        shift = round(self._first / base)
        for packet in self._demuxed():
            if packet.pts is None or packet.dts is None:
                continue
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
        for frame in itertools.chain(self._decoded(), [None]):
            if samples is None and frame is not None:
                samples = round((frame.pts * float(frame.time_base) - self._first) * rate)
            for part in resampler.resample(frame) if samples is not None else ():
                part.pts, part.time_base = samples, Fraction(1, rate)
                samples = part.samples + (samples or 0)
                yield from self._output.encode(part)
        if samples is not None:
            yield from self._output.encode(None)

    def _decoded(self) -> Iterator[Any]:
        """Yield the samples from the first frame of the video on."""
        for packet in self._demuxed():
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue  # a damaged packet; the sound goes on with the next one
            for frame in frames:
                if frame.pts is not None and frame.pts * float(frame.time_base) >= self._first - 1e-3:
                    yield frame

    def _demuxed(self) -> Iterator[Any]:
        packets = self._source.demux(self._input)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.error.FFmpegError):
                return  # the sound of a damaged file ends where it cannot be read any more
            if packet.size:
                yield packet
