"""Checks of uploaded videos, frames and features before a task sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import numpy.typing as npt

from vidseg.loaders.feature_files import read_array
from vidseg.serve.request_progress import Progress
from vidseg.videos.container_check import check_container
from vidseg.videos.opening import VideoError, open_video, reason_of
from vidseg.videos.orientation import jpeg_size

__all__ = ["RequestError", "VideoFacts", "check_jpeg", "check_video", "read_features", "write_frames"]

_RATES = (0.01, 1000.0)  # of uploaded frames
_TICKS = 90_000  # per second, of the times of uploaded frames
_SLACK_SECONDS = 1.0  # of durations in headers and of last frames


class RequestError(Exception):
    """Raised for a request that cannot be served; the message is for the client.

    Args:
        status: HTTP status.
        message: one sentence: what is wrong, and what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class VideoFacts:
    """Properties of an uploaded video.

    Attributes:
        width: width of the coded frames in pixels.
        height: height of the coded frames in pixels.
        frames: number of packets, which is the number of frames in nearly all formats.
        seconds: duration by the times of the packets.
        fps: mean frame rate; 25 if the file has none.
        damage: fault of the structure of the file, or None.
    """

    width: int
    height: int
    frames: int
    seconds: float
    fps: float
    damage: str | None


def check_video(path: Path, *, max_seconds: float, max_pixels: int, max_frames: int, progress: Progress) -> VideoFacts:
    """Probe an uploaded video without decoding it: playlists, scripts and other addresses are refused.

    Args:
        path: the file.
        max_seconds: longest duration.
        max_pixels: largest frame.
        max_frames: largest number of packets.
        progress: checked while packets are read.

    Raises:
        RequestError: not a video (422), or larger than a limit (413).
    """
    count, first, last = 0, math.inf, -math.inf
    try:
        with open_video(path, max_pixels=max_pixels) as (container, stream):
            rate = stream.average_rate or stream.guessed_rate
            fps = float(rate) if rate else 25.0
            context = stream.codec_context
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                count += 1
                if count > max_frames:
                    raise RequestError(413, f"the video has more frames than the limit of {max_frames}")
                if count % 64 == 0:
                    progress.check()
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None and packet.time_base is not None:
                    time = float(stamp * packet.time_base)
                    first, last = min(first, time), max(last, time)
            width, height = context.width, context.height
    except VideoError as error:
        raise RequestError(422, f"the upload is not a video that can be read: {error}") from error
    except av.error.FFmpegError as error:
        raise RequestError(422, f"the upload cannot be read after packet {count}: {reason_of(error)}") from error
    if count == 0:
        raise RequestError(422, "the upload is not a video that can be read: it has no frames")
    seconds = last - first + 1 / fps if last >= first else count / fps
    if seconds > max_seconds + _SLACK_SECONDS:
        raise RequestError(
            413, f"the video lasts {seconds:.1f} s, more than the limit of {max_seconds:g} s; cut it, or use a job"
        )
    return VideoFacts(width, height, count, round(seconds, 3), fps, check_container(path))


def read_features(path: Path, *, max_frames: int) -> npt.NDArray[np.float32]:
    """Read an uploaded .npy file of features; pickles are refused, and memory depends on the size of the file.

    Raises:
        RequestError: not such a file (422), or too many columns (413).
    """
    try:
        values = read_array(path)
    except ValueError as error:
        raise RequestError(422, str(error).replace(f"{path}", "the upload")) from error
    if max(values.shape) > max_frames:
        raise RequestError(413, f"features of shape {values.shape}, more than the limit of {max_frames} columns")
    array: npt.NDArray[np.float32] = np.array(values, np.float32)
    if not np.isfinite(array).all():
        raise RequestError(422, "the features have values that are not finite")
    return array


def check_jpeg(jpeg: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Return width and height of a JPEG from its header.

    Raises:
        RequestError: not a JPEG (422), or too large (413).
    """
    size = jpeg_size(jpeg) if jpeg[:2] == b"\xff\xd8" else None
    if size is None or 0 in size:
        raise RequestError(422, "a frame is not a JPEG; send JPEG frames, or a video")
    if size[0] * size[1] > max_pixels:
        raise RequestError(413, f"a frame of {size[0]}x{size[1]} pixels, more than the limit of {max_pixels}")
    return size


def write_frames(path: Path, jpegs: Iterable[bytes], *, fps: float, max_pixels: int) -> int:
    """Write JPEG frames as a video without encoding them again (Motion JPEG in Matroska).

    Args:
        path: file to write.
        jpegs: frames of one size.
        fps: frames per second.
        max_pixels: largest frame.

    Returns:
        The number of frames.

    Raises:
        RequestError: a rate out of range, no frame, not a JPEG, too large, or of another size than the first one.
    """
    if not _RATES[0] <= fps <= _RATES[1]:
        raise RequestError(422, f"fps={fps:g} must be from {_RATES[0]} to {_RATES[1]:g}")
    count, size = 0, (0, 0)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuvj420p"
        for number, jpeg in enumerate(jpegs):
            found = check_jpeg(jpeg, max_pixels=max_pixels)
            if number == 0:
                size = found
                stream.width, stream.height = size
            if found != size:
                raise RequestError(
                    422,
                    f"frame {number} has {found[0]}x{found[1]} pixels, the first one {size[0]}x{size[1]}; send frames "
                    "of one size",
                )
            packet = av.Packet(jpeg)
            packet.stream = stream
            packet.time_base = Fraction(1, _TICKS)
            packet.pts = packet.dts = round(number * _TICKS / fps)
            packet.duration = round(_TICKS / fps)
            packet.is_keyframe = True
            container.mux(packet)
            count += 1
    if not count:
        raise RequestError(422, "the request has no frame")
    return count
