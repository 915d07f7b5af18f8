"""Validation inside a run: evaluation of the current weights, and whether they are the best so far."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidseg.clips.multigrid import Multigrid
from vidseg.engine import distributed
from vidseg.engine.loggers import Done
from vidseg.engine.precise_norm import renew_statistics
from vidseg.engine.reports import RunReports, say
from vidseg.engine.run_state import Progress, RunState
from vidseg.engine.task import Result, means
from vidseg.engine.training_faults import check_validation_loss, warn_of_divergence

__all__ = ["Validation"]


@dataclass(frozen=True)
class Validation:
    """Evaluation of the validation split with the weights that a checkpoint holds: the averaged ones if there are some.

    Attributes:
        state: what is trained.
        batches: batches of the validation split.
        precise_bn: training batches for the statistics of batch norm; 0: the running statistics are evaluated.
        multigrid: changes the shapes of the training batches, or None.
    """

    state: RunState
    batches: Any
    precise_bn: int
    multigrid: Multigrid | None

    def evaluate(self, progress: Progress, reports: RunReports, *, done: Done) -> tuple[Result, bool]:
        """Evaluate the model and report the scores; returns the result and whether it is the best so far.

        Args:
            progress: gets the best scores and the lowest loss.
            reports: reports of the run.
            done: how far the run is.

        Raises:
            RuntimeError: the loss is not finite.
        """
        state, epoch, start = self.state, progress.epoch, time.perf_counter()
        state.share_statistics()
        total: list[Tensor] = []
        wrong: list[int] = []

        def log_part(index: int, part: Any) -> None:
            if not math.isfinite(part.values[-1]):
                wrong.append(index)
            values = torch.tensor([part.values, [1.0] * len(part.values)], dtype=torch.float64) * len(part.labels)
            total.append(values if not total else total.pop() + values)
            if (index + 1) % reports.log_every(len(self.batches)) == 0:
                say(state.task.epoch_text("val", epoch + 1, means(total[0]), iteration=index))

        with nullcontext() if state.average is None else state.average.applied():
            if self.precise_bn:
                self._renew_statistics(epoch)
            result = state.task.evaluate(
                state.model,
                self.batches,
                device=state.precision.device,
                context=state.precision.forward,
                progress=log_part,
            )
        loss = result.values[-1]
        batch = wrong[0] if wrong else None
        check_validation_loss(loss, epoch=epoch, batch=batch, rate=state.rate, scaled=state.precision.scaled)
        better = progress.best is None or result.quality > progress.best
        seconds = time.perf_counter() - start
        reports.epoch("val", epoch, result.values, done=done, seconds=seconds, best=better, result=result)
        if distributed.is_first():
            state.task.evaluated(epoch, result)
        if better:
            progress.best, progress.best_epoch = result.quality, epoch + 1
            progress.best_values = tuple(result.values)
        warn_of_divergence(loss, progress.lowest, epoch=epoch)
        progress.lowest = min(progress.lowest, loss)
        return result, better

    def _renew_statistics(self, epoch: int) -> None:
        """Precise batch norm, on clips of the shape that the evaluation has."""
        state, loader = self.state, self.state.loader
        loader.set_epoch(epoch)
        if self.multigrid is not None:
            base = self.multigrid.base
            loader.set_shapes(lambda _: [base] * self.precise_bn)
        try:
            seen = renew_statistics(
                state.model,
                loader,
                self.precise_bn,
                device=state.precision.device,
                context=state.precision.forward,
                forward=state.task.forward,
            )
        finally:
            if self.multigrid is not None:
                loader.set_shapes(self.multigrid.shapes)
        say(f"Epoch [{epoch + 1}]: batch norm statistics over {seen} batches")
        if state.average is not None:
            state.average.take_buffers()
