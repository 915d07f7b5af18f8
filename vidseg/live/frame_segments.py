"""Segments of labeled frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vidseg.live.session import LabeledFrame

__all__ = ["Segment", "join_frames"]


class Segment(NamedTuple):
    """Consecutive frames with one label.

    Attributes:
        label: class name.
        start: time of the first frame in seconds.
        stop: end of the last frame in seconds.
        probability: mean probability of the label.
    """

    label: str
    start: float
    stop: float
    probability: float


def join_frames(frames: Iterable[LabeledFrame], classes: Sequence[str], *, step: float) -> list[Segment]:
    """Join labeled frames to segments; times are rounded to 1 ms and probabilities to 4 digits.

    Args:
        frames: in the order of the stream.
        classes: class names by number.
        step: duration of a frame in seconds.
    """
    segments = []
    for label, group in itertools.groupby(frames, key=lambda each: each.label):
        run = list(group)
        mean = sum(each.probability for each in run) / len(run)
        segments.append(Segment(classes[label], round(run[0].time, 3), round(run[-1].time + step, 3), round(mean, 4)))
    return segments
