"""Pictures of scored detections: timelines of truth and detections, precision-recall curves, false positives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidseg.metrics import precision_recall
from vidseg.plots import plot_false_positives, plot_precision_recall, plot_timelines
from vidseg.tasks.detection.result_scores import ResultScores, detected_videos

__all__ = ["draw_scores"]


def draw_scores(
    scores: ResultScores,
    out: Path,
    *,
    videos: Sequence[str] = (),
    most: int = 8,
    min_score: float | None = None,
    suffix: str = "",
) -> list[Path]:
    """Draw timelines.png and, for detections with classes, precision_recall.png and false_positives.png.

    Args:
        scores: of `score_pair`.
        out: folder of the pictures.
        videos: names of the videos in the timelines; empty: the first ones with an instance.
        most: largest number of videos in the timelines.
        min_score: smallest score of a detection in the timelines; None: twice as many detections as instances.
        suffix: added to the names of the files.

    Returns:
        The files.
    """
    pair = scores.pair
    if min_score is None:
        ordered = np.sort(pair.detections.scores)[::-1]
        min_score = float(ordered[min(2 * len(pair.truth), len(ordered)) - 1]) if len(ordered) else 0.0
    shown = detected_videos(pair, videos, most=most)
    files = [plot_timelines(shown, pair.classes, out / f"timelines{suffix}.png", min_score=min_score)]
    if scores.scores is not None:
        curves = precision_recall(pair.truth, pair.detections, protocol=pair.protocol)
        path = out / f"precision_recall{suffix}.png"
        files.append(plot_precision_recall(*curves, scores.scores, pair.classes, path))
    if scores.profile is not None:
        files.append(plot_false_positives(scores.profile, out / f"false_positives{suffix}.png"))
    return files
