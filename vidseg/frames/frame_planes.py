"""Pictures as video has them: planes of luma and color differences, with their color matrix and range."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from vidseg.frames.native import operators

__all__ = ["BT601", "LUMA_WEIGHTS", "FramePlanes", "planes_of", "planes_of_rgb"]

BT601 = (0.299, 0.114)
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: BT601,
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020, constant luminance
}
"""Luma weights of red and blue by FFmpeg's color space number (ITU-T H.273, matrix coefficients). Unmarked video is
treated as BT.601, as in FFmpeg."""


@dataclass(frozen=True)
class FramePlanes:
    """One picture.

    Attributes:
        planes: Y, Cb, Cr as flat uint8 tensors.
        strides: bytes per row of each plane.
        width: width of the luma plane in pixels.
        height: height of the luma plane in pixels.
        luma_weights: luma weights of red and blue.
        full_range: black is 0 and white 255, instead of 16 and 235.
        chroma: 420 (color at half resolution) or 444.
    """

    planes: list[torch.Tensor]
    strides: list[int]
    width: int
    height: int
    luma_weights: tuple[float, float]
    full_range: bool
    chroma: int = 420

    def sample(self, matrix: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Resample to RGB.

        Args:
            matrix: float64 (3, 3) from output pixel to pixel of the picture.
            height: output height in pixels.
            width: output width in pixels.

        Returns:
            uint8 (H, W, 3).
        """
        sampled: torch.Tensor = operators.sample_planes(
            *self.planes,
            *self.strides,
            self.width,
            self.height,
            self.chroma,
            *self.luma_weights,
            self.full_range,
            matrix,
            height,
            width,
        )
        return sampled

    def rgb(self, size: tuple[int, int] | None = None) -> torch.Tensor:
        """Convert to RGB, uint8 (H, W, 3); the whole picture is resampled to `size` (height, width) if it is given."""
        height, width = size or (self.height, self.width)
        scale = [self.width / width, self.height / height, 1.0]
        return self.sample(torch.diag(torch.tensor(scale, dtype=torch.float64)), height, width)


def planes_of(frame: Any) -> tuple[list[torch.Tensor], list[int]]:
    """Return Y, Cb and Cr of an `av.VideoFrame` as flat uint8 tensors that share its memory, and their strides."""
    planes = [_from_the_top(plane) if plane.line_size < 0 else plane for plane in frame.planes[:3]]
    strides = [abs(plane.line_size) for plane in frame.planes[:3]]
    return [torch.frombuffer(plane, dtype=torch.uint8) for plane in planes], strides


def planes_of_rgb(
    pixels: torch.Tensor, *, luma_weights: tuple[float, float] = BT601, full_range: bool = True, chroma: int = 420
) -> FramePlanes:
    """Convert RGB to planes; color at half resolution is averaged.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        luma_weights: luma weights of red and blue.
        full_range: black is 0 and white 255, instead of 16 and 235.
        chroma: 420 (color at half resolution) or 444.
    """
    red, blue = luma_weights
    luma = torch.tensor([red, 1 - red - blue, blue])
    units = torch.eye(3)
    matrix = torch.stack([luma, (units[2] - luma) / (2 - 2 * blue), (units[0] - luma) / (2 - 2 * red)])
    scales = torch.tensor([1.0, 1.0, 1.0] if full_range else [219 / 255, 224 / 255, 224 / 255])
    offsets = torch.tensor([0.0 if full_range else 16.0, 128.0, 128.0])
    values = torch.einsum("cd,hwd->chw", matrix * scales[:, None], pixels.float()) + offsets[:, None, None]
    parts = [values[:1], values[1:]]
    if chroma == 420:
        height, width = pixels.shape[:2]
        even = F.pad(values[None, 1:], (0, width % 2, 0, height % 2), mode="replicate")
        parts[1] = F.avg_pool2d(even, 2)[0]
    planes = [(plane + 0.5).floor().clamp(0, 255).byte() for part in parts for plane in part]
    return FramePlanes(
        [plane.reshape(-1) for plane in planes],
        [plane.shape[1] for plane in planes],
        pixels.shape[1],
        pixels.shape[0],
        luma_weights,
        full_range,
        chroma,
    )


def _from_the_top(plane: Any) -> bytearray:
    """Return the rows of an `av.VideoPlane` whose first row is the last one in memory, in the usual order."""
    stride, rows = -plane.line_size, plane.height
    memory = ctypes.string_at(plane.buffer_ptr - stride * (rows - 1), stride * rows)
    return bytearray(np.frombuffer(memory, np.uint8).reshape(rows, stride)[::-1])
