"""Calibration of class probabilities: reliability, expected calibration error, and temperature scaling.

"On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Reliability", "apply_temperature", "fit_temperature", "log_loss", "reliability"]

_SMALLEST = 1e-12  # probability that stands for 0, whose logarithm is not finite
_RANGE = 1e-3, 1e3  # of temperatures
_STEPS = 60  # halvings of the range; the result is exact to rounding


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of N predictions in bins of equal width.

    Attributes:
        edges: float64 (bins + 1,), from 0 to 1; a bin contains its upper edge.
        counts: int64 (bins,), predictions of each bin.
        confidence: float64 (bins,), mean probability of the predicted class; NaN for an empty bin.
        accuracy: float64 (bins,), share of correct predictions; NaN for an empty bin.
        ece: expected calibration error: mean of |accuracy - confidence| over the predictions.
        mce: maximum calibration error: the largest |accuracy - confidence| of a bin.
    """

    edges: Tensor
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    ece: float
    mce: float


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = 15) -> Reliability:
    """Compare the confidence of predictions with their accuracy (section 2 of the paper).

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: int64 (N,) true classes.
        bins: number of bins of equal width.

    Raises:
        ValueError: shapes do not match, there is no prediction, or `bins` is less than 1.
    """
    _check(probabilities, labels)
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    confidences, predictions = probabilities.double().max(dim=1)
    correct = (predictions == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    places = (torch.bucketize(confidences, edges) - 1).clamp(0, bins - 1)  # upper edges belong to their bin
    counts = torch.bincount(places, minlength=bins)
    sums = torch.zeros(2, bins, dtype=torch.float64)
    sums[0].index_add_(0, places, confidences)
    sums[1].index_add_(0, places, correct)
    confidence, accuracy = sums / counts
    gaps = (accuracy - confidence).abs().nan_to_num(0.0)
    return Reliability(
        edges, counts, confidence, accuracy, float((gaps * counts).sum() / len(labels)), float(gaps.max())
    )


def log_loss(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean negative logarithm of the true class's probability; 0 counts as 1e-12.

    Args:
        probabilities: (N, K), rows sum to 1.
        labels: int64 (N,) true classes.
    """
    _check(probabilities, labels)
    return float(-_logarithms(probabilities).gather(1, labels[:, None]).mean())


def apply_temperature(probabilities: Tensor, temperature: float) -> Tensor:
    """Return the probabilities of logits that are divided by a temperature.

    Args:
        probabilities: (N, K), rows sum to 1.
        temperature: above 0; values above 1 make predictions less confident.

    Returns:
        float64 (N, K).

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be positive")
    return (_logarithms(probabilities) / temperature).softmax(dim=1)


def fit_temperature(probabilities: Tensor, labels: Tensor) -> float:
    """Return the temperature with the smallest log loss (section 4.2 of the paper).

    The loss is convex in 1 / temperature, so its derivative has one sign change, which is found by bisection.

    Args:
        probabilities: (N, K), of videos that neither trained nor test the network.
        labels: int64 (N,) true classes.

    Returns:
        Temperature from 0.001 to 1000.
    """
    _check(probabilities, labels)
    logits = _logarithms(probabilities)
    true = logits.gather(1, labels[:, None])[:, 0].mean()

    def slope(inverse: float) -> float:
        shares = (logits * inverse).softmax(dim=1)
        return float((shares * logits).sum(dim=1).mean() - true)

    low, high = math.log(1 / _RANGE[1]), math.log(1 / _RANGE[0])
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if slope(math.exp(middle)) < 0:
            low = middle
        else:
            high = middle
    return math.exp(-(low + high) / 2)


def _logarithms(probabilities: Tensor) -> Tensor:
    return probabilities.double().clamp(min=_SMALLEST).log()


def _check(probabilities: Tensor, labels: Tensor) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and labels {tuple(labels.shape)}; expected (N, K) and (N,) "
            "with N of at least 1"
        )
