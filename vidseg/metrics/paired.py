"""Comparison of two models on the same videos or seeds: exact McNemar test, paired bootstrap, sign-flip test.

"Note on the sampling error of the difference between correlated proportions or percentages", McNemar, Psychometrika
1947; "An Introduction to the Bootstrap", Efron and Tibshirani, 1993.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["mcnemar", "paired_bootstrap", "sign_flip_test"]

_MOST_PAIRS = 20


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


def sign_flip_test(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of the exact sign-flip (paired permutation) test of a mean difference of 0.

    Under the hypothesis that both models are equally good, each difference has either sign with probability 1/2; the
    p-value is the share of the 2^N choices of signs whose mean is at least as far from 0. The smallest possible one
    is 2 / 2^N: with 5 pairs 0.0625. "The Design of Experiments", Fisher, 1935, section 21.

    Args:
        differences: of N pairs, such as runs with the same seed; N is 1 to 20.

    Returns:
        0..1; 1 if all differences are 0.

    Raises:
        ValueError: there are no differences, more than 20, or one is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not 1 <= len(values) <= _MOST_PAIRS or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} differences; expected 1 to {_MOST_PAIRS} finite numbers")
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    # Sums that are equal differ by rounding.
    reached = np.abs(sums) >= abs(values.sum()) - 1e-12 * np.abs(values).sum()
    return float(reached.mean())
