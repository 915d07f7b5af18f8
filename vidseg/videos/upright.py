"""Upright frames of one size from decoded video, kept as YCbCr planes if the source is YCbCr."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from vidseg.videos.frame_size import target_size
from vidseg.videos.orientation import UPRIGHT, Orientation, frame_orientation

if TYPE_CHECKING:
    import torch

__all__ = ["FramePlanes", "UprightFrames"]

Bytes = npt.NDArray[np.uint8]

# Luma weights of red and blue by FFmpeg's color space number (ITU-T H.273, matrix coefficients). Unmarked video is
# treated as BT.601, as in FFmpeg.
_BT601 = (0.299, 0.114)
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020, constant luminance
}
_FULL_RANGE = 2
_NOT_YCBCR = ("gray", "mono", "pal", "ya", "xyz")


@dataclass(frozen=True)
class FramePlanes:
    """Upright frame in its target size.

    Attributes:
        planes: Y, Cb, Cr as flat uint8 arrays.
        strides: bytes per row of each plane.
        width: width of the luma plane in pixels.
        height: height of the luma plane in pixels.
        luma_weights: luma weights of red and blue.
        full_range: black is 0 and white 255, instead of 16 and 235.
    """

    planes: list[Bytes]
    strides: list[int]
    width: int
    height: int
    luma_weights: tuple[float, float]
    full_range: bool


class UprightFrames:
    """Rotate and mirror the frames of one video as displayed and scale them to one size, as Y, Cb and Cr planes.

    The first frame determines the size; later frames of another size are scaled to it.

    Args:
        size: frame size in the form that `target_size` accepts.
        chroma: 420 (half chroma resolution) or 444 (full).
    """

    def __init__(self, *, size: str = "256", chroma: int = 420) -> None:
        self.wanted, self.chroma = size, chroma
        self.size: tuple[int, int] | None = None  # (width, height) as displayed
        self.orientation = UPRIGHT  # of the first frame
        self._reformatter = VideoReformatter()
        self._layout = f"yuv{chroma}p"

    def measure(self, frame: Any) -> tuple[Orientation, tuple[int, int]]:
        """Return the orientation of an `av.VideoFrame` and the (width, height) that it is displayed with."""
        orientation = frame_orientation(frame)
        if self.size is None:
            self.size = target_size(self.wanted, *orientation.size(frame.width, frame.height))
            self.orientation = orientation
        return orientation, self.size

    def sample(self, frame: Any, matrix: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Resample an `av.VideoFrame` to RGB.

        Args:
            frame: the frame.
            matrix: float64 (3, 3) from output pixel to pixel of the upright frame.
            height: output height in pixels.
            width: output width in pixels.

        Returns:
            uint8 (H, W, 3).
        """
        import torch  # not above: the workers of a conversion do without it

        from vidseg.frames.native import operators

        planes = self.planes(frame)
        sampled: torch.Tensor = operators.sample_planes(
            *map(torch.from_numpy, planes.planes),
            *planes.strides,
            planes.width,
            planes.height,
            self.chroma,
            *planes.luma_weights,
            planes.full_range,
            matrix,
            height,
            width,
        )
        return sampled

    def planes(self, frame: Any) -> FramePlanes:
        """Return the planes of an `av.VideoFrame`."""
        orientation, size = self.measure(frame)
        width, height = orientation.size(*size)
        name = frame.format.name
        if frame.format.is_rgb or name.startswith(_NOT_YCBCR):
            frame = self._reformat(frame, width, height, Colorspace.ITU601, ColorRange.JPEG)
            weights, full_range = _BT601, True
        else:
            weights = _LUMA_WEIGHTS.get(int(frame.colorspace), _BT601)
            full_range = int(frame.color_range) == _FULL_RANGE or name.startswith("yuvj")
            if (frame.width, frame.height) != (width, height) or name.replace("j", "") != self._layout:
                frame = self._reformat(frame, width, height, None, None)
        planes, strides = _planes(frame)
        if orientation != UPRIGHT:
            planes, strides = _turned(planes, strides, width, height, self.chroma, orientation)
            width, height = size
        return FramePlanes(planes, strides, width, height, weights, full_range)

    def _reformat(
        self, frame: Any, width: int, height: int, colorspace: Colorspace | None, color_range: ColorRange | None
    ) -> Any:
        # Without a requested color space, source and target have the same one, so swscale does not convert colors.
        space = colorspace if colorspace is not None else Colorspace.ITU601
        source_space = None if colorspace is not None else space
        levels = color_range if color_range is not None else ColorRange.JPEG
        source_levels = None if color_range is not None else levels
        return self._reformatter.reformat(
            frame,
            width,
            height,
            self._layout,
            src_colorspace=source_space,
            dst_colorspace=space,
            src_color_range=source_levels,
            dst_color_range=levels,
            interpolation=Interpolation.BICUBIC,
            threads=1,  # the default is one per core
        )


def _planes(frame: Any) -> tuple[list[Bytes], list[int]]:
    planes, strides = [], []
    for plane in frame.planes[:3]:
        stride = plane.line_size
        planes.append(_from_the_top(plane) if stride < 0 else np.frombuffer(plane, np.uint8))
        strides.append(abs(stride))
    return planes, strides


def _from_the_top(plane: Any) -> Bytes:
    """Return the rows of an `av.VideoPlane` whose first row is the last one in memory, in the usual order."""
    stride, rows = -plane.line_size, plane.height
    memory = ctypes.string_at(plane.buffer_ptr - stride * (rows - 1), stride * rows)
    return np.ascontiguousarray(np.frombuffer(memory, np.uint8).reshape(rows, stride)[::-1]).reshape(-1)


def _turned(
    planes: list[Bytes], strides: list[int], width: int, height: int, chroma: int, orientation: Orientation
) -> tuple[list[Bytes], list[int]]:
    """Return planes as displayed."""
    turned = []
    for index, (plane, stride) in enumerate(zip(planes, strides, strict=True)):
        halved = index > 0 and chroma == 420
        columns, rows = ((width + 1) // 2, (height + 1) // 2) if halved else (width, height)
        pixels = plane[: stride * rows].reshape(rows, stride)[:, :columns]
        turned.append(np.ascontiguousarray(orientation.apply(pixels)))
    return [pixels.reshape(-1) for pixels in turned], [pixels.shape[1] for pixels in turned]
