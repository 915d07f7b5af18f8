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

from vidseg.videos.clock import TimedFrame
from vidseg.videos.container_crop import Margins, read_margins
from vidseg.videos.decoding import VideoSource, at_rate, frame_clock
from vidseg.videos.opening import VideoError, open_video
from vidseg.videos.orientation import frame_orientation

__all__ = ["FrameIndex", "chosen_frames", "read_frame_index"]

Integers = npt.NDArray[np.int64]

# Codecs with one displayed frame per packet. Others may have hidden frames, uncoded frames or fields as packets.
_ONE_PACKET_A_FRAME = frozenset({"av1", "ffv1", "h264", "hevc", "mjpeg", "prores", "vp9"})
_PROBED = 8  # frames decoded to verify the timestamps of the packets
_HOLE = 2.5  # frame intervals; a longer one may be the place of a frame with a wild time stamp


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Frames of a video file in presentation order.

    Attributes:
        stamps: int64 (N,) increasing presentation times in the stream's time base; None if the file has no unique
            timestamps, so that it can only be decoded from its start.
        times: float64 (N,) seconds from the start of the video, repaired as for a conversion.
        end: end of the last frame, in seconds from the start of the video.
        keys: int64, numbers of the frames at which decoding can start.
        key_stamps: int64, seek time of each frame of `keys`.
        height: height of the first frame as displayed, in pixels.
        width: width of the first frame as displayed, in pixels.
        fps: mean frame rate, 0 if unknown.
        margins: pixels that the container hides at the left, top, right and bottom, or None.
        discardable: whether each packet holds the frame of its timestamp, and FFmpeg knows which frames no other frame
            refers to. A decoder need not decode such frames if they are not wanted.
    """

    stamps: Integers | None
    times: npt.NDArray[np.float64]
    end: float
    keys: Integers
    key_stamps: Integers
    height: int
    width: int
    fps: float
    margins: Margins | None = None
    discardable: bool = False

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
    width, height = frame_orientation(first[0]).size(first[0].width, first[0].height)
    fps = float(source.properties["fps"] or 0.0)
    with open_video(path) as (container, stream):
        origin = (container.start_time or 0) / av.time_base
        codec, time_base = stream.codec_context.name, stream.time_base
        margins, discardable = read_margins(path, container, stream), _discardable(stream.codec_context)
        clock = frame_clock(container, stream)
        packets = _packets(container, stream)
    timed = packets is not None and None not in {pts for pts, *_ in packets}
    shown = _shown(packets) if packets is not None and timed and codec in _ONE_PACKET_A_FRAME else None
    if shown is not None and time_base is not None and not source.damage:
        stamps, seeks, is_key, durations = shown
        if stamps[:_PROBED].tolist() == [frame.pts for frame in first]:
            seconds = np.stack([stamps, durations], axis=1) * (time_base.numerator / time_base.denominator)
            frames = list(clock.repaired((None, time, duration) for time, duration in seconds.tolist()))
            times = np.array([frame.time for frame in frames]) - origin
            keys = np.flatnonzero(is_key)
            end = float(times[-1]) + frames[-1].duration
            return FrameIndex(stamps, times, end, keys, seeks[keys], height, width, fps, margins, discardable)
    return _decoded_index(path, height, width, fps, margins, timed=timed)


def _discardable(context: Any) -> bool:
    """Return whether FFmpeg's `skip_frame=NONREF` skips only frames that no other frame refers to.

    H.264 marks such frames (nal_ref_idc 0). HEVC marks frames that no other frame of the same temporal layer refers to,
    so there must be one layer: its number is in the header of MP4 and Matroska (ISO/IEC 14496-15, 8.3.3.1).
    """
    if context.name == "h264":
        return True
    header = bytes(context.extradata or b"")
    return context.name == "hevc" and len(header) > 22 and header[0] == 1 and (header[21] >> 3) & 7 == 1


_Packet = tuple[int | None, int | None, bool, int]


def _packets(container: Any, stream: Any) -> list[_Packet] | None:
    """Return (presentation time, decoding time, is key frame, duration) of each displayed packet, or None if a packet
    is damaged."""
    rows = []
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:  # the end, and packets that an edit list discards
                continue
            if packet.is_corrupt:
                return None
            rows.append((packet.pts, packet.dts, packet.is_keyframe, packet.duration or 0))
    except av.error.FFmpegError:
        return None
    return rows


def _shown(packets: list[_Packet]) -> tuple[Integers, Integers, npt.NDArray[np.bool_], Integers] | None:
    """Return presentation times, seek times, key frame flags and durations in presentation order.

    Returns None if there may be packets without a frame, or frames with wild times.
    """
    rows = [(pts, pts if dts is None else dts, key, duration) for pts, dts, key, duration in packets]
    table = np.array(rows, np.int64).reshape(-1, 4)
    if not len(table) or not table[0, 2]:
        return None
    order = np.argsort(table[:, 0], kind="stable")
    table = table[order]
    steps = np.diff(table[:, 0])
    # A frame displayed before the first key frame cannot be decoded.
    if not table[0, 2] or (steps <= 0).any():
        return None
    # Decoders order frames by the coded picture order. It may differ from the order of the times where a packet is
    # separated by a hole in the times from packets stored beside it.
    if len(steps):
        crossing = np.maximum.accumulate(order)[:-1] > np.minimum.accumulate(order[::-1])[::-1][1:]
        if (crossing & (steps > _HOLE * np.median(steps))).any():
            return None
    # Some containers seek by decoding time, some by presentation time; the earlier of the two works for both.
    return table[:, 0], np.minimum(table[:, 0], table[:, 1]), table[:, 2].astype(bool), table[:, 3]


def _decoded_index(
    path: Path, height: int, width: int, fps: float, margins: Margins | None, *, timed: bool
) -> FrameIndex:
    """Build the index by decoding the whole file. `timed`: whether its packets have presentation times."""
    stamps, times, keys, end = [], [], [], 0.0
    source = VideoSource(path)
    for number, item in enumerate(source):
        stamps.append(item.frame.pts)
        times.append(item.time)
        end = item.time + item.duration
        if item.frame.key_frame or number == 0:  # the first frame is decoded from the start of the file
            keys.append(number)
    unique = timed and None not in stamps and all(one < other for one, other in itertools.pairwise(stamps))
    seconds, end = np.array(times, np.float64) - source.origin, end - source.origin
    if not unique:
        start = np.zeros(1, np.int64)
        return FrameIndex(None, seconds, end, start, start, height, width, fps, margins)
    values, numbers = np.array(stamps, np.int64), np.array(keys, np.int64)
    return FrameIndex(values, seconds, end, numbers, values[numbers], height, width, fps, margins)


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

    ends = np.append(times[1:], index.end)
    if stop is not None:
        ends = np.minimum(ends, stop)

    def timed() -> Iterator[TimedFrame]:
        for number in numbers.tolist():
            yield TimedFrame(number, float(times[number]), float(ends[number] - times[number]))

    return np.array([item.frame for item in at_rate(timed(), fps, origin=start or 0.0)], np.int64)
