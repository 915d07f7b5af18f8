"""Planes of decoded frames in the decoder's memory, resampled to clips by the compiled library.

8-bit YCbCr with chroma of 4:2:0, 4:2:2 or 4:4:4, planar or with interleaved chroma (NV12, NV21), and 8-bit gray are
read where the decoder has put them. FFmpeg first converts other formats, such as 10 bits or RGB, to 8-bit 4:2:0. Range
and matrix are converted to those of JPEG in 8 bits, as a conversion does before compression. Chroma of lower resolution
than luma is interpolated from the two nearest samples, in each direction, with weights 3/4 and 1/4, as in libjpeg. R, G
and B are within 3 gray levels of the exact formula, 2 for full range.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

from vidseg.frames.native import operators
from vidseg.videos.orientation import frame_orientation

__all__ = ["BT601", "PlaneReader", "SourcePlanes", "color_encoding", "plane_memory", "reformat"]

# Luma weights of red and blue by FFmpeg's color space number (ITU-T H.273, matrix coefficients). Unmarked video is
# treated as BT.601, as in FFmpeg.
BT601 = (0.299, 0.114)
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020, constant luminance
}
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
_NO_CODES, _NO_PARAMETERS = torch.empty(0, dtype=torch.int64), torch.empty(0, 8, dtype=torch.float64)
_FIRST, _PLAIN = torch.zeros(1, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.float64)


@dataclass(frozen=True)
class SourcePlanes:
    """Planes of one decoded frame, as stored. They are valid as long as the frame.

    Attributes:
        planes: Y, Cb, Cr as flat uint8 tensors.
        strides: bytes per row of each plane.
        width: width of the stored luma plane in pixels.
        height: height of the stored luma plane in pixels.
        sampling: of chroma: 420, 422, 444, or 400 (gray).
        step: bytes from one chroma sample to the next.
        orientation: EXIF number, from the stored to the displayed picture.
        luma_weights: luma weights of red and blue.
        full_range: black is 0 and white 255, instead of 16 and 235.
    """

    planes: tuple[Tensor, Tensor, Tensor]
    strides: tuple[int, int, int]
    width: int
    height: int
    sampling: int
    step: int
    orientation: int
    luma_weights: tuple[float, float]
    full_range: bool

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


class PlaneReader:
    """Read the planes of the frames of one video.

    Args:
        size: (width, height) of the displayed frames; frames of another size are scaled to it, as a conversion does.
            None: every frame as it is.
    """

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        self.size = size
        self._reformatter = VideoReformatter()

    def __call__(self, frame: Any) -> SourcePlanes:
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
        return SourcePlanes(
            (planes[0], planes[1], planes[2]),
            (strides[0], strides[1], strides[2]),
            width,
            height,
            sampling,
            1 if interleaved is None else 2,
            orientation.exif,
            weights,
            full_range,
        )


def _is_ycbcr(frame: Any) -> bool:
    return not (frame.format.is_rgb or frame.format.name.startswith(_NOT_YCBCR))


def color_encoding(frame: Any) -> tuple[tuple[float, float], bool]:
    """Return the luma weights of red and blue of an `av.VideoFrame` after `reformat`, and whether its range is full."""
    if not _is_ycbcr(frame):
        return BT601, True
    full_range = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    return _LUMA_WEIGHTS.get(int(frame.colorspace), BT601), full_range


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


def plane_memory(frame: Any) -> tuple[list[Tensor], list[int]]:
    """Return the planes of an `av.VideoFrame` as flat uint8 tensors that share its memory, and their strides."""
    planes = [_from_the_top(plane) if plane.line_size < 0 else plane for plane in frame.planes[:3]]
    strides = [abs(plane.line_size) for plane in frame.planes[:3]]
    return [torch.frombuffer(plane, dtype=torch.uint8) for plane in planes], strides


def _from_the_top(plane: Any) -> bytearray:
    """Return the rows of an `av.VideoPlane` whose first row is the last one in memory, in the usual order."""
    stride, rows = -plane.line_size, plane.height
    memory = ctypes.string_at(plane.buffer_ptr - stride * (rows - 1), stride * rows)
    return bytearray(np.frombuffer(memory, np.uint8).reshape(rows, stride)[::-1])
