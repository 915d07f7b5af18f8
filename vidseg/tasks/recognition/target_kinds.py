"""What is learned of a video: its class, its set of classes, or a number; the loss and the scores of each.

Shapes: B clips, N videos, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vidseg.clips.mixing import Mixup, mix_targets, mix_values
from vidseg.labels import VideoDataset
from vidseg.metrics import top_k_hits
from vidseg.metrics.multi_label import label_average_precisions, r_squared
from vidseg.tasks.recognition.evaluation import Evaluation, Fuse, fused_logits, fused_values
from vidseg.tasks.recognition.options import LossOptions

__all__ = ["ClassTarget", "ClassesTarget", "Target", "Unlabeled", "ValueTarget", "class_weights", "make_target"]

Numbers = list[Tensor]


class Target(Protocol):
    """Loss and scores of one kind of target."""

    columns: tuple[str, ...]
    """Scores of an evaluation; the last one is the loss."""
    train_columns: tuple[str, ...]
    """Scores of a training batch, likewise."""

    def function(self, data: VideoDataset) -> Callable[..., Any] | None:
        """Return the `target=` of a loader; None where the batch's labels suffice."""

    def rows(self, batch: Any) -> Tensor:
        """Return what is compared with the predictions: (B,) or (B, K)."""

    def losses(self, logits: Tensor, rows: Tensor, mixing: Mixup | None) -> Tensor:
        """Return the loss of each clip, (B,)."""

    def scores(self, logits: Tensor, rows: Tensor) -> Numbers:
        """Return the scores of each clip that come before the loss in `train_columns`, (B,) each."""

    def predictions(self, logits: Tensor) -> Tensor:
        """Return what is reported of logits (B, K): probabilities, or values."""

    def result(
        self, logits: Tensor, rows: Tensor, numbers: Tensor, places: Tensor, *, fuse: Fuse
    ) -> Evaluation | ClassesEvaluation | ValueEvaluation:
        """Return the evaluation of N videos from the scores of their views.

        Args:
            logits: (V, K) of V views.
            rows: (N,) or (N, K) of the videos.
            numbers: int64 (N,) indices of the videos in the data set.
            places: int64 (V,) video of each view, 0 to N - 1.
            fuse: how the views of a video become one.
        """


