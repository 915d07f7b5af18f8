"""Pictures as video has them: planes of luma and color differences, with their color matrix and range."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # the workers of a conversion do without torch, whose import takes a second
    from torch import Tensor

__all__ = ["BT601", "LUMA_WEIGHTS", "Bytes", "FramePlanes", "plane_memory", "planes_of_rgb"]

Bytes = npt.NDArray[np.uint8]

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


@functools.cache
def _defaults() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return no color operations, no parameters, the first position, and no normalization."""
    import torch

    whole, real = torch.int64, torch.float64
    return (
        torch.empty(0, dtype=whole),
        torch.empty(0, 8, dtype=real),
        torch.zeros(1, dtype=whole),
        torch.zeros(2, 3, dtype=real),
    )


@dataclass(frozen=True)
class FramePlanes:
    """Planes of one decoded frame, as stored. They are valid as long as the frame.

    Attributes:
        planes: Y, Cb, Cr as flat uint8 arrays.
        strides: bytes per row of each plane.
        width: width of the stored luma plane in pixels.
        height: height of the stored luma plane in pixels.
        luma_weights: luma weights of red and blue.
        full_range: black is 0 and white 255, instead of 16 and 235.
        sampling: of chroma: 420, 422, 444, or 400 (gray).
        step: bytes from one chroma sample to the next.
        orientation: EXIF number, from the stored to the displayed picture.
    """

    planes: Sequence[Bytes]
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
        codes: Tensor | None = None,
        parameters: Tensor | None = None,
        normalization: Tensor | None = None,
        planar: bool = True,
        bgr: bool = False,
    ) -> None:
        """Write the frame to positions of a clip.

        Args:
            out: clip of the shape (3, T, H, W), or (T, H, W, 3) if not `planar`, uint8 or floating point; each frame is
                contiguous.
            positions: int64 (N,), positions in T.
            matrix: float64 (3, 3) from output pixel to pixel of the displayed frame.
            codes: int64 (M,), color operations; None: none.
            parameters: float64 (M, P), their parameters.
            normalization: float64 (2, 3), scale and offset of R, G and B for floating point samples; None for uint8.
            planar: whether the channels of `out` are planes.
            bgr: write B, G and R instead of R, G and B.

        Raises:
            RuntimeError: a plane is too small, or the matrix maps the output to a line.
        """
        import torch

        from vidseg.frames.native import operators

        no_codes, no_parameters, _, plain = _defaults()
        operators.fill_planes(
            out,
            positions,
            *map(torch.from_numpy, self.planes),
            *self.strides,
            self.width,
            self.height,
            self.sampling,
            self.step,
            self.orientation,
            *self.luma_weights,
            self.full_range,
            matrix,
            no_codes if codes is None else codes,
            no_parameters if parameters is None else parameters,
            plain if normalization is None else normalization,
            planar,
            bgr,
        )

    def pixels(self, matrix: Tensor, height: int, width: int) -> Tensor:
        """Return the frame resampled to RGB, uint8 (H, W, 3); `matrix` as for `fill`."""
        import torch

        out = torch.empty((1, height, width, 3), dtype=torch.uint8)
        self.fill(out, _defaults()[2], matrix, planar=False)
        return out[0]

    def rgb(self, size: tuple[int, int] | None = None) -> Tensor:
        """Convert to RGB, uint8 (H, W, 3); the whole picture is resampled to `size` (height, width) if it is given."""
        import torch

        height, width = size or (self.height, self.width)
        scale = [self.width / width, self.height / height, 1.0]
        return self.pixels(torch.diag(torch.tensor(scale, dtype=torch.float64)), height, width)


def plane_memory(frame: Any) -> tuple[list[Bytes], list[int]]:
    """Return the planes of an `av.VideoFrame` as flat uint8 arrays that share its memory, and their strides."""
    planes, strides = [], []
    for plane in frame.planes[:3]:
        stride = plane.line_size
        planes.append(_from_the_top(plane) if stride < 0 else np.frombuffer(plane, np.uint8))
        strides.append(abs(stride))
    return planes, strides


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
    import torch
    from torch.nn import functional as F

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
        [plane.reshape(-1).numpy() for plane in planes],
        [plane.shape[1] for plane in planes],
        pixels.shape[1],
        pixels.shape[0],
        luma_weights,
        full_range,
        sampling=chroma,
    )


def _from_the_top(plane: Any) -> Bytes:
    """Return the rows of an `av.VideoPlane` whose first row is the last one in memory, in the usual order."""
    stride, rows = -plane.line_size, plane.height
    memory = ctypes.string_at(plane.buffer_ptr - stride * (rows - 1), stride * rows)
    return np.ascontiguousarray(np.frombuffer(memory, np.uint8).reshape(rows, stride)[::-1]).reshape(-1)
