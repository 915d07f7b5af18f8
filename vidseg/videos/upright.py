"""Upright frames of one size from decoded video, kept as YCbCr planes if the source is YCbCr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from av.video.reformatter import VideoReformatter

from vidseg.frames.frame_planes import Bytes, FramePlanes, plane_memory
from vidseg.videos.frame_size import target_size
from vidseg.videos.orientation import UPRIGHT, Orientation, frame_orientation
from vidseg.videos.source_planes import PlaneReader, color_encoding, reformat

if TYPE_CHECKING:
    import torch

__all__ = ["UprightFrames"]


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
        self._read = PlaneReader()
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
        _, self._read.size = self.measure(frame)
        return self._read(frame).pixels(matrix, height, width)

    def planes(self, frame: Any) -> FramePlanes:
        """Return the planes of an `av.VideoFrame`."""
        orientation, size = self.measure(frame)
        width, height = orientation.size(*size)
        weights, full_range = color_encoding(frame)
        same_size = (frame.width, frame.height) == (width, height)
        if not same_size or frame.format.name.replace("yuvj", "yuv") != self._layout:
            frame = reformat(self._reformatter, frame, width, height, self._layout)
        planes, strides = plane_memory(frame)
        if orientation != UPRIGHT:
            planes, strides = _turned(planes, strides, width, height, self.chroma, orientation)
            width, height = size
        return FramePlanes(planes, strides, width, height, weights, full_range, self.chroma)


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
