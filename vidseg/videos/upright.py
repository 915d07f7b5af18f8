"""Upright frames of one size from decoded video, kept as YCbCr planes if the source is YCbCr."""

from typing import Any

import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from vidseg.frames.frame_planes import BT601, LUMA_WEIGHTS, FramePlanes, planes_of
from vidseg.videos.frame_size import target_size
from vidseg.videos.orientation import UPRIGHT, Orientation, frame_orientation

__all__ = ["UprightFrames"]

_FULL_RANGE = 2
_NOT_YCBCR = ("gray", "mono", "pal", "ya", "xyz")


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
        return self.planes(frame).sample(matrix, height, width)

    def planes(self, frame: Any) -> FramePlanes:
        """Return the planes of an `av.VideoFrame`."""
        orientation, size = self.measure(frame)
        width, height = orientation.size(*size)
        name = frame.format.name
        if frame.format.is_rgb or name.startswith(_NOT_YCBCR):
            frame = self._reformat(frame, width, height, Colorspace.ITU601, ColorRange.JPEG)
            weights, full_range = BT601, True
        else:
            weights = LUMA_WEIGHTS.get(int(frame.colorspace), BT601)
            full_range = int(frame.color_range) == _FULL_RANGE or name.startswith("yuvj")
            if (frame.width, frame.height) != (width, height) or name.replace("j", "") != self._layout:
                frame = self._reformat(frame, width, height, None, None)
        planes, strides = planes_of(frame)
        if orientation != UPRIGHT:
            planes, strides = _turned(planes, strides, width, height, self.chroma, orientation)
            width, height = size
        return FramePlanes(planes, strides, width, height, weights, full_range, self.chroma)

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


def _turned(
    planes: list[torch.Tensor], strides: list[int], width: int, height: int, chroma: int, orientation: Orientation
) -> tuple[list[torch.Tensor], list[int]]:
    """Return planes as displayed."""
    turned = []
    for index, (plane, stride) in enumerate(zip(planes, strides, strict=True)):
        halved = index > 0 and chroma == 420
        columns, rows = ((width + 1) // 2, (height + 1) // 2) if halved else (width, height)
        pixels = plane.numpy()[: stride * rows].reshape(rows, stride)[:, :columns]
        turned.append(np.ascontiguousarray(orientation.apply(pixels)))
    return [torch.from_numpy(pixels.reshape(-1)) for pixels in turned], [pixels.shape[1] for pixels in turned]
