"""Evaluation of a classifier: every video once, its views fused, scores over all videos and all processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.engine.distributed import gather_rows
from vidseg.metrics import fuse_views, top_k_hits

__all__ = ["Evaluation", "evaluate"]

logger = logging.getLogger(__name__)


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


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: torch.device | str = "cpu",
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    fuse: Literal["softmax", "logits"] = "softmax",
    progress: Callable[[int, Evaluation], None] | None = None,
) -> Evaluation:
    """Run `model` over every batch of `loader`, in evaluation mode; its mode is restored afterwards.

    Args:
        model: clips (B, 3, T, H, W) -> logits (B, K).
        loader: batches in any order, several views of a video included; clips that are not `valid` do not count.
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
                part = tuple(column.cpu() for column in (logits.float(), batch.labels, batch.numbers, valid))
                parts.append(part)
                if progress is not None and part[3].any():
                    progress(index, Evaluation(*(column[part[3]] for column in part[:3])))
    finally:
        model.train(training)
    if not parts:
        raise ValueError("the loader has no batch to evaluate: is the split empty?")
    columns = [torch.cat(column).to(device) for column in zip(*parts, strict=True)]
    logits, labels, numbers, valid = (gather_rows(column).cpu() for column in columns)
    if not bool(valid.any()):
        raise ValueError("the loader has no valid clip to evaluate")
    return _by_video(logits[valid], labels[valid], numbers[valid], fuse=fuse)


def _by_video(logits: Tensor, labels: Tensor, numbers: Tensor, *, fuse: Literal["softmax", "logits"]) -> Evaluation:
    """One row for each video, ordered by number."""
    videos, places = numbers.unique(return_inverse=True)
    of_video = torch.empty(len(videos), dtype=torch.int64).scatter_(0, places, labels)
    if len(videos) == len(numbers):  # one view each: the logits themselves
        ordered = torch.empty_like(logits)
        ordered[places] = logits
        return Evaluation(ordered, of_video, videos)
    return Evaluation(fuse_views(logits, places, how=fuse), of_video, videos)
