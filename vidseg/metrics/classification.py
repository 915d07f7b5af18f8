"""Scores of classification: hits among the k best classes, and which class is taken for which."""

import torch
from torch import Tensor

__all__ = ["confusion_matrix", "top_k_hits"]


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class is among the k classes of the highest scores.

    Args:
        logits: (B, K) scores.
        labels: (B,) class numbers.
        k: at least 1; with K <= k every clip is a hit.

    Returns:
        bool (B,).
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or k < 1:
        raise ValueError(f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)} and k={k} do not go together")
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1)


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """How often each class was taken for each.

    Args:
        labels: (N,) true class numbers.
        predictions: (N,) predicted class numbers.
        num_classes: K.

    Returns:
        int64 (K, K), rows are true classes, columns predicted ones.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"{tuple(labels.shape)} labels and {tuple(predictions.shape)} predictions")
    if (
        len(labels)
        and not 0 <= min(labels.min(), predictions.min()) <= max(labels.max(), predictions.max()) < num_classes
    ):
        raise ValueError(f"a class number is not in 0..{num_classes - 1}")
    cells = labels.long() * num_classes + predictions.long()
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
