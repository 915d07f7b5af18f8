"""Reader of the video stream of a frames.db: the frames of a clip are decoded from the key frame before them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidseg.frames.frame_planes import FramePlanes, plane_memory
from vidseg.frames.jpeg import split_blobs
from vidseg.frames.native import operators
from vidseg.frames.packet_group import unpack_group
from vidseg.frames.schema import FrameDatabaseError
from vidseg.frames.stream_form import CODECS

__all__ = ["StoredStream", "padded_side"]

_GROUP = -1  # in place of a level: rows of the table Stream
_LONGEST_GROUP = 10_000  # frames
_LARGEST = 16_384  # pixels of a side, as the encoders have it
_BLOCK = 64  # pixels; decoders allocate whole blocks


def padded_side(side: int) -> int:
    """Return the side of the coded picture: even, as 4:2:0 requires, and at least one block of HEVC.

    x265 writes outside its memory at heights below 32 pixels.
    """
    return max(_BLOCK, side + side % 2)


class StoredStream:
    """The video stream of a frames.db.

    Frames are in groups of `gop` consecutive ones; the last group may be shorter. Thread-safe: each call has a
    decoder of its own.

    Args:
        path: the database.
        meta: its metadata.
        count: number of frames.

    Raises:
        ValueError: the metadata do not describe a stream.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any], count: int) -> None:
        self.path, self.count = path, count
        self.codec = str(meta.get("stream_codec"))
        if self.codec not in CODECS:
            raise ValueError(f"the entry 'stream_codec' of its metadata is {self.codec!r:.40}, expected h264 or hevc")
        self.height, self.width = (_number(meta, key, 1, _LARGEST) for key in ("height", "width"))
        self.gop = _number(meta, "gop", 1, _LONGEST_GROUP)
        self.chroma = _number(meta, "chroma", 420, 444)
        if self.chroma not in (420, 444):
            raise ValueError(f"the entry 'chroma' of its metadata is {self.chroma}, expected 420 or 444")
        self.full_range = bool(_number(meta, "full_range", 0, 1))
        red, blue = meta.get("luma_red"), meta.get("luma_blue")
        if not (isinstance(red, float) and isinstance(blue, float) and 0 < red < 1 and 0 < blue < 1 - red):
            raise ValueError(f"its metadata have the luma weights {red!r:.40} and {blue!r:.40}, expected 0 to 1")
        self.luma_weights = red, blue

    def frames(self, numbers: Iterable[int]) -> Iterator[tuple[int, FramePlanes]]:
        """Decode frames.

        Args:
            numbers: distinct frame numbers from 0, increasing.

        Yields:
            Number and planes of each frame.

        Raises:
            FrameDatabaseError: a group is missing or damaged; the message names its frames.
        """
        decoder = None
        for group, members in itertools.groupby(numbers, lambda number: number // self.gop):
            wanted = list(members)
            packets = self.packets(group)
            decoder = decoder or self._open_decoder()
            yield from zip(wanted, self._decode(decoder, group, packets, wanted), strict=True)

    def rgb(self, numbers: np.ndarray, height: int, width: int) -> torch.Tensor:
        """Decode frames to uint8 (T, H, W, 3), in the order of the numbers, resampled to (height, width)."""
        distinct, places = np.unique(numbers, return_inverse=True)
        out = torch.empty((0, height, width, 3), dtype=torch.uint8)
        for position, (_, planes) in enumerate(self.frames(distinct.tolist())):
            if position == 0:  # the size of the stream is the one of the metadata
                out = torch.empty((len(numbers), height, width, 3), dtype=torch.uint8)
            out[torch.from_numpy(places == position)] = planes.rgb((height, width))
        return out

    def packets(self, group: int) -> list[bytes]:
        """Read the packets of a group, from 0; one for each of its frames.

        Raises:
            FrameDatabaseError: the group is missing or damaged; the message names its frames.
        """
        try:
            packets = unpack_group(self.row(group))
        except ValueError as error:
            raise self._damaged(group, str(error)) from None
        expected = min(self.gop, self.count - group * self.gop)
        if len(packets) != expected:
            raise self._damaged(group, f"{len(packets)} packets instead of {expected}")
        return packets

    def row(self, group: int) -> bytes:
        """Read the BLOB of a group, see packet_group.py; errors are those of `packets`."""
        try:
            data, offsets = operators.read(str(self.path), _GROUP, torch.tensor([group * self.gop + 1]))
        except RuntimeError as error:
            text = str(error).splitlines()[0]
            raise self._damaged(group, text.partition(": ")[2] if text.startswith("row ") else text) from None
        return split_blobs(data, offsets)[0]

    def _open_decoder(self) -> Any:
        import av

        decoder: Any = av.CodecContext.create(self.codec, "r")
        decoder.thread_count = 1  # clips are decoded in parallel
        sides = (-(-padded_side(side) // _BLOCK) * _BLOCK for side in (self.height, self.width))
        decoder.options = {"max_pixels": str(int(np.prod(list(sides))))}
        return decoder

    def _decode(self, decoder: Any, group: int, packets: list[bytes], wanted: list[int]) -> Iterator[FramePlanes]:
        import av
        import av.error

        number = first = group * self.gop
        try:
            for number, data in zip(range(first, wanted[-1] + 1), packets, strict=False):
                frames = decoder.decode(av.Packet(data))
                if len(frames) != 1 or frames[0].is_corrupt:
                    raise ValueError("cannot be decoded without errors")
                if number in wanted:
                    yield self._planes(frames[0])
        except (av.error.FFmpegError, ValueError) as error:
            raise self._damaged(group, f"frame {number}: {error}") from error

    def _planes(self, frame: Any) -> FramePlanes:
        size = padded_side(self.width), padded_side(self.height)
        if (frame.width, frame.height) != size or frame.format.name.replace("j", "") != f"yuv{self.chroma}p":
            raise ValueError(
                f"{frame.width}x{frame.height} pixels of {frame.format.name}, expected {size[0]}x{size[1]} of "
                f"yuv{self.chroma}p"
            )
        planes, strides = plane_memory(frame)
        return FramePlanes(planes, strides, self.width, self.height, self.luma_weights, self.full_range, self.chroma)

    def _damaged(self, group: int, reason: str) -> FrameDatabaseError:
        first = group * self.gop
        last = min(first + self.gop, self.count) - 1
        return FrameDatabaseError(f"{self.path}: frames {first} to {last}: {reason}")


def _number(meta: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = meta.get(key)
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"the entry {key!r} of its metadata is {value!r:.40}, expected {least} to {most}")
    return value
