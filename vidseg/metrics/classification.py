"""Classification metrics: top-k hits, confusion matrix, class accuracy, and fusion of several views of a video."""

from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "class_accuracies",
    "confused_pairs",
    "confusion_matrix",
    "fuse_views",
    "mean_class_accuracy",
    "top_k_hits",
]


def top_k_hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return whether the true class is among the k classes with the highest scores.

    Args:
        logits: (B, K) scores.
        labels: (B,) class numbers.
        k: at least 1; with K <= k every clip is a hit.

    Returns:
        bool (B,).
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or k < 1:
        raise ValueError(
            f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)} and k={k}; expected (B, K), (B,) and k >= 1"
        )
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1)


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Count the predictions of each class for each true class.

    Args:
        labels: (N,) true class numbers.
        predictions: (N,) predicted class numbers.
        num_classes: K.

    Returns:
        int64 (K, K); rows are true classes, columns predicted classes.
    """
    if labels.shape != predictions.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)} and predictions {tuple(predictions.shape)} differ in shape; expected (N,)"
        )
    if (
        len(labels)
        and not 0 <= min(labels.min(), predictions.min()) <= max(labels.max(), predictions.max()) < num_classes
    ):
        raise ValueError(f"a class number is outside 0..{num_classes - 1}")
    cells = labels.long() * num_classes + predictions.long()
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_accuracies(confusion: Tensor) -> Tensor:
    """Return the accuracy of each class.

    Args:
        confusion: int64 (K, K) from `confusion_matrix`.

    Returns:
        float64 (K,) in 0..1, NaN for a class without clips.
    """
    return confusion.diagonal().double() / confusion.sum(dim=1).double()


def confused_pairs(confusion: Tensor, most: int | None = None) -> list[tuple[int, int, int]]:
    """Return the pairs of classes that are confused most often.

    Args:
        confusion: int64 (K, K) from `confusion_matrix`.
        most: largest number of pairs; None: all.

    Returns:
        (true class, predicted class, count) with a count of at least 1, the highest count first; among equal counts the
        highest share of the true class first.
    """
    rows, columns = confusion.nonzero(as_tuple=True)
    sizes = confusion.sum(dim=1)
    found = [
        (true, predicted, int(confusion[true, predicted]))
        for true, predicted in zip(rows.tolist(), columns.tolist(), strict=True)
        if true != predicted
    ]
    found.sort(key=lambda pair: (-pair[2], int(sizes[pair[0]]), pair[0], pair[1]))
    return found[:most]


def mean_class_accuracy(confusion: Tensor) -> float:
    """Return the unweighted mean of the class accuracies; a class without clips counts as 0, as in MMAction2."""
    return float(class_accuracies(confusion).nan_to_num(0.0).mean())


def fuse_views(logits: Tensor, videos: Tensor, *, how: Literal["softmax", "logits"] = "softmax") -> Tensor:
    """Average the scores of the views of each video.

    Args:
        logits: (V, K) scores of V views.
        videos: int64 (V,) video number of each view, 0 to N - 1, each at least once.
        how: "softmax" averages probabilities, "logits" averages logits.

    Returns:
        (N, K) logits whose softmax gives the class probabilities of the video.

    Raises:
        ValueError: shapes do not match, `how` is unknown, or a video has no view.
    """
    if logits.ndim != 2 or videos.shape != logits.shape[:1] or how not in ("softmax", "logits"):
        raise ValueError(
            f"logits {tuple(logits.shape)}, videos {tuple(videos.shape)} and how={how!r};"
            " expected (V, K), (V,) and 'softmax' or 'logits'"
        )
    counts = torch.bincount(videos)
    if not counts.all():
        raise ValueError(f"video {int((counts == 0).nonzero()[0])} has no view; number the videos from 0 without gaps")
    values = logits.softmax(dim=1) if how == "softmax" else logits
    totals = torch.zeros(len(counts), logits.shape[1], dtype=logits.dtype, device=logits.device)
    means = totals.index_add_(0, videos, values) / counts[:, None]
    return means.log() if how == "softmax" else means
