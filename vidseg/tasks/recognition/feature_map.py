"""Pooled features of labeled videos, for maps of what a recognition network separates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.engine.trained import spread_videos
from vidseg.loaders.transfer import copy_ahead
from vidseg.tasks.recognition.data import evaluation_loader
from vidseg.tasks.recognition.feature_extraction import clip_outputs
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.trained import RecognitionModel

__all__ = ["VideoFeatures", "video_features"]


@dataclass(frozen=True)
class VideoFeatures:
    """Features of N videos.

    Attributes:
        features: float32 (N, D), the input of the network's classifier for the clip in the middle of each video.
        labels: int64 (N,) class numbers.
        videos: path of each video within its data set.
        split: name of the split.
    """

    features: Tensor
    labels: npt.NDArray[np.int64]
    videos: tuple[str, ...]
    split: str


def video_features(
    trained: RecognitionModel,
    *,
    dataset: str | Path | None = None,
    split: str | None = None,
    most: int | None = None,
) -> VideoFeatures:
    """Compute the features of the labeled videos of a split.

    Args:
        trained: a recognition network.
        dataset: folder of the data set; None: that of the run.
        split: name of the split; None: the test split of the run.
        most: largest number of videos, evenly spaced in the split; None: all.

    Raises:
        ValueError: there is no such split, `most` is less than 1, or the network has no linear classifier.
    """
    options = trained.options(RecognitionOptions())
    data, name, _ = trained.test_videos(options, dataset, split)
    if most is not None:
        data = spread_videos(data, most)
    loader: Any = evaluation_loader(
        data,
        replace(options.data, val_geometry=trained.val_geometry),
        trained.input_spec,
        batch_size=min(options.data.batch_size or 16, len(data)),
    )
    copy_ahead(loader, trained.device)
    rows, labels, numbers = [], [], []
    with loader, clip_outputs(trained.model, trained.features()) as output_of, torch.inference_mode():
        for batch in loader:
            found = output_of(batch.to(trained.device).inputs)
            valid = getattr(batch, "valid", torch.ones(len(batch), dtype=torch.bool)).cpu()
            rows.append(found[valid])
            labels.append(batch.labels.cpu()[valid])
            numbers.append(batch.numbers.cpu()[valid])
    order = torch.cat(numbers).argsort()
    videos = tuple(data.video_path(number) for number in torch.cat(numbers)[order].tolist())
    return VideoFeatures(torch.cat(rows)[order], torch.cat(labels)[order].numpy(), videos, name)
