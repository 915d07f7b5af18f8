"""Crop steps of a `vidseg.clips.geometry.Geometry`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import check_interval, whole
from vidseg.clips.steps import Canvas, OneView, Size, Stepped, below, check_size, mirrors, pair

__all__ = ["CenterCrop", "FiveCrop", "MultiScaleCrop", "RandomCrop", "RandomResizedCrop", "ThreeCrop"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CenterCrop(OneView):
    """Crop the center of the frame; odd margins are rounded towards the top left.

    Attributes:
        size: side of a square, (height, width), or None for the output size; in pixels.
    """

    size: Size = None

    def __post_init__(self) -> None:
        check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the cropped frames, see `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        return _crop((canvas.heights - height) // 2, (canvas.widths - width) // 2, height, width)


@dataclass(frozen=True)
class RandomCrop(OneView):
    """Crop a random position of the frame.

    Attributes:
        size: side of a square, (height, width), or None for the output size; in pixels.
    """

    size: Size = None

    def __post_init__(self) -> None:
        check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the cropped frames, see `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        draws = canvas.draw(2)
        top = below(draws[:, 0], canvas.heights - height + 1)
        return _crop(top, below(draws[:, 1], canvas.widths - width + 1), height, width)


@dataclass(frozen=True)
class RandomResizedCrop(OneView):
    """Crop a random area and aspect ratio at a random position and resize it to the output, as in torchvision.

    Ten pairs of area and aspect ratio are drawn, and the first that fits is used. If none fits, the largest center crop
    with an allowed aspect ratio is used.

    Attributes:
        scale: minimum and maximum area as a fraction of the frame's area, in (0, 1].
        ratio: minimum and maximum width / height, drawn log-uniformly.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    TRIES: ClassVar[int] = 10

    def __post_init__(self) -> None:
        check_interval(self.scale, "scale", least=0, most=1)
        check_interval(self.ratio, "ratio", least=1e-4, most=1e4)
        if self.scale[0] == 0:
            raise ValueError(f"{self}: scale must be greater than 0")

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the cropped frames, see `Step.apply`."""
        draws = canvas.draw(2 * self.TRIES + 2)
        return _crop(*self.boxes(canvas.heights, canvas.widths, draws))

    def boxes(self, heights: Integers, widths: Integers, draws: Reals) -> tuple[Integers, Integers, Integers, Integers]:
        """Return top, left, height and width of the crops, int64 (B,) each.

        Args:
            heights: int64 (B,) frame heights.
            widths: int64 (B,) frame widths.
            draws: (B, 22) numbers in [0, 1): ten for the area, ten for the aspect ratio, one for the top, one for the
                left.
        """
        area, aspect = draws[:, : self.TRIES], draws[:, self.TRIES : 2 * self.TRIES]
        low, high = (math.log(bound) for bound in self.ratio)
        pixels = (self.scale[0] + (self.scale[1] - self.scale[0]) * area) * (heights * widths)[:, None]
        shape = np.exp(low + (high - low) * aspect)
        height = np.rint(np.sqrt(pixels / shape)).astype(np.int64)
        width = np.rint(np.sqrt(pixels * shape)).astype(np.int64)
        fits = (height > 0) & (height <= heights[:, None]) & (width > 0) & (width <= widths[:, None])
        rows, first = np.arange(len(heights)), fits.argmax(axis=1)
        found = fits[rows, first]
        # Largest center crop with an allowed aspect ratio.
        middle_height = np.where(widths < self.ratio[0] * heights, np.rint(widths / self.ratio[0]), heights)
        middle_width = np.where(widths > self.ratio[1] * heights, np.rint(heights * self.ratio[1]), widths)
        height = np.where(found, height[rows, first], np.clip(middle_height, 1, heights).astype(np.int64))
        width = np.where(found, width[rows, first], np.clip(middle_width, 1, widths).astype(np.int64))
        top = np.where(found, below(draws[:, -2], heights - height + 1), (heights - height) // 2)
        left = np.where(found, below(draws[:, -1], widths - width + 1), (widths - width) // 2)
        return top, left, height, width


@dataclass(frozen=True)
class MultiScaleCrop(OneView):
    """Crop one of several sizes at one of 13 fixed positions (TSN: Wang et al., ECCV 2016).

    Attributes:
        size: as in `CenterCrop`; a crop side that differs from it by less than 3 pixels is set to it.
        scales: crop sides as fractions of the frame's shorter side, in (0, 1].
        distortion: maximum distance between the indices in `scales` of height and width.
    """

    size: Size = None
    scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)
    distortion: int = 1

    PLACES: ClassVar[tuple[tuple[int, int], ...]] = (
        *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
        *((2, 0), (2, 4), (4, 2), (0, 2)),
        *((1, 1), (1, 3), (3, 1), (3, 3)),
    )
    """Offsets (down, right) in quarters of the free margin."""

    def __post_init__(self) -> None:
        check_size(self, self.size)
        whole(self.distortion, "distortion", least=0)
        if not self.scales or not all(isinstance(one, int | float) and 0 < one <= 1 for one in self.scales):
            raise ValueError(f"{self}: scales must be in (0, 1]")

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the cropped frames, see `Step.apply`."""
        draws, rows = canvas.draw(2), np.arange(len(canvas.heights))
        heights, widths = self.sizes(canvas)
        chosen = below(draws[:, 0], heights.shape[1])
        height, width = heights[rows, chosen], widths[rows, chosen]
        down, across = np.array(self.PLACES).T[:, below(draws[:, 1], len(self.PLACES))]
        return _crop(down * ((canvas.heights - height) // 4), across * ((canvas.widths - width) // 4), height, width)

    def sizes(self, canvas: Canvas) -> tuple[Integers, Integers]:
        """Return the heights and widths (B, number of pairs) of the possible crops."""
        base = np.minimum(canvas.heights, canvas.widths)[:, None]
        sides = np.maximum((base * np.array(self.scales)).astype(np.int64), 1)
        height, width = canvas.output if self.size is None else pair(self.size)
        pairs = np.array(
            [
                (down, across)
                for down in range(len(self.scales))
                for across in range(len(self.scales))
                if abs(down - across) <= self.distortion
            ]
        )
        snapped = [np.where(abs(sides - target) < 3, np.minimum(target, base), sides) for target in (height, width)]
        return snapped[0][:, pairs[:, 0]], snapped[1][:, pairs[:, 1]]


@dataclass(frozen=True)
class ThreeCrop:
    """Crop three positions of the frame, for testing with averaged scores.

    Attributes:
        size: side of a square, (height, width), or None for the output size; in pixels.
        rule: "pyslowfast": left or top, center, right or bottom along the longer side; "tsm": left, right, center.
    """

    size: Size = None
    rule: Literal["pyslowfast", "tsm"] = "pyslowfast"

    def __post_init__(self) -> None:
        check_size(self, self.size)
        if self.rule not in ("pyslowfast", "tsm"):
            raise ValueError(f'rule is {self.rule!r}, must be "pyslowfast" or "tsm"')

    @property
    def views(self) -> int:
        """Three."""
        return 3

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the cropped frames, see `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        free_down, free_across = canvas.heights - height, canvas.widths - width
        if self.rule == "tsm":
            across = np.array([0, 4, 2])[canvas.views]
            return _crop(2 * (free_down // 4), across * (free_across // 4), height, width)
        tall = canvas.heights > canvas.widths
        top, left = (free_down + 1) // 2, (free_across + 1) // 2
        ends = np.array([[0, 0, 1], [0, 1, 0]])[:, canvas.views]  # views at the far end, views at the center
        top = np.where(tall, ends[0] * free_down + ends[1] * top, top)
        left = np.where(tall, left, ends[0] * free_across + ends[1] * left)
        return _crop(top, left, height, width)


@dataclass(frozen=True)
class FiveCrop:
    """Crop the four corners (top left, top right, bottom left, bottom right) and the center.

    Attributes:
        size: side of a square, (height, width), or None for the output size; in pixels.
        mirrored: add the five mirrored crops, which gives ten views (TSN).
    """

    size: Size = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        check_size(self, self.size)

    @property
    def views(self) -> int:
        """Number of views, 5 or 10."""
        return 10 if self.mirrored else 5

    def apply(self, canvas: Canvas) -> Stepped:
        """Return the matrix and the size of the cropped frames, see `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        free_down, free_across = canvas.heights - height, canvas.widths - width
        place = canvas.views % 5
        top = np.where(place == 4, free_down // 2, free_down * (place // 2))
        left = np.where(place == 4, free_across // 2, free_across * (place % 2))
        matrices, *_ = _crop(top, left, height, width)
        return matrices @ mirrors(canvas.views >= 5, width), height, width


def _crop(top: Integers, left: Integers, height: Integers, width: Integers) -> Stepped:
    matrices = np.tile(np.eye(3), (len(top), 1, 1))
    matrices[:, 0, 2], matrices[:, 1, 2] = left, top
    return matrices, height, width
