"""The training step: forward and backward passes of its batches, exchange of gradients, step of the optimizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.clips.draws import uniform
from vidseg.engine import distributed
from vidseg.engine.deepspeed import DeepSpeedPrecision, read_settings
from vidseg.engine.monitors import SpeedMonitor
from vidseg.engine.options import OptimizerOptions
from vidseg.engine.quantized_training import FREEZE_RANGES, freeze_ranges
from vidseg.engine.run_state import RunState
from vidseg.engine.task import BatchResult, Position
from vidseg.engine.training_faults import explain_memory_errors
from vidseg.models._quantized import QuantizedLayer, update_ranges

__all__ = ["StepResult", "TrainingStep", "set_training_mode"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepResult:
    """What became of a training batch.

    Attributes:
        batch: result of the task.
        values: (2C + 1,) sums and weights of the C scores over all processes, then the loss scale, on the device.
        stepped: whether the optimizer stepped.
    """

    batch: BatchResult
    values: Tensor
    stepped: bool


class TrainingStep:
    """Train on batches; a step of the optimizer follows the last of each `options.accumulate` batches.

    Args:
        state: what is trained; its weights are the same in all processes.
        options: accumulation, and clipping of the gradient.
        deepspeed_config: DeepSpeed's settings, where the precision is `DeepSpeedPrecision`.
        quantized: layers of the model whose ranges follow their inputs.

    Attributes:
        speed: times of the steps.
    """

    def __init__(
        self,
        state: RunState,
        options: OptimizerOptions,
        *,
        deepspeed_config: str | None = None,
        quantized: Sequence[QuantizedLayer] = (),
    ):
        self._state, self._options, self._quantized = state, options, quantized
        self._device = state.precision.device
        # With one backward pass in a batch, gradients are exchanged while it runs; else once before each step.
        self._wrapped, self._exchanged = state.model, state.sharded or state.task.one_backward
        if isinstance(state.precision, DeepSpeedPrecision):
            settings = read_settings(
                deepspeed_config or "",
                accumulate=options.accumulate,
                world_size=distributed.world_size(),
                clip_norm=options.clip_norm,
            )
            self._wrapped = state.precision.attach(state.model, state.optimizer, settings)
        elif self._exchanged and not state.sharded:
            self._wrapped = distributed.wrap_model(state.model, self._device)
        self.speed = SpeedMonitor(self._device)

    def __call__(self, batch: Any, position: Position, *, complete: int, total: int, share: float) -> StepResult:
        """Train on a batch.

        Args:
            batch: of the loader.
            position: position of the batch in the run.
            complete: complete gradients of the epoch before this batch.
            total: complete gradients of the whole epoch; its last step may have fewer than `accumulate` of them.
            share: share of the run before this batch; `options.freeze_ranges` is compared with it.

        Raises:
            RuntimeError: memory ran out; names the batch.
        """
        precision = self._state.precision
        first = complete - complete % self._options.accumulate
        count = min(self._options.accumulate, total - first)
        final = complete + 1 == first + count
        limit = self._options.freeze_ranges or FREEZE_RANGES
        freeze_ranges(self._state.model, self._quantized, share >= limit)
        _seed_dropout(position, self._device)
        self.speed.start()
        turned = False

        def backward(loss: Tensor) -> None:
            nonlocal turned
            if not turned:
                self.speed.turn()
                turned = True
            with torch.autocast(self._device.type, enabled=False):
                precision.backward(loss if count == 1 else loss / count)

        precision.start_batch(final=final)
        with explain_memory_errors(position, batch, self._device):
            batch = batch.to(self._device, non_blocking=True)
            exchange = nullcontext() if final else distributed.without_exchange(self._wrapped)
            with exchange, precision.forward():
                result = self._state.task.train_batch(self._wrapped, batch, position, backward)
            stepped = result.complete and final
            if stepped:
                self._step(position)
        self.speed.stop()
        sums = distributed.sum_over_group(result.sums).flatten()
        return StepResult(result, torch.cat([sums, precision.scale()]), stepped)

    def _step(self, position: Position) -> None:
        """Step the optimizer with the complete gradient."""
        if not self._exchanged:
            distributed.average_gradients(self._state.model)
        norm = self._state.precision.step(self._state.model, self._state.optimizer, clip_norm=self._options.clip_norm)
        if norm is not None:
            logger.debug("epoch %d, batch %d: gradient norm %s", position.epoch + 1, position.batch, norm)
        update_ranges(self._quantized, distributed.largest_over_group)
        if self._state.average is not None:
            self._state.average.update()


def _seed_dropout(position: Position, device: torch.device) -> None:
    """Seed torch's generator for a batch: a run that resumes needs no generator's state."""
    number = position.batch * distributed.world_size() + distributed.rank()
    seed = int(uniform(position.seed, position.epoch, [number], purpose="dropout")[0, 0] * 2**53)
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # manual_seed would look for other devices, at 0.5 ms a batch
    else:
        torch.manual_seed(seed)


def set_training_mode(model: nn.Module, *, head: Sequence[str] = (), frozen_norms: bool = False) -> None:
    """Set the training mode of the parts of a model that are trained, and the evaluation mode of the others.

    Args:
        model: changed in place.
        head: names of the only parts that are trained; empty: all.
        frozen_norms: keep the statistics of batch norm.
    """
    model.train(not head)
    if head:
        parts = [model.get_submodule(name) for name in head]
        # Dropout in front of the classifier belongs to the head.
        for part in (*parts, *(child for child in model.children() if isinstance(child, nn.Dropout))):
            part.train()
    if frozen_norms:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
