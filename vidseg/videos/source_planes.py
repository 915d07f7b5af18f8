"""Planes of decoded frames in the decoder's memory, resampled to clips by the compiled library.

8-bit YCbCr with chroma of 4:2:0, 4:2:2 or 4:4:4, planar or with interleaved chroma (NV12, NV21), and 8-bit gray are
read where the decoder has put them. FFmpeg first converts other formats, such as 10 bits or RGB, to 8-bit 4:2:0. Range
and matrix are converted to those of JPEG in 8 bits, as a conversion does before compression. Chroma of lower resolution
than luma is interpolated from the two nearest samples, in each direction, with weights 3/4 and 1/4, as in libjpeg. R, G
and B are within 3 gray levels of the exact formula, 2 for full range.
"""

from __future__ import annotations

from typing import Any

from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from vidseg.frames.frame_planes import BT601, LUMA_WEIGHTS, FramePlanes, plane_memory
from vidseg.videos.orientation import frame_orientation

__all__ = ["PlaneReader", "color_encoding", "reformat"]

_FULL_RANGE = 2
_NOT_YCBCR = ("gray", "mono", "pal", "ya", "xyz")

# By FFmpeg's name of the pixel format: sampling of chroma and, if Cb and Cr are interleaved, the places of their first
# samples in the plane.
_READ: dict[str, tuple[int, tuple[int, int] | None]] = {
    "yuv420p": (420, None),
    "yuvj420p": (420, None),
    "yuv422p": (422, None),
    "yuvj422p": (422, None),
    "yuv444p": (444, None),
    "yuvj444p": (444, None),
    "gray": (400, None),
    "nv12": (420, (0, 1)),
    "nv21": (420, (1, 0)),
}


class PlaneReader:
    """Read the planes of the frames of one video.

    Args:
        size: (width, height) of the displayed frames; frames of another size are scaled to it, as a conversion does.
            None: every frame as it is.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = size
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> FramePlanes:
        """Return the planes of an `av.VideoFrame`."""
        orientation = frame_orientation(frame)
        width, height = (frame.width, frame.height) if self.size is None else orientation.size(*self.size)
        (weights, full_range), name = color_encoding(frame), frame.format.name
        if name not in _READ or (frame.width, frame.height) != (width, height):
            frame = reformat(self._reformatter, frame, width, height, "yuv420p")
            name = "yuv420p"
        sampling, interleaved = _READ[name]
        planes, strides = plane_memory(frame)
        if sampling == 400:
            planes, strides = planes * 3, strides * 3  # chroma is not read
        elif interleaved is not None:
            blue, red = interleaved
            planes = [planes[0], planes[1][blue:], planes[1][red:]]
            strides = [strides[0], strides[1], strides[1]]
        return FramePlanes(
            planes,
            strides,
            width,
            height,
            luma_weights=weights,
            full_range=full_range,
            sampling=sampling,
            step=1 if interleaved is None else 2,
            orientation=orientation.exif,
        )


def _is_ycbcr(frame: Any) -> bool:
    return not (frame.format.is_rgb or frame.format.name.startswith(_NOT_YCBCR))


def color_encoding(frame: Any) -> tuple[tuple[float, float], bool]:
    """Return the luma weights of red and blue of an `av.VideoFrame` after `reformat`, and whether its range is full."""
    if not _is_ycbcr(frame):
        return BT601, True
    full_range = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return LUMA_WEIGHTS.get(int(frame.colorspace), BT601), full_range


def reformat(reformatter: VideoReformatter, frame: Any, width: int, height: int, layout: str) -> Any:
    """Return an `av.VideoFrame` scaled by swscale, in another pixel format of 8-bit YCbCr.

    Frames of other color models, such as RGB and gray, become full-range BT.601; others keep their matrix and range.
    """
    converts = not _is_ycbcr(frame)
    # With the same color space for source and target, swscale does not convert colors.
    return reformatter.reformat(
        frame,
        width,
        height,
        layout,
        src_colorspace=None if converts else Colorspace.ITU601,
        dst_colorspace=Colorspace.ITU601,
        src_color_range=None if converts else ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC,
        threads=1,  # the default is one per core
    )
