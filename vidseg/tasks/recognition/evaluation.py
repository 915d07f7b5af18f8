"""Evaluation of a recognition network: every video once, its views fused, scores over all videos and all processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.engine.distributed import gather_rows
from vidseg.metrics import fuse_views, top_k_hits

if TYPE_CHECKING:
    from vidseg.tasks.recognition.target_kinds import Target

__all__ = ["Evaluation", "Fuse", "evaluate", "evaluate_target", "fused_logits", "fused_values"]

logger = logging.getLogger(__name__)

Fuse = Literal["softmax", "logits"]


@dataclass(frozen=True)
class Evaluation:
    """Predictions for N videos of K classes."""

    logits: Tensor
    """Float32 (N, K)."""
    labels: Tensor
    """Int64 (N,)."""
    numbers: Tensor
    """Int64 (N,): indices of the videos in the data set, rising."""

    @property
    def predictions(self) -> Tensor:
        """Int64 (N,): the class of the highest score."""
        return self.logits.argmax(dim=1)

    @property
    def top1(self) -> float:
        """Share of videos whose class has the highest score."""
        return top_k_hits(self.logits, self.labels, 1).double().mean().item()

    @property
    def top5(self) -> float:
        """Share of videos whose class is among the five highest scores."""
        return top_k_hits(self.logits, self.labels, 5).double().mean().item()

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def values(self) -> tuple[float, ...]:
        """(top-1, top-5, loss)."""
        return (self.top1, self.top5, self.loss)

    @property
    def quality(self) -> float:
        """Top-1."""
        return self.top1


def evaluate(model: nn.Module, loader: Iterable[Any], **options: Any) -> Evaluation:
    """Evaluate a classifier of one class for each video; see `evaluate_target` for the options."""
    from vidseg.tasks.recognition.target_kinds import ClassTarget

    found: Evaluation = evaluate_target(model, loader, ClassTarget(), **options)
    return found


def evaluate_target(
    model: nn.Module,
    loader: Iterable[Any],
    target: Target,
    *,
    device: torch.device | str = "cpu",
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    fuse: Fuse = "softmax",
    progress: Callable[[int, Any], None] | None = None,
) -> Any:
    """Run `model` over every batch of `loader`, in evaluation mode; its mode is restored afterwards.

    Args:
        model: clips (B, 3, T, H, W) -> logits (B, K).
        loader: batches in any order, several views of a video included; clips that are not `valid` do not count.
        target: what the network predicts.
        device: where the model is.
        context: made around each forward pass, such as an autocast.
        fuse: how the views of a video become one: mean of their probabilities, or of their logits.
        progress: called after each batch with its number and that batch's evaluation.

    Raises:
        ValueError: the loader has no batch.
    """
    training = model.training
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    try:
        with torch.inference_mode():
            for index, batch in enumerate(loader):
                with context():
                    logits = model(batch.to(device).inputs)
                valid = getattr(batch, "valid", torch.ones(len(batch), dtype=torch.bool))
                part = tuple(column.cpu() for column in (logits.float(), target.rows(batch), batch.numbers, valid))
                parts.append(part)
                if progress is not None and part[3].any():
                    scores, rows, numbers = (column[part[3]] for column in part[:3])
                    each = torch.arange(len(numbers))
                    progress(index, target.result(scores, rows, numbers, each, fuse=fuse))
    finally:
        model.train(training)
    if not parts:
        raise ValueError("the loader has no batch to evaluate: is the split empty?")
    columns = [torch.cat(column).to(device) for column in zip(*parts, strict=True)]
    logits, rows, numbers, valid = (gather_rows(column).cpu() for column in columns)
    if not bool(valid.any()):
        raise ValueError("the loader has no valid clip to evaluate")
    logits, rows, numbers = logits[valid], rows[valid], numbers[valid]
    videos, places = numbers.unique(return_inverse=True)
    of_video = torch.empty((len(videos), *rows.shape[1:]), dtype=rows.dtype)
    of_video[places] = rows  # the views of a video have the same target
    return target.result(logits, of_video, videos, places, fuse=fuse)


def fused_logits(logits: Tensor, places: Tensor, count: int, *, fuse: Fuse) -> Tensor:
    """Return one row of logits for each of `count` videos from those of its views; of one view each they are copied."""
    if count != len(logits):
        return fuse_views(logits, places, how=fuse)
    ordered = torch.empty_like(logits)
    ordered[places] = logits
    return ordered


def fused_values(values: Tensor, places: Tensor, count: int) -> Tensor:
    """Return the mean (count, K) of the rows of each video."""
    totals = torch.zeros(count, values.shape[1], dtype=values.dtype).index_add_(0, places, values)
    return totals / torch.bincount(places, minlength=count)[:, None]
