"""Geometry of clips: one matrix for each clip, from a point of the output to a point of the stored frame.

A `Geometry` is a row of steps: resize, mirror, rotate ... here, and those of `vidseg.clips.crops`. Each says, for the B
clips of a batch at once, how large its result is and which matrix leads from it back to what the step was given; their
product leads from the output to the stored frame, so that pixels are resampled once. Frames may differ in size from
clip to clip.

Coordinates are continuous: pixel i covers [i, i + 1). Sizes and places of crops are whole pixels of the (virtually)
resized frame, so a crop as large as the output of an unresized frame is a plain copy: its matrix is an integral shift.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidseg.clips.augmentations import Warps
from vidseg.clips.steps import Canvas, OneView, Size, Step, Stepped, below, check_size, mirrors, pair
from vidseg.clips.warps import perspective_matrices, rotation_matrices, warp_matrices

__all__ = ["Geometry", "Mirror", "Perspective", "RandomShortSide", "ResizeExact", "ResizeShort", "Rotation"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ResizeShort(OneView):
    """Resize to a length of the shorter side; the other side keeps the aspect, rounded.

    Attributes:
        size: in pixels, or None for `ratio` times the output's shorter side.
        ratio: see `size`.
    """

    size: int | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, self.size, self.ratio)

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        size = self.size if self.size is not None else round(self.ratio * min(canvas.output))
        return _resize_short(canvas, np.full_like(canvas.heights, size))


@dataclass(frozen=True)
class RandomShortSide(OneView):
    """Resize to a length of the shorter side that is drawn for each clip (Simonyan and Zisserman, 2014).

    Attributes:
        smallest: in pixels, or None for 8/7 of the output's shorter side (256 for 224).
        largest: in pixels, or None for 10/7 of the output's shorter side (320 for 224).
    """

    smallest: int | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        _check_positive(self, self.smallest, self.largest)
        if self.smallest is not None and self.largest is not None and self.smallest > self.largest:
            raise ValueError(f"{self}: the smallest size is above the largest")

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        smallest = self.smallest or round(8 / 7 * min(canvas.output))
        largest = max(self.largest or round(10 / 7 * min(canvas.output)), smallest)
        return _resize_short(canvas, smallest + below(canvas.draw(1)[:, 0], largest - smallest + 1))


@dataclass(frozen=True)
class ResizeExact(OneView):
    """Resize to a size without regard to the aspect.

    Attributes:
        size: one number for a square, (height, width), or None for the output's own size.
    """

    size: Size = None

    def __post_init__(self) -> None:
        check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        height, width = canvas.output if self.size is None else pair(self.size)
        return _resize(canvas, np.full_like(canvas.heights, height), np.full_like(canvas.widths, width))


@dataclass(frozen=True)
class Mirror(OneView):
    """Left and right change places.

    Attributes:
        probability: of a clip to be mirrored.
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"{self}: a probability is between 0 and 1")

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        return mirrors(canvas.draw(1)[:, 0] < self.probability, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Rotation(OneView):
    """Turn about the center; corners that lie outside of the frame are black.

    Attributes:
        degrees: least and largest, clockwise as seen when positive.
    """

    degrees: tuple[float, float] = (-10, 10)

    def __post_init__(self) -> None:
        if not self.degrees[0] <= self.degrees[1]:
            raise ValueError(f"{self}: the least angle is above the largest")

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        low, high = self.degrees
        angles = low + (high - low) * canvas.draw(1)[:, 0]
        return rotation_matrices(angles, canvas.heights, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Perspective(OneView):
    """Each corner moves into the frame by |N(0, scale)| of its sides, scale being drawn for each clip (imgaug's).

    Attributes:
        scale: least and largest.
    """

    scale: tuple[float, float] = (0.02, 0.05)

    def __post_init__(self) -> None:
        if not 0 <= self.scale[0] <= self.scale[1] <= 0.1:
            raise ValueError(f"{self}: scales must rise within 0 and 0.1")

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        draws = canvas.draw(17)
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[:, :1]
        # Box and Muller's transform.
        normal = np.sqrt(-2 * np.log1p(-draws[:, 1:9])) * np.cos(2 * np.pi * draws[:, 9:])
        corners = np.minimum(np.abs(normal) * scale, 0.49).reshape(-1, 4, 2)
        return perspective_matrices(corners, canvas.heights, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Geometry:
    """Steps that are applied in order to the stored frame; what they leave is resized to the output.

    Attributes:
        steps: at most one of them makes several views.
    """

    steps: tuple[Step, ...] = ()
    views: int = field(init=False, compare=False, repr=False, default=1)

    def __post_init__(self) -> None:
        several = [step for step in self.steps if step.views > 1]
        if len(several) > 1:
            raise ValueError(f"{self}: only one step of a geometry can make several views")
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
        warps: Warps | None = None,
    ) -> Reals:
        """Homogeneous matrices, output to source.

        Args:
            heights: int64 (B,) of the stored frames.
            widths: int64 (B,) of the stored frames.
            output: height and width.
            views: int64 (B,) which crop each clip is, from 0 to `self.views` - 1.
            seed: of the run.
            epoch: from 0.
            samples: int64 (B,) sample numbers.
            warps: applied to what the steps leave.

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


def _check_positive(step: object, *numbers: float | None) -> None:
    if any(number is not None and number <= 0 for number in numbers):
        raise ValueError(f"{step}: a size must be above 0")
