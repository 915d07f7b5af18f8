"""Opening of video files with PyAV: files only, self-contained formats only, and frames of bounded size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import av.error
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream

from vidseg.videos.frame_size import MAX_PIXELS

__all__ = [
    "VideoError",
    "file_address",
    "open_container",
    "open_input",
    "open_video",
    "reason_of",
    "side_data_of",
]

# Formats whose files contain all of their media. Other formats are playlists and manifests, which name further files
# and addresses, scripts, devices, and text or subtitles, which FFmpeg draws as pictures.
_FORMATS = frozenset(
    "3dostr 4xm amv anm apng apv asf asf_o av1 avi avs avs2 avs3 bethsoftvid bfi bink bmv c93 cavsvideo cdg cdxl "
    "cine dfa dhav dirac dnxhd dsicin dv dxa ea ea_cdata evc film_cpk filmstrip fits flic flv frm gdv gif gxf h261 "
    "h263 h264 hevc hnm hxvs idcin iff ifv ingenient ipmovie ipu iv8 ivf ivr jpegxl_anim jv kux live_flv lmlm4 "
    "luodat lvf lxf m4v matroska mgsts mjpeg mjpeg_2000 mlv mm mods moflex mov mpeg mpegts mpegtsraw mpegvideo "
    "mpjpeg msnwctcp mtv mv mvi mxf mxg nc nsv nut nuv obu ogg paf pdv pmp psxstr pva r3d rl2 rm roq rpl sdr2 ser "
    "sga siff simbiosis_imx smjpeg smk smush swf thp tiertexseq tmv txd ty usm vc1 vc1test vividas vivo vmd vvc "
    "wc3movie webm webp wsvqa wtv xmv yop yuv4mpegpipe".split()
)
_PIPES_OF_OTHER_FILES = frozenset({"svg_pipe"})  # an SVG may refer to other files

# PyAV 19 decodes metadata leniently and has no such argument.
_LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


def _accept_new_side_data() -> None:
    """Let PyAV list the side data of a frame of which some has a type that FFmpeg has and PyAV's list lacks.

    PyAV raises ValueError for such a frame, also for its display matrix; FFmpeg 8 adds EXIF tags of pictures, for
    example.
    """

    def unknown(types: Any, value: object) -> Any:
        if not isinstance(value, int):
            return None
        added = object.__new__(types)
        added._name_, added._value_ = f"TYPE_{value}", value
        return added

    SideDataType._missing_ = classmethod(unknown)  # type: ignore[assignment]


_accept_new_side_data()


def side_data_of(frame: Any, kind: str) -> Any:
    """Return the side data of this kind of an `av.VideoFrame`, or None.

    `frame.side_data` would make the frame and its side data refer to each other. The garbage collector, which counts
    objects and not their bytes, would free such frames by the hundred.

    Args:
        frame: the frame.
        kind: FFmpeg's name, such as "DISPLAYMATRIX".
    """
    return SideDataContainer(frame).get(kind)  # type: ignore[call-arg]  # the stub lacks its argument


class VideoError(RuntimeError):
    """Raised for a video without any decodable frame; the message names the cause."""


def file_address(path: str | Path) -> str:
    """Return the address under which FFmpeg opens `path` as a file, whatever its name looks like."""
    return f"file:{os.path.abspath(path)}"  # noqa: PTH100 - Path.absolute keeps "..", and resolve follows links


def _format_whitelist(extra: str | None) -> str:
    """Return FFmpeg's list of permitted input formats."""
    pipes = {name for name in av.formats_available if name.endswith("_pipe")} - _PIPES_OF_OTHER_FILES
    return ",".join(sorted(_FORMATS | pipes | ({extra} if extra else set())))


def open_container(
    source: Any, *, container_format: str | None = None, options: Mapping[str, str] | None = None
) -> Any:
    """Open a file, or an object with a `read` method, as a PyAV container of a self-contained format.

    FFmpeg gets no other protocol than files, and no format that names other files, so that the bytes of a video never
    decide what else is opened.

    Args:
        source: path of a file, or an object with a `read` method.
        container_format: FFmpeg's name of the format; None: detected among the self-contained formats.
        options: further options for the container and its decoders.

    Raises:
        FFmpegError, ValueError: FFmpeg cannot open it.
    """
    address = file_address(source) if isinstance(source, (str, Path)) else source
    limits = {"protocol_whitelist": "file", "format_whitelist": _format_whitelist(container_format)}
    return open_input(address, container_format=container_format, options=options, limits=limits)


def open_input(
    address: Any,
    *,
    container_format: str | None = None,
    options: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
) -> Any:
    """Open an address as a PyAV container, with the protocols and formats that FFmpeg permits for it.

    Args:
        address: address or device in the form that FFmpeg accepts, or an object with a `read` method.
        container_format: FFmpeg's name of the format; None: detected.
        options: options for the container and its decoders.
        limits: options for the container alone.

    Raises:
        FFmpegError, ValueError: FFmpeg cannot open it.
    """
    return av.open(
        address, format=container_format, options=dict(options or {}), container_options=dict(limits or {}), **_LENIENT
    )


@contextlib.contextmanager
def open_video(path: Path, *, max_pixels: int = MAX_PIXELS) -> Iterator[tuple[Any, VideoStream]]:
    """Open a file as a PyAV container and select its video stream; both are closed at the end of the context.

    Args:
        path: the video file.
        max_pixels: largest number of pixels of a frame.

    Raises:
        VideoError: the file is empty, not a video, has no video stream, or its frames are too large.
    """
    try:
        if path.stat().st_size == 0:
            raise VideoError("the file is empty")
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror}") from error
    try:
        # Both limits apply while FFmpeg probes the streams, too.
        container = open_container(path, options={"max_pixels": str(max_pixels)})
    except av.error.ArgumentError as error:
        raise VideoError(
            "FFmpeg cannot open this file as a video: unknown format, or one that refers to other files (a playlist), "
            "a script, subtitles or text"
        ) from error
    except (av.error.FFmpegError, ValueError) as error:
        raise VideoError(f"FFmpeg cannot open this file as a video ({reason_of(error)})") from error
    with container:
        stream = _video_stream(container)
        context = stream.codec_context
        if context.width * context.height > max_pixels:
            raise VideoError(
                f"frames of {context.width}x{context.height} pixels, more than the limit of {max_pixels} (max_pixels)"
            )
        stream.thread_count = 1  # videos are decoded in parallel; threads within one video only add memory
        context.options = {**context.options, "max_pixels": str(max_pixels)}
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


def reason_of(error: Exception) -> str:
    """Return the reason of an FFmpeg error without the address of the file."""
    return getattr(error, "strerror", None) or str(error)
