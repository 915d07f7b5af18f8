"""Recall of temporal proposals: AR@AN and its area (ActivityNet proposal task), and Recall@kx (Ego4D moment queries).

Equal scores keep the order of the input. Values are from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidseg.metrics.detection_scores import counted_instances, ranges
from vidseg.metrics.detections import DetectionProtocol, Detections, detection_protocol

__all__ = ["ProposalRecall", "average_recall", "recall_at"]


@dataclass(frozen=True)
class ProposalRecall:
    """Recall against the average number of proposals per video (AN).

    Attributes:
        thresholds: (T,) IoU thresholds.
        recall: (T, P) recall at each point of the curve.
        proposals_per_video: (P,) average number of proposals at each point.
    """

    thresholds: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    proposals_per_video: npt.NDArray[np.float64]

    @property
    def average(self) -> npt.NDArray[np.float64]:
        """(P,) recall averaged over the thresholds."""
        return self.recall.mean(axis=0)

    @property
    def auc(self) -> float:
        """Area under `average` over the average number of proposals, divided by the last of these numbers."""
        widths = np.diff(self.proposals_per_video)
        area = float((widths * (self.average[1:] + self.average[:-1]) / 2).sum())
        return area / float(self.proposals_per_video[-1])

    def at(self, number: int) -> float:
        """Return AR@number: the average recall at this point of the curve, counted from 1.

        Raises:
            ValueError: the curve has no such point.
        """
        if not 1 <= number <= len(self.proposals_per_video):
            raise ValueError(f"AR@{number}: the curve has the points 1 to {len(self.proposals_per_video)}")
        return float(self.average[number - 1])


def average_recall(
    truth: Detections,
    proposals: Detections,
    *,
    thresholds: Sequence[float] | None = None,
    max_proposals: int = 100,
    protocol: str | DetectionProtocol = "activitynet",
) -> ProposalRecall:
    """Compute the average recall of proposals, without regard to classes.

    Each video keeps `int(n * ratio)` of its n proposals with the highest scores; the ratio makes the average number
    over the videos of the truth `max_proposals`. Point j of the curve uses the share j / `max_proposals` of them. With
    unequal numbers of proposals, AN is an average over videos, as in the published evaluation.

    Args:
        truth: instances.
        proposals: proposals; those in other videos only count in the ratio.
        thresholds: IoU thresholds; None: those of the protocol.
        max_proposals: largest average number of proposals, and number of points of the curve.
        protocol: name in `PROTOCOLS`, or a protocol.

    Raises:
        ValueError: there is no instance or no proposal.
    """
    from vidseg.metrics._detection_kernels import first_hits

    rules = detection_protocol(protocol).with_thresholds(thresholds)
    counted = counted_instances(truth, rules)
    if not len(counted) or not len(proposals) or max_proposals < 1:
        raise ValueError(
            f"{len(counted)} instances, {len(proposals)} proposals and max_proposals={max_proposals}: expected at least"
            " one of each"
        )
    videos = np.unique(counted.videos)
    ratio = max_proposals * float(len(videos)) / len(proposals)
    ours = proposals.take(np.lexsort((-proposals.scores, proposals.videos)))
    firsts, counts = ranges(ours.videos, videos)
    kept = np.minimum((counts * ratio).astype(np.int64), counts)
    if not kept.any():
        raise ValueError("no video of the truth keeps a proposal; the results are of other videos")
    shares = np.arange(1, max_proposals + 1) / float(max_proposals) * (max_proposals * float(len(videos)) / kept.sum())
    limits = np.minimum((kept[:, None] * shares).astype(np.int64), kept[:, None])
    place = np.searchsorted(videos, counted.videos)
    ranks = first_hits(ours.segments, firsts[place], kept[place], counted.segments, np.array(rules.thresholds))
    recall = (ranks[:, :, None] < limits[place]).sum(axis=1) / len(counted)
    return ProposalRecall(np.array(rules.thresholds), recall, shares * (float(kept.sum()) / len(videos)))


def recall_at(
    truth: Detections,
    predictions: Detections,
    *,
    multiples: Sequence[int] = (1, 5),
    thresholds: Sequence[float] | None = None,
    protocol: str | DetectionProtocol = "ego4d",
) -> npt.NDArray[np.float64]:
    """Compute Recall@kx: the recall of the best k * x detections of a class in a video with x instances of it.

    An instance is found if any of these detections reaches the IoU threshold; a detection may find several instances,
    as in the published evaluation. The result is the mean over the classes with instances.

    Args:
        truth: instances.
        predictions: detections.
        multiples: numbers k, at least 1.
        thresholds: IoU thresholds; None: those of the protocol.
        protocol: name in `PROTOCOLS`, or a protocol.

    Returns:
        float64 (T, k).

    Raises:
        ValueError: there is no instance, or a multiple is below 1.
    """
    from vidseg.metrics._detection_kernels import first_hits

    rules = detection_protocol(protocol).with_thresholds(thresholds)
    counted = counted_instances(truth, rules)
    if not len(counted) or not len(multiples) or min(multiples) < 1:
        raise ValueError(f"{len(counted)} instances and multiples {list(multiples)}: expected at least one, from 1 on")
    width = max(int(part.videos.max()) for part in (counted, predictions) if len(part)) + 1
    groups = predictions.labels * width + predictions.videos
    order = np.lexsort((-predictions.scores, groups))
    wanted = counted.labels * width + counted.videos
    firsts, counts = ranges(groups[order], wanted)
    _, place, number = np.unique(wanted, return_inverse=True, return_counts=True)
    number = number[place]
    limits = np.minimum(number[:, None] * np.array(multiples), counts[:, None])
    ranks = first_hits(
        predictions.segments[order], firsts, limits.max(axis=1), counted.segments, np.array(rules.thresholds)
    )
    hits = ranks[:, :, None] < limits
    classes, place = np.unique(counted.labels, return_inverse=True)
    sums = np.zeros((len(classes), *hits.shape[::2]))
    np.add.at(sums, place, hits.transpose(1, 0, 2))
    return (sums / np.bincount(place)[:, None, None]).mean(axis=0)
