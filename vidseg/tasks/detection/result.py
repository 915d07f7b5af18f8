"""Detections of the videos of a data set, and the scores of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidseg.labels.segment_table import SegmentTable
from vidseg.metrics import Detections, average_recall, detection_map, detection_protocol
from vidseg.tasks.detection.result_files import DetectionResults
from vidseg.tasks.detection.result_scores import PairedDetections

__all__ = ["DetectionResult", "FoundSegments", "score_detections"]


@dataclass(frozen=True)
class FoundSegments:
    """Detections of one video, by falling score.

    Attributes:
        number: of the video in its data set.
        name: of the video.
        segments: float64 (M, 2), start and stop in seconds.
        labels: int64 (M,), class numbers.
        scores: float64 (M,).
    """

    number: int
    name: str
    segments: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class DetectionResult:
    """Result of an evaluation.

    Attributes:
        pair: truth and detections.
        values: (mAP at the IoU threshold nearest to 0.5, mean mAP, loss), or of proposals without a class (AR@100, area
            under the curve of recall, loss).
    """

    pair: PairedDetections
    values: tuple[float, ...]

    @property
    def quality(self) -> float:
        """Mean mAP, or the area under the curve of recall of proposals."""
        return self.values[1]

    @property
    def results(self) -> DetectionResults:
        """The detections, for a file."""
        classes = self.pair.classes if self.pair.has_classes else ("",)
        return DetectionResults(self.pair.videos, classes, self.pair.detections)


def score_detections(
    videos: Sequence[FoundSegments],
    table: SegmentTable,
    *,
    classes: Sequence[str],
    loss: float,
    protocol: str,
    proposals_only: bool,
) -> DetectionResult:
    """Score detections against the segments of their videos.

    Args:
        videos: detections of each video.
        table: segments of the data set.
        classes: class names by number.
        loss: of the evaluation.
        protocol: name in `vidseg.metrics.PROTOCOLS`.
        proposals_only: the detections have no class, and their recall is scored.

    Raises:
        ValueError: no video has a segment.
    """
    rules = detection_protocol(protocol)
    true = [table[video.number] for video in videos]
    names = [video.name for video in videos]
    pair = PairedDetections(
        tuple(names),
        tuple(classes),
        Detections.of_videos([segments for segments, _ in true], [labels for _, labels in true]),
        Detections.of_videos(
            [video.segments for video in videos], [video.labels for video in videos], [video.scores for video in videos]
        ),
        rules,
        unknown=[""] if proposals_only else [],
        seconds={video.name: float(table.seconds[video.number]) for video in videos},
    )
    if not proposals_only:
        scores = detection_map(pair.truth, pair.detections, protocol=rules)
        middle = int(np.abs(scores.thresholds - 0.5).argmin())
        return DetectionResult(pair, (float(scores.map[middle]), scores.average, loss))
    if not len(pair.detections):
        return DetectionResult(pair, (0.0, 0.0, loss))
    recall = average_recall(pair.truth, pair.detections, protocol=rules)
    return DetectionResult(pair, (recall.at(100), recall.auc, loss))
