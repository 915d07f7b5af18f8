"""Orientation of pictures: display matrices of video frames and EXIF tags of JPEGs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.videos.opening import side_data_of

__all__ = ["UPRIGHT", "Orientation", "frame_orientation", "jpeg_orientation", "jpeg_size"]

_MATRIX = struct.Struct("=9i")  # a b u c d v x y w in the byte order of the machine


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become the displayed picture: transposed first, then mirrored.

    Attributes:
        transposed: rows become columns.
        mirrored: the picture is then mirrored left to right.
        flipped: the picture is then mirrored top to bottom.
    """

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def apply(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return a view of (H, W, ...) pixels as displayed."""
        if self.transposed:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the displayed (width, height) of a stored picture."""
        return (height, width) if self.transposed else (width, height)

    @property
    def exif(self) -> int:
        """The number of the EXIF tag, 1 (upright) to 8."""
        return _EXIF.index(self) + 1


UPRIGHT = Orientation()

# The eight values of the EXIF tag 0x0112, from 1 on.
_EXIF = (
    UPRIGHT,
    Orientation(mirrored=True),
    Orientation(mirrored=True, flipped=True),
    Orientation(flipped=True),
    Orientation(transposed=True),
    Orientation(transposed=True, mirrored=True),
    Orientation(transposed=True, mirrored=True, flipped=True),
    Orientation(transposed=True, flipped=True),
)


def frame_orientation(frame: Any) -> Orientation:
    """Return the orientation of an `av.VideoFrame` by its display matrix.

    Rotations between quarter turns become the nearest one.
    """
    data = side_data_of(frame, "DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    # A stored pixel (x, y) is displayed at (a x + c y, b x + d y), up to a translation.
    a, b, _, c, d, *_ = _MATRIX.unpack(bytes(data)[: _MATRIX.size])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirrored=a < 0, flipped=d < 0)
    return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)


def jpeg_orientation(jpeg: bytes) -> Orientation:
    """Return the orientation of a JPEG by its EXIF tag; upright if it has none or an invalid one."""
    for marker, content in _segments(jpeg):
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            number = _exif_orientation(content[6:])
            return _EXIF[number - 1] if 1 <= number <= 8 else UPRIGHT
    return UPRIGHT


def jpeg_size(jpeg: bytes) -> tuple[int, int] | None:
    """Return the stored (width, height) of a JPEG by its frame header; None if it has none."""
    for marker, content in _segments(jpeg):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 5:
            height, width = struct.unpack(">HH", content[1:5])
            return width, height
    return None


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of the segments before the first scan."""
    position = 2
    while position + 4 <= len(jpeg):
        if jpeg[position] != 0xFF:
            return
        marker = jpeg[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xDA:
            return
        length = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        yield marker, jpeg[position + 4 : position + 2 + length]
        position += 2 + max(length, 2)


def _exif_orientation(tiff: bytes) -> int:
    """Return the orientation of the first image of an EXIF block, 1 if it has none."""
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return 1

    def number(start: int, size: int) -> int:
        return int.from_bytes(tiff[start : start + size], order)  # type: ignore[arg-type]

    directory = number(4, 4)
    for index in range(number(directory, 2) if directory + 2 <= len(tiff) else 0):
        entry = directory + 2 + 12 * index
        if entry + 12 > len(tiff):
            return 1
        if number(entry, 2) == 0x0112:
            return number(entry + 8, 2)
    return 1
