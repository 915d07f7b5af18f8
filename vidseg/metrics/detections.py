"""Segments with classes and scores of many videos, and the protocols of detection benchmarks.

A protocol says which IoU thresholds are averaged and which instances count. The published evaluations differ in both
(see docs/detection_metrics.md), so results are comparable only under one protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["PROTOCOLS", "DetectionProtocol", "Detections", "detection_protocol"]


@dataclass(frozen=True)
class Detections:
    """Detections, or instances of the truth, of any number of videos.

    Attributes:
        videos: int64 (N,) number of the video, at least 0.
        segments: float64 (N, 2) start and stop in seconds. A reversed segment overlaps nothing.
        labels: int64 (N,) class number, at least 0.
        scores: float64 (N,), any finite numbers; 1 for the truth.
    """

    videos: npt.NDArray[np.int64]
    segments: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        videos: npt.ArrayLike,
        segments: npt.ArrayLike,
        labels: npt.ArrayLike,
        scores: npt.ArrayLike | None = None,
    ) -> Detections:
        """Return detections from arrays or lists; `scores` of None are all 1.

        Raises:
            ValueError: the lengths differ, a number is negative, or a time or score is not finite.
        """
        numbers, classes = (np.asarray(values, np.int64).reshape(-1) for values in (videos, labels))
        times = np.asarray(segments, np.float64).reshape(-1, 2)
        weights = np.ones(len(numbers)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
        lengths = [len(array) for array in (numbers, times, classes, weights)]
        if len(set(lengths)) > 1:
            raise ValueError(f"videos, segments, labels and scores have the lengths {lengths}, which must be equal")
        for name, array in (("video", numbers), ("label", classes)):
            if len(array) and array.min() < 0:
                raise ValueError(f"{name} {array.min()} of detection {array.argmin()} is negative")
        for name, values in (("segment", times), ("score", weights)):
            finite = np.isfinite(values)
            wrong = np.flatnonzero(~(finite.all(axis=1) if finite.ndim > 1 else finite))
            if len(wrong):
                raise ValueError(f"{name} {values[wrong[0]].tolist()} of detection {wrong[0]} is not finite")
        return cls(numbers, times, classes, weights)

    @classmethod
    def of_videos(
        cls,
        segments: Sequence[npt.ArrayLike],
        labels: Sequence[npt.ArrayLike],
        scores: Sequence[npt.ArrayLike] | None = None,
    ) -> Detections:
        """Return detections from one entry per video: segments (N, 2), labels (N,) and scores (N,).

        Raises:
            ValueError: the numbers of videos or of detections differ.
        """
        if len(labels) != len(segments) or (scores is not None and len(scores) != len(segments)):
            raise ValueError(f"{len(segments)} videos with segments, but {len(labels)} with labels or other scores")
        times = [np.asarray(one, np.float64).reshape(-1, 2) for one in segments]
        return cls.of(
            np.repeat(np.arange(len(times)), [len(one) for one in times]),
            np.concatenate([np.zeros((0, 2)), *times]),
            np.concatenate([np.zeros(0, np.int64), *(np.asarray(one, np.int64).reshape(-1) for one in labels)]),
            None if scores is None else np.concatenate([np.zeros(0), *(np.asarray(s, np.float64) for s in scores)]),
        )

    def __len__(self) -> int:
        return len(self.videos)

    def take(self, rows: npt.NDArray) -> Detections:
        """Return the detections at `rows`, indices or a mask (N,)."""
        return Detections(self.videos[rows], self.segments[rows], self.labels[rows], self.scores[rows])


@dataclass(frozen=True)
class DetectionProtocol:
    """Rules of one evaluation.

    Attributes:
        thresholds: IoU thresholds, ascending, above 0 to 1.
        duplicate_tolerance: an instance of the class of another one in the same video is left out if start and stop
            differ by at most this many seconds; None: all count.
        min_length: instances without length, or shorter than this many seconds, are left out; None: all count.
        unknown_labels: detections of a class without instances: "ignore", or "refuse" as the official evaluator.
        missing_videos: videos of the truth without an entry in the results: "count" their instances as missed, or
            "refuse".
        outside_videos: detections in videos that are not in the truth: "count" them as false positives as the
            published evaluators do, or "ignore".
    """

    thresholds: tuple[float, ...]
    duplicate_tolerance: float | None = None
    min_length: float | None = None
    unknown_labels: Literal["ignore", "refuse"] = "ignore"
    missing_videos: Literal["count", "refuse"] = "count"
    outside_videos: Literal["count", "ignore"] = "count"

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.thresholds)
        object.__setattr__(self, "thresholds", values)
        if not values or not all(0 < value <= 1 for value in values) or list(values) != sorted(set(values)):
            raise ValueError(f"thresholds {values}: expected ascending IoU thresholds above 0 and at most 1")
        for name in ("duplicate_tolerance", "min_length"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={value} must be at least 0 seconds")

    def with_thresholds(self, thresholds: Sequence[float] | None) -> DetectionProtocol:
        """Return the protocol with other thresholds; None keeps them."""
        return self if thresholds is None else replace(self, thresholds=tuple(thresholds))


def _steps(first: float, last: float, count: int) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, count).tolist())


_STRICT = _steps(0.5, 0.95, 10)

PROTOCOLS: dict[str, DetectionProtocol] = {
    "activitynet": DetectionProtocol(_STRICT),
    "hacs": DetectionProtocol(_STRICT, duplicate_tolerance=1e-3, min_length=0.0),
    "fineaction": DetectionProtocol(_STRICT, duplicate_tolerance=1e-3, min_length=0.0),
    "thumos14": DetectionProtocol(_steps(0.3, 0.7, 5), duplicate_tolerance=1e-3, min_length=0.0),
    "multithumos": DetectionProtocol(_steps(0.1, 0.9, 9), duplicate_tolerance=1e-3, min_length=0.0),
    "charades": DetectionProtocol(_steps(0.1, 0.9, 9), duplicate_tolerance=1e-3, min_length=0.0),
    "epic": DetectionProtocol(_steps(0.1, 0.5, 5)),
    "ego4d": DetectionProtocol(_steps(0.1, 0.5, 5), duplicate_tolerance=1e-3, min_length=0.0),
}
"""Protocols by name: ActivityNet and EPIC-Kitchens count duplicated instances as their official evaluators do, the
others leave them out as OpenTAD does."""


def detection_protocol(protocol: str | DetectionProtocol) -> DetectionProtocol:
    """Return a protocol by its name, or the protocol itself.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(protocol, DetectionProtocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r} is not one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
