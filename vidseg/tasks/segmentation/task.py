"""Segmentation of features as a task of the loop: a label for each frame of whole videos.

Shapes: B videos, D feature width, K classes, L columns or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.clips.draws import uniform
from vidseg.engine import distributed
from vidseg.engine.task import Position, sums_of
from vidseg.losses import SegmentationLoss
from vidseg.losses.shared import divisor
from vidseg.metrics import SegmentalMeter
from vidseg.metrics.segmental import SegmentalScores
from vidseg.models._refinement import median_filter, predict, purge_short_segments, restore_frames
from vidseg.models._segmentation import SegmentationOutput
from vidseg.models.c2f_tcn import C2fTcn, augmented_prediction
from vidseg.models.diffact import DiffAct
from vidseg.tasks.segmentation.recipes import Recipe

__all__ = ["LabeledVideo", "SegmentationEvaluation", "SegmentationTask", "VideoLabeler", "score_videos"]

Labels = npt.NDArray[np.int64]

OVERLAPS = (0.1, 0.25, 0.5)
_TINY = 1e-10


@dataclass(frozen=True)
class LabeledVideo:
    """What a network said about a video.

    Attributes:
        number: of the video in the data set.
        truth: (L,) class numbers.
        prediction: (L,) class numbers.
        cross_entropy: mean over the frames.
    """

    number: int
    truth: Labels
    prediction: Labels
    cross_entropy: float


@dataclass(frozen=True)
class SegmentationEvaluation:
    """What an evaluation found; scores in per cent."""

    videos: list[LabeledVideo]
    """By number."""
    names: list[str]
    """Of these videos."""
    scores: SegmentalScores
    cross_entropy: float
    """Mean over all frames."""

    @property
    def values(self) -> tuple[float, ...]:
        """(share of right frames, mean cross entropy)."""
        return (self.scores["acc"] / 100, self.cross_entropy)

    @property
    def quality(self) -> float:
        """Mean of accuracy, edit and F1 at overlap 0.5: what an epoch is chosen by."""
        return (self.scores["acc"] + self.scores["edit"] + self.scores["f1"][0.5]) / 3


class VideoLabeler:
    """From all columns of a video to a label for each of them, as a recipe tests a network.

    Args:
        recipe: sample rate, chunks, filters.
        thorough: average over the recipe's chunks or offsets; else one run a video, for validation.
    """

    def __init__(self, recipe: Recipe, *, thorough: bool = True):
        self.recipe, self.thorough = recipe, thorough

    def __call__(self, model: nn.Module, columns: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Label one video.

        Args:
            model: in evaluation mode.
            columns: (D, L), all columns of the video, on the model's device.
            seed: of networks that draw.

        Returns:
            int64 (L,) class numbers, and the probabilities float32 (K, L) before refinement, on the CPU.
        """
        length = columns.shape[1]
        if isinstance(model, C2fTcn) and self.recipe.pooling is not None:
            return self._chunks(model, columns)
        rate = self.recipe.sample_rate
        # Offsets beyond the video's end have no column; of several runs each is cut to what all of them have.
        offsets = range(min(rate, length)) if self.recipe.random_offset and self.thorough else range(1)
        shortest = max(1, length // rate) if len(offsets) > 1 else -(-length // rate)
        drawn = {"seeds": seed} if isinstance(model, DiffAct) else {}
        total, labels = torch.zeros(0), torch.zeros(0)
        for offset in offsets:
            output = model(columns[None, :, offset::rate][..., :shortest], None, **drawn)
            probabilities = output.logits[-1, 0].float().softmax(dim=0).cpu()
            total = probabilities if offset == 0 else total + probabilities
            if len(offsets) == 1:
                labels = predict(_on_cpu(output))[0]
        total = total / len(offsets)
        if self.recipe.median:
            total = median_filter(total, self.recipe.median)
        if self.recipe.median or len(offsets) > 1:
            labels = total.argmax(dim=0)
        middle = len(offsets) > 1
        labels = _all_columns(labels, length, rate, middle=middle)
        spread = total[:, _all_columns(torch.arange(total.shape[1]), length, rate, middle=middle)]
        if self.recipe.purge:
            labels = purge_short_segments(labels, max_frames=self.recipe.purge)
        return labels, spread

    def _chunks(self, model: C2fTcn, columns: Tensor) -> tuple[Tensor, Tensor]:
        assert self.recipe.pooling is not None
        chunks: Sequence[int] = self.recipe.chunks if self.thorough else ()
        weights = self.recipe.chunk_weights if chunks else ()
        output = augmented_prediction(
            model, columns[None], chunks=chunks or (self.recipe.pooling[0],), weights=weights or None
        )
        probabilities = output.logits[-1, 0].float().softmax(dim=0).cpu()
        return probabilities.argmax(dim=0), probabilities


def _on_cpu(output: SegmentationOutput) -> SegmentationOutput:
    boundaries = None if output.boundaries is None else output.boundaries[-1:].float().cpu()
    return SegmentationOutput(output.logits[-1:].float().cpu(), boundaries)


def _all_columns(values: Tensor, length: int, rate: int, *, middle: bool) -> Tensor:
    """Values of one in `rate` columns for all columns: each stands for those from it on, or for those around it."""
    if middle and length >= rate > 1:
        return restore_frames(values, frames=length, sample_rate=rate)
    return values.repeat_interleave(rate)[:length]


@dataclass
class SegmentationTask:
    """Features (B, D, L) with a mask to logits of each stage.

    Args:
        loss: `vidseg.losses.create_loss` of the network's name.
        recipe: how the network is trained and tested.
        background: class numbers whose frames are no segments in the scores.
        seed: of networks that draw in tests.
        evaluated: called with each evaluation and the epoch that it belongs to, by the first process.
    """

    loss: SegmentationLoss
    recipe: Recipe
    background: Sequence[int] = ()
    seed: int = 0
    evaluated: Callable[[int, SegmentationEvaluation], None] | None = None
    columns: tuple[str, ...] = field(default=("Acc", "Loss"), init=False)
    _epoch: int = field(default=0, init=False)

    def check(self, model: nn.Module, loader: Any) -> None:
        width, classes = getattr(model, "in_features", loader.feature_size), len(loader.data.classes)
        if width != loader.feature_size:
            raise ValueError(
                f"{loader.folder}: features of {loader.feature_size} values a column, but the network takes {width}"
            )
        outputs = getattr(model, "num_classes", classes)
        if outputs != classes:
            raise ValueError(f"{loader.data}: {classes} classes, but the network answers {outputs}")

    def step(self, model: nn.Module, batch: Any, position: Position) -> tuple[Tensor, Tensor]:
        self._epoch = position.epoch
        loss = self.loss.to(batch.features.device)
        if distributed.world_size() > 1:  # a row that only fills up a rank's batch has no frame to learn from
            rows = {one.name: getattr(batch, one.name)[batch.valid] for one in fields(batch)}
            batch = replace(batch, **rows)
        # A piece of a long video has draws of its own; pieces start at different frames.
        samples = batch.videos.cpu().numpy().astype(np.int64) * 2**32 + batch.starts.cpu().numpy()
        draws = uniform(position.seed, position.epoch, samples, purpose="diffusion")[:, 0]
        inputs = loss.model_inputs(batch.labels, batch.mask, seeds=[int(draw * 2**53) for draw in draws])
        output = model(batch.features, batch.mask, **inputs)
        known = batch.mask & (batch.labels >= 0)
        right = (output.logits[-1].detach().argmax(dim=1) == batch.labels) & known
        with distributed.shared_losses():
            value = loss(output, batch.labels, batch.mask, features=batch.features)
            share = right.sum() / divisor(known.sum())
        videos = batch.valid.sum()
        sums = [videos, share * videos, value.detach() * videos]
        return value, sums_of(sums, device=batch.features.device)

    def evaluate(self, model: nn.Module, loader: Iterable[Any], **options: Any) -> SegmentationEvaluation:
        result = self.label(model, loader, **options)
        if self.evaluated is not None and distributed.is_first():
            self.evaluated(self._epoch, result)
        return result

    def label(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *,
        device: torch.device | str = "cpu",
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        progress: Callable[[int, Any], None] | None = None,
        thorough: bool = False,
    ) -> SegmentationEvaluation:
        """Label every video of a loader with `train=False` and batches of one whole video, and score them.

        Args:
            model: on `device`; its mode is restored afterwards.
            loader: all columns of each video: sample rate 1, no pooling.
            device: where the model is.
            context: made around each forward pass.
            progress: not called: scores of parts say little where F1 is of summed counts.
            thorough: test as the recipe does, with all its runs of each video.
        """
        data = loader.data  # type: ignore[attr-defined]
        labeler, found = VideoLabeler(self.recipe, thorough=thorough), []
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                for batch in loader:
                    number = int(batch.videos[0])
                    if not bool(batch.valid[0]):
                        continue
                    with context():
                        labels, probabilities = labeler(model, batch.features[0].to(device), seed=self.seed + number)
                    found.append(_at_full_rate(batch, loader, number, labels, probabilities))
        finally:
            model.train(training)
        return score_videos(found, data, self.background)

    def scores_text(self, values: tuple[float, ...]) -> str:
        acc, loss = values
        return f"loss = {loss:.5f}, acc = {acc:.5f}"

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        acc, loss = values
        name = "loss" if kind == "train" else "cross entropy"
        return f"Epoch [{epoch}]  ({kind})  frames right: {acc:.5f}   average {name}: {loss:.5f}"


def _at_full_rate(batch: Any, loader: Any, number: int, labels: Tensor, probabilities: Tensor) -> LabeledVideo:
    """Labels of columns as labels of frames, beside the truth."""
    step, frames = int(batch.steps[0]), int(batch.num_frames[0])
    truth = loader.labels[number]
    columns = torch.arange(frames) // step
    target = torch.from_numpy(truth[:frames])
    chosen = probabilities[target, columns].clamp(min=_TINY).log()
    prediction = labels[columns].numpy()
    if frames < len(truth):  # a file with fewer columns than labels, within the tolerance: the last label goes on
        prediction = np.concatenate([prediction, np.repeat(prediction[-1:], len(truth) - frames)])
    return LabeledVideo(number, truth, prediction, float(-chosen.double().mean()))


def score_videos(found: list[LabeledVideo], data: Any, background: Sequence[int]) -> SegmentationEvaluation:
    """Score the videos that this process has labeled together with those of all others; the same in each process.

    Args:
        found: in any order.
        data: that the videos are of.
        background: class numbers whose frames are no segments.

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
    return SegmentationEvaluation(videos, names, meter.scores(), entropy)
