"""A group of packets of a video stream: one row of the table Stream.

The BLOB is little-endian: CRC-32 of all bytes after it, number of packets, and the size of each packet, as uint32; then
the packets. A packet is the access unit of one frame in Annex B form. The first one is a key frame with its parameter
sets, so that a group is decoded without any other.
"""

import itertools
import zlib
from collections.abc import Sequence

import numpy as np

__all__ = ["pack_group", "unpack_group"]

_FIRST = 2  # numbers before the sizes


def pack_group(packets: Sequence[bytes]) -> bytes:
    """Return the BLOB of the packets of one group."""
    numbers = np.array([len(packets), *map(len, packets)], "<u4")
    content = numbers.tobytes() + b"".join(packets)
    return zlib.crc32(content).to_bytes(4, "little") + content


def unpack_group(blob: bytes) -> list[bytes]:
    """Return the packets of a group.

    Raises:
        ValueError: the bytes have changed since they were written.
    """
    view = memoryview(blob)
    if len(blob) < 4 * _FIRST or zlib.crc32(view[4:]) != int.from_bytes(view[:4], "little"):
        raise ValueError("the packets differ from those that were written (CRC-32)")
    count = int.from_bytes(view[4 : 4 * _FIRST], "little")
    start = 4 * (_FIRST + count)
    if start > len(blob):
        raise ValueError(f"{count} packets in {len(blob)} bytes")
    ends = start + np.cumsum(np.frombuffer(view[4 * _FIRST : start], "<u4").astype(np.int64))
    if count == 0 or ends[-1] != len(blob):
        raise ValueError(f"the sizes of its {count} packets are not those of {len(blob)} bytes")
    return [blob[first:last] for first, last in itertools.pairwise([start, *ends.tolist()])]
