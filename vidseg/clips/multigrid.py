"""Multigrid training: batches of many small clips first, of few large ones later, at about the same cost each.

Wu, Girshick, He, Feichtenhofer, Krähenbühl: "A Multigrid Method for Efficiently Training Video Models", CVPR 2020.
Both cycles run within each epoch, as in the training of Stergiou and Poppe (arXiv 2006.08247). Their program schedules
less than half of a data set for an epoch and changes the rate one batch early; here a pass covers the data set, and a
rate belongs to its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate, product

from vidseg.clips.plan import BatchShape

__all__ = ["Multigrid", "phase_shape"]

# Clips are multiplied, frames divided by these; the sides are divided by the square root of the last.
_LONG = ((8, 4, 2), (4, 2, 2), (2, 2, 1), (1, 1, 1))
_SHORT = ((1, 1), (2, 2), (4, 4))


def phase_shape(base: BatchShape, *, long: int = 3, short: int = 0) -> BatchShape:
    """Shape of a batch in one phase of each cycle.

    Args:
        base: of the last long phase and the first short one, the largest clips.
        long: phase of the long cycle, 0 to 3.
        short: phase of the short cycle, 0 to 2.

    Returns:
        Sides that the phases make smaller are even.
    """
    more, fewer_frames, area = _LONG[long]
    still_more, smaller = _SHORT[short]
    sides = [_shrink(_shrink(side, area), smaller) for side in (base.height, base.width)]
    if area * smaller > 1:
        sides = [side + side % 2 for side in sides]
    return BatchShape(base.clips * more * still_more, max(1, base.frames // fewer_frames), *sides)


def _shrink(side: int, area: int) -> int:
    """A side of a picture of 1 / area of the area, area being 1, 2 or 4."""
    return int(side / math.sqrt(area)) if area == 2 else side // math.isqrt(area)


@dataclass(frozen=True)
class Multigrid:
    """Shapes and rates of the batches of each epoch; `shapes` is what a `ClipPlanner` takes.

    Each of the four long phases has a quarter of the batches of an epoch, one more or less so that all clips find a
    place; what remains goes into batches of the last phase. Fewer than `batch_size` clips are left out of a pass.

    Attributes:
        clips: number of clips of a pass, over all ranks.
        batch_size: B, clips of the smallest batch, over all ranks.
        frames: T of the longest clip.
        size: of the largest clip in pixels, one number or (H, W).
        long_cycles: phases of 8B clips of T/4 frames at size/sqrt(2), of 4B, T/2 and size/sqrt(2), of 2B, T/2 and size,
            and of B, T and size.
        short_cycles: on top, from batch to batch: as it is, twice the clips at size/sqrt(2), four times at size/2.

    Raises:
        ValueError: too few clips for a batch of each long phase.
    """

    clips: int
    batch_size: int
    frames: int
    size: int | tuple[int, int]
    long_cycles: bool = True
    short_cycles: bool = True
    phases: tuple[tuple[int, int], ...] = field(init=False, compare=False, repr=False, default=())
    """Long phase (3 without long cycles) and short phase (0 without short cycles) of each batch of an epoch."""

    def __post_init__(self) -> None:
        base = self.base  # refuses sides below 1
        if self.clips < 1:
            raise ValueError(f"{self}: there must be at least 1 clip")
        # Multiples of B in the first i batches, if the long phase is the last throughout.
        sums = [0, *accumulate(2**short for short in map(self._short, range(self.clips // self.batch_size + 6)))]
        counts = self._long_counts(sums) if self.long_cycles else (0, 0, 0, self._most(sums))
        longs = [long for long, count in enumerate(counts) for _ in range(count)]
        phases = [(long, self._short(index)) for index, long in enumerate(longs)]
        used = sum(phase_shape(base, long=long, short=short).clips for long, short in phases)
        phases += [(3, 0)] * ((self.clips - used) // self.batch_size)
        object.__setattr__(self, "phases", tuple(phases) or ((3, 0),))

    @property
    def base(self) -> BatchShape:
        """Shape of the largest clips."""
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return BatchShape(self.batch_size, self.frames, height, width)

    def shapes(self, epoch: int) -> tuple[BatchShape, ...]:
        """Shapes of the batches of an epoch, in order; the same for each epoch."""
        made = {phase: phase_shape(self.base, long=phase[0], short=phase[1]) for phase in set(self.phases)}
        return tuple(made[phase] for phase in self.phases)

    def lr_factor(self, epoch: int, index: int) -> float:
        """What the learning rate is multiplied by for batch `index` of an epoch.

        It follows the long cycle alone, from 1 in its first phase (8B clips) to 1/8 in its last (B clips); without long
        cycles it is 1.

        Raises:
            IndexError: there is no such batch.
        """
        if not 0 <= index < len(self.phases):
            raise IndexError(f"batch {index} of epoch {epoch}, which has {len(self.phases)}")
        return 0.5 ** self.phases[index][0] if self.long_cycles else 1.0

    def _short(self, index: int) -> int:
        return index % len(_SHORT) if self.short_cycles else 0

    def _most(self, sums: list[int]) -> int:
        """How many batches of the last long phase the clips suffice for."""
        return sum(total * self.batch_size <= self.clips for total in sums[1:])

    def _long_counts(self, sums: list[int]) -> tuple[int, ...]:
        """Numbers of batches of the four long phases: nearly equal, and using as many clips as possible."""
        least = sum(more for more, *_ in _LONG)
        each = round(self.clips / self.batch_size / (least * (sums[3] / 3)))
        choices = (range(max(1, each - 1), max(1, each + 1) + 1),) * len(_LONG)
        best: tuple[int, ...] = ()
        best_used = (0, 0)
        for counts in product(*choices):
            ends = [0, *accumulate(counts)]
            batches = zip(_LONG, ends, ends[1:], strict=False)
            used = sum(more * (sums[end] - sums[start]) for (more, *_), start, end in batches)
            evenness = min(counts) - max(counts)
            if used * self.batch_size <= self.clips and (used, evenness) > best_used:
                best, best_used = counts, (used, evenness)
        if not best_used[0]:
            raise ValueError(
                f"{self.clips} clips are too few for long cycles with batch_size={self.batch_size}: a batch of each of"
                " the four phases takes more; choose a smaller batch_size or long_cycles=False"
            )
        return best
