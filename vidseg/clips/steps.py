"""Common parts of the steps of a geometry; see `vidseg.clips.geometry`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import MOST_SIDE, whole
from vidseg.clips.draws import uniform

__all__ = ["Canvas", "OneView", "Size", "Step", "Stepped", "below", "check_size", "mirrors", "pair"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Size = int | tuple[int, int] | None
"""Crop size in pixels: side of a square, (height, width), or None for the output size."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """Input of a step: B frames as left by the previous steps, and the keys of the random numbers.

    Attributes:
        heights: int64 (B,) frame heights.
        widths: int64 (B,) frame widths.
        output: height and width of the output.
        views: int64 (B,), view (crop) number of each clip.
        seed: random seed of the run.
        epoch: epoch number from 0.
        samples: int64 (B,) sample numbers.
        position: position of the step in its geometry.
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
        """Return (B, count) numbers in [0, 1); call it once per step."""
        purpose = f"geometry {self.position}"
        return uniform(self.seed, self.epoch, self.samples, purpose=purpose, count=count)

    def crop_size(self, size: Size) -> tuple[Integers, Integers]:
        """Return height and width of a crop, limited to the frame size; int64 (B,) each."""
        height, width = self.output if size is None else pair(size)
        return np.minimum(height, self.heights), np.minimum(width, self.widths)


Stepped = tuple[Reals, Integers, Integers]
"""Matrix (B, 3, 3) from the result of a step to its input; heights and widths (B,) of the result."""


class Step(Protocol):
    """Protocol of the steps of a geometry."""

    @property
    def views(self) -> int:
        """Number of views (crops) per frame."""
        ...

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix from the result to the input, and the size of the result, for B frames."""
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
    """Return integers from 0 to limits - 1."""
    return (draws * limits).astype(np.int64)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a size.

    Raises:
        TypeError: a side is not an integer.
        ValueError: a side is below 1 pixel or too large, or there are not two.
    """
    sides = size if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size is {size!r:.80}, must be one number of pixels, or height and width")
    height, width = (whole(side, "size", least=1, most=MOST_SIDE) for side in sides)
    return height, width


def check_size(step: object, size: Size) -> None:
    """Raise ValueError or TypeError for a size that `pair` refuses; the message names the step."""
    try:
        if size is not None:
            pair(size)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{step}: {error}") from None
