"""Temporal action segmentation of features: a label for each frame of whole videos.

Shapes: B videos, D feature width, K classes, L columns or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidseg.clips.draws import uniform
from vidseg.engine import distributed
from vidseg.engine.frame_label_scores import LabeledVideo
from vidseg.engine.frame_label_task import FrameLabelTask
from vidseg.engine.task import BatchResult, Position, sums_of
from vidseg.losses import SegmentationLoss, StagedLoss
from vidseg.losses.shared import divisor
from vidseg.models._refinement import median_filter, predict, purge_short_segments, restore_frames
from vidseg.models._segmentation import SegmentationOutput
from vidseg.models.c2f_tcn import augmented_prediction
from vidseg.tasks.segmentation.options import LabelingOptions

__all__ = ["SegmentationTask", "VideoLabeler"]

_TINY = 1e-10


class VideoLabeler:
    """Labels all columns of a video, as the options say.

    Args:
        options: sample rate, chunks, filters.
        thorough: average over the chunks or offsets of the options; else one forward pass a video, for validation.
    """

    def __init__(self, options: LabelingOptions, *, thorough: bool = True):
        self.options, self.thorough = options, thorough

    def __call__(self, model: nn.Module, columns: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Label one video.

        Args:
            model: in evaluation mode.
            columns: (D, L), all columns of the video, on the model's device.
            seed: for networks that draw random numbers.

        Returns:
            int64 (L,) class numbers, and the probabilities float32 (K, L) before refinement, on the CPU.
        """
        length = columns.shape[1]
        if self.options.pooling is not None:
            return self._chunks(model, columns)
        rate = self.options.sample_rate
        # Offsets beyond the video's end have no column; of several runs each is cut to what all of them have.
        offsets = range(min(rate, length)) if self.options.random_offset and self.thorough else range(1)
        shortest = max(1, length // rate) if len(offsets) > 1 else -(-length // rate)
        drawn = {"seeds": seed} if getattr(model, "seeded", False) else {}
        total, labels = torch.zeros(0), torch.zeros(0)
        for offset in offsets:
            output = model(columns[None, :, offset::rate][..., :shortest], None, **drawn)
            probabilities = output.logits[-1, 0].float().softmax(dim=0).cpu()
            total = probabilities if offset == 0 else total + probabilities
            if len(offsets) == 1:
                labels = predict(_on_cpu(output))[0]
        total = total / len(offsets)
        if self.options.median:
            total = median_filter(total, self.options.median)
        if self.options.median or len(offsets) > 1:
            labels = total.argmax(dim=0)
        middle = len(offsets) > 1
        labels = _all_columns(labels, length, rate, middle=middle)
        spread = total[:, _all_columns(torch.arange(total.shape[1]), length, rate, middle=middle)]
        if self.options.purge:
            labels = purge_short_segments(labels, max_frames=self.options.purge)
        return labels, spread

    def _chunks(self, model: nn.Module, columns: Tensor) -> tuple[Tensor, Tensor]:
        assert self.options.pooling is not None
        chunks: Sequence[int] = self.options.chunks if self.thorough else ()
        weights = self.options.chunk_weights if chunks else ()
        output = augmented_prediction(
            model, columns[None], chunks=chunks or (self.options.pooling[0],), weights=weights or None
        )
        probabilities = output.logits[-1, 0].float().softmax(dim=0).cpu()
        return probabilities.argmax(dim=0), probabilities


def _on_cpu(output: SegmentationOutput) -> SegmentationOutput:
    boundaries = None if output.boundaries is None else output.boundaries[-1:].float().cpu()
    return SegmentationOutput(output.logits[-1:].float().cpu(), boundaries)


def _all_columns(values: Tensor, length: int, rate: int, *, middle: bool) -> Tensor:
    """Spread the values of every `rate`-th column to all columns: to those from it on, or to those around it."""
    if middle and length >= rate > 1:
        return restore_frames(values, frames=length, sample_rate=rate)
    return values.repeat_interleave(rate)[:length]


class SegmentationTask(FrameLabelTask):
    """Features (B, D, L) with a mask to logits (S, B, K, L).

    Args:
        loss: `vidseg.losses.create_loss` of the network's name; None: cross entropy and smoothing of MS-TCN.
        labeling: how videos are sampled and labeled.
        seed: for networks that draw random numbers in evaluation.
        **common: see `FrameLabelTask`.
    """

    def __init__(
        self,
        loss: SegmentationLoss | None = None,
        labeling: LabelingOptions | None = None,
        *,
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.loss, self.labeling, self.seed = loss, labeling or LabelingOptions(), seed

    def check(self, model: nn.Module, loader: Any) -> None:
        """See `Task.check`."""
        super().check(model, loader)
        width = getattr(model, "in_features", loader.feature_size)
        if width != loader.feature_size:
            raise ValueError(
                f"{loader.files.folders[0]}: features of {loader.feature_size} values a column, but the network takes "
                f"{width}"
            )
        if self.loss is None:
            self.loss = StagedLoss(num_classes=len(self.classes))

    def train_batch(
        self, model: nn.Module, batch: Any, position: Position, backward: Callable[[Tensor], None]
    ) -> BatchResult:
        """See `Task.train_batch`."""
        assert self.loss is not None
        loss = self.loss.to(batch.features.device)
        if not bool(batch.valid.all()):  # a row that only fills up a rank's batch has no frame to train on
            kept = batch.valid.nonzero()[:, 0]  # in host memory, as all that describes the samples
            columns = {one.name: getattr(batch, one.name) for one in fields(batch)}
            batch = replace(
                batch,
                **{name: value[kept.to(value.device, non_blocking=True)] for name, value in columns.items()},
            )
        # A piece of a long video has draws of its own; pieces start at different frames.
        samples = batch.videos.numpy().astype(np.int64) * 2**32 + batch.starts.numpy()
        draws = uniform(position.seed, position.epoch, samples, purpose="diffusion")[:, 0]
        inputs = loss.model_inputs(batch.labels, batch.mask, seeds=[int(draw * 2**53) for draw in draws])
        output = model(batch.features, batch.mask, **inputs)
        known = batch.mask & (batch.labels >= 0)
        right = (output.logits[-1].detach().argmax(dim=1) == batch.labels) & known
        with distributed.shared_losses():
            value = loss(output, batch.labels, batch.mask, features=batch.features)
            share = right.sum() / divisor(known.sum())
        backward(value)
        videos = int(batch.valid.sum())
        return BatchResult(sums_of([share * videos, value.detach() * videos], videos, device=batch.features.device))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """See `Task.forward`."""
        return model(batch.features, batch.mask)

    def label_videos(
        self,
        model: nn.Module,
        loader: Any,
        *,
        device: torch.device,
        context: Callable[[], AbstractContextManager[Any]],
        thorough: bool = False,
    ) -> Iterator[LabeledVideo]:
        """Label the videos of a loader with batches of one whole video.

        Args:
            model: in evaluation mode, on `device`.
            loader: all columns of each video: sample rate 1, no pooling.
            device: device of the model.
            context: made around each forward pass.
            thorough: average over all chunks or offsets of the options.
        """
        labeler = VideoLabeler(self.labeling, thorough=thorough)
        for batch in loader:
            number = int(batch.videos[0])
            if not bool(batch.valid[0]):
                continue
            with context():
                labels, probabilities = labeler(model, batch.features[0].to(device), seed=self.seed + number)
            yield _at_full_rate(batch, loader, number, labels, probabilities)


def _at_full_rate(batch: Any, loader: Any, number: int, labels: Tensor, probabilities: Tensor) -> LabeledVideo:
    """Labels of columns as labels of frames, together with the true ones."""
    step, frames = int(batch.steps[0]), int(batch.num_frames[0])
    truth = loader.labels[number]
    columns = torch.arange(frames) // step
    target = torch.from_numpy(truth[:frames])
    chosen = probabilities[target, columns].clamp(min=_TINY).log()
    prediction = labels[columns].numpy()
    if frames < len(truth):  # a file with fewer columns than labels, within the tolerance: the last label is repeated
        prediction = np.concatenate([prediction, np.repeat(prediction[-1:], len(truth) - frames)])
    return LabeledVideo(number, truth, prediction, float(-chosen.double().mean()))
