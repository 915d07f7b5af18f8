"""Comparison of two models on the same videos: exact McNemar test and paired bootstrap.

"Note on the sampling error of the difference between correlated proportions or percentages", McNemar, Psychometrika
1947; "An Introduction to the Bootstrap", Efron and Tibshirani, 1993.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["mcnemar", "paired_bootstrap"]


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Under the hypothesis that both models have the same accuracy, a video that only one of them classifies correctly
    belongs to either model with probability 1/2.

    Args:
        first_only: videos that only the first model classifies correctly.
        second_only: videos that only the second model classifies correctly.

    Returns:
        0..1; 1 if the models are correct on the same videos.

    Raises:
        ValueError: a count is negative.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts {first_only} and {second_only} must be at least 0")
    total, fewer = first_only + second_only, min(first_only, second_only)
    if 2 * fewer == total:
        return 1.0
    tail = term = 1
    for count in range(fewer):  # the next binomial coefficient from the one before it
        term = term * (total - count) // (count + 1)
        tail += term
    return min(1.0, 2 * tail / 2**total)


def paired_bootstrap(
    score: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]],
    count: int,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a difference between two models over resampled videos.

    Args:
        score: from the numbers of videos, int64 (R, N) for R resamples, to the differences (R,).
        count: number of videos N.
        resamples: number of resamples, each of N videos drawn with replacement.
        seed: seed of the draws.
        level: share of the resampled differences inside the interval.

    Raises:
        ValueError: there is no video, `resamples` is less than 1, or `level` is not between 0 and 1.
    """
    if count < 1 or resamples < 1 or not 0 < level < 1:
        raise ValueError(f"{count} videos, resamples={resamples}, level={level}; expected 1 or more, and 0 < level < 1")
    draws = np.random.default_rng(seed)
    most = max(1, 2_000_000 // count)  # indices in memory
    found = [
        score(draws.integers(count, size=(min(most, resamples - first), count))) for first in range(0, resamples, most)
    ]
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
