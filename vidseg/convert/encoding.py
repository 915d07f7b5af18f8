"""JPEG encoding of decoded video frames."""

from typing import Any

from vidseg.convert.convert_options import ConvertOptions
from vidseg.frames import encode_planes
from vidseg.videos.upright import UprightFrames

__all__ = ["FrameEncoder"]


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
