"""Multigrid training: batches change from many small clips to few large clips, at about constant cost per batch.

Wu, Girshick, He, Feichtenhofer, Krähenbühl: "A Multigrid Method for Efficiently Training Video Models", CVPR 2020. Both
cycles run within each epoch, as in the training of Stergiou and Poppe (arXiv 2006.08247). Their program schedules less
than half of a data set per epoch and changes the learning rate one batch early; here an epoch covers the data set, and
each batch has the learning rate of its own phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate, product

from vidseg.clips.arguments import whole
from vidseg.clips.plan import BatchShape
from vidseg.clips.steps import pair

__all__ = ["Multigrid", "phase_shape"]

# Factor of the number of clips, divisor of the frames (long cycle only) and divisor of the area of each phase.
_LONG = ((8, 4, 2), (4, 2, 2), (2, 2, 1), (1, 1, 1))
_MOST_BATCHES = 1 << 22  # of an epoch
_SHORT = ((1, 1), (2, 2), (4, 4))


def phase_shape(base: BatchShape, *, long: int = 3, short: int = 0) -> BatchShape:
    """Return the batch shape of one phase of each cycle.

    Args:
        base: shape of the last long phase and the first short phase, with the largest clips.
        long: phase of the long cycle, 0 to 3.
        short: phase of the short cycle, 0 to 2.

    Returns:
        The shape; sides reduced by a phase are even.
    """
    more, fewer_frames, area = _LONG[long]
    still_more, smaller = _SHORT[short]
    sides = [_shrink(_shrink(side, area), smaller) for side in (base.height, base.width)]
    if area * smaller > 1:
        sides = [side + side % 2 for side in sides]
    return BatchShape(base.clips * more * still_more, max(1, base.frames // fewer_frames), *sides)


def _shrink(side: int, area: int) -> int:
    """Return the side of a square of 1 / area of the area, with area 1, 2 or 4."""
    return int(side / math.sqrt(area)) if area == 2 else side // math.isqrt(area)


@dataclass(frozen=True)
class Multigrid:
    """Batch shapes and learning rate factors of each epoch; `shapes` is the argument of `ClipPlanner`.

    Each of the four long phases has a quarter of the batches of an epoch, one more or less to use as many clips as
    possible; the remaining clips form batches of the last phase. Fewer than `batch_size` clips are skipped in each
    epoch.

    Attributes:
        clips: number of clips of an epoch, over all ranks.
        batch_size: B, number of clips of the smallest batch, over all ranks.
        frames: T of the longest clip.
        size: side of the largest clip in pixels, or (H, W).
        long_cycles: use phases of 8B clips of T/4 frames at size/sqrt(2), of 4B, T/2 and size/sqrt(2), of 2B, T/2 and
            size, and of B, T and size.
        short_cycles: in addition alternate between batches of full size, twice the clips at size/sqrt(2), and four
            times the clips at size/2.

    Raises:
        ValueError: there are too few clips for a batch of each long phase.
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
        base = self.base  # raises for sides out of range
        whole(self.clips, "clips of an epoch", least=1, most=_MOST_BATCHES * self.batch_size)
        # Multiples of B in the first i batches if all have the last long phase.
        sums = [0, *accumulate(2**short for short in map(self._short, range(self.clips // self.batch_size + 6)))]
        counts = self._long_counts(sums) if self.long_cycles else (0, 0, 0, self._most(sums))
        longs = [long for long, count in enumerate(counts) for _ in range(count)]
        phases = [(long, self._short(index)) for index, long in enumerate(longs)]
        used = sum(phase_shape(base, long=long, short=short).clips for long, short in phases)
        phases += [(3, 0)] * ((self.clips - used) // self.batch_size)
        object.__setattr__(self, "phases", tuple(phases) or ((3, 0),))

    @property
    def base(self) -> BatchShape:
        """Shape of the batches with the largest clips."""
        return BatchShape(self.batch_size, self.frames, *pair(self.size))

    def shapes(self, epoch: int) -> tuple[BatchShape, ...]:
        """Return the shapes of the batches of an epoch in order; equal for all epochs."""
        made = {phase: phase_shape(self.base, long=phase[0], short=phase[1]) for phase in set(self.phases)}
        return tuple(made[phase] for phase in self.phases)

    def lr_factor(self, epoch: int, index: int) -> float:
        """Return the factor of the learning rate for batch `index` of an epoch.

        The factor depends on the long cycle only, from 1 in its first phase (8B clips) to 1/8 in its last (B clips);
        without long cycles it is 1.

        Raises:
            IndexError: the epoch has no such batch.
        """
        if not 0 <= whole(index, "index") < len(self.phases):
            raise IndexError(
                f"batch {index} is out of range; the number of batches of epoch {epoch} is {len(self.phases)}"
            )
        return 0.5 ** self.phases[index][0] if self.long_cycles else 1.0

    def _short(self, index: int) -> int:
        return index % len(_SHORT) if self.short_cycles else 0

    def _most(self, sums: list[int]) -> int:
        """Return the number of batches of the last long phase that the clips are enough for."""
        return sum(total * self.batch_size <= self.clips for total in sums[1:])

    def _long_counts(self, sums: list[int]) -> tuple[int, ...]:
        """Return the numbers of batches of the four long phases: nearly equal, using as many clips as possible."""
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
                f"{self.clips} clips are too few for one batch of each of the four long phases with"
                f" batch_size={self.batch_size}; use a smaller batch_size or long_cycles=False"
            )
        return best
