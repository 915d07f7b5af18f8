"""Crop of the picture by the container: clean aperture of MP4 and MOV (clap), pixel crop of Matroska."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
import av.filter

__all__ = ["FrameCropper", "Margins", "read_margins"]

Margins = tuple[int, int, int, int]
"""Pixels hidden at the left, top, right and bottom, before rotation."""

_BOXES = 10_000  # most boxes or elements that are visited; longer headers are read as uncropped
_SAMPLE_ENTRY = 86  # bytes of a visual sample entry before its boxes
_TRACKS, _TRACK, _VIDEO, _SEGMENT = 0x1654AE6B, 0xAE, 0xE0, 0x18538067
_CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)  # left, top, right, bottom


def read_margins(path: Path, container: Any, stream: Any) -> Margins | None:
    """Return the margins that the container hides from a video stream, or None.

    Invalid crops (outside of the picture, or leaving nothing of it) are ignored, as players do.
    """
    position = list(container.streams.video).index(stream)
    names = container.format.name.split(",")
    width, height = stream.codec_context.width, stream.codec_context.height
    try:
        with open(path, "rb") as file:
            if "mov" in names:
                found = _clean_aperture(file, position, width, height)
            elif "matroska" in names:
                found = _pixel_crop(file, position)
            else:
                return None
    except (OSError, struct.error, ZeroDivisionError):
        return None
    if found is None or not any(found) or min(found) < 0:
        return None
    left, top, right, bottom = found
    return found if left + right < width and top + bottom < height else None


class FrameCropper:
    """Crop frames without copying; times, flags and the display matrix are kept.

    Args:
        margins: pixels to hide at the left, top, right and bottom.
    """

    def __init__(self, margins: Margins) -> None:
        self._margins = margins
        self._graph: Any = None
        self._shape: tuple[int, int, str] | None = None

    def __call__(self, frame: Any) -> Any:
        """Return the visible part of an `av.VideoFrame`."""
        shape = (frame.width, frame.height, frame.format.name)
        if shape != self._shape:
            self._graph, self._shape = self._made(frame), shape
        if self._graph is None:
            return frame
        self._graph.push(frame)
        return self._graph.pull()

    def _made(self, frame: Any) -> Any:
        left, top, right, bottom = self._margins
        width, height = frame.width - left - right, frame.height - top - bottom
        if width < 1 or height < 1:
            return None
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
        )
        crop = graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1")
        sink = graph.add("buffersink")
        source.link_to(crop)
        crop.link_to(sink)
        graph.configure()
        return graph


def _clean_aperture(file: BinaryIO, position: int, width: int, height: int) -> Margins | None:
    tracks = []
    for kind, start, stop in _boxes(file, 0, file.seek(0, io.SEEK_END)):
        if kind == b"moov":
            tracks += [(first, last) for name, first, last in _boxes(file, start, stop) if name == b"trak"]
    videos = [place for place in tracks if _handler(file, *place) == b"vide"]
    if position >= len(videos):
        return None
    place: tuple[int, int] | None = videos[position]
    for name in (b"mdia", b"minf", b"stbl", b"stsd"):
        place = None if place is None else _child(file, *place, name)
    if place is None:
        return None
    start, stop = place[0] + 8, place[1]  # version and number of entries
    size = struct.unpack(">I", _read(file, start, 4))[0]
    clap = _child(file, start + _SAMPLE_ENTRY, min(stop, start + size), b"clap")
    if clap is None:
        return None
    values = struct.unpack(">8i", _read(file, clap[0], 32))
    wide, high, right, down = (Fraction(*pair) for pair in zip(values[::2], values[1::2], strict=True))
    left, top = right + (width - wide) / 2, down + (height - high) / 2
    if left < 0 or top < 0:
        return None
    edges = (left, top, width - left - wide, height - top - high)
    return tuple(math.trunc(edge) for edge in edges)  # type: ignore[return-value]


def _handler(file: BinaryIO, start: int, stop: int) -> bytes:
    media = _child(file, start, stop, b"mdia")
    handler = None if media is None else _child(file, *media, b"hdlr")
    return b"" if handler is None else _read(file, handler[0] + 8, 4)


def _child(file: BinaryIO, start: int, stop: int, name: bytes) -> tuple[int, int] | None:
    return next(((first, last) for kind, first, last in _boxes(file, start, stop) if kind == name), None)


def _boxes(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each box between two positions."""
    for _ in range(_BOXES):
        if start + 8 > stop:
            return
        size, name = struct.unpack(">I4s", _read(file, start, 8))
        header = 8
        if size == 1:
            size, header = struct.unpack(">Q", _read(file, start + 8, 8))[0], 16
        end = stop if size == 0 else start + size
        if end > stop or end < start + header:
            return
        yield name, start + header, end
        start = end


def _pixel_crop(file: BinaryIO, position: int) -> Margins | None:
    for kind, start, stop in _elements(file, 0, file.seek(0, io.SEEK_END)):
        if kind != _SEGMENT:
            continue
        for name, first, last in _elements(file, start, stop):
            if name == _TRACKS:
                tracks = [place for each, *place in _elements(file, first, last) if each == _TRACK]
                videos = [
                    (begin, end) for track in tracks for each, begin, end in _elements(file, *track) if each == _VIDEO
                ]
                if position >= len(videos):
                    return None
                found = {
                    each: int.from_bytes(_read(file, begin, end - begin), "big")
                    for each, begin, end in _elements(file, *videos[position])
                    if each in _CROPS and end - begin <= 8
                }
                return tuple(found.get(each, 0) for each in _CROPS)  # type: ignore[return-value]
    return None


def _elements(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield identifier, start and end of the content of each EBML element between two positions."""
    for _ in range(_BOXES):
        head = _read(file, start, 12, short=True) if start < stop else b""
        if len(head) < 2 or not head[0]:
            return
        length = 9 - head[0].bit_length()
        if length > 4 or length >= len(head) or not head[length]:
            return
        wide = 9 - head[length].bit_length()
        size = int.from_bytes(head[length : length + wide], "big") & ((1 << 7 * wide) - 1)
        content = start + length + wide
        unknown = size == (1 << 7 * wide) - 1
        end = stop if unknown else min(stop, content + size)
        yield int.from_bytes(head[:length], "big"), content, end
        if unknown:
            return
        start = end


def _read(file: BinaryIO, start: int, size: int, *, short: bool = False) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) < size and not short:
        raise struct.error("the file ends inside a box")
    return data
