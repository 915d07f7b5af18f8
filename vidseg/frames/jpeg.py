"""JPEG encoding and decoding with the compiled library (libjpeg-turbo)."""

import itertools

import numpy as np
import torch

from vidseg.frames.native import operators
from vidseg.frames.plane_encoder import AUTOMATIC

__all__ = [
    "decode_jpeg",
    "encode_channels",
    "encode_rgb",
    "recode_jpeg",
    "resize_frame",
    "split_blobs",
]


def split_blobs(data: torch.Tensor, offsets: torch.Tensor) -> list[bytes]:
    """Split the concatenated blobs that the library returns.

    Args:
        data: uint8 (bytes,), all blobs.
        offsets: int64 (N + 1,), start of each blob, and the end of the last one.
    """
    view = data.numpy().data
    return [bytes(view[start:stop]) for start, stop in itertools.pairwise(offsets.tolist())]


def _bytes_tensor(jpeg: bytes) -> torch.Tensor:
    if not jpeg:
        raise ValueError("the JPEG has no bytes")
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
    """Encode one RGB frame and `levels` smaller copies, each with half the side of the one before.

    Args:
        frame: uint8 (H, W, 3), RGB.
        quality: JPEG quality in libjpeg's scale, 1 to 100.
        chroma: chroma subsampling, 420 (color at half resolution) or 444.
        restart_interval: number of MCUs between restart markers; 0 for no markers; -1 for a divisor of a row of MCUs.
        optimize: compute Huffman tables for this frame; the JPEG is some percent smaller, and encoding is slower.
        levels: number of smaller copies.

    Returns:
        1 + levels baseline JPEGs, the full-size one first.

    Raises:
        ValueError: an argument is out of range.
    """
    data, offsets = operators.encode_rgb(frame, chroma, quality, restart_interval, optimize, levels)
    return split_blobs(data, offsets)


def encode_channels(
    channels: torch.Tensor,
    quality: int = 90,
    *,
    restart_interval: int = AUTOMATIC,
    optimize: bool = False,
    levels: int = 0,
) -> list[bytes]:
    """Encode two or three channels that are no colors, such as optical flow, and `levels` smaller copies.

    The JPEG has three components at full resolution, and a marker by which every decoder returns them without color
    conversion as R, G and B. A missing third channel is 128 everywhere.

    Args:
        channels: uint8 (2, H, W) or (3, H, W).

    The other arguments, the result and the errors are those of `encode_rgb`.
    """
    data, offsets = operators.encode_channels(channels, quality, restart_interval, optimize, levels)
    return split_blobs(data, offsets)


def decode_jpeg(jpeg: bytes) -> torch.Tensor:
    """Decode a JPEG (baseline or progressive, color or gray) to uint8 (H, W, 3) in RGB.

    Raises:
        ValueError: `jpeg` is empty.
        RuntimeError: the data is damaged, not a JPEG, or CMYK.
    """
    tensor: torch.Tensor = operators.decode_jpeg(_bytes_tensor(jpeg))
    return tensor


def recode_jpeg(jpeg: bytes, *, restart_interval: int = AUTOMATIC, optimize: bool = False) -> bytes:
    """Change the restart interval of a JPEG without loss: the decoded pixels are bit-equal.

    Args:
        jpeg: the JPEG.
        restart_interval: as for `encode_rgb`.
        optimize: as for `encode_rgb`.

    Raises:
        ValueError: `jpeg` is empty.
        RuntimeError: the data is damaged, not a JPEG, or CMYK.
    """
    return bytes(operators.recode_jpeg(_bytes_tensor(jpeg), restart_interval, optimize).numpy().data)


def resize_frame(frame: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resample uint8 (H, W, 3) to `size` (height, width) in pixels; bilinear, antialiased when shrinking."""
    tensor: torch.Tensor = operators.resize(frame, *size)
    return tensor
