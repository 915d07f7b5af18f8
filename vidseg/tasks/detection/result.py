"""Detections of videos, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.labels.segment_table import SegmentTable
from vidseg.metrics import Detections, average_recall, detection_map, detection_protocol
from vidseg.metrics.detection_recall import ProposalRecall
from vidseg.metrics.detection_scores import DetectionScores

__all__ = ["DetectedVideo", "DetectionResult", "score_detections"]


@dataclass(frozen=True)
class DetectedVideo:
    """Detections of one video, by falling score.

    Attributes:
        number: of the video in its data set.
        name: of the video.
        seconds: duration.
        segments: float64 (M, 2), start and stop in seconds.
        labels: int64 (M,), class numbers.
        scores: float64 (M,).
    """

    number: int
    name: str
    seconds: float
    segments: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectionResult:
    """Result of an evaluation of detections.

    Attributes:
        videos: detections, in order of their numbers.
        truth: segments of these videos.
        predictions: the detections as one table.
        classes: class names by number.
        loss: mean over the samples.
        scores: average precisions; None for proposals without a class.
        recall: recall of proposals; None for detections with classes.
    """

    videos: list[DetectedVideo]
    truth: Detections
    predictions: Detections
    classes: list[str]
    loss: float
    scores: DetectionScores | None = None
    recall: ProposalRecall | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """(mAP at the threshold nearest to 0.5, mean mAP, loss), or (AR@100, AUC, loss) of proposals."""
        if self.scores is not None:
            middle = int(np.abs(self.scores.thresholds - 0.5).argmin())
            return (float(self.scores.map[middle]), self.scores.average, self.loss)
        assert self.recall is not None
        return (self.recall.at(100), self.recall.auc, self.loss)

    @property
    def quality(self) -> float:
        """Mean mAP, or the area under the curve of recall of proposals."""
        return self.values[1]

    def summary(self) -> dict[str, Any]:
        """Return the scores as plain data."""
        if self.scores is not None:
            return self.scores.summary()
        assert self.recall is not None
        return {"average_recall": {str(n): self.recall.at(n) for n in (1, 5, 10, 100)}, "auc": self.recall.auc}


def score_detections(
    videos: Sequence[DetectedVideo],
    table: SegmentTable,
    *,
    classes: Sequence[str],
    loss: float,
    protocol: str,
    proposals_only: bool,
) -> DetectionResult:
    """Score detections against the segments of their videos.

    Args:
        videos: detections.
        table: segments of the data set.
        classes: class names.
        loss: of the evaluation.
        protocol: name in `vidseg.metrics.PROTOCOLS`.
        proposals_only: score proposals without a class by their recall.

    Raises:
        ValueError: no video has a segment.
    """
    numbers = [video.number for video in videos]
    true = [table[number] for number in numbers]
    truth = Detections.of_videos([one[0] for one in true], [one[1] for one in true])
    found = Detections.of_videos(
        [video.segments for video in videos], [video.labels for video in videos], [video.scores for video in videos]
    )
    rules = detection_protocol(protocol)
    if proposals_only:
        recall = average_recall(truth, found)
        return DetectionResult(list(videos), truth, found, list(classes), loss, recall=recall)
    scores = detection_map(truth, found, protocol=rules)
    return DetectionResult(list(videos), truth, found, list(classes), loss, scores=scores)
