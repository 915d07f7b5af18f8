"""Repair of the times of frames: missing and wild time stamps, and clocks that restart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DISCONTINUITY", "LONGEST_RUN", "FrameClock", "TimedFrame"]

LONGEST_RUN = 8  # of consecutive wild time stamps
_NEAR = 1.5  # the next frame is expected within this multiple of the frame interval
DISCONTINUITY = 10.0  # seconds; a longer jump of a transport stream is a new clock, as in FFmpeg
_TINY = 1e-6


@dataclass
class TimedFrame:
    """Decoded frame (`av.VideoFrame`) with its presentation time and duration in seconds."""

    frame: Any  # av.VideoFrame
    time: float
    duration: float = 0.0


@dataclass
class _Stamp:
    frame: Any
    time: float | None
    duration: float


class FrameClock:
    """Repair the times of the frames of one video, given in presentation order.

    Times that do not decrease are kept as they are. Otherwise:

    - A frame without a time follows the previous one after one frame interval.
    - Up to eight consecutive times that leave the sequence and return to it are wild. They are replaced by times evenly
      spaced between those of their neighbors; all other frames keep theirs.
    - Times of a few frames in another order than the frames (AVI stores decoding order) are sorted.
    - Times that decrease and stay lower come from a clock that restarts: the rest follows the previous frame. In
      transport and program streams, so does a forward jump of more than 10 s.

    Attributes:
        restarts: number of times that the clock has restarted so far.
        replaced: number of wild times replaced so far.

    Args:
        step: frame interval in seconds by the rate of the stream.
        discontinuous: the container has clocks that restart (MPEG transport and program streams).
        end: end of the video by the header of the stream in seconds, or None; a last frame more than 10 s later has a
            wild time.
        run: longest run of wild times that is recognized, which is the number of frames held back.
    """

    def __init__(
        self, step: float, *, discontinuous: bool = False, end: float | None = None, run: int = LONGEST_RUN
    ) -> None:
        self._step, self._discontinuous, self._end, self._run = step, discontinuous, end, run
        self.restarts = self.replaced = 0
        self._offset = 0.0  # of the current clock
        self._last: float | None = None
        self._interval = step  # usual distance of the frames so far
        self._duration = 0.0  # of the last frame
        self._held: list[_Stamp] = []

    def repaired(self, frames: Iterator[tuple[Any, float | None, float]]) -> Iterator[TimedFrame]:
        """Yield frames with their repaired times, which do not decrease, and their durations.

        Args:
            frames: frame, time or None, and duration of each frame; a duration of 0 is
                replaced by the frame interval.
        """
        for frame, time, duration in frames:
            self._held.append(_Stamp(frame, None if time is None else time + self._offset, duration))
            while self._held and (times := self._decide(ended=False)):
                yield from self._release(times)
        while self._held:
            yield from self._release(self._decide(ended=True))

    def _release(self, times: list[float]) -> Iterator[TimedFrame]:
        for time in times:
            stamp = self._held.pop(0)
            if self._last is not None and 0 < time - self._last <= _NEAR * self._interval + _TINY:
                self._interval = time - self._last
            self._last = time
            self._duration = stamp.duration
            yield TimedFrame(stamp.frame, time, stamp.duration or self._interval)

    def _decide(self, *, ended: bool) -> list[float]:
        """Return the times of the first held frames; empty if the decision needs more frames."""
        complete = ended or len(self._held) > self._run
        first = self._held[0].time
        if self._last is None:
            return self._decide_start(first) if complete else []
        unit = max(self._step, self._interval)
        if first is None:
            return [self._last + self._interval]
        if self._last - _TINY <= first <= self._last + _NEAR * unit + _TINY:
            return [max(first, self._last)]
        times = [stamp.time for stamp in self._held]
        back = self._returns(times, first, unit, complete=complete)
        if back is None:
            return []
        if back:
            return self._replaced(times, back, unit, complete=complete)
        return self._lasting(first, ended=ended)

    def _decide_start(self, first: float | None) -> list[float]:
        times = [stamp.time for stamp in self._held]
        known = [(number, time) for number, time in enumerate(times) if time is not None]
        if first is None:
            number, time = known[0] if known else (0, 0.0)
            return [time - number * self._step]
        drop = next((number for number, time in known if time < first - _TINY), None)
        if drop is None:
            return [first]
        before = [time for number, time in known if number < drop]
        after = [time for number, time in known if number >= drop]
        group = _reordered(times, drop + 1)
        if max(group) - min(group) <= _NEAR * self._step * len(group) and None not in times[: len(group)]:
            return sorted(group)
        dip = after[1] >= before[-1] if len(after) > 1 else len(before) > 1
        if dip or (drop >= 3 and _steady(before, self._step)):
            return [first]
        self.replaced += drop
        return [after[0] - (drop - number) * self._step for number in range(drop)]

    def _returns(self, times: list[float | None], first: float, unit: float, *, complete: bool) -> int | None:
        """Return the number of held frames before the sequence returns to the last time; 0: never, None: undecided."""
        assert self._last is not None
        for number in range(1, min(len(times), self._run + 1)):
            time = times[number]
            if time is None or time < self._last - _TINY:
                continue
            if first > self._last:
                if time >= first:
                    continue
                if time <= self._last + _NEAR * unit * (number + 1) + _TINY:
                    return number
                following = next((later for later in times[number + 1 :] if later is not None), None)
                if following is None and not complete:
                    return None
                if following is not None and following < first and time - self._last < (first - self._last) / 2:
                    return number
            elif number < 3 or not _steady(times[:number], self._step):
                return number
        return 0 if complete else None

    def _replaced(self, times: list[float | None], back: int, unit: float, *, complete: bool) -> list[float]:
        """Return times for the first `back` held frames, whose own are wild, or those of a reordered group, sorted.

        The result is empty if the end of the group is not known yet.
        """
        assert self._last is not None
        returned = times[back]
        assert returned is not None
        group = _reordered(times, back + 1, self._last)
        if self._last < min(group) and max(group) <= self._last + _NEAR * unit * (len(group) + 1):
            if not complete:
                return []
            if None not in times[: len(group)] and len(set(group)) == len(group):
                return sorted(group)
        self.replaced += back
        share = (returned - self._last) / (back + 1)
        return [self._last + share * (number + 1) for number in range(back)]

    def _lasting(self, first: float, *, ended: bool) -> list[float]:
        """Return the time of a frame with which the times change for good."""
        assert self._last is not None
        jump = first - self._last
        following = self._last + (self._duration or self._interval)
        if jump < 0 or (self._discontinuous and jump > DISCONTINUITY):
            change = following - first
            self._offset += change
            self.restarts += 1
            for stamp in self._held:
                stamp.time = None if stamp.time is None else stamp.time + change
            return [following]
        if ended and self._end is not None and first > max(self._end, following) + DISCONTINUITY:
            self.replaced += 1
            return [following]
        return [first]


def _reordered(times: Sequence[float | None], count: int, above: float = -math.inf) -> list[float]:
    """Return the first `count` times, and all up to the last one that belongs before one of those.

    Args:
        times: of the held frames.
        count: at least 1.
        above: later times up to this one are of another clock, not of this group.
    """
    group = [time for time in times[:count] if time is not None]
    for number, time in enumerate(times[count:], start=count):
        if time is not None and above < time < max(group):
            group = [known for known in times[: number + 1] if known is not None]
    return group


def _steady(times: Sequence[float | None], step: float) -> bool:
    """Return whether the times increase by about one frame interval each."""
    known = [time for time in times if time is not None]
    steps = [other - one for one, other in itertools.pairwise(known)]
    return bool(steps) and all(0.5 * step < each < _NEAR * step for each in steps)
