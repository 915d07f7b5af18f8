"""Geometric transforms of clips: one matrix per clip that maps points of the output to points of the stored frame.

A `Geometry` is a sequence of steps: resize, mirror, rotate and others in this module, crops in `vidseg.clips.crops`.
For the B clips of a batch, each step returns the size of its result and the matrix from its result to its input. The
product of the matrices maps the output to the stored frame, so pixels are resampled once. Frame sizes may differ
between clips.

Coordinates are continuous: pixel i covers [i, i + 1). Sizes and positions of crops are whole pixels of the (virtually)
resized frame, so a crop of the output size from a frame that is not resized is a plain copy with an integer shift.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import MOST_SIDE, check_interval, whole
from vidseg.clips.augmentations import Warps
from vidseg.clips.rand_augment import AffineWarps
from vidseg.clips.steps import Canvas, OneView, Size, Step, Stepped, below, check_size, mirrors, pair
from vidseg.clips.warps import perspective_matrices, rotation_matrices, warp_matrices

__all__ = ["Geometry", "Mirror", "Perspective", "RandomShortSide", "ResizeExact", "ResizeShort", "Rotation"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ResizeShort(OneView):
    """Resize the shorter side to a given length; the other side keeps the aspect ratio, rounded.

    Attributes:
        size: length in pixels, or None for `ratio` times the output's shorter side.
        ratio: factor of the output's shorter side if `size` is None.
    """

    size: int | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_sides(self.size)
        if not isinstance(self.ratio, int | float) or not 0 < self.ratio <= MOST_SIDE:
            raise ValueError(f"{self}: ratio must be greater than 0 and at most {MOST_SIDE}")

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the resized frames, see `Step.apply`."""
        size = self.size if self.size is not None else round(self.ratio * min(canvas.output))
        return _resize_short(canvas, np.full_like(canvas.heights, size))


@dataclass(frozen=True)
class RandomShortSide(OneView):
    """Resize the shorter side to a random length per clip (Simonyan and Zisserman, 2014).

    Attributes:
        smallest: in pixels, or None for 8/7 of the output's shorter side (256 for 224).
        largest: in pixels, or None for 10/7 of the output's shorter side (320 for 224).
    """

    smallest: int | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        _check_sides(self.smallest, self.largest)
        if self.smallest is not None and self.largest is not None and self.smallest > self.largest:
            raise ValueError(f"{self}: smallest must not exceed largest")

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the resized frames, see `Step.apply`."""
        smallest = self.smallest or round(8 / 7 * min(canvas.output))
        largest = max(self.largest or round(10 / 7 * min(canvas.output)), smallest)
        return _resize_short(canvas, smallest + below(canvas.draw(1)[:, 0], largest - smallest + 1))


@dataclass(frozen=True)
class ResizeExact(OneView):
    """Resize to an exact size, ignoring the aspect ratio.

    Attributes:
        size: side of a square, (height, width), or None for the output size; in pixels.
    """

    size: Size = None

    def __post_init__(self) -> None:
        check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the resized frames, see `Step.apply`."""
        height, width = canvas.output if self.size is None else pair(self.size)
        return _resize(canvas, np.full_like(canvas.heights, height), np.full_like(canvas.widths, width))


