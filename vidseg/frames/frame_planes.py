"""Pictures as video has them: planes of luma and color differences, with their color matrix and range."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.frames.native import operators

__all__ = ["BT601", "LUMA_WEIGHTS", "FramePlanes", "plane_memory", "planes_of_rgb"]

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


_NO_CODES, _NO_PARAMETERS = torch.empty(0, dtype=torch.int64), torch.empty(0, 8, dtype=torch.float64)
_FIRST, _PLAIN = torch.zeros(1, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.float64)


@dataclass(frozen=True)
class FramePlanes:
    """Planes of one decoded frame, as stored. They are valid as long as the frame.

    Attributes:
        planes: Y, Cb, Cr as flat uint8 tensors.
        strides: bytes per row of each plane.
        width: width of the stored luma plane in pixels.
        height: height of the stored luma plane in pixels.
        luma_weights: luma weights of red and blue.
        full_range: black is 0 and white 255, instead of 16 and 235.
        sampling: of chroma: 420, 422, 444, or 400 (gray).
        step: bytes from one chroma sample to the next.
        orientation: EXIF number, from the stored to the displayed picture.
    """

    planes: Sequence[Tensor]
    strides: Sequence[int]
    width: int
    height: int
    luma_weights: tuple[float, float]
    full_range: bool
    sampling: int = 420
    step: int = 1
    orientation: int = 1

    def fill(
        self,
        out: Tensor,
        positions: Tensor,
        matrix: Tensor,
        *,
        codes: Tensor = _NO_CODES,
        parameters: Tensor = _NO_PARAMETERS,
        normalization: Tensor = _PLAIN,
        planar: bool = True,
        bgr: bool = False,
    ) -> None:
        """Write the frame to positions of a clip.

        Args:
            out: clip of the shape (3, T, H, W), or (T, H, W, 3) if not `planar`, uint8 or floating point; each frame is
                contiguous.
            positions: int64 (N,), positions in T.
            matrix: float64 (3, 3) from output pixel to pixel of the displayed frame.
            codes: int64 (M,), color operations.
            parameters: float64 (M, P), their parameters.
            normalization: float64 (2, 3), scale and offset of R, G and B for floating point samples.
            planar: whether the channels of `out` are planes.
            bgr: write B, G and R instead of R, G and B.

        Raises:
            RuntimeError: a plane is too small, or the matrix maps the output to a line.
        """
        operators.fill_planes(
            out,
            positions,
            *self.planes,
            *self.strides,
            self.width,
            self.height,
            self.sampling,
            self.step,
            self.orientation,
            *self.luma_weights,
            self.full_range,
            matrix,
            codes,
            parameters,
            normalization,
            planar,
            bgr,
        )

    def pixels(self, matrix: Tensor, height: int, width: int) -> Tensor:
        """Return the frame resampled to RGB, uint8 (H, W, 3); `matrix` as for `fill`."""
        out = torch.empty((1, height, width, 3), dtype=torch.uint8)
        self.fill(out, _FIRST, matrix, planar=False)
        return out[0]

    def rgb(self, size: tuple[int, int] | None = None) -> Tensor:
        """Convert to RGB, uint8 (H, W, 3); the whole picture is resampled to `size` (height, width) if it is given."""
        height, width = size or (self.height, self.width)
        scale = [self.width / width, self.height / height, 1.0]
        return self.pixels(torch.diag(torch.tensor(scale, dtype=torch.float64)), height, width)


def plane_memory(frame: Any) -> tuple[list[Tensor], list[int]]:
    """Return the planes of an `av.VideoFrame` as flat uint8 tensors that share its memory, and their strides."""
    planes = [_from_the_top(plane) if plane.line_size < 0 else plane for plane in frame.planes[:3]]
    strides = [abs(plane.line_size) for plane in frame.planes[:3]]
    return [torch.frombuffer(plane, dtype=torch.uint8) for plane in planes], strides


def planes_of_rgb(
    pixels: Tensor, *, luma_weights: tuple[float, float] = BT601, full_range: bool = True, chroma: int = 420
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
        sampling=chroma,
    )


def _from_the_top(plane: Any) -> bytearray:
    """Return the rows of an `av.VideoPlane` whose first row is the last one in memory, in the usual order."""
    stride, rows = -plane.line_size, plane.height
    memory = ctypes.string_at(plane.buffer_ptr - stride * (rows - 1), stride * rows)
    return bytearray(np.frombuffer(memory, np.uint8).reshape(rows, stride)[::-1])
