"""Frames to JPEG and back, through the compiled library (libjpeg-turbo)."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from vidseg.frames.native import operators

__all__ = ["decode_jpeg", "encode_planes", "encode_rgb", "recode_jpeg", "resize_frame", "split_blobs"]

AUTOMATIC = -1


def split_blobs(data: torch.Tensor, offsets: torch.Tensor) -> list[bytes]:
    """Cut the concatenated blobs that the library returns."""
    view = data.numpy().data
    return [bytes(view[start:stop]) for start, stop in itertools.pairwise(offsets.tolist())]


def _bytes_tensor(jpeg: bytes) -> torch.Tensor:
    if not jpeg:
        raise ValueError("an empty JPEG")
    return torch.from_numpy(np.frombuffer(jpeg, np.uint8).copy())


def encode_rgb(
    frame: torch.Tensor,
    quality: int = 90,
    *,
    chroma: int = 420,
    restart_interval: int = AUTOMATIC,
    optimize: bool = False,
    levels: int = 0,
) -> list[bytes]:
    """Encode one RGB frame, and `levels` successively halved copies of it.

    Args:
        frame: uint8 (H, W, 3), RGB.
        quality: 1 to 100, libjpeg's scale.
        chroma: 420 (color at half resolution) or 444.
        restart_interval: MCUs between restart markers; 0 none; -1 chosen so that it divides a row of MCUs.
        optimize: Huffman tables made for this frame: some per cent smaller, slower to encode.
        levels: how many smaller copies follow the frame itself.

    Returns:
        1 + levels baseline JPEGs, the full-size one first.

    Raises:
        RuntimeError: an argument is out of its range.
    """
    data, offsets = operators.encode_rgb(frame, chroma, quality, restart_interval, optimize, levels)
    return split_blobs(data, offsets)


def encode_planes(
    planes: Sequence[torch.Tensor],
    strides: Sequence[int],
    *,
    width: int,
    height: int,
    quality: int = 90,
    chroma: int = 420,
    luma_weights: tuple[float, float] = (0.299, 0.114),
    full_range: bool = False,
    restart_interval: int = AUTOMATIC,
    optimize: bool = False,
    levels: int = 0,
) -> list[bytes]:
    """Encode one planar YCbCr frame, as video decoders deliver it, without going through RGB.

    Args:
        planes: Y, Cb, Cr as flat uint8 tensors; Cb and Cr have half the width and height (rounded up) for chroma 420.
        strides: bytes from row to row of each plane.
        width: pixels of a luma row.
        height: luma rows.
        luma_weights: the weights of red and blue in luma, which name the matrix: BT.601 (0.299, 0.114), BT.709
            (0.2126, 0.0722), BT.2020 (0.2627, 0.0593).
        full_range: black is 0 and white 255, instead of 16 and 235.

    The other arguments, and what is returned, are those of `encode_rgb`. Range and matrix become JPEG's.
    """
    kr, kb = luma_weights
    data, offsets = operators.encode_planes(
        *planes, *strides, width, height, chroma, kr, kb, full_range, quality, restart_interval, optimize, levels
    )
    return split_blobs(data, offsets)


def decode_jpeg(jpeg: bytes) -> torch.Tensor:
    """Decode a whole JPEG (baseline or progressive, color or gray) to uint8 (H, W, 3) RGB.

    Raises:
        ValueError: no bytes at all.
        RuntimeError: the data is damaged, not a JPEG, or CMYK.
    """
    tensor: torch.Tensor = operators.decode_jpeg(_bytes_tensor(jpeg))
    return tensor


def recode_jpeg(jpeg: bytes, *, restart_interval: int = AUTOMATIC, optimize: bool = False) -> bytes:
    """Give a JPEG other restart intervals without loss: the decoded pixels stay the same bit for bit.

    Raises:
        ValueError: no bytes at all.
        RuntimeError: the data is damaged, not a JPEG, or CMYK.
    """
    return bytes(operators.recode_jpeg(_bytes_tensor(jpeg), restart_interval, optimize).numpy().data)


def resize_frame(frame: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample uint8 (H, W, 3) to exactly `size` (height, width): bilinear, antialiased where it shrinks."""
    tensor: torch.Tensor = operators.resize(frame, *size)
    return tensor
