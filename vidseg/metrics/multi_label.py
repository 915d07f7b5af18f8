"""Scores of several labels per video, and of numbers."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["label_average_precisions", "r_squared"]


def label_average_precisions(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision of each class over the videos: the mean precision at its positives.

    As scikit-learn's `average_precision_score`: videos with equal scores count together.

    Args:
        scores: (N, K), higher is likelier.
        targets: (N, K), above 0.5 for a label of the video.

    Returns:
        float64 (K,); NaN for a class without a positive video.

    Raises:
        ValueError: shapes differ.
    """
    if scores.shape != targets.shape or scores.ndim != 2:
        raise ValueError(f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)}; expected (N, K) both")
    found = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for number in range(scores.shape[1]):
        values, order = scores[:, number].sort(descending=True, stable=True)
        positive = (targets[order, number] > 0.5).double()
        total = positive.sum()
        if total == 0:
            continue
        last = torch.ones(len(values), dtype=torch.bool)
        last[:-1] = values[1:] != values[:-1]  # the last of the videos with one score
        hits, counts = positive.cumsum(0)[last], torch.arange(1, len(values) + 1)[last]
        gained = hits.diff(prepend=hits.new_zeros(1))
        found[number] = (gained * hits / counts).sum() / total
    return found


def r_squared(predictions: Tensor, values: Tensor) -> float:
    """Return 1 - sum of squared errors / sum of squared deviations from the mean; 0 for values that are all equal.

    Args:
        predictions: (N,).
        values: (N,).
    """
    values, predictions = values.double(), predictions.double()
    spread = (values - values.mean()).square().sum()
    return float(1.0 - (predictions - values).square().sum() / spread) if spread > 0 else 0.0
