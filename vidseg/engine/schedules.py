"""Learning rates as functions of progress, so that resuming needs no state and any batch's rate can be asked for.

Progress may be counted in epochs (with fractions) or in iterations, as long as all lengths are counted alike. The rate
belongs to the batch that starts there.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from vidseg.engine.options import ScheduleOptions

__all__ = ["FLOOR", "Schedule", "cosine_rate", "step_rate"]

FLOOR = 1e-6
"""Steps never take a rate below this."""


def step_rate(progress: float, *, peak: float, steps: Sequence[float], factor: float | Sequence[float] = 0.1) -> float:
    """`peak`, times the factor (each step's own, where there are several) of every step that is passed.

    A step is passed from the batch on that starts at it. The result is never below 1e-6, unless `peak` is.
    """
    passed = bisect_right(sorted(steps), progress)
    factors = [factor] * passed if isinstance(factor, (int, float)) else list(factor)[:passed]
    return max(peak * math.prod(factors), min(FLOOR, peak))


def cosine_rate(progress: float, *, peak: float, total: float, end: float = 0.0, start: float = 0.0) -> float:
    """Half a cosine from `peak` at `start` to `end` at `total` (Loshchilov and Hutter, ICLR 2017, without restarts)."""
    share = min(1.0, max(0.0, (progress - start) / max(total - start, 1e-12)))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a run over its epochs.

    Args:
        options: kind and numbers.
        epochs: length of the run.
    """

    options: ScheduleOptions
    epochs: float

    def __post_init__(self) -> None:
        if self.options.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs={self.options.warmup_epochs} is longer than the run of {self.epochs} epochs"
            )

    def rate(self, progress: float) -> float:
        """Learning rate of the batch that starts at `progress` epochs."""
        warmup = self.options.warmup_epochs
        if progress >= warmup:
            return self._plain(progress)
        first, top = self.options.warmup_start, self._plain(warmup)
        return first + (top - first) * progress / warmup

    def _plain(self, progress: float) -> float:
        options = self.options
        if options.schedule == "steps":
            return step_rate(progress, peak=options.lr_base, steps=options.lr_steps, factor=options.lr_factor)
        start = options.warmup_epochs if options.cosine_after_warmup else 0.0
        return cosine_rate(progress, peak=options.lr_base, total=self.epochs, end=options.lr_end, start=start)
