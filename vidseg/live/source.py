"""Sources of a stream: a file, a camera, an address, or standard input."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import av.error

from vidseg.videos.container_check import ContainerCheck, check_container
from vidseg.videos.decoding import VideoSource
from vidseg.videos.opening import VideoError, open_container, open_input
from vidseg.videos.sound_track import ArrivingSound, SoundTrack

__all__ = ["LiveSource"]

_PATIENCE = 0.1  # seconds between two checks whether a silent source was stopped


class LiveSource:
    """Frames of a video file, a camera, an address or standard input, in the order of arrival.

    Args:
        source: path of a file, a camera such as /dev/video0 or its number, an address that FFmpeg can open, or "-" for
            a container on standard input that can be read sequentially: MPEG-TS, Matroska, fragmented MP4.
        container_format: FFmpeg's name of the format or of the kind of device; None: v4l2 for cameras, else detected.
        options: options for FFmpeg, such as {"framerate": "30", "video_size": "1280x720"}.
        keep_sound: keep the sound for `sound`; `close` must be called then. Cameras have none.

    Attributes:
        fps: frame rate in frames per second, 25 if the source does not state one; set when the iteration starts.
        damage: one sentence for each fault found in the stream.

    Raises:
        FileNotFoundError: no such file, or no such camera.
    """

    def __init__(
        self,
        source: str,
        *,
        container_format: str | None = None,
        options: Mapping[str, str] | None = None,
        keep_sound: bool = False,
    ) -> None:
        self.source, self.options, self.format = source, dict(options or {}), container_format
        self.address = "://" in source
        local = source != "-" and not self.address
        self.is_file = local and Path(source).is_file()
        found = container_format == "v4l2" or (container_format is None and _is_camera(source))
        self.camera = local and not self.is_file and found
        if self.camera:
            self.source = f"/dev/video{source}" if source.isdigit() else source
            self.format = "v4l2"
            _check_camera(self.source)
        elif local and container_format is None and not Path(source).exists():
            raise FileNotFoundError(f"{source}: no such file or device")
        self.fps = 25.0
        self.damage: list[str] = []
        self._stopped = False
        self._check = ContainerCheck()
        self._keep_sound = keep_sound
        self._sound: ArrivingSound | None = None
        self._kept = ExitStack()

    def sound(self) -> SoundTrack | None:
        """Return the sound, on the clock of the frames, for a writer of videos; None: there is none, or it is not kept.

        Call it once, after the first frame has arrived. Sound of standard input or an address arrives with the frames.
        """
        if self._keep_sound and self.is_file and self.format is None:
            return SoundTrack(self.source)
        return self._sound

    def close(self) -> None:
        """Close the source, which stays open after its last frame if its sound is kept."""
        self._kept.close()

    def stop(self) -> None:
        """End the stream; may be called from a signal handler or another thread."""
        self._stopped = True

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes of standard input and wait for the first one; FFmpeg calls this."""
        while not self._stopped:
            if select.select([0], [], [], _PATIENCE)[0]:
                data = os.read(0, size)
                self._check.feed(data)
                return data
        return b""

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yield frames (`av.VideoFrame`) and their times in seconds; times of a camera start at its first frame.

        Raises:
            VideoError: FFmpeg cannot open the source, or it has no frame.
        """
        if self.is_file and self.format is None:
            yield from self._file()
            return
        with ExitStack() as stack:
            try:
                container = self._opened()
            except (av.error.FFmpegError, ValueError) as error:
                if self._stopped:
                    return
                remedy = _camera_remedy(self.source, error) if self.camera else ""
                raise VideoError(f"{self.source}: FFmpeg cannot open it: {error}{remedy}") from error
            stack.enter_context(container)
            if self._keep_sound and not self.camera:
                self._sound, self._kept = ArrivingSound(container), stack.pop_all()
            yield from self._decode(container)
        if self.source == "-" and not self._stopped and (fault := self._check.finish()):
            self.damage.append(fault)

    def _opened(self) -> Any:
        """Open the source: addresses and cameras with the protocols of FFmpeg, everything else as a file."""
        if self.camera or self.address:
            return open_input(self.source, container_format=self.format, options=self.options)
        target = self if self.source == "-" else Path(self.source)
        return open_container(target, container_format=self.format, options=self.options)

    def _file(self) -> Iterator[tuple[Any, float]]:
        try:
            video = VideoSource(Path(self.source), damage=self.damage)
            for timed in video:
                self.fps = float(video.properties["fps"] or 25)
                yield timed.frame, timed.time
                if self._stopped:
                    return
        except VideoError as error:
            raise VideoError(f"{self.source}: {error}") from error
        if fault := check_container(Path(self.source)):
            self.damage.append(fault)

    def _decode(self, container: Any) -> Iterator[tuple[Any, float]]:
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(f"{self.source}: has no video stream")
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else 25.0
        number, origin = 0, 0.0
        sound = None if self._sound is None else self._sound.stream
        packets = container.demux(stream) if sound is None else container.demux(stream, sound)
        while not self._stopped:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:  # such as an unplugged camera or a lost connection
                self.damage.append(f"reading stops after frame {number}: {error}")
                break
            if self._sound is not None and packet.stream.type == "audio":
                self._sound.add(packet)
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self.damage.append(f"a packet after frame {number} cannot be decoded: {error}")
                continue
            for frame in frames:
                moment = number / self.fps if frame.time is None else float(frame.time)
                if number == 0 and self.camera:  # its clock starts with the machine
                    origin = moment
                yield frame, moment - origin
                number += 1
        if number == 0 and not self._stopped:
            raise VideoError(f"{self.source}: no frame could be decoded{f': {self.damage[0]}' if self.damage else ''}")


def _is_camera(source: str) -> bool:
    """Return whether this is the number of a camera, its device, or a link to it such as those in /dev/v4l/by-id."""
    return source.isdigit() or str(Path(source).resolve()).startswith("/dev/video")


def _check_camera(device: str) -> None:
    """Refuse a camera that does not exist or that this FFmpeg cannot read."""
    if not Path(device).exists():
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        hint = f"there are {', '.join(there)}" if there else "there is none: connect one"
        raise FileNotFoundError(f"{device}: no such camera; {hint} (for a container: docker run --device {device})")
    if not any("v4l2" in name.split(",") for name in av.formats_available):
        raise FileNotFoundError(
            f"{device}: this PyAV's FFmpeg has no v4l2 input; pipe the camera in: ffmpeg -f v4l2 -i {device} "
            "-f mpegts - | vidseg predict --stream -"
        )


def _camera_remedy(device: str, error: Exception) -> str:
    """Return what to do about a camera that cannot be opened."""
    remedies = {
        errno.EACCES: "permission denied: sudo usermod -aG video $USER, then log in again",
        errno.EBUSY: "another program uses it",
        errno.EINVAL: f"it may not support these options; v4l2-ctl --device {device} --list-formats-ext lists them",
        errno.ENOTTY: "this device yields no frames: cameras often have two devices, try the neighboring numbers",
    }
    remedy = remedies.get(getattr(error, "errno", None) or 0)
    return "" if remedy is None else f"; {remedy}"
