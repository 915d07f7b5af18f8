"""The schedule of a run before it starts: shapes of batches and learning rates, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidseg.clips import BatchShape
from vidseg.engine.monitors import scientific
from vidseg.engine.schedules import Schedule

__all__ = ["Planned", "PlannedBatch", "plan_run"]


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
            span = f"{first}" if first == number else f"{first}-{number}"
            for shape, count, low, high in _merged(summaries[first : number + 1]):
                rate = (
                    scientific(low) if scientific(low) == scientific(high) else f"{scientific(high)}..{scientific(low)}"
                )
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
