"""What the steps of a geometry have in common; `vidseg.clips.geometry` says how they work together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import uniform

__all__ = ["Canvas", "OneView", "Size", "Step", "Stepped", "below", "check_size", "mirrors", "pair"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Size = int | tuple[int, int] | None
"""Of a crop in pixels: one number for a square, (height, width), or None for the output's own size."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """What a step works on: B frames as the steps before it left them, and where the random numbers come from.

    Attributes:
        heights: int64 (B,).
        widths: int64 (B,).
        output: height and width of the batch.
        views: int64 (B,), which crop of its clip each of them is.
        seed: of the run.
        epoch: from 0.
        samples: int64 (B,).
        position: of the step in its geometry.
    """

    heights: Integers
    widths: Integers
    output: tuple[int, int]
    views: Integers
    seed: int
    epoch: int
    samples: Integers
    position: int = 0

    def draw(self, count: int) -> Reals:
        """Numbers in [0, 1), (B, count); a step draws once."""
        purpose = f"geometry {self.position}"
        return uniform(self.seed, self.epoch, self.samples, purpose=purpose, count=count)

    def crop_size(self, size: Size) -> tuple[Integers, Integers]:
        """Height and width of a crop, which are never larger than the frame; int64 (B,) each."""
        height, width = self.output if size is None else (size, size) if isinstance(size, int) else size
        return np.minimum(height, self.heights), np.minimum(width, self.widths)


Stepped = tuple[Reals, Integers, Integers]
"""Matrix (B, 3, 3) from the step's result to what it was given; heights and widths (B,) of its result."""


class Step(Protocol):
    """One part of a geometry."""

    @property
    def views(self) -> int:
        """How many crops it makes of each frame."""
        ...

    def apply(self, canvas: Canvas) -> Stepped:
        """What it does to B frames."""
        ...


class OneView:
    @property
    def views(self) -> int:
        """One."""
        return 1


def mirrors(mirrored: npt.NDArray[np.bool_], widths: Integers) -> Reals:
    matrices = np.tile(np.eye(3), (len(widths), 1, 1))
    matrices[:, 0, 0] = np.where(mirrored, -1, 1)
    matrices[:, 0, 2] = np.where(mirrored, widths, 0)
    return matrices


def below(draws: Reals, limits: Integers | int) -> Integers:
    """Whole numbers from 0 to limits - 1."""
    return (draws * limits).astype(np.int64)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def check_size(step: object, size: Size) -> None:
    if size is not None and min(pair(size)) < 1:
        raise ValueError(f"{step}: a size must be at least 1 pixel")
