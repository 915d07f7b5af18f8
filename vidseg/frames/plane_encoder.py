"""Encoding of planar video frames as JPEGs, without torch, whose import takes longer than many a conversion."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["AUTOMATIC", "encode_planes", "encoder_library"]

AUTOMATIC = -1

_MOST_LEVELS = 8
_ERRORS = {1: ValueError, 2: RuntimeError, 3: MemoryError}


class _Frame(ctypes.Structure):
    """`VidsegFrame` of csrc/encoder/library.cpp."""

    _fields_ = (
        ("planes", ctypes.c_void_p * 3),
        ("sizes", ctypes.c_int64 * 3),
        ("strides", ctypes.c_int64 * 3),
        ("width", ctypes.c_int64),
        ("height", ctypes.c_int64),
        ("chroma", ctypes.c_int64),
        ("luma_weights", ctypes.c_double * 2),
        ("full_range", ctypes.c_int64),
        ("quality", ctypes.c_int64),
        ("restart_interval", ctypes.c_int64),
        ("optimize", ctypes.c_int64),
        ("levels", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("ends", ctypes.c_int64 * (_MOST_LEVELS + 1)),
    )


def encode_planes(
    planes: Sequence[npt.NDArray[np.uint8] | torch.Tensor],
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
    """Encode one planar YCbCr frame of a video decoder without converting it to RGB.

    Args:
        planes: Y, Cb, Cr as flat uint8 arrays or CPU tensors; Cb and Cr have half the width and height (rounded up) for
            chroma 420.
        strides: number of bytes per row of each plane.
        width: width of the luma plane in pixels.
        height: height of the luma plane in pixels.
        quality: JPEG quality in libjpeg's scale, 1 to 100.
        chroma: chroma subsampling, 420 (color at half resolution) or 444.
        luma_weights: weights of red and blue in luma, which determine the color matrix: BT.601 (0.299, 0.114), BT.709
            (0.2126, 0.0722), BT.2020 (0.2627, 0.0593). The samples are converted to BT.601, the matrix of JPEG.
        full_range: whether luma is 0 to 255; else it is 16 to 235 and is converted to 0 to 255.
        restart_interval: number of MCUs between restart markers; 0 for no markers; -1 for a divisor of a row of MCUs.
        optimize: compute Huffman tables for this frame; the JPEG is some percent smaller, and encoding is slower.
        levels: number of smaller copies, each with half the side of the one before.

    Returns:
        1 + levels baseline JPEGs, the full-size one first.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: a plane is too short.
        MemoryError: there is not enough memory.
    """
    arrays = [_bytes_of(plane) for plane in planes]
    frame = _Frame(
        tuple(array.__array_interface__["data"][0] for array in arrays),
        tuple(array.size for array in arrays),
        tuple(strides),
        width,
        height,
        chroma,
        luma_weights,
        full_range,
        quality,
        restart_interval,
        optimize,
        levels,
    )
    library = encoder_library()
    status = library.vidseg_encode_planes(ctypes.byref(frame))  # without the GIL
    if status:
        raise _ERRORS[status](library.vidseg_encoder_error().decode())
    jpegs, start = [], 0
    for end in frame.ends[: levels + 1]:
        jpegs.append(ctypes.string_at(frame.data + start, end - start))
        start = end
    return jpegs


def _bytes_of(plane: npt.NDArray[np.uint8] | torch.Tensor) -> npt.NDArray[np.uint8]:
    array = np.asarray(plane)
    if array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise ValueError(f"a plane of {array.dtype} {array.shape} must be contiguous uint8")
    return array


@functools.cache
def encoder_library() -> ctypes.CDLL:
    """Load `vidseg/frames/_encoder.so` once.

    Raises:
        NativeLibraryError: the file does not exist, or the dynamic linker cannot load it.
    """
    path = Path(__file__).with_name("_encoder.so")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        from vidseg.ops.library import load_error

        raise load_error(path, error) from error
    library.vidseg_encode_planes.argtypes = (ctypes.POINTER(_Frame),)
    library.vidseg_encoder_error.restype = ctypes.c_char_p
    return library