@dataclass(frozen=True)
class Mirror(OneView):
    """Mirror the frame horizontally.

    Attributes:
        probability: probability of mirroring a clip, 0 to 1.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.probability, int | float) or not 0 <= self.probability <= 1:
            raise ValueError(f"{self}: probability must be between 0 and 1")

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the unchanged size of the frames, see `Step.apply`."""
        return mirrors(canvas.draw(1)[:, 0] < self.probability, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Rotation(OneView):
    """Rotate about the center; areas outside the frame are black.

    Attributes:
        degrees: minimum and maximum angle in degrees, positive for clockwise.
    """

    degrees: tuple[float, float] = (-10, 10)

    def __post_init__(self) -> None:
        check_interval(self.degrees, "degrees", least=-360, most=360)

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the unchanged size of the frames, see `Step.apply`."""
        low, high = self.degrees
        angles = low + (high - low) * canvas.draw(1)[:, 0]
        return rotation_matrices(angles, canvas.heights, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Perspective(OneView):
    """Move each corner inwards by |N(0, scale)| of the sides, with a random scale per clip (as in imgaug).

    Attributes:
        scale: minimum and maximum scale, 0 to 0.1.
    """

    scale: tuple[float, float] = (0.02, 0.05)

    def __post_init__(self) -> None:
        check_interval(self.scale, "scale", least=0, most=0.1)

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the unchanged size of the frames, see `Step.apply`."""
        draws = canvas.draw(17)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[:, :1]
        # Box-Muller transform.
        normal = np.sqrt(-2 * np.log1p(-draws[:, 1:9])) * np.cos(2 * np.pi * draws[:, 9:])
        corners = np.minimum(np.abs(normal) * scale, 0.49).reshape(-1, 4, 2)
        return perspective_matrices(corners, canvas.heights, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Geometry:
    """Sequence of steps applied to the stored frame; their result is resized to the output.

    Attributes:
        steps: steps in order; at most one of them may have several views.
    """

    steps: tuple[Step, ...] = ()
    views: int = field(init=False, compare=False, repr=False, default=1)

    def __post_init__(self) -> None:
        several = [step for step in self.steps if step.views > 1]
        if len(several) > 1:
            raise ValueError(f"{self}: at most one step may have several views")
        object.__setattr__(self, "views", several[0].views if several else 1)

    def matrices(
        self,
        heights: Integers,
        widths: Integers,
        *,
        output: tuple[int, int],
        views: Integers,
        seed: int,
        epoch: int,
        samples: Integers,
        warps: Warps | AffineWarps | None = None,
    ) -> Reals:
        """Return homogeneous matrices from output to source points.

        Args:
            heights: int64 (B,) heights of the stored frames.
            widths: int64 (B,) widths of the stored frames.
            output: height and width of the output in pixels.
            views: int64 (B,) view (crop) number of each clip, 0 to `self.views` - 1.
            seed: random seed of the run.
            epoch: epoch number from 0.
            samples: int64 (B,) sample numbers.
            warps: warps applied to the result of the steps, or None.

        Returns:
            float64 (B, 3, 3).
        """
        matrices = None
        for position, step in enumerate(self.steps):
            canvas = Canvas(heights, widths, output, views, seed, epoch, samples, position)
            matrix, heights, widths = step.apply(canvas)
            matrices = matrix if matrices is None else matrices @ matrix
        if warps is not None:
            matrix = warp_matrices(warps, heights, widths)
            matrices = matrix if matrices is None else matrices @ matrix
        canvas = Canvas(heights, widths, output, views, seed, epoch, samples)
        matrix, *_ = ResizeExact().apply(canvas)
        return matrix if matrices is None else matrices @ matrix


def _resize_short(canvas: Canvas, sizes: Integers) -> Stepped:
    tall = canvas.heights > canvas.widths
    heights = np.where(tall, np.rint(sizes * canvas.heights / canvas.widths), sizes).astype(np.int64)
    widths = np.where(tall, sizes, np.rint(sizes * canvas.widths / canvas.heights)).astype(np.int64)
    return _resize(canvas, heights, widths)


def _resize(canvas: Canvas, heights: Integers, widths: Integers) -> Stepped:
    return _scales(canvas.widths / widths, canvas.heights / heights), heights, widths


def _scales(across: Reals, down: Reals) -> Reals:
    matrices = np.zeros((len(across), 3, 3))
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 2, 2] = across, down, 1
    return matrices


def _check_sides(*sides: int | None) -> None:
    for side in sides:
        if side is not None:
            whole(side, "side of a frame", least=1, most=MOST_SIDE)
