"""What the loop needs to know of a task; recognition, segmentation and detection each are one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Position", "Result", "Task"]


@dataclass(frozen=True)
class Position:
    """Where a batch stands; everything random about it is a function of this."""

    seed: int
    epoch: int
    batch: int


class Result(Protocol):
    """What an evaluation found."""

    @property
    def values(self) -> tuple[float, ...]:
        """One number for each of the task's `columns`."""

    @property
    def quality(self) -> float:
        """The number that the best checkpoint has most of."""


class Task(Protocol):
    """A task: a loss, scores and an evaluation."""

    columns: tuple[str, ...]
    """Titles of the scores, as in the score tables."""

    def check(self, model: nn.Module, loader: Any) -> None:
        """Refuse a model and a loader that do not go together, before anything is computed.

        Raises:
            ValueError: says what does not fit.
        """

    def step(self, model: nn.Module, batch: Any, position: Position) -> tuple[Tensor, Tensor]:
        """Forward pass and loss of one training batch on the model's device.

        Returns:
            The loss to minimize, a scalar; and the float32 tensor [number of samples, sum of each score in `columns`],
            without gradient. Sums, so that batches of different sizes and processes add up.
        """

    def evaluate(self, model: nn.Module, loader: Iterable[Any], **options: Any) -> Result:
        """Evaluation of a model over all batches of a loader; the options are those of `vidseg.engine.evaluate`."""

    def scores_text(self, values: tuple[float, ...]) -> str:
        """Scores as in the line of an iteration."""

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        """Scores as in the line of an epoch; kind is "train" or "val"."""


def means(sums: Tensor) -> tuple[float, ...]:
    """Scores from [number of samples, sums]."""
    count, *totals = sums.tolist()
    return tuple(total / count for total in totals)


def sums_of(values: Iterable[Tensor | float], *, device: torch.device) -> Tensor:
    """The float32 tensor of some scalars, none of which is waited for."""
    return torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values]).detach()
