"""What the training loop asks of a task, and what it gets back."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["BatchResult", "Position", "Result", "Task", "make_task", "means", "register_task", "sums_of"]

Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class Position:
    """Position of a batch in the run; everything random about the batch is a function of it.

    Attributes:
        seed: seed of the run.
        epoch: from 0.
        batch: from 0, within the epoch.
    """

    seed: int
    epoch: int
    batch: int


@dataclass(frozen=True)
class BatchResult:
    """What a task found in a training batch.

    Attributes:
        sums: float32 (2, C), without gradient: the sum of each of the C scores in the task's `train_columns`, and the
            weight that it is divided by. Batches of different sizes and of several processes so add up.
        complete: whether the gradient of a step is complete, so that the optimizer may step.
        resumable: whether a run may continue behind this batch from a checkpoint of the first process.
    """

    sums: Tensor
    complete: bool = True
    resumable: bool = True


class Result(Protocol):
    """Result of an evaluation."""

    @property
    def values(self) -> tuple[float, ...]:
        """One number for each of the task's `columns`."""

    @property
    def quality(self) -> float | tuple[float, ...]:
        """Score that selects the best checkpoint; higher is better."""


class Task:
    """A task of the loop: loss, scores and evaluation.

    Your own task derives from this class and defines `columns`, `train_batch` and, for a validation, `evaluate`.
    """

    columns: tuple[str, ...] = ()
    """Names of the scores of an evaluation; the last one is the loss."""
    opt_levels: tuple[str, ...] = ("O0", "O1", "O2", "O3", "bf16")
    """Precisions that the task supports."""
    one_backward = True
    """Whether `train_batch` calls `backward` exactly once: the exchange of gradients then overlaps with it."""

    @property
    def train_columns(self) -> tuple[str, ...]:
        """Names of the scores of a training batch; the last one is the loss."""
        return self.columns

    def check(self, model: nn.Module, loader: Any) -> None:
        """Refuse a model and a loader that do not fit together, before anything is computed.

        Raises:
            ValueError: the model and the loader do not fit.
        """

    def train_batch(self, model: nn.Module, batch: Any, position: Position, backward: Backward) -> BatchResult:
        """Compute the loss of one training batch and its gradient.

        Args:
            model: on the batch's device, in training mode, possibly wrapped.
            batch: of the loader, on the model's device.
            position: of the batch.
            backward: adds the gradient of a scalar loss; called as often as needed.
        """
        raise TypeError(f"{type(self).__name__} has no train_batch")

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Run the model on a batch on its device, for the statistics of batch norm."""
        return model(batch.inputs)

    def evaluate(self, model: nn.Module, loader: Iterable[Any], *_: Any, **options: Any) -> Result:
        """Evaluate a model over all batches of a loader.

        Args:
            model: on `device`; its mode is restored afterwards.
            loader: of the validation or test split.
            **options: `device`, `context` (made around each forward pass, such as an autocast) and `progress` (called
                with the number of a batch and its result, where parts of a result make sense).
        """
        raise TypeError(f"{type(self).__name__} has no evaluate")

    def steps(self, loader: Any) -> int:
        """Return the number of batches of this epoch whose result is `complete`."""
        return len(loader)

    def start_epoch(self, epoch: int) -> None:
        """Take note that an epoch, from 0, begins or continues."""

    def evaluated(self, epoch: int, result: Any) -> None:
        """Record a validation, such as in tables and pictures; called in the first process."""

    def draw(self, result: Any, folder: Path) -> list[Path]:
        """Draw a validation as .png files in `folder` for the loggers, and return the files."""
        return []

    def sample_clips(self, batch: Any) -> Tensor | None:
        """Return clips (B, 3, T, H, W) of a training batch for the loggers; None if its inputs are none."""
        inputs: Tensor = batch.inputs
        return inputs if inputs.dim() == 5 and inputs.shape[1] == 3 else None

    def begin(self, trainer: Any, out: Path) -> dict[str, Any]:
        """Return the record of a run that a program starts without one, and write it for `load_trained`.

        Args:
            trainer: the `Trainer`, before its first batch.
            out: folder of the run.

        Returns:
            Plain data for the checkpoints; {} if network or data are not known.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to resume inside an epoch: tensors and plain data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""

    def scores_text(self, values: tuple[float, ...]) -> str:
        """Return the scores as they stand in the log line of a batch."""
        names = self.columns if len(values) == len(self.columns) else self.train_columns
        return ", ".join(f"{name.lower()} = {value:.5f}" for name, value in zip(names, values, strict=True))

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        """Return the log line of an epoch.

        Args:
            kind: "train" or "val".
            epoch: from 1.
            values: scores.
            iteration: number of the last batch, for the running scores of an evaluation.
        """
        part = "" if iteration is None else f" Iteration [{iteration}]:"
        return f"Epoch [{epoch}]:{part}  ({kind})  {self.scores_text(values)}"


_FACTORIES: dict[str, Callable[[], Task]] = {}


def register_task(name: str, factory: Callable[[], Task]) -> None:
    """Give a task a name for `Trainer(task=name)`; the factory makes it with its default options."""
    _FACTORIES[name] = factory


def make_task(task: str | Task) -> Task:
    """Return the task, or the one registered under a name.

    Raises:
        ValueError: there is no task of this name.
    """
    if isinstance(task, Task):
        return task
    if task not in _FACTORIES:
        importlib.import_module("vidseg.tasks").register()  # this module is imported by the tasks
    if task not in _FACTORIES:
        known = ", ".join(map(repr, sorted(_FACTORIES)))
        raise ValueError(f"task={task!r} is not one of {known}, nor a vidseg.engine.Task")
    return _FACTORIES[task]()


def means(sums: Tensor) -> tuple[float, ...]:
    """Return scores from (2, C) sums and weights; 0 where the weight is 0."""
    return tuple(total / weight if weight else 0.0 for total, weight in zip(*sums.tolist(), strict=True))


def sums_of(
    values: Iterable[Tensor | float], weights: Tensor | float | Sequence[Tensor | float], *, device: torch.device
) -> Tensor:
    """Return (2, C) sums and weights as one tensor without waiting for the device.

    Args:
        values: C sums; tensors are on `device`, else their copy waits.
        weights: C weights, or one for all.
        device: of the result.
    """
    totals = list(values)
    divisors = list(weights) if isinstance(weights, (list, tuple)) else [weights] * len(totals)

    def on_device(value: Any) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(device, torch.float32)
        return torch.full((), value, dtype=torch.float32, device=device)  # a copy from the host would wait

    rows = [on_device(value) for value in (*totals, *divisors)]
    return torch.stack(rows).view(2, -1).detach()
