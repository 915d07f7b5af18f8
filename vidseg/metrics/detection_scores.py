"""Mean average precision (mAP) of temporal action detection.

The definition is that of the ActivityNet evaluator (Caba Heilbron et al., CVPR 2015), which every published table uses.
Detections of one class in all videos are sorted by falling score. Each is assigned to the instance of its class and
video with the highest IoU among those that are not assigned yet at this threshold and have at least this IoU;
otherwise it is a false positive. The average precision is the area under the precision-recall curve, precision made
monotone from the right. mAP is the mean over the classes that have instances.

Ties, which the published code leaves to the sorting routine: of equal scores, the detection that comes first in the
input is first; of equal IoU, the instance that comes first in the input is taken. Values are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.metrics.detections import DetectionProtocol, Detections, detection_protocol

__all__ = ["DetectionMatches", "DetectionScores", "detection_map", "match_by_class", "precision_recall"]

_RECALLS = 101  # points of a precision-recall curve


@dataclass(frozen=True)
class DetectionMatches:
    """Assignment of detections to instances, by class.

    Attributes:
        classes: (K,) numbers of the classes that have instances.
        truth: instances that count, ordered by class and video.
        truth_classes: (G,) position of the class of each instance in `classes`.
        predictions: detections of these classes, ordered by class and falling score.
        rows: (N,) row of each detection in the input.
        bounds: (K + 1,) first detection of each class, and N.
        matched: (T, N) row of `truth` that the detection is assigned to at each threshold, or -1.
        left_out: number of instances that the protocol leaves out.
    """

    classes: npt.NDArray[np.int64]
    truth: Detections
    truth_classes: npt.NDArray[np.int64]
    predictions: Detections
    rows: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    matched: npt.NDArray[np.int64]
    left_out: int

    @property
    def instances(self) -> npt.NDArray[np.int64]:
        """(K,) number of instances of each class."""
        return np.bincount(self.truth_classes, minlength=len(self.classes))


@dataclass(frozen=True)
class DetectionScores:
    """Average precisions of one evaluation, from 0 to 1.

    Attributes:
        thresholds: (T,) IoU thresholds.
        classes: (K,) numbers of the classes that have instances, ascending.
        ap: (K, T) average precision of each class.
        recall: (K, T) share of the instances of each class that a detection is assigned to.
        instances: (K,) number of instances of each class.
        detections: (K,) number of detections of each class.
        ignored: number of detections of other classes, which do not count.
        left_out: number of instances that the protocol leaves out.
    """

    thresholds: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    ap: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    instances: npt.NDArray[np.int64]
    detections: npt.NDArray[np.int64]
    ignored: int
    left_out: int

    @property
    def map(self) -> npt.NDArray[np.float64]:
        """(T,) mean over the classes."""
        return self.ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Mean of `map` over the thresholds."""
        return float(self.map.mean())

    def at(self, threshold: float) -> float:
        """Return the mAP at one of the thresholds.

        Raises:
            ValueError: it is not among them.
        """
        near = np.flatnonzero(np.abs(self.thresholds - threshold) < 1e-6)
        if not len(near):
            raise ValueError(f"threshold {threshold} is not one of {np.round(self.thresholds, 6).tolist()}")
        return float(self.map[near[0]])

    def table(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return one row per class: class, instances, detections, ap by threshold, average, recall by threshold.

        Args:
            names: class names by number; None: the numbers are used.
        """
        keys = [f"{threshold:.4g}" for threshold in self.thresholds]
        return [
            {
                "class": int(number) if names is None else names[number],
                "instances": int(self.instances[row]),
                "detections": int(self.detections[row]),
                "ap": dict(zip(keys, self.ap[row].tolist(), strict=True)),
                "average": float(self.ap[row].mean()),
                "recall": dict(zip(keys, self.recall[row].tolist(), strict=True)),
            }
            for row, number in enumerate(self.classes)
        ]

    def summary(self) -> dict[str, Any]:
        """Return the mAP by threshold, its average and the counts, for JSON files."""
        keys = [f"{threshold:.4g}" for threshold in self.thresholds]
        return {
            "map": dict(zip(keys, self.map.tolist(), strict=True)),
            "average": self.average,
            "classes": len(self.classes),
            "instances": int(self.instances.sum()),
            "detections": int(self.detections.sum()),
            "ignored_detections": self.ignored,
            "left_out_instances": self.left_out,
        }


def counted_instances(truth: Detections, protocol: DetectionProtocol) -> Detections:
    """Return the instances that the protocol counts, in the order of the input."""
    from vidseg.metrics._detection_kernels import repeated

    if protocol.min_length is not None:
        lengths = truth.segments[:, 1] - truth.segments[:, 0]
        truth = truth.take((lengths > 0) & (lengths >= protocol.min_length))
    if protocol.duplicate_tolerance is not None and len(truth):
        groups = truth.labels * (truth.videos.max() + 1) + truth.videos
        order = np.argsort(groups, kind="stable")
        marked = repeated(groups[order], truth.segments[order], protocol.duplicate_tolerance)
        truth = truth.take(np.sort(order[~marked]))
    return truth


def ranges(keys: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> tuple[npt.NDArray, npt.NDArray]:
    """Return the first row and the number of rows of each wanted key in ascending keys."""
    firsts = np.searchsorted(keys, wanted, side="left")
    return firsts, np.searchsorted(keys, wanted, side="right") - firsts


def match_by_class(
    truth: Detections, predictions: Detections, *, protocol: str | DetectionProtocol = "activitynet"
) -> DetectionMatches:
    """Assign detections to the instances of their class and video; see the module's definition.

    Args:
        truth: instances.
        predictions: detections, numbered like the truth.
        protocol: name in `PROTOCOLS`, or a protocol.

    Raises:
        ValueError: there is no instance, or the protocol refuses a detection of a class without instances.
    """
    from vidseg.metrics._detection_kernels import match_detections

    rules = detection_protocol(protocol)
    counted = counted_instances(truth, rules)
    if not len(counted):
        raise ValueError("the truth has no instance that counts, so there is nothing to score")
    classes = np.unique(counted.labels)
    known = np.isin(predictions.labels, classes)
    if rules.unknown_labels == "refuse" and not known.all():
        label = predictions.labels[~known][0]
        raise ValueError(f"class {label} of a detection has no instance; the protocol refuses such detections")
    rows = np.flatnonzero(known)
    order = np.lexsort((-predictions.scores[rows], predictions.labels[rows]))  # stable
    rows = rows[order]
    ours = predictions.take(rows)
    counted = counted.take(np.lexsort((counted.videos, counted.labels)))
    positions = np.searchsorted(classes, ours.labels)
    truth_positions = np.searchsorted(classes, counted.labels)
    width = max(int(part.videos.max()) for part in (counted, ours) if len(part)) + 1
    firsts, counts = ranges(truth_positions * width + counted.videos, positions * width + ours.videos)
    matched = match_detections(ours.segments, firsts, counts, counted.segments, np.array(rules.thresholds))
    bounds = np.searchsorted(positions, np.arange(len(classes) + 1))
    return DetectionMatches(
        classes, counted, truth_positions, ours, rows, bounds, matched, left_out=len(truth) - len(counted)
    )


def detection_map(
    truth: Detections,
    predictions: Detections,
    *,
    thresholds: Sequence[float] | None = None,
    protocol: str | DetectionProtocol = "activitynet",
) -> DetectionScores:
    """Compute the average precision of every class at every IoU threshold.

    Args:
        truth: instances.
        predictions: detections, with videos and classes numbered like the truth.
        thresholds: IoU thresholds; None: those of the protocol.
        protocol: name in `PROTOCOLS`, or a protocol.

    Raises:
        ValueError: there is no instance, or the protocol refuses a detection of a class without instances.
    """
    from vidseg.metrics._detection_kernels import average_precisions

    rules = detection_protocol(protocol).with_thresholds(thresholds)
    found = match_by_class(truth, predictions, protocol=rules)
    correct = found.matched >= 0
    ap = average_precisions(correct, np.ones_like(correct), found.bounds, found.instances, 0.0)
    totals = np.concatenate([np.zeros((len(correct), 1), np.int64), np.cumsum(correct, axis=1)], axis=1)
    hits = np.diff(totals[:, found.bounds], axis=1).T
    return DetectionScores(
        thresholds=np.array(rules.thresholds),
        classes=found.classes,
        ap=ap,
        recall=hits / found.instances[:, None],
        instances=found.instances,
        detections=np.diff(found.bounds),
        ignored=len(predictions) - len(found.predictions),
        left_out=found.left_out,
    )


def precision_recall(
    truth: Detections,
    predictions: Detections,
    *,
    thresholds: Sequence[float] | None = None,
    protocol: str | DetectionProtocol = "activitynet",
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute precision-recall curves with monotone precision.

    Args:
        truth: instances.
        predictions: detections.
        thresholds: IoU thresholds; None: those of the protocol.
        protocol: name in `PROTOCOLS`, or a protocol.

    Returns:
        Recalls (101,) from 0 to 1, and the precision of each class, threshold and recall (K, T, 101).
    """
    from vidseg.metrics._detection_kernels import precisions_at

    found = match_by_class(truth, predictions, protocol=detection_protocol(protocol).with_thresholds(thresholds))
    recalls = np.linspace(0, 1, _RECALLS)
    return recalls, precisions_at(found.matched >= 0, found.bounds, found.instances, recalls)
