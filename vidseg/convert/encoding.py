"""What a conversion stores for each frame: JPEGs, or pictures of a video stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vidseg.convert.convert_options import ConvertOptions
from vidseg.frames import FrameWriter, encode_planes
from vidseg.frames.frame_planes import FramePlanes, planes_of_rgb
from vidseg.frames.writer import DatabaseWriter

if TYPE_CHECKING:  # torch is imported for sources that are JPEGs or databases only
    import torch

    from vidseg.frames import StreamWriter

__all__ = ["EncodedFrames", "FrameStore", "JpegStore", "VideoStore", "open_store"]


@dataclass
class EncodedFrames:
    """Stream of encoded frames of one source, with the source's properties and damage."""

    stream: Iterator[tuple[Any, int, float | None]]  # frame as the store encodes it, width, time
    properties: dict[str, str | int | float | None]
    damage: list[str] = field(default_factory=list)


class FrameStore(Protocol):
    """One way to store the frames of a video: encodes each frame, and writes it to the database.

    Attributes:
        properties: entries of the meta table that describe the encoding.
    """

    properties: dict[str, str | int | float | None]

    def of_planes(self, planes: FramePlanes) -> Any:
        """Encode a frame of a video decoder."""

    def of_rgb(self, pixels: torch.Tensor, *, jpeg: bytes | None = None) -> Any:
        """Encode RGB pixels, uint8 (H, W, 3). `jpeg`: JPEG of the same pixels, which is kept if JPEGs are stored.

        Raises:
            ValueError, RuntimeError: the frame cannot be encoded.
        """

    def open(self, path: Path) -> DatabaseWriter:
        """Return the writer of a new database."""

    def add(self, frame: Any, *, width: int, timestamp: float | None) -> None:
        """Write a frame that `of_planes` or `of_rgb` has returned to the database of `open`."""


class JpegStore:
    """Frames as JPEGs, each with its smaller copies; range and matrix are converted to those of JPEG.

    Args:
        options: quality, chroma, restart interval and levels.
    """

    def __init__(self, options: ConvertOptions) -> None:
        self._options = options
        self._coding: dict[str, Any] = {
            "chroma": options.chroma,
            "restart_interval": options.restart_interval,
            "optimize": options.optimize,
            "levels": options.levels,
        }
        self.properties: dict[str, str | int | float | None] = {
            "chroma": options.chroma,
            "restart_interval": options.restart_interval,
        }

    def of_planes(self, planes: FramePlanes) -> list[bytes]:
        """Return the JPEG of a frame, followed by the JPEGs of its levels."""
        return encode_planes(
            planes.planes,
            planes.strides,
            width=planes.width,
            height=planes.height,
            quality=self._options.quality,
            luma_weights=planes.luma_weights,
            full_range=planes.full_range,
            **self._coding,
        )

    def of_rgb(self, pixels: torch.Tensor, *, jpeg: bytes | None = None) -> list[bytes]:
        """Return the JPEG of a frame, followed by the JPEGs of its levels."""
        from vidseg.frames import encode_rgb, recode_jpeg

        jpegs = encode_rgb(pixels, self._options.quality, **self._coding)
        if jpeg is not None:
            own = {name: self._coding[name] for name in ("restart_interval", "optimize")}
            jpegs[0] = recode_jpeg(jpeg, **own)
        return jpegs

    def open(self, path: Path) -> FrameWriter:
        """Return the writer of a new database."""
        self._writer = FrameWriter(path, levels=self._options.levels)
        return self._writer

    def add(self, frame: list[bytes], *, width: int, timestamp: float | None) -> None:
        """Write a frame."""
        self._writer.add(frame[0], width=width, timestamp=timestamp, levels=frame[1:])


class VideoStore:
    """Frames as a video stream.

    Args:
        options: codec, crf, gop and chroma.
    """

    def __init__(self, options: ConvertOptions) -> None:
        self._form = options.stream_form()
        self.properties: dict[str, str | int | float | None] = {}  # those of the writer

    def of_planes(self, planes: FramePlanes) -> FramePlanes:
        """Return the frame; the writer encodes it together with those beside it."""
        return planes

    def of_rgb(self, pixels: torch.Tensor, *, jpeg: bytes | None = None) -> FramePlanes:
        """Return the planes of a frame."""
        return planes_of_rgb(pixels, chroma=self._form.chroma)

    def open(self, path: Path) -> StreamWriter:
        """Return the writer of a new database."""
        from vidseg.frames import StreamWriter

        self._writer = StreamWriter(path, self._form)
        return self._writer

    def add(self, frame: FramePlanes, *, width: int, timestamp: float | None) -> None:
        """Write a frame."""
        self._writer.add_planes(frame, timestamp=timestamp)


def open_store(options: ConvertOptions) -> FrameStore:
    """Return the store of `options.store`."""
    return JpegStore(options) if options.store == "jpeg" else VideoStore(options)
