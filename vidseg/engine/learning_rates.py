"""What sets the learning rates of a run: its schedule, a scheduler of torch, or the program that gives an optimizer."""

from __future__ import annotations

from typing import Any

import torch

from vidseg.clips.multigrid import Multigrid
from vidseg.engine.optimizers import set_rates
from vidseg.engine.schedules import Schedule

__all__ = ["LearningRates"]


class LearningRates:
    """The learning rates of an optimizer over a run.

    Args:
        optimizer: has the rates.
        scheduler: scheduler of `torch.optim.lr_scheduler` that steps once in each epoch, or None.
        scheduled: whether the run's schedule sets the rates, where there is no scheduler; else they stay as they are.
        multigrid: multiplies the rates of the schedule by the sizes of its batches, or None.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, scheduler: Any, scheduled: bool, multigrid: Multigrid | None
    ):
        self._optimizer, self._scheduler, self._multigrid = optimizer, scheduler, multigrid
        self._scheduled = scheduled and scheduler is None

    def start_batch(self, schedule: Schedule, done: float, *, epoch: int, batch: int) -> float:
        """Set the learning rate of a batch, and return it before the multipliers of parameter groups.

        Args:
            schedule: schedule of the run.
            done: progress of the run, in the schedule's unit.
            epoch: from 0.
            batch: from 0, within the epoch.
        """
        if not self._scheduled:
            return float(self._optimizer.param_groups[0]["lr"])
        rate = schedule.rate(done)
        if self._multigrid is not None:
            rate *= self._multigrid.lr_factor(epoch, batch)
        set_rates(self._optimizer, rate)
        return rate

    def end_epoch(self, loss: float) -> None:
        """Step the scheduler, if there is one, after an epoch with this training loss."""
        if isinstance(self._scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif self._scheduler is not None:
            self._scheduler.step()
