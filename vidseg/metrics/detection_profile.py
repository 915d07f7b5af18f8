"""False-positive profile of detections: which errors a detector makes and how much mAP each kind costs.

The definition is that of DETAD (Alwassel et al., ECCV 2018, "Diagnosing Error in Temporal Action Detectors"). Of each
class with x instances, the best `limit` * x detections are examined. A false positive is named after the instance of
its video with the highest IoU, of any class:

- double detection: IoU at least the threshold, same class; another detection has the instance.
- wrong label: IoU at least the threshold, another class.
- localization: IoU at least `min_iou` and below the threshold, same class.
- confusion: the same with another class.
- background: IoU below `min_iou`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.metrics.detection_scores import match_by_class, ranges
from vidseg.metrics.detections import DetectionProtocol, Detections, detection_protocol

__all__ = ["ERRORS", "FalsePositiveProfile", "false_positive_profile"]

ERRORS = ("double detection", "wrong label", "localization", "confusion", "background")
"""Kinds of false positives; the position + 1 is the number in a profile, 0 is a true positive."""


@dataclass(frozen=True)
class FalsePositiveProfile:
    """Errors of the best detections of every class, averaged over the IoU thresholds.

    Attributes:
        thresholds: (T,) IoU thresholds.
        shares: (limit, 6) shares of true positives and of each of `ERRORS` among the detections of rank (i * x,
            (i + 1) * x], x the number of instances of their class; rows sum to 1, or to 0 without such detections.
        counts: (6,) mean number of true positives and of each of `ERRORS` over the thresholds.
        average: average mAP of the examined detections; normalized if `normalized`.
        gains: (5,) increase of `average` if all errors of one kind are removed.
        normalized: whether precision is normalized for the number of instances of a class.
    """

    thresholds: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]
    counts: npt.NDArray[np.float64]
    average: float
    gains: npt.NDArray[np.float64]
    normalized: bool

    def summary(self) -> dict[str, Any]:
        """Return counts, shares and gains by the name of the error, for JSON files."""
        names = ("true positive", *ERRORS)
        return {
            "average": self.average,
            "normalized": self.normalized,
            "counts": dict(zip(names, self.counts.tolist(), strict=True)),
            "gains": dict(zip(ERRORS, self.gains.tolist(), strict=True)),
            "shares": [dict(zip(names, row, strict=True)) for row in self.shares.tolist()],
        }


def false_positive_profile(
    truth: Detections,
    predictions: Detections,
    *,
    thresholds: Sequence[float] | None = None,
    limit: int = 10,
    min_iou: float = 0.1,
    normalize: bool = True,
    protocol: str | DetectionProtocol = "activitynet",
) -> FalsePositiveProfile:
    """Analyze the false positives of a detector.

    Args:
        truth: instances.
        predictions: detections.
        thresholds: IoU thresholds, above `min_iou`; None: those of the protocol above `min_iou`.
        limit: number of detections examined of each class, as a multiple of its instances.
        min_iou: IoU below which a false positive is a background error.
        normalize: normalize the precision as if every class had the average number of instances, as DETAD does.
        protocol: name in `PROTOCOLS`, or a protocol.

    Raises:
        ValueError: there is no instance, or no threshold is above `min_iou`.
    """
    from vidseg.metrics._detection_kernels import average_precisions, best_overlaps

    rules = detection_protocol(protocol)
    chosen = rules.thresholds if thresholds is None else tuple(thresholds)
    above = tuple(value for value in chosen if value > min_iou + 1e-9)
    if not above or (thresholds is not None and len(above) < len(chosen)) or limit < 1:
        raise ValueError(f"thresholds {list(chosen)}, min_iou={min_iou}, limit={limit}: expected thresholds > min_iou")
    found = match_by_class(truth, predictions, protocol=rules.with_thresholds(above))
    # Only the best detections of each class are examined; matches of the others do not change theirs.
    rank = np.arange(len(found.predictions)) - np.repeat(found.bounds[:-1], np.diff(found.bounds))
    group = rank // np.repeat(found.instances, np.diff(found.bounds))
    examined = group < limit
    matched, group, ours = found.matched[:, examined], group[examined], found.predictions.take(examined)
    bounds = np.concatenate([[0], np.cumsum(examined)])[found.bounds]

    by_video = np.argsort(found.truth.videos, kind="stable")
    instances = found.truth.take(by_video)
    firsts, counts = ranges(instances.videos, ours.videos)
    best, overlap = best_overlaps(ours.segments, firsts, counts, instances.segments)
    same = (best >= 0) & (instances.labels[best] == ours.labels)
    errors = np.empty(matched.shape, np.int64)
    for row, threshold in enumerate(above):
        near = np.where(same, 1, 2) + np.where(overlap >= threshold, 0, 2)
        errors[row] = np.where(matched[row] >= 0, 0, np.where(overlap >= min_iou, near, len(ERRORS)))

    kinds = 1 + len(ERRORS)
    cells = np.bincount((group * kinds + errors).reshape(-1), minlength=limit * kinds).reshape(limit, kinds)
    totals = cells.sum(axis=1, keepdims=True)
    correct, weight = matched >= 0, len(found.truth) / len(found.classes) if normalize else 0.0

    def average(kept: npt.NDArray[np.bool_]) -> float:
        return float(average_precisions(correct, kept, bounds, found.instances, weight).mean())

    base = average(np.ones_like(correct))
    return FalsePositiveProfile(
        thresholds=np.array(above),
        shares=np.divide(cells, totals, out=np.zeros(cells.shape), where=totals > 0),
        counts=cells.sum(axis=0) / len(above),
        average=base,
        gains=np.array([average(errors != kind) - base for kind in range(1, kinds)]),
        normalized=normalize,
    )
