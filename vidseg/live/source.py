"""Where the frames of a stream come from: a file, a camera, an address, or standard input."""

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

from vidseg.videos.decoding import VideoError, VideoSource

__all__ = ["LiveSource"]

_PATIENCE = 0.1  # seconds between two looks at whether a source that is silent has been stopped


class LiveSource:
    """Frames of a video file, a camera, an address or standard input, as they come.

    Args:
        source: path of a file, a camera as /dev/video0 or its number, an address that FFmpeg knows, or "-" for a
            container on standard input (one that can be read from its beginning: MPEG-TS, Matroska, fragmented MP4).
        container_format: FFmpeg's name of the format or of the kind of device; None: v4l2 for cameras, else found out.
        options: for FFmpeg, such as {"framerate": "30", "video_size": "1280x720"}.

    Attributes:
        fps: frames a second, as the source says, 25 where it does not; known once iteration has begun.
        damage: what was found wrong, one sentence each.

    Raises:
        FileNotFoundError: no such file, or no such camera.
    """

    def __init__(
        self, source: str, *, container_format: str | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self.source, self.options, self.format = source, dict(options or {}), container_format
        local = source != "-" and "://" not in source
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

    def stop(self) -> None:
        """End the source, as if nothing more came: from a signal's handler, or another thread."""
        self._stopped = True

    def read(self, size: int) -> bytes:
        """What has arrived on standard input, `size` bytes at most; waits for the first. For FFmpeg."""
        while not self._stopped:
            if select.select([0], [], [], _PATIENCE)[0]:
                return os.read(0, size)
        return b""

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yield frames, `av.VideoFrame`, and their times in seconds: of a camera from its first frame on.

        Raises:
            VideoError: not a video that FFmpeg can open, or one without a frame.
        """
        if self.is_file and self.format is None:
            video = VideoSource(Path(self.source), damage=self.damage)
            for timed in video:
                self.fps = float(video.properties["fps"] or 25)
                yield timed.frame, timed.time
                if self._stopped:
                    break
            return
        with ExitStack() as stack:
            target: Any = self if self.source == "-" else self.source
            try:
                container = av.open(target, format=self.format, options=self.options, metadata_errors="ignore")
            except (av.error.FFmpegError, ValueError) as error:
                if self._stopped:
                    return
                remedy = _camera_remedy(self.source, error) if self.camera else ""
                raise VideoError(f"{self.source}: FFmpeg cannot open it: {error}{remedy}") from error
            yield from self._decode(stack.enter_context(container))

    def _decode(self, container: Any) -> Iterator[tuple[Any, float]]:
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(f"{self.source}: has no video stream")
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else 25.0
        number, origin = 0, 0.0
        packets = container.demux(stream)
        while not self._stopped:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:  # a camera that is pulled out, a connection that breaks
                self.damage.append(f"reading stops after frame {number}: {error}")
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self.damage.append(f"a packet after frame {number} cannot be decoded: {error}")
                continue
            for frame in frames:
                moment = number / self.fps if frame.time is None else float(frame.time)
                if number == 0 and self.camera:  # whose clock began with the machine
                    origin = moment
                yield frame, moment - origin
                number += 1
        if number == 0 and not self._stopped:
            raise VideoError(f"{self.source}: no frame could be decoded{f': {self.damage[0]}' if self.damage else ''}")


def _is_camera(source: str) -> bool:
    """Whether it is the number of a camera, its device, or a link to it such as those in /dev/v4l/by-id."""
    return source.isdigit() or str(Path(source).resolve()).startswith("/dev/video")


def _check_camera(device: str) -> None:
    """Refuse a camera that is not there, or that this FFmpeg could not read."""
    if not Path(device).exists():
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        hint = f"there are {', '.join(there)}" if there else "there is none: plug one in"
        raise FileNotFoundError(
            f"{device}: no such camera; {hint} (a container needs it passed on: docker run --device {device})"
        )
    if not any("v4l2" in name.split(",") for name in av.formats_available):
        raise FileNotFoundError(
            f"{device}: this PyAV's FFmpeg has no v4l2 input; pipe the camera in: ffmpeg -f v4l2 -i {device} "
            "-f mpegts - | vidseg predict --stream -"
        )


def _camera_remedy(device: str, error: Exception) -> str:
    """What to do about a camera that cannot be opened."""
    remedies = {
        errno.EACCES: "you may not read it: sudo usermod -aG video $USER, and log in again",
        errno.EBUSY: "another program has it open",
        errno.EINVAL: f"it may not know these options; v4l2-ctl --device {device} --list-formats-ext has its own",
        errno.ENOTTY: "this device gives no pictures: cameras often have a second one, try the numbers beside it",
    }
    remedy = remedies.get(getattr(error, "errno", None) or 0)
    return "" if remedy is None else f"; {remedy}"
