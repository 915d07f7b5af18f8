"""JPEG encoding of decoded video frames."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vidseg.convert.convert_options import ConvertOptions
from vidseg.frames import encode_planes
from vidseg.videos.upright import UprightFrames

__all__ = ["EncodedFrames", "FrameEncoder"]


@dataclass
class EncodedFrames:
    """Stream of encoded frames of one source, with the source's properties and damage."""

    stream: Iterator[tuple[list[bytes], int, float | None]]  # JPEGs, width, time
    properties: dict[str, str | int | float | None]
    damage: list[str] = field(default_factory=list)


class FrameEncoder:
    """Encode the frames of one video as JPEGs of one size.

    swscale resizes the frame and converts its pixel format; the native library then converts range and matrix to JPEG's
    during the copy.

    Args:
        options: size, quality, chroma, restart interval and levels.
    """

    def __init__(self, options: ConvertOptions) -> None:
        self.options = options
        self.frames = UprightFrames(size=options.size, chroma=options.chroma)

    def encode(self, frame: Any) -> list[bytes]:
        """Return the JPEG of an `av.VideoFrame`, followed by the JPEGs of its levels."""
        planes = self.frames.planes(frame)
        return encode_planes(
            planes.planes,
            planes.strides,
            width=planes.width,
            height=planes.height,
            quality=self.options.quality,
            chroma=self.options.chroma,
            luma_weights=planes.luma_weights,
            full_range=planes.full_range,
            restart_interval=self.options.restart_interval,
            optimize=self.options.optimize,
            levels=self.options.levels,
        )
