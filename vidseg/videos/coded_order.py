"""Coded frames: their motion vectors as the decoder exports them, and which frames they refer to.

A decoder exports whether a vector refers to the past or to the future, but not to which frame. This module finds the
frame by the rules that encoders follow:

- MPEG-1, MPEG-2, MPEG-4 and the codecs related to them refer to the nearest I- or P-frame before the frame, and
  B-frames also to the nearest one after it. There is no other choice.
- H.264 may refer to any of several frames, also to B-frames. The nearest one that is decoded earlier and marked as a
  reference (`nal_ref_idc`) is the first entry of the reference lists, which encoders use for most blocks. It is the
  only one if the encoder is limited to one reference frame (x264: `ref=1`).

FFmpeg's decoders of MPEG-4 and the related codecs do not keep the vectors of B-frames; what they export is zero. The
vectors of the next I- or P-frame, which reach over the B-frame, take their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from av.codec.context import Flags, Flags2
from av.video.stream import VideoStream

from vidseg.videos.container_crop import Margins
from vidseg.videos.opening import VideoError, side_data_of

__all__ = ["MOTION_CODECS", "CodedFrame", "MotionTap", "References"]

MOTION_CODECS = frozenset(
    "flv h261 h263 h263i h263p h264 mpeg1video mpeg2video mpeg4 mpegvideo msmpeg4 msmpeg4v1 msmpeg4v2 rv10 rv20 snow "
    "wmv1 wmv2".split()
)
"""FFmpeg decoders that export motion vectors."""

_KEEP_B_VECTORS = frozenset({"h264", "mpeg1video", "mpeg2video", "mpegvideo"})
_TYPES = "?IPBPIPB"  # of FFmpeg's numbers; S (sprite) counts as P, as SI, SP and BI count as I, P and B
_REMEMBERED = 32  # frames; H.264 has at most 16 reference frames
_VECTOR = np.dtype(
    {
        "names": ["source", "w", "h", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale"],
        "formats": ["i4", "u1", "u1", "i2", "i2", "i4", "i4", "u2"],
        "offsets": [0, 4, 5, 10, 12, 24, 28, 32],
        "itemsize": 40,
    }
)  # FFmpeg's AVMotionVector
_NO_VECTORS = np.empty(0, _VECTOR)
_SLICES = (1, 2, 5)  # NAL units of H.264 that hold a slice with the first part of its data


@dataclass(frozen=True, eq=False)
class CodedFrame:
    """Decoded frame with its motion vectors.

    Attributes:
        frame: `av.VideoFrame` without the margins that the container hides.
        number: position in presentation order, from 0 at the first decoded frame.
        picture_type: "I", "P", "B", or "?" if the decoder does not know it.
        order: position in decoding order, or None if frames refer to all I- and P-frames around them.
        reference: other frames may refer to this one.
        vectors: FFmpeg's AVMotionVector of each block, without margins taken into account; empty if there are none.
        margins: hidden pixels at the left and at the top.
        lost: the frame has vectors, but the decoder does not export them.
        has_future: a vector refers to a frame that is displayed later.
    """

    frame: Any
    number: int
    picture_type: str
    order: int | None
    reference: bool
    vectors: npt.NDArray[Any]
    margins: tuple[int, int]
    lost: bool
    has_future: bool

    @property
    def needs_future(self) -> bool:
        """Whether the motion depends on a frame that is displayed later."""
        return self.lost or self.has_future


class MotionTap:
    """Has a decoder export motion vectors, and makes the frames of a `VideoSource` `CodedFrame`s."""

    def __init__(self) -> None:
        self.references = References()
        self._decoded = self._shown = 0
        self._origin = (0, 0)
        self._length_bytes = 0  # of the lengths of NAL units; 0: start codes
        self._h264 = self._keeps_b = False

    def open(self, stream: VideoStream, margins: Margins | None) -> None:
        """Switch the export on.

        Raises:
            VideoError: motion vectors cannot be read from this codec.
        """
        context = stream.codec_context
        name = context.codec.name
        if name not in MOTION_CODECS:
            raise VideoError(
                f"no motion vectors: the decoder {name} is not one of those that export them (H.264, MPEG-1, MPEG-2, "
                "MPEG-4, H.263 and older). Re-encode the video, for example with `ffmpeg -i IN -c:v mpeg4 -q:v 2 -g 12 "
                "-bf 0 OUT.mp4`, or use optical flow"
            )
        context.flags2 |= Flags2.export_mvs
        self._h264, self._keeps_b = name == "h264", name in _KEEP_B_VECTORS
        if self._h264:
            context.flags |= Flags.copy_opaque
            extra = context.extradata or b""
            self._length_bytes = (extra[4] & 3) + 1 if len(extra) > 4 and extra[0] == 1 else 0
        self._origin = (0, 0) if margins is None else margins[:2]

    def packet(self, packet: Any) -> None:
        """Mark a packet of H.264 with its position in decoding order and whether its frame is a reference."""
        if self._h264 and packet.size:
            packet.opaque = (self._decoded, _is_reference(bytes(packet), self._length_bytes))
            self._decoded += 1

    def frame(self, frame: Any, cropped: Any) -> CodedFrame:
        """Return a frame with its vectors."""
        kind = int(frame.pict_type)
        picture_type = _TYPES[kind] if 0 <= kind < len(_TYPES) else "?"
        order, reference = (frame.opaque or (None, None)) if self._h264 else (None, None)
        lost = picture_type == "B" and not self._keeps_b
        data = None if lost else side_data_of(frame, "MOTION_VECTORS")
        vectors = _NO_VECTORS if data is None else np.frombuffer(data, _VECTOR).copy()
        coded = CodedFrame(
            cropped,
            self._shown,
            picture_type,
            order,
            picture_type != "B" if reference is None else reference,
            vectors,
            self._origin,
            lost,
            picture_type in "B?" and bool((vectors["source"] > 0).any()),
        )
        self._shown += 1
        self.references.show(coded)
        return coded


class References:
    """Finds the frames that frames refer to; remembers the reference frames displayed last."""

    def __init__(self) -> None:
        self._shown: deque[tuple[int, int | None]] = deque(maxlen=_REMEMBERED)

    def show(self, coded: CodedFrame) -> None:
        """Take note of a frame, in presentation order."""
        if coded.reference:
            self._shown.append((coded.number, coded.order))

    def past(self, coded: CodedFrame) -> int | None:
        """Return the number of the frame that vectors to the past refer to, or None if it was not decoded."""
        for number, order in reversed(self._shown):
            if number < coded.number and _decoded_before(order, coded.order):
                return number
        return None

    @staticmethod
    def future(coded: CodedFrame, later: Iterable[CodedFrame]) -> CodedFrame | None:
        """Return the frame that vectors to the future refer to, or None if `later` lacks it.

        Args:
            coded: the frame.
            later: the frames displayed after it, in this order.
        """
        for other in later:
            if other.reference and _decoded_before(other.order, coded.order):
                return other
        return None


def _decoded_before(order: int | None, other: int | None) -> bool:
    return order is None or other is None or order < other


def _is_reference(data: bytes, length_bytes: int) -> bool:
    """Return whether the first slice of an H.264 packet belongs to a reference frame; True if there is no slice."""
    position = 0
    while True:
        if length_bytes:
            size = int.from_bytes(data[position : position + length_bytes], "big")
            position += length_bytes
        else:
            position, size = data.find(b"\0\0\1", position) + 3, 0
            if position == 2:  # not found
                return True
        if position >= len(data):
            return True
        if data[position] & 31 in _SLICES:
            return bool(data[position] >> 5 & 3)
        position += size
