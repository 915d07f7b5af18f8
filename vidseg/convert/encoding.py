"""Decoded video frames to JPEGs."""

from typing import Any

from vidseg.convert.options import ConvertOptions
from vidseg.frames import encode_planes
from vidseg.videos.upright import UprightFrames

__all__ = ["FrameEncoder"]


class FrameEncoder:
    """Turns the frames of one video into JPEGs of one size.

    swscale resizes and changes the sample layout; the native library then converts range and matrix to JPEG's while it
    copies.
    """

    def __init__(self, options: ConvertOptions) -> None:
        self.options = options
        self.frames = UprightFrames(size=options.size, chroma=options.chroma)

    def encode(self, frame: Any) -> list[bytes]:
        """Return the JPEG of an `av.VideoFrame` and those of its smaller copies."""
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