class ClassTarget:
    """One class for each video: cross entropy, top-1 and top-5 accuracy.

    Args:
        smoothing: share of the target that is spread evenly over all classes.
        weights: (K,) weights of the classes in the loss; None: 1 each.
    """

    columns: tuple[str, ...] = ("Top1", "Top5", "Loss")
    train_columns = columns

    def __init__(self, *, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.smoothing, self.weights = smoothing, weights

    def function(self, data: VideoDataset) -> None:
        """See `Target.function`."""

    def rows(self, batch: Any) -> Tensor:
        """Class numbers (B,)."""
        labels: Tensor = batch.labels
        return labels

    def losses(self, logits: Tensor, rows: Tensor, mixing: Mixup | None) -> Tensor:
        """See `Target.losses`."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        if mixing is None:
            return F.cross_entropy(logits, rows, weight=weights, label_smoothing=self.smoothing, reduction="none")
        targets = mix_targets(rows, mixing, logits.shape[1], smoothing=self.smoothing).to(logits.device)
        return F.cross_entropy(logits, targets, weight=weights, reduction="none")

    def scores(self, logits: Tensor, rows: Tensor) -> Numbers:
        """Top-1 and top-5 hits."""
        return [top_k_hits(logits, rows, k) for k in (1, 5)]

    def predictions(self, logits: Tensor) -> Tensor:
        """Probabilities."""
        return logits.softmax(dim=1)

    def result(self, logits: Tensor, rows: Tensor, numbers: Tensor, places: Tensor, *, fuse: Fuse) -> Evaluation:
        """See `Target.result`."""
        return Evaluation(fused_logits(logits, places, len(numbers), fuse=fuse), rows, numbers)


@dataclass(frozen=True)
class ClassesEvaluation:
    """Predictions for N videos with any number of K classes each."""

    logits: Tensor
    """Float32 (N, K); their sigmoid is the probability of each class."""
    targets: Tensor
    """Float32 (N, K), 1 for the classes of a video."""
    numbers: Tensor
    """Int64 (N,): indices of the videos in the data set, rising."""

    @property
    def labels(self) -> Tensor:
        """The targets."""
        return self.targets

    @property
    def precisions(self) -> Tensor:
        """Float64 (K,): average precision of each class; NaN without a positive video."""
        return label_average_precisions(self.logits, self.targets)

    @property
    def mean_average_precision(self) -> float:
        """Mean over the classes with a positive video."""
        return float(self.precisions.nanmean().nan_to_num(0.0))

    @property
    def hit(self) -> float:
        """Share of videos whose likeliest class is among their classes."""
        return float(_hits(self.logits, self.targets).double().mean())

    @property
    def loss(self) -> float:
        """Mean binary cross entropy."""
        return F.binary_cross_entropy_with_logits(self.logits, self.targets).item()

    @property
    def values(self) -> tuple[float, ...]:
        """(mAP, hit, loss)."""
        return (self.mean_average_precision, self.hit, self.loss)

    @property
    def quality(self) -> float:
        """MAP."""
        return self.mean_average_precision


class ClassesTarget:
    """Any number of classes for each video: binary cross entropy of each class, mean average precision.

    Args:
        smoothing: the targets are smoothing / 2 and 1 - smoothing / 2.
        weights: (K,) weights of the positive labels; None: 1 each.
    """

    columns: tuple[str, ...] = ("mAP", "Hit", "Loss")
    train_columns: tuple[str, ...] = ("Hit", "Loss")

    def __init__(self, *, smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        self.smoothing, self.weights = smoothing, weights

    def function(self, data: VideoDataset) -> Callable[..., Any]:
        """Return the set of classes of a clip's video as float32 (K,)."""
        sets = _sets(data)
        return lambda video, clip: sets[clip.video]

    def rows(self, batch: Any) -> Tensor:
        """Sets of classes (B, K)."""
        targets: Tensor = batch.targets
        return targets

    def losses(self, logits: Tensor, rows: Tensor, mixing: Mixup | None) -> Tensor:
        """See `Target.losses`."""
        targets = rows.to(logits.device) * (1.0 - self.smoothing) + self.smoothing / 2
        if mixing is not None:
            targets = mix_values(targets, mixing)
        weights = None if self.weights is None else self.weights.to(logits.device)
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none").mean(dim=1)

    def scores(self, logits: Tensor, rows: Tensor) -> Numbers:
        """Whether the likeliest class is one of the clip's."""
        return [_hits(logits, rows)]

    def predictions(self, logits: Tensor) -> Tensor:
        """Probability of each class by itself."""
        return logits.sigmoid()

    def result(self, logits: Tensor, rows: Tensor, numbers: Tensor, places: Tensor, *, fuse: Fuse) -> ClassesEvaluation:
        """See `Target.result`."""
        if fuse == "softmax":  # the mean of the probabilities, here of each class by itself
            fused = fused_values(logits.double().sigmoid(), places, len(numbers)).logit(eps=1e-12).float()
        else:
            fused = fused_values(logits, places, len(numbers))
        return ClassesEvaluation(fused, rows, numbers)


@dataclass(frozen=True)
class ValueEvaluation:
    """Predictions of a number for N videos."""

    logits: Tensor
    """Float32 (N, 1): predicted values."""
    targets: Tensor
    """Float32 (N,)."""
    numbers: Tensor
    """Int64 (N,): indices of the videos in the data set, rising."""
    loss: float
    """Mean loss."""

    @property
    def labels(self) -> Tensor:
        """The targets."""
        return self.targets

    @property
    def mean_absolute_error(self) -> float:
        """Mean of |prediction - value|."""
        return float((self.logits[:, 0] - self.targets).abs().double().mean())

    @property
    def r2(self) -> float:
        """Share of the values' variance that is explained."""
        return r_squared(self.logits[:, 0], self.targets)

    @property
    def values(self) -> tuple[float, ...]:
        """(mean absolute error, R2, loss)."""
        return (self.mean_absolute_error, self.r2, self.loss)

    @property
    def quality(self) -> float:
        """Minus the mean absolute error."""
        return -self.mean_absolute_error


class ValueTarget:
    """A number for each video: squared or absolute error.

    Args:
        kind: "mse" or "l1".
    """

    columns: tuple[str, ...] = ("MAE", "R2", "Loss")
    train_columns: tuple[str, ...] = ("MAE", "Loss")

    def __init__(self, *, kind: str = "mse") -> None:
        self.kind = kind

    def function(self, data: VideoDataset) -> Callable[..., Any]:
        """Return the number of a clip's video as a float32 scalar."""
        values = torch.from_numpy(np.asarray(_values(data), np.float32))
        return lambda video, clip: values[clip.video]

    def rows(self, batch: Any) -> Tensor:
        """Numbers (B,)."""
        targets: Tensor = batch.targets
        return targets

    def losses(self, logits: Tensor, rows: Tensor, mixing: Mixup | None) -> Tensor:
        """See `Target.losses`."""
        values = rows.to(logits.device, torch.float32)
        if mixing is not None:
            values = mix_values(values, mixing)
        error = logits[:, 0] - values
        return error.square() if self.kind == "mse" else error.abs()

    def scores(self, logits: Tensor, rows: Tensor) -> Numbers:
        """Absolute errors."""
        return [(logits[:, 0] - rows.to(logits.device)).abs()]

    def predictions(self, logits: Tensor) -> Tensor:
        """Values."""
        return logits

    def result(self, logits: Tensor, rows: Tensor, numbers: Tensor, places: Tensor, *, fuse: Fuse) -> ValueEvaluation:
        """See `Target.result`."""
        fused = fused_values(logits, places, len(numbers))
        return ValueEvaluation(fused, rows, numbers, float(self.losses(fused, rows, None).double().mean()))


class Unlabeled:
    """Another target for videos without labels: scores of all views, fused, and nothing to compare them with.

    Args:
        target: whose predictions are made.
    """

    columns: tuple[str, ...] = ()
    train_columns: tuple[str, ...] = ()

    def __init__(self, target: Target) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def function(self, data: VideoDataset) -> None:
        """None: the videos have no labels."""

    def rows(self, batch: Any) -> Tensor:
        """Class numbers (B,), -1 for none."""
        labels: Tensor = batch.labels
        return labels

    def result(self, logits: Tensor, rows: Tensor, numbers: Tensor, places: Tensor, *, fuse: Fuse) -> Evaluation:
        """Scores of N videos; those that need labels are not defined."""
        if isinstance(self.target, ValueTarget):
            return Evaluation(fused_values(logits, places, len(numbers)), rows, numbers)
        found = self.target.result(logits, torch.zeros(len(numbers), logits.shape[1]), numbers, places, fuse=fuse)
        return Evaluation(found.logits, rows, numbers)


def make_target(options: LossOptions, data: VideoDataset | None = None) -> Target:
    """Return the target that the options choose.

    Args:
        options: of the run.
        data: training videos, for the weights of the classes; None: no weights, as in a test.

    Raises:
        ValueError: a class has no training video, and classes are weighted.
    """
    if options.target == "value":
        return ValueTarget(kind=options.value_loss)
    weights = None if data is None else class_weights(data, options)
    kind = ClassTarget if options.target == "class" else ClassesTarget
    return kind(smoothing=options.label_smoothing, weights=weights)


def class_weights(data: VideoDataset, options: LossOptions) -> Tensor | None:
    """Return the weights (K,) of `LossOptions.class_weights`, float32; None without weights.

    Raises:
        ValueError: a class has no training video.
    """
    if options.class_weights == "none":
        return None
    if options.target == "classes":
        counts = _sets(data).double().sum(dim=0)
    else:
        counts = torch.from_numpy(np.bincount(data.labels, minlength=data.num_classes)).double()
    empty = [data.classes[place] for place in (counts == 0).nonzero().flatten().tolist()]
    if empty:
        raise ValueError(
            f"{data}: class_weights={options.class_weights!r}, but there is no training video of {', '.join(empty[:5])}"
        )
    if options.target == "classes":  # negatives for each positive video, or relative to the median class
        negatives = len(data) - counts
        weights = negatives / counts if options.class_weights == "inverse" else counts.median() / counts
        return weights.clamp(min=1e-3).float()
    weights = (counts.sum() if options.class_weights == "inverse" else counts.quantile(0.5)) / counts
    return (weights * counts.sum() / (weights * counts).sum()).float()


def _sets(data: VideoDataset) -> Tensor:
    if data.class_sets is None:
        raise ValueError(
            f"{data.root}: its videos have no sets of classes; run `vidseg labels targets {data.root} LABELS.csv` with "
            "a column `labels`, or leave --target classes out"
        )
    return torch.from_numpy(data.class_sets.astype(np.float32))


def _values(data: VideoDataset) -> Any:
    if data.values is None:
        raise ValueError(
            f"{data.root}: its videos have no numbers; run `vidseg labels targets {data.root} LABELS.csv` with a "
            "column `value`, or leave --target value out"
        )
    return data.values


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    best = logits.argmax(dim=1, keepdim=True)
    return targets.to(logits.device).gather(1, best)[:, 0] > 0.5
