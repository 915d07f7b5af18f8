"""Measured facts about a data set and a tested recognition run, which the advice of the report follows from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.labels import VideoDataset

__all__ = ["Facts", "accuracy_range", "blurred_videos", "measure_facts"]

_LOOKED_AT = 500  # videos whose sharpness is measured
_BLURRED = 0.1  # of the median sharpness


@dataclass(frozen=True)
class Facts:
    """What the advice follows from.

    Attributes:
        per_class: training videos of each class.
        train: accuracy on the training videos, evaluated like the test videos.
        test: accuracy on the test videos.
        tested: number of test videos.
        selected_on: whether the test videos also selected the epoch.
        confused: (true class, predicted class, videos) of the test, most frequent first.
        suspicious: (video, label, predicted class, probability) of confident contradictions of a label, all splits.
        short: number of videos shorter than a clip.
        clip: frames that a clip covers.
        small: number of videos whose short side is below the size of clips.
        blurred: paths of videos whose middle frame is far less sharp than those of the others.
        failed: `<video>: <reason>` of videos that could not be converted.
        best_epoch: tested epoch, and the number of epochs.
    """

    per_class: dict[str, int]
    train: float
    test: float
    tested: int
    selected_on: bool
    confused: list[tuple[str, str, int]]
    suspicious: list[tuple[str, str, str, float]]
    short: int
    clip: int
    small: int
    blurred: list[str]
    failed: list[str]
    best_epoch: tuple[int, int] | None = None


def accuracy_range(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` videos (Wilson, 1927)."""
    if count < 1:
        return 0.0, 1.0
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def measure_facts(
    data: VideoDataset,
    train: VideoDataset,
    reports: Mapping[str, Mapping[str, Any]],
    *,
    tested: str,
    clip: int,
    size: int,
    failed: Sequence[str],
    best_epoch: tuple[int, int] | None,
    confident: float = 0.9,
) -> Facts:
    """Measure.

    Args:
        data: all videos.
        train: training videos.
        reports: contents of the tests by split.
        tested: split of the test.
        clip: frames that a clip covers.
        size: height and width of a clip.
        failed: videos that could not be converted.
        best_epoch: tested epoch, and number of epochs.
        confident: probability from which a wrong prediction is confident.
    """
    report = reports[tested]
    suspicious = [
        (one["video"], one["true"], one["predicted"], float(one["probability_predicted"]))
        for content in reports.values()
        for one in content["mistakes"]
        if one["probability_predicted"] >= confident
    ]
    counts = np.bincount(train.labels[train.labels >= 0], minlength=len(data.classes)).tolist()
    return Facts(
        per_class=dict(zip(data.classes, counts, strict=True)),
        train=reports["train"]["top1"],
        test=report["top1"],
        tested=report["videos"],
        selected_on=report["selected_on"],
        confused=[(true, predicted, count) for true, predicted, count in report["confused_pairs"]],
        suspicious=sorted(suspicious, key=lambda one: -one[3]),
        short=int((data.frames < clip).sum()),
        clip=clip,
        small=int((np.minimum(data.heights, data.widths) < size).sum()),
        blurred=blurred_videos(data),
        failed=list(failed),
        best_epoch=best_epoch,
    )


def blurred_videos(data: VideoDataset) -> list[str]:
    """Return the videos whose middle frame is less than a tenth as sharp as the median one.

    Sharpness is the variance of the Laplacian of the gray frame at 128x128 (Pech-Pacheco et al., ICPR 2000).

    Args:
        data: converted videos; of more than 500 as many are looked at, spread over the list.
    """
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), _LOOKED_AT)).round().astype(int)).tolist()
    found: dict[str, float] = {}
    for row in rows:
        path = data.video_path(row)
        try:
            with FrameDatabase(Path(data.root) / path / "frames.db") as database:
                frame = database.decode([len(database) // 2], size=(128, 128))[0].numpy().astype(np.float32)
        except FrameDatabaseError:  # training and tests name it
            continue
        gray = frame.mean(axis=-1)
        inner = gray[1:-1, 1:-1]
        laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * inner
        found[path] = float(laplacian.var())
    if not found:
        return []
    limit = _BLURRED * statistics.median(found.values())
    return sorted((path for path, value in found.items() if value < limit), key=lambda path: found[path])
