"""Check of the structure of a stream of bytes: where a container ends early, or continues with something else.

FFmpeg skips what it does not recognize, so that a broken stream looks like one that ended. This check follows the
packets of MPEG transport streams, the elements of Matroska, the boxes of MP4 and the tags of FLV, and reads headers
only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

__all__ = ["ContainerCheck", "check_container"]

_BLOCK = 1 << 20
_PACKET, _SYNC = 188, 0x47
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TOP_ELEMENTS = (_SEGMENT, _CLUSTER, 0x1A45DFA3, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1043A770)
_CLUSTER_ELEMENTS = (0xE7, 0xA7, 0xAB, 0xA3, 0xA0, 0x5854, 0xAF)
_ELEMENTS = frozenset((*_TOP_ELEMENTS, *_CLUSTER_ELEMENTS, 0x1941A469, 0xEC, 0xBF))  # attachments, void, checksum
_BOXES = frozenset(
    b"ftyp styp moov moof mdat mfra free skip wide sidx ssix emsg prft uuid meta udta pdin pnot bloc mfro".split()
)
_TAGS = frozenset((8, 9, 18))


class ContainerCheck:
    """Follow the structure of a container while its bytes arrive.

    Attributes:
        fault: the first fault, or None.
        skip: number of bytes that may be passed over with `skipped` instead of `feed`.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.skip = 0
        self._position = 0  # of the first byte of the buffer
        self._buffer = b""
        self._follow: Callable[[], bool] | None = None
        self._name = ""
        self._begun = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.fault is not None or (self._begun and self._follow is None):
            return
        passed = min(self.skip, len(data))
        self.skipped(passed)
        self._buffer += data[passed:]
        if not self._begun and len(self._buffer) > _PACKET:
            self._begin()
        while self.fault is None and self._follow is not None and self.skip == 0 and self._follow():
            pass

    def skipped(self, count: int) -> None:
        """Pass over `count` bytes, at most `skip`."""
        self.skip -= count
        self._position += count

    def finish(self) -> str | None:
        """Return the first fault of the whole stream, or None; unknown containers have none."""
        if self._follow == self._tag and len(self._buffer) == 4 and not self.skip:
            return self.fault  # the size of the last tag
        if self.fault is None and self._follow is not None and (self._buffer or self.skip):
            self.fault = f"the stream ends inside {self._name}, after {self._position + len(self._buffer)} bytes"
        return self.fault

    def _begin(self) -> None:
        self._begun = True
        head = self._buffer
        if head[0] == _SYNC and head[_PACKET] == _SYNC:
            self._follow, self._name = self._packets, "a packet of MPEG-TS"
        elif head.startswith(b"\x1a\x45\xdf\xa3"):
            self._follow, self._name = self._element, "an element of Matroska"
        elif head[4:8] in _BOXES:
            self._follow, self._name = self._box, "a box of MP4"
        elif head.startswith(b"FLV") and int.from_bytes(head[5:9], "big") == 9:
            self._follow, self._name = self._tag, "a tag of FLV"
            self._take(9)
        else:
            self._buffer = b""

    def _take(self, count: int) -> bool:
        """Pass over bytes of the buffer, and over later ones if it is shorter."""
        held = min(count, len(self._buffer))
        self._buffer, self._position = self._buffer[held:], self._position + held
        self.skip += count - held
        return True

    def _wrong(self) -> bool:
        self.fault = f"the stream is damaged from byte {self._position} on: this is not {self._name}"
        return False

    def _packets(self) -> bool:
        whole = len(self._buffer) // _PACKET
        heads = self._buffer[: whole * _PACKET : _PACKET]
        good = len(heads) - len(heads.lstrip(bytes([_SYNC])))
        self._take(good * _PACKET)
        return self._wrong() if good < whole else False

    def _element(self) -> bool:
        head = self._buffer[:12]
        if not head:
            return False
        width = 9 - head[0].bit_length()
        if width > 4:
            return self._wrong()
        if len(head) <= width:
            return False
        length = 9 - head[width].bit_length()
        kind = int.from_bytes(head[:width], "big")
        if kind not in _ELEMENTS or length > 8:
            return self._wrong()
        if len(head) < width + length:
            return False
        size = int.from_bytes(head[width : width + length], "big") & ((1 << 7 * length) - 1)
        unknown = size == (1 << 7 * length) - 1
        if unknown and kind not in (_SEGMENT, _CLUSTER):
            return self._wrong()
        return self._take(width + length + (0 if unknown or kind == _SEGMENT else size))

    def _box(self) -> bool:
        head = self._buffer[:16]
        if len(head) < 8:
            return False
        size = int.from_bytes(head[:4], "big")
        if head[4:8] not in _BOXES or size in range(2, 8):
            return self._wrong()
        if size == 1:
            if len(head) < 16:
                return False
            size = int.from_bytes(head[8:16], "big")
            if size < 16:
                return self._wrong()
        if size == 0:  # up to the end of the file
            self._follow, self._buffer = None, b""
            return False
        return self._take(size)

    def _tag(self) -> bool:
        head = self._buffer[:8]  # size of the previous tag, kind, size of this one
        if len(head) < 8:
            return False
        if head[4] & 0x1F not in _TAGS:
            return self._wrong()
        return self._take(4 + 11 + int.from_bytes(head[5:8], "big"))


def check_container(path: Path) -> str | None:
    """Return the first fault of the structure of a file, or None.

    Args:
        path: the file.
    """
    check = ContainerCheck()
    with open(path, "rb") as file:
        while data := file.read(_BLOCK):
            check.feed(data)
            if check.skip:
                left = path.stat().st_size - file.tell()
                passed = min(check.skip, left)
                file.seek(passed, 1)
                check.skipped(passed)
    return check.finish()
