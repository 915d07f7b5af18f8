"""Evaluation of a classifier: every video once, scores over all of them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.engine.monitors import Scores, epoch_line
from vidseg.loaders import Batch
from vidseg.metrics import top_k_hits

__all__ = ["Evaluation", "batch_scores", "evaluate"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What a model said about N videos of K classes."""

    logits: Tensor
    """Float32 (N, K)."""
    labels: Tensor
    """Int64 (N,)."""
    numbers: Tensor
    """Int64 (N,): the videos, as indices into the data set."""

    @property
    def predictions(self) -> Tensor:
        """Int64 (N,): the class of the highest score."""
        return self.logits.argmax(dim=1)

    @property
    def scores(self) -> Scores:
        """Top-1, top-5 and mean cross entropy over all videos."""
        return batch_scores(self.logits, self.labels)


def batch_scores(logits: Tensor, labels: Tensor) -> Scores:
    """Scores of logits (B, K) for classes (B,)."""
    top1, top5 = (top_k_hits(logits, labels, k).double().mean().item() for k in (1, 5))
    return Scores(top1=top1, top5=top5, loss=F.cross_entropy(logits, labels).item())


def evaluate(
    model: nn.Module, loader: Iterable[Batch], *, device: torch.device | str = "cpu", log: tuple[int, int] | None = None
) -> Evaluation:
    """Run `model` over every batch of `loader`, in evaluation mode; its mode is restored afterwards.

    Args:
        model: clips (B, 3, T, H, W) -> logits (B, K).
        loader: batches in any order.
        device: where the model is.
        log: (epoch, n): log the averages so far under that epoch's number, every n batches.
    """
    training = model.training
    model.eval()
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        with torch.inference_mode():
            for index, batch in enumerate(loader):
                parts.append((model(batch.frames.to(device)).float().cpu(), batch.labels, batch.numbers))
                if log is not None and (index + 1) % log[1] == 0:
                    logger.info(epoch_line("val", log[0], _joined(parts).scores, iteration=index))
    finally:
        model.train(training)
    if not parts:
        raise ValueError("the loader has no batch to evaluate")
    return _joined(parts)


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Evaluation:
    return Evaluation(*(torch.cat(column) for column in zip(*parts, strict=True)))
