"""Segments that label no part of their video: refused, or skipped, named and counted."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field

from vidseg.labels.catalog_content import MOST_SECONDS
from vidseg.labels.counting import counted

__all__ = ["SegmentFaults"]

logger = logging.getLogger(__name__)

_NAMED = 20  # number of segments that a log line names
_ROUNDING = 1e-6  # seconds that a segment may end after its video without being named


@dataclass
class SegmentFaults:
    """Checks segments against their videos and collects those that cannot be used.

    A segment without length, after the end or before the start of its video labels nothing: it is an error, or with
    `skip` it is left out. A segment that is partly outside its video is cut to the video.

    Attributes:
        skip: leave such segments out instead of raising.
        skipped: `<place>: <segment>: <reason>` of each segment that was left out.
        cut: the same for each segment that was cut to its video.
    """

    skip: bool = False
    skipped: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def check(
        self,
        start: float,
        stop: float,
        *,
        place: str,
        label: str | None = None,
        seconds: float | None = None,
        rate: float | None = None,
    ) -> tuple[float, float] | None:
        """Return the part of a segment inside its video, or None if the segment is skipped.

        Args:
            start: start in seconds from the start of the video.
            stop: end in seconds, exclusive.
            place: file and line, or video, for messages.
            label: class of the segment, for messages.
            seconds: duration of the video; None: unknown.
            rate: labels per second; a segment between two labels labels nothing. None: not checked.

        Raises:
            ValueError: the segment labels nothing and `skip` is False, or a time is not a number.
        """
        what = f"segment {'' if label is None else f'{label!r:.80} '}from {start:g} to {stop:g} seconds"
        if not (abs(start) <= MOST_SECONDS and abs(stop) <= MOST_SECONDS):
            raise ValueError(
                f"{place}: {what}: the times are not finite numbers of seconds, at most {MOST_SECONDS:.0f}"
            )
        reason = None
        if stop == start:
            reason = "it has no length"
        elif stop < start:
            reason = "it ends before it starts"
        elif stop <= 0:
            reason = "it is before the start of the video"
        elif seconds is not None and start >= seconds:
            reason = f"it is after the end of the video, which has {seconds:g} seconds"
        inside = max(start, 0.0), stop if seconds is None else min(stop, seconds)
        if reason is None and rate is not None and round(inside[0] * rate) >= round(inside[1] * rate):
            reason = f"it contains none of the video's labels ({rate:g} labels per second)"
        if reason is not None:
            if not self.skip:
                raise ValueError(f"{place}: {what}: {reason}; correct it, or skip such segments with --on-error skip")
            self.skipped.append(f"{place}: {what}: {reason}")
            return None
        if start < 0 or (seconds is not None and stop > seconds + _ROUNDING):
            self.cut.append(f"{place}: {what}: cut to {inside[0]:g} to {inside[1]:g} seconds")
        return inside

    def empty(self, what: str, *, place: str) -> None:
        """Record a range of frames that ends before its first frame.

        Raises:
            ValueError: `skip` is False.
        """
        self.leave_out(f"{place}: {what}: it has no frames")

    def leave_out(self, text: str) -> None:
        """Record a segment or video that cannot be used.

        Args:
            text: `<place>: <what>: <reason>`.

        Raises:
            ValueError: `skip` is False.
        """
        if not self.skip:
            raise ValueError(f"{text}; correct it, or skip it with --on-error skip")
        self.skipped.append(text)

    def log(self) -> None:
        """Log the numbers of skipped and cut segments, and the first of them by name."""
        for done, items in (("skipped", self.skipped), ("cut to the video", self.cut)):
            if items:
                more = f"\n    ... and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
                lines = "".join(f"\n    {item}" for item in items[:_NAMED])
                logger.warning("%s %s:%s%s", counted(len(items), "segment"), done, lines, more)


@dataclass
class UncheckedSegments(SegmentFaults):
    """Keeps every segment as its file has it, for scoring as the published evaluators do."""

    def check(
        self,
        start: float,
        stop: float,
        *,
        place: str,
        label: str | None = None,
        seconds: float | None = None,
        rate: float | None = None,
    ) -> tuple[float, float]:
        """Return the times unchanged.

        Raises:
            ValueError: a time is not a number.
        """
        if not (math.isfinite(start) and math.isfinite(stop)):
            raise ValueError(f"{place}: segment from {start:g} to {stop:g} seconds: the times are not finite numbers")
        return start, stop
