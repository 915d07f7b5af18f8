"""Evaluation of frame labels, for every task that labels the frames of whole videos.

Shapes: L frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidseg.engine import distributed
from vidseg.labels import VideoDataset
from vidseg.metrics import SegmentalMeter
from vidseg.metrics.segmental import SegmentalScores

__all__ = ["FrameLabelResult", "LabeledVideo", "score_videos"]

Labels = npt.NDArray[np.int64]

OVERLAPS = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class LabeledVideo:
    """Predicted labels of a video.

    Attributes:
        number: number of the video in the data set.
        truth: (L,) class numbers.
        prediction: (L,) class numbers.
        cross_entropy: mean over the frames, in nats.
    """

    number: int
    truth: Labels
    prediction: Labels
    cross_entropy: float


@dataclass(frozen=True)
class FrameLabelResult:
    """Result of an evaluation of frame labels; scores in percent."""

    videos: list[LabeledVideo]
    """In order of their numbers."""
    names: list[str]
    """Names of these videos."""
    scores: SegmentalScores
    cross_entropy: float
    """Mean over all frames."""
    rates: list[float]
    """Frames per second of these videos, 0 where unknown."""

    @property
    def values(self) -> tuple[float, ...]:
        """(share of correct frames, mean cross entropy)."""
        return (self.scores["acc"] / 100, self.cross_entropy)

    @property
    def quality(self) -> float:
        """Mean of accuracy, edit score and F1 at overlap 0.5."""
        return (self.scores["acc"] + self.scores["edit"] + self.scores["f1"][0.5]) / 3


def score_videos(found: list[LabeledVideo], data: Any, background: Sequence[int]) -> FrameLabelResult:
    """Score the videos of all processes; returns the same result in each process.

    Args:
        found: videos that this process has labeled, in any order.
        data: the data set of the videos.
        background: class numbers whose frames are not segments.

    Raises:
        ValueError: no process has a video.
    """
    if distributed.world_size() > 1:
        parts: list[list[LabeledVideo]] = [[] for _ in range(distributed.world_size())]
        torch.distributed.all_gather_object(parts, found)
        found = [video for part in parts for video in part]
    videos = sorted(found, key=lambda video: video.number)
    if not videos:
        raise ValueError(f"{data}: no video to evaluate: is the split empty?")
    meter = SegmentalMeter(background, OVERLAPS)
    names = [data.video_path(video.number).rpartition("/")[2] for video in videos]
    for name, video in zip(names, videos, strict=True):
        meter.update(video.truth, video.prediction, name=name)
    frames = sum(len(video.truth) for video in videos)
    entropy = sum(video.cross_entropy * len(video.truth) for video in videos) / frames
    known = isinstance(data, VideoDataset)  # others, such as those of a program, may have no rates
    rates = [float(data[video.number].fps) if known else 0.0 for video in videos]
    return FrameLabelResult(videos, names, meter.scores(), entropy, rates)
