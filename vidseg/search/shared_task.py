"""Training of a super-network: each batch trains the largest, the smallest and some drawn networks of the space.

The sandwich rule of "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, arXiv 1903.05134,
section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from vidseg.clips.draws import uniform
from vidseg.engine.task import Backward, BatchResult, Position, Task
from vidseg.search.architecture import ArchitectureSpace, Genome
from vidseg.search.elastic import SuperNetwork

__all__ = ["SharedTask"]

_ATTEMPTS = 32
"""Draws of a network until one is a part of the largest network."""


class SharedTask(Task):
    """A task whose model is a `SuperNetwork`; loss and scores are those of the task of the networks.

    The gradient of a batch is the mean over the trained networks. Scores of training and validation are those of the
    largest network. Drawn networks are a function of seed, epoch and batch.

    Args:
        inner: task of the networks.
        space: their search space.
        sampled: number of drawn networks for each batch, at least 0.

    Raises:
        ValueError: `sampled` is negative, or the task has several backward passes in a batch.
    """

    one_backward = False

    def __init__(self, inner: Task, space: ArchitectureSpace, *, sampled: int) -> None:
        if sampled < 0:
            raise ValueError(f"sampled={sampled} must be at least 0")
        if not inner.one_backward:
            raise ValueError(
                f"{type(inner).__name__} has several backward passes in a batch; a super-network needs one"
            )
        self.inner, self.space, self.sampled = inner, space, sampled
        self.columns = inner.columns
        self.opt_levels = tuple(level for level in inner.opt_levels if level not in ("O2", "O3"))

    @property
    def train_columns(self) -> tuple[str, ...]:
        """See `Task.train_columns`."""
        return self.inner.train_columns

    def check(self, model: nn.Module, loader: Any) -> None:
        """See `Task.check`."""
        self.inner.check(model, loader)

    def drawn(self, model: SuperNetwork, position: Position) -> list[Genome]:
        """Return the networks that a batch trains besides the largest and the smallest one."""
        sizes, found = self.space.sizes, list[Genome]()
        if self.sampled == 0:
            return found
        samples = range(position.batch * _ATTEMPTS * self.sampled, (position.batch + 1) * _ATTEMPTS * self.sampled)
        numbers = uniform(position.seed, position.epoch, samples, purpose="architecture", count=len(sizes))
        for row in numbers.tolist():
            genome = tuple(int(draw * size) for draw, size in zip(row, sizes, strict=True))
            if model.contains(self.space.options(genome)):
                found.append(genome)
            if len(found) == self.sampled:
                break
        return found

    def train_batch(self, model: nn.Module, batch: Any, position: Position, backward: Backward) -> BatchResult:
        """See `Task.train_batch`."""
        assert isinstance(model, SuperNetwork)
        smaller = [self.space.smallest(), *self.drawn(model, position)]

        def share(loss: torch.Tensor) -> None:
            backward(loss / (1 + len(smaller)))

        result = self.inner.train_batch(model, batch, position, share)
        try:
            for genome in smaller:
                model.use(self.space.options(genome))
                self.inner.train_batch(model, batch, position, share)
        finally:
            model.use(None)
        return result

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """See `Task.forward`."""
        return self.inner.forward(model, batch)

    def evaluate(self, model: nn.Module, loader: Iterable[Any], *_: Any, **options: Any) -> Any:
        """See `Task.evaluate`."""
        return self.inner.evaluate(model, loader, **options)

    def steps(self, loader: Any) -> int:
        """See `Task.steps`."""
        return self.inner.steps(loader)

    def start_epoch(self, epoch: int) -> None:
        """See `Task.start_epoch`."""
        self.inner.start_epoch(epoch)

    def evaluated(self, epoch: int, result: Any) -> None:
        """See `Task.evaluated`."""
        self.inner.evaluated(epoch, result)

    def state_dict(self) -> dict[str, Any]:
        """See `Task.state_dict`."""
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Task.load_state_dict`."""
        self.inner.load_state_dict(state)

    def scores_text(self, values: tuple[float, ...]) -> str:
        """See `Task.scores_text`."""
        return self.inner.scores_text(values)

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        """See `Task.epoch_text`."""
        return self.inner.epoch_text(kind, epoch, values, iteration=iteration)
