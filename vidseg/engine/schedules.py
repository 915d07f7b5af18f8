"""Learning rates as functions of progress: any batch's rate can be asked for, and resuming needs no state.

Progress is counted in epochs (with fractions) or in optimizer steps, the same for all lengths of a schedule. Only the
schedule "plateau" looks at something else, the training losses of the epochs before.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vidseg.engine.options import ScheduleOptions, TrainOptions

__all__ = [
    "DEFAULT_LR",
    "FLOOR",
    "Schedule",
    "cosine_rate",
    "default_rate",
    "filled_schedule",
    "linear_rate",
    "plateau_share",
    "run_schedule",
    "step_rate",
]

DEFAULT_LR = 0.1
"""Learning rate of a `Trainer` without one."""

FLOOR = 1e-6
"""Steps never take a rate below this."""
_WARMUP_STEPS = 500
"""Longest default warm-up."""
_THRESHOLD = 1e-4
"""Share by which a loss must be below the best one to count as an improvement."""


def default_rate(batch_size: int) -> float:
    """Return the learning rate of a run without one; `DEFAULT_LR` is that of 32 samples."""
    return DEFAULT_LR * batch_size / 32


def step_rate(progress: float, *, peak: float, steps: Sequence[float], factor: float | Sequence[float] = 0.1) -> float:
    """Return `peak` times the factor of every step that is passed.

    A step is passed from the batch on that starts at it. The result is never below 1e-6, unless `peak` is.

    Args:
        progress: in the unit of `steps`.
        peak: rate before the first step.
        steps: positions of the steps.
        factor: one factor for all steps, or one for each.
    """
    passed = bisect_right(sorted(steps), progress)
    factors = [factor] * passed if isinstance(factor, (int, float)) else list(factor)[:passed]
    return max(peak * math.prod(factors), min(FLOOR, peak))


def cosine_rate(progress: float, *, peak: float, total: float, end: float = 0.0, start: float = 0.0) -> float:
    """Half a cosine from `peak` at `start` to `end` at `total` (Loshchilov and Hutter, ICLR 2017, without restarts)."""
    share = min(1.0, max(0.0, (progress - start) / max(total - start, 1e-12)))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * share))


def linear_rate(progress: float, *, peak: float, total: float, end: float = 0.0, start: float = 0.0) -> float:
    """A straight line from `peak` at `start` to `end` at `total`; with a warm-up, the one-cycle rate of RAFT."""
    share = min(1.0, max(0.0, (progress - start) / max(total - start, 1e-12)))
    return peak + (end - peak) * share


def plateau_share(losses: Sequence[float], *, factor: float = 0.5, patience: int = 3) -> float:
    """Share of the rate after epochs with these losses, as torch's ReduceLROnPlateau computes it.

    Args:
        losses: training loss of each finished epoch.
        factor: multiplier of the rate.
        patience: epochs without improvement before the rate is multiplied.
    """
    best, worse, share = math.inf, 0, 1.0
    for loss in losses:
        better = loss < best * (1 - _THRESHOLD)
        best, worse = (loss, 0) if better else (best, worse + 1)
        if worse > patience:
            share, worse = share * factor, 0
    return share


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a run.

    Args:
        options: kind and numbers; `lr` must be given.
        total: length of the run, in `unit`.
        unit: of `total`, of `lr_steps` and of progress: "epoch" or "step" (of the optimizer).
        losses: training loss of each finished epoch, for the schedule "plateau"; the loop adds to it.

    Raises:
        ValueError: the warm-up is longer than the run or counted in another unit, or `lr` is not given.
    """

    options: ScheduleOptions
    total: float
    unit: Literal["epoch", "step"] = "epoch"
    losses: list[float] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if self.options.lr is None:
            raise ValueError("lr: a schedule needs the learning rate")
        if self.unit == "epoch" and self.options.warmup_steps:
            raise ValueError(f"warmup_steps={self.options.warmup_steps} needs max_steps; use warmup_epochs")
        if self.unit == "step" and self.options.warmup_epochs:
            raise ValueError(f"warmup_epochs={self.options.warmup_epochs} with max_steps: use warmup_steps")
        if self.warmup > self.total:
            raise ValueError(f"warmup_{self.unit}s={self.warmup} is longer than the run of {self.total:g} {self.unit}s")

    @property
    def warmup(self) -> float:
        """Length of the warm-up."""
        return (self.options.warmup_epochs if self.unit == "epoch" else self.options.warmup_steps) or 0

    def rate(self, progress: float) -> float:
        """Return the learning rate of the batch that starts at `progress`."""
        warmup = self.warmup
        if progress >= warmup:
            return self._plain(progress)
        first, top = self.options.warmup_start, self._plain(warmup)
        return first + (top - first) * progress / warmup

    def _plain(self, progress: float) -> float:
        options, peak = self.options, self.options.lr
        assert peak is not None
        factor = options.lr_factor if len(options.lr_factor) > 1 else options.lr_factor[0]
        if options.schedule == "steps":
            return step_rate(progress, peak=peak, steps=options.lr_steps, factor=factor)
        if options.schedule == "plateau":
            return peak * plateau_share(self.losses, factor=options.lr_factor[0], patience=options.patience)
        if options.schedule == "linear":
            return linear_rate(progress, peak=peak, total=self.total, end=options.lr_end, start=self.warmup)
        start = self.warmup if options.cosine_after_warmup else 0.0
        return cosine_rate(progress, peak=peak, total=self.total, end=options.lr_end, start=start)


def filled_schedule(options: TrainOptions, *, batches: int, batch_size: int) -> ScheduleOptions:
    """Return the schedule with the defaults for this data: a rate in proportion to the batch, and a short warm-up.

    Args:
        options: of the run.
        batches: batches of an epoch.
        batch_size: samples of a batch over all processes.
    """
    schedule, session = options.schedule, options.session
    filled = replace(schedule, lr=schedule.lr or default_rate(batch_size))
    if schedule.warmup_epochs is not None or schedule.warmup_steps is not None:
        return filled
    if session.max_steps is not None:
        return replace(filled, warmup_steps=min(session.max_steps // 10, _WARMUP_STEPS))
    return replace(filled, warmup_epochs=min(session.epochs / 10, _WARMUP_STEPS / max(1, batches)))


def run_schedule(options: TrainOptions, schedule: ScheduleOptions) -> Schedule:
    """Return the learning rates over the run: counted in epochs, or in steps with `max_steps`.

    Args:
        options: of the run.
        schedule: of `filled_schedule`.
    """
    session = options.session
    return (
        Schedule(schedule, session.epochs)
        if session.max_steps is None
        else Schedule(schedule, session.max_steps, "step")
    )
