"""Index of the frames and seek points of a video file, for random access.

The frames and their numbers equal those that a conversion stores. If every packet holds one displayed frame with a
timestamp, the index is read from the packets; otherwise the file is decoded once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from vidseg.videos.decoding import TimedFrame, VideoError, VideoSource, at_rate, open_video

__all__ = ["FrameIndex", "chosen_frames", "read_frame_index"]

Integers = npt.NDArray[np.int64]

# Codecs with one displayed frame per packet. Others may have hidden frames, uncoded frames or fields as packets.
_ONE_PACKET_A_FRAME = frozenset({"av1", "ffv1", "h264", "hevc", "mjpeg", "prores", "vp9"})
_PROBED = 8  # frames decoded to verify the timestamps of the packets


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Frames of a video file in presentation order.

    Attributes:
        stamps: int64 (N,) increasing presentation times in the stream's time base; None if the file has no unique
            timestamps, so that it can only be decoded from its start.
        times: float64 (N,) seconds from the start of the video.
        keys: int64, numbers of the frames at which decoding can start.
        key_stamps: int64, seek time of each frame of `keys`.
        height: height of the first frame as displayed, in pixels.
        width: width of the first frame as displayed, in pixels.
        fps: mean frame rate, 0 if unknown.
    """

    stamps: Integers | None
    times: npt.NDArray[np.float64]
    keys: Integers
    key_stamps: Integers
    height: int
    width: int
    fps: float

    def __len__(self) -> int:
        return len(self.times)

    @property
    def bytes(self) -> int:
        """Memory use in bytes."""
        arrays = (self.stamps, self.times, self.keys, self.key_stamps)
        return sum(array.nbytes for array in arrays if array is not None)

    def key_before(self, number: int) -> int:
        """Return the position in `keys` of the last key frame at or before frame `number`."""
        return max(0, int(np.searchsorted(self.keys, number, side="right")) - 1)


def read_frame_index(path: Path) -> FrameIndex:
    """Read the frame index of a video file.

    Raises:
        VideoError: the file is not a video, or no frame can be decoded.
    """
    source = VideoSource(path)
    first: list[Any] = [item.frame for item in itertools.islice(iter(source), _PROBED)]
    height, width = first[0].height, first[0].width
    if first[0].rotation % 180 == 90:
        height, width = width, height
    fps = float(source.properties["fps"] or 0.0)
    with open_video(path) as (container, stream):
        origin = (container.start_time or 0) / av.time_base
        codec, time_base = stream.codec_context.name, stream.time_base
        packets = _packets(container, stream)
    timed = packets is not None and None not in {pts for pts, *_ in packets}
    shown = _shown(packets) if packets is not None and timed and codec in _ONE_PACKET_A_FRAME else None
    if shown is not None and time_base is not None and not source.damage:
        stamps, seeks, is_key = shown
        if stamps[:_PROBED].tolist() == [frame.pts for frame in first]:
            times = stamps.astype(np.float64) * time_base.numerator / time_base.denominator - origin
            keys = np.flatnonzero(is_key)
            return FrameIndex(stamps, times, keys, seeks[keys], height, width, fps)
    return _decoded_index(path, origin, height, width, fps, timed=timed)


_Packet = tuple[int | None, int | None, bool]


def _packets(container: Any, stream: Any) -> list[_Packet] | None:
    """Return (presentation time, decoding time, is key frame) of each displayed packet, or None if a packet is
    damaged."""
    rows = []
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:  # the end, and packets that an edit list discards
                continue
            if packet.is_corrupt:
                return None
            rows.append((packet.pts, packet.dts, packet.is_keyframe))
    except av.error.FFmpegError:
        return None
    return rows


def _shown(packets: list[_Packet]) -> tuple[Integers, Integers, npt.NDArray[np.bool_]] | None:
    """Return presentation times, seek times and key frame flags in presentation order.

    Returns None if there may be packets without a frame.
    """
    table = np.array([(pts, pts if dts is None else dts, key) for pts, dts, key in packets], np.int64).reshape(-1, 3)
    if not len(table) or not table[0, 2]:
        return None
    table = table[np.argsort(table[:, 0], kind="stable")]
    # A frame displayed before the first key frame cannot be decoded.
    if not table[0, 2] or (np.diff(table[:, 0]) <= 0).any():
        return None
    # Some containers seek by decoding time, some by presentation time; the earlier of the two works for both.
    return table[:, 0], np.minimum(table[:, 0], table[:, 1]), table[:, 2].astype(bool)


def _decoded_index(path: Path, origin: float, height: int, width: int, fps: float, *, timed: bool) -> FrameIndex:
    """Build the index by decoding the whole file. `timed`: whether its packets have presentation times."""
    stamps, times, keys = [], [], []
    for number, item in enumerate(VideoSource(path)):
        stamps.append(item.frame.pts)
        times.append(item.time - origin)
        if item.frame.key_frame or number == 0:  # the first frame is decoded from the start of the file
            keys.append(number)
    unique = timed and None not in stamps and all(one < other for one, other in itertools.pairwise(stamps))
    seconds = np.array(times, np.float64)
    if not unique:
        start = np.zeros(1, np.int64)
        return FrameIndex(None, seconds, start, start, height, width, fps)
    values, numbers = np.array(stamps, np.int64), np.array(keys, np.int64)
    return FrameIndex(values, seconds, numbers, values[numbers], height, width, fps)


def chosen_frames(index: FrameIndex, *, start: float | None, stop: float | None, fps: float | None) -> Integers:
    """Return the numbers of the frames that a conversion of a clip, or at another rate, stores.

    Args:
        index: index of the whole file.
        start: start time in seconds from the start of the video; None: the first frame.
        stop: end time, exclusive; None: the end.
        fps: constant rate to resample to; None: every frame once.

    Returns:
        int64 frame numbers in presentation order; resampling may repeat numbers.

    Raises:
        VideoError: there is no frame in the interval.
    """
    times = index.times
    last = len(times)
    if stop is not None:
        late = np.flatnonzero(times >= stop - 1e-6)
        last = int(late[0]) if len(late) else last
    numbers = np.arange(last)
    if start is not None:
        numbers = numbers[times[:last] >= start - 1e-6]
    if not len(numbers):
        raise VideoError(f"no frame between {start or 0:g} s and {stop or float('inf'):g} s")
    if fps is None:
        return numbers

    def timed() -> Iterator[TimedFrame]:
        for number in numbers.tolist():
            yield TimedFrame(number, float(times[number]))

    return np.array([item.frame for item in at_rate(timed(), fps)], np.int64)
