"""Scores of training batches, read while an accelerator computes the next batch, so that the loop never waits."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidseg.engine import distributed
from vidseg.engine.monitors import SpeedMonitor
from vidseg.engine.reports import RunReports
from vidseg.engine.run_state import Progress, RunState
from vidseg.engine.task import means
from vidseg.engine.training_faults import check_training_loss, check_weights

__all__ = ["BatchScores"]


@dataclass(frozen=True)
class _Unread:
    """A batch whose scores the device may still be computing."""

    batch: int
    values: Tensor
    """Sums and weights of the scores, and the loss scale, being copied to the CPU."""
    arrived: torch.Event | None
    rate: float
    shape: tuple[int, ...]
    wait: float
    fill: float | None


class BatchScores:
    """Scores of the training batches of an epoch: checks them, adds them up and reports them.

    Args:
        state: what is trained.
        progress: gets the sums of the scores, and the number of batches that are read.
        reports: reports of the run.
        speed: times of the steps.
    """

    def __init__(self, state: RunState, progress: Progress, reports: RunReports, *, speed: SpeedMonitor):
        self._state, self._progress, self._reports, self._speed = state, progress, reports, speed
        self._queue: deque[_Unread] = deque()
        self._lag = 0 if state.precision.device.type == "cpu" else 1

    def add(self, number: int, batch: Any, values: Tensor, *, rate: float, wait: float) -> None:
        """Start to copy the values of a batch to the CPU, and read those of the batch before.

        Args:
            number: number of the batch, from 0.
            batch: the batch.
            values: see `vidseg.engine.training_step.StepResult`.
            rate: learning rate.
            wait: seconds that the loop waited for the batch.

        Raises:
            RuntimeError: the loss is not finite, or gradients overflow at every loss scale.
        """
        arrived = None
        if values.device.type != "cpu":
            device = values.device
            values = values.to("cpu", non_blocking=True)
            arrived = torch.Event(device)
            arrived.record()
        shape = (len(batch) * distributed.world_size(), *batch.inputs.shape[1:])
        self._queue.append(_Unread(number, values, arrived, rate, shape, wait, getattr(batch, "fill_seconds", None)))
        self._read(self._lag)

    def finish(self) -> None:
        """Read the scores of all batches, and check the weights: what is evaluated and saved next is finite.

        Raises:
            RuntimeError: a loss or a weight is not finite, or gradients overflow at every loss scale.
        """
        self._read(0)
        check_weights(
            self._state.precision.weights(self._state.model),
            epoch=self._progress.epoch,
            batch=self._progress.batch - 1,
            rate=self._state.rate,
            scaled=self._state.precision.scaled,
        )

    def _read(self, lag: int) -> None:
        """Read the values of all but the latest `lag` batches."""
        while len(self._queue) > lag:
            unread, progress = self._queue.popleft(), self._progress
            if unread.arrived is not None:
                unread.arrived.synchronize()
            sums, scale = unread.values[:-1].double().view(2, -1), float(unread.values[-1])
            scores, scaled = means(sums), self._state.precision.scaled
            check_training_loss(
                sums, scores[-1], epoch=progress.epoch, batch=unread.batch, rate=unread.rate, scaled=scaled
            )
            self._state.precision.check_scale(scale)
            progress.batch = unread.batch + 1
            progress.sums = sums if progress.sums is None else progress.sums + sums
            self._reports.iteration(
                epoch=progress.epoch,
                batch=unread.batch,
                scores=scores,
                speeds=self._speed.speeds(unread.shape[0], wait=unread.wait, fill=unread.fill),
                shape=unread.shape,
                rate=unread.rate,
                scale=scale if scaled else None,
            )
