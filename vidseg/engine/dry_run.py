"""The schedule of a run before it starts: shapes of batches, steps and learning rates, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vidseg.clips import BatchShape
from vidseg.engine.monitors import scientific
from vidseg.engine.schedules import Schedule

__all__ = ["Planned", "PlannedBatch", "PlannedEpoch", "PlannedEpochs", "plan_epochs", "plan_run"]


@dataclass(frozen=True)
class PlannedBatch:
    """One batch of the schedule: its shape over all processes, its learning rate, and multigrid's part in that."""

    epoch: int
    shape: BatchShape
    rate: float
    factor: float = 1.0


@dataclass(frozen=True)
class Planned:
    """All batches of a run; `str()` is a table."""

    batches: tuple[PlannedBatch, ...]
    videos: int
    """Clips that a pass over the data set has."""

    def epoch(self, number: int) -> list[PlannedBatch]:
        """The batches of one epoch."""
        return [batch for batch in self.batches if batch.epoch == number]

    def __str__(self) -> str:
        lines = [f"{'epochs':>9}  {'batches':>7}  {'clips':>6}  {'shape (B, T, H, W)':24}  rate"]
        epochs = range(self.batches[-1].epoch + 1)
        summaries = [_summary(self.epoch(number)) for number in epochs]
        first = 0
        for number in epochs:
            if number + 1 < len(summaries) and _alike(summaries[number + 1], summaries[number]):
                continue
            span = _span(first, number)
            for shape, count, low, high in _merged(summaries[first : number + 1]):
                rate = _rates(low, high)
                size = f"{shape.clips:5d}, {shape.frames}, {shape.height}, {shape.width}"
                lines.append(f"{span:>9}  {count:7d}  {count * shape.clips:6d}  {size:24}  {rate}")
                span = ""
            first = number + 1
        clips = sum(batch.shape.clips for batch in self.epoch(0))
        lines.append(
            f"{len(self.batches)} batches in {len(epochs)} epochs; an epoch has {clips} of {self.videos} clips "
            f"({clips / self.videos:.1%})"
        )
        return "\n".join(lines)


def _span(first: int, last: int) -> str:
    """Epochs from 0, as they are counted in the log: from 1."""
    return f"{first + 1}" if first == last else f"{first + 1}-{last + 1}"


def _rates(low: float, high: float) -> str:
    return scientific(low) if scientific(low) == scientific(high) else f"{scientific(high)}..{scientific(low)}"


@dataclass(frozen=True)
class PlannedEpoch:
    """Batches and optimizer steps of an epoch, and its lowest and highest learning rate."""

    batches: int
    steps: int
    low: float
    high: float


@dataclass(frozen=True)
class PlannedEpochs:
    """All epochs of a run whose batches have one shape; `str()` is a table."""

    epochs: tuple[PlannedEpoch, ...]

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return sum(epoch.steps for epoch in self.epochs)

    def __str__(self) -> str:
        lines = [f"{'epochs':>9}  {'batches':>7}  {'steps':>6}  learning rate"]
        first = 0
        for number, epoch in enumerate(self.epochs):
            if number + 1 < len(self.epochs) and _same(self.epochs[number + 1], epoch):
                continue
            part = self.epochs[first : number + 1]
            rate = _rates(min(each.low for each in part), max(each.high for each in part))
            lines.append(f"{_span(first, number):>9}  {epoch.batches:7d}  {epoch.steps:6d}  {rate}")
            first = number + 1
        epochs = f"{len(self.epochs)} epoch{'' if len(self.epochs) == 1 else 's'}"
        return "\n".join([*lines, f"{self.steps} step{'' if self.steps == 1 else 's'} in {epochs}"])


def _same(one: PlannedEpoch, other: PlannedEpoch) -> bool:
    """Equal batches and steps, and equal rates unless they change within both epochs."""
    if (one.batches, one.steps) != (other.batches, other.steps):
        return False
    changing = [scientific(epoch.low) != scientific(epoch.high) for epoch in (one, other)]
    return all(changing) or (not any(changing) and scientific(one.high) == scientific(other.high))


def plan_epochs(
    schedule: Schedule, *, epochs: int, counts: Callable[[int], tuple[int, int]], accumulate: int = 1
) -> PlannedEpochs:
    """Return the epochs of a run; the schedule "plateau" has its rate before any drop.

    Args:
        schedule: learning rate; where it counts steps, the run ends after `schedule.total` of them.
        epochs: of the run.
        counts: batches and complete gradients of an epoch, counted from 0.
        accumulate: complete gradients of a step.
    """
    planned, steps = [], 0
    for epoch in range(epochs):
        batches, complete = counts(epoch)
        own = -(-complete // accumulate)
        if schedule.unit == "step":
            own = min(own, round(schedule.total) - steps)
            if own <= 0:
                break
            places: list[float] = [steps + index for index in range(own)]
        else:
            places = [epoch + index / batches for index in range(batches)]
        rates = [schedule.rate(place) for place in places]
        planned.append(PlannedEpoch(batches, own, min(rates), max(rates)))
        steps += own
    return PlannedEpochs(tuple(planned))


Summary = dict[tuple[BatchShape, float], tuple[int, float, float]]
"""Shape and multigrid's factor of the rate -> number of batches, lowest and highest rate."""


def plan_run(loader: Any, schedule: Schedule, *, epochs: int, multigrid: Any = None, accumulate: int = 1) -> Planned:
    """Return what `Trainer.fit` would do with a `ClipLoader`; nothing is decoded or computed.

    Args:
        loader: of the run, with its shapes.
        schedule: learning rate; where it counts steps, the run ends after `schedule.total` of them.
        epochs: of the run.
        multigrid: schedule of shapes whose `lr_factor` multiplies the rate, or None.
        accumulate: batches of a step.
    """
    planned = []
    steps = 0
    for epoch in range(epochs):
        count = loader.planner.batches(epoch)
        for index in range(count):
            if schedule.unit == "step" and steps >= schedule.total:
                break
            own, ranks = loader.planner.shape(epoch, index), loader.planner.world_size
            shape = BatchShape(own.clips * ranks, own.frames, own.height, own.width)
            factor = 1.0 if multigrid is None else multigrid.lr_factor(epoch, index)
            rate = schedule.rate(steps if schedule.unit == "step" else epoch + index / count)
            planned.append(PlannedBatch(epoch, shape, rate * factor, factor))
            steps += (index + 1) % accumulate == 0 or index + 1 == count
    return Planned(tuple(planned), loader.planner.samples)


def _summary(batches: list[PlannedBatch]) -> Summary:
    found: Summary = {}
    for batch in batches:
        key = (batch.shape, batch.factor)
        count, low, high = found.get(key, (0, batch.rate, batch.rate))
        found[key] = (count + 1, min(low, batch.rate), max(high, batch.rate))
    return found


def _alike(one: Summary, other: Summary) -> bool:
    """Equal shapes, and equal rates unless they change within an epoch as well."""
    if one.keys() != other.keys():
        return False
    changing = any(scientific(low) != scientific(high) for _, low, high in one.values())
    same_rates = all(scientific(one[key][2]) == scientific(other[key][2]) for key in one)
    return changing or same_rates


def _merged(summaries: list[Summary]) -> list[tuple[BatchShape, int, float, float]]:
    """Rows for epochs that are alike: shape, batches of one epoch, lowest and highest rate over all of them."""
    return [
        (
            shape,
            count,
            min(each[shape, factor][1] for each in summaries),
            max(each[shape, factor][2] for each in summaries),
        )
        for (shape, factor), (count, _, _) in summaries[0].items()
    ]
