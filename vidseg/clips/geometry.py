"""Geometry of clips: one matrix for each clip, from a point of the output to a point of the stored frame.

A `Geometry` is a row of steps (resize, crop, mirror, rotate ...). Each says, for the B clips of a batch at once, how
large its result is and which matrix leads from it back to what the step was given; their product leads from the output
to the stored frame, so that pixels are resampled once. Frames may differ in size from clip to clip.

Coordinates are continuous: pixel i covers [i, i + 1). Sizes and places of crops are whole pixels of the (virtually)
resized frame, so a crop as large as the output of an unresized frame is a plain copy: its matrix is an integral shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vidseg.clips.presets import Warps
from vidseg.clips.random import uniform

__all__ = [
    "Canvas",
    "CentreCrop",
    "FiveCrop",
    "Geometry",
    "Mirror",
    "MultiScaleCrop",
    "Perspective",
    "RandomCrop",
    "RandomResizedCrop",
    "RandomShortSide",
    "ResizeExact",
    "ResizeShort",
    "Rotation",
    "Step",
    "ThreeCrop",
    "perspective_matrices",
    "rotation_matrices",
]

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


class _OneView:
    @property
    def views(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class ResizeShort(_OneView):
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
class RandomShortSide(_OneView):
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
        return _resize_short(canvas, smallest + _below(canvas.draw(1)[:, 0], largest - smallest + 1))


@dataclass(frozen=True)
class ResizeExact(_OneView):
    """Resize to a size without regard to the aspect.

    Attributes:
        size: one number for a square, (height, width), or None for the output's own size.
    """

    size: Size = None

    def __post_init__(self) -> None:
        _check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        height, width = canvas.output if self.size is None else _pair(self.size)
        return _resize(canvas, np.full_like(canvas.heights, height), np.full_like(canvas.widths, width))


@dataclass(frozen=True)
class CentreCrop(_OneView):
    """The middle of the frame; half a pixel of doubt goes to the top left.

    Attributes:
        size: one number for a square, (height, width), or None for the output's own size.
    """

    size: Size = None

    def __post_init__(self) -> None:
        _check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        return _crop((canvas.heights - height) // 2, (canvas.widths - width) // 2, height, width)


@dataclass(frozen=True)
class RandomCrop(_OneView):
    """A crop anywhere in the frame.

    Attributes:
        size: one number for a square, (height, width), or None for the output's own size.
    """

    size: Size = None

    def __post_init__(self) -> None:
        _check_size(self, self.size)

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        draws = canvas.draw(2)
        top = _below(draws[:, 0], canvas.heights - height + 1)
        return _crop(top, _below(draws[:, 1], canvas.widths - width + 1), height, width)


@dataclass(frozen=True)
class RandomResizedCrop(_OneView):
    """A crop of random area and aspect anywhere in the frame, resized to the output (torchvision's meaning).

    Ten pairs of area and aspect are drawn; the first that fits is taken. If none does, the largest crop in the middle
    whose aspect is allowed.

    Attributes:
        scale: least and largest area, as a fraction of the frame's.
        ratio: least and largest width / height; drawn uniformly in its logarithm.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    TRIES: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"{self}: areas must rise within (0, 1], aspects must rise above 0")

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        draws = canvas.draw(2 * self.TRIES + 2)
        return _crop(*self.boxes(canvas.heights, canvas.widths, draws))

    def boxes(self, heights: Integers, widths: Integers, draws: Reals) -> tuple[Integers, Integers, Integers, Integers]:
        """Top, left, height and width of the crops, int64 (B,) each.

        Args:
            heights: int64 (B,) of the frames.
            widths: int64 (B,) of the frames.
            draws: (B, 22) numbers in [0, 1): ten for the area, ten for the aspect, for the top, for the left.
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
        # The middle, as large as the aspect allows.
        middle_height = np.where(widths < self.ratio[0] * heights, np.rint(widths / self.ratio[0]), heights)
        middle_width = np.where(widths > self.ratio[1] * heights, np.rint(heights * self.ratio[1]), widths)
        height = np.where(found, height[rows, first], np.minimum(middle_height, heights).astype(np.int64))
        width = np.where(found, width[rows, first], np.minimum(middle_width, widths).astype(np.int64))
        top = np.where(found, _below(draws[:, -2], heights - height + 1), (heights - height) // 2)
        left = np.where(found, _below(draws[:, -1], widths - width + 1), (widths - width) // 2)
        return top, left, height, width


@dataclass(frozen=True)
class MultiScaleCrop(_OneView):
    """One of some sizes at one of 13 fixed places (TSN: Wang et al., ECCV 2016).

    Attributes:
        size: what the crops are resized to, as in `CentreCrop`; a side within 3 pixels of it becomes equal to it.
        scales: of the frame's shorter side.
        distortion: how many places in `scales` height and width may be apart.
    """

    size: Size = None
    scales: tuple[float, ...] = (1, 0.875, 0.75, 0.66)
    distortion: int = 1

    def __post_init__(self) -> None:
        _check_size(self, self.size)
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales) or self.distortion < 0:
            raise ValueError(f"{self}: scales must be in (0, 1], and distortion at least 0")

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        draws, rows = canvas.draw(2), np.arange(len(canvas.heights))
        heights, widths = self.sizes(canvas)
        pair = _below(draws[:, 0], heights.shape[1])
        height, width = heights[rows, pair], widths[rows, pair]
        down, across = np.array(self.PLACES).T[:, _below(draws[:, 1], len(self.PLACES))]
        return _crop(down * ((canvas.heights - height) // 4), across * ((canvas.widths - width) // 4), height, width)

    PLACES: ClassVar[tuple[tuple[int, int], ...]] = (
        *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
        *((2, 0), (2, 4), (4, 2), (0, 2)),
        *((1, 1), (1, 3), (3, 1), (3, 3)),
    )
    """Down and to the right, in quarters of what the crop leaves free."""

    def sizes(self, canvas: Canvas) -> tuple[Integers, Integers]:
        """Heights and widths (B, number of pairs) that may be drawn."""
        base = np.minimum(canvas.heights, canvas.widths)[:, None]
        sides = (base * np.array(self.scales)).astype(np.int64)
        height, width = canvas.output if self.size is None else _pair(self.size)
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
    """Three crops of the frame, to average their scores.

    Attributes:
        size: one number for a square, (height, width), or None for the output's own size.
        rule: "pyslowfast": left or top, centre, right or bottom, along the longer side; "tsm": left, right, centre.
    """

    size: Size = None
    rule: Literal["pyslowfast", "tsm"] = "pyslowfast"

    def __post_init__(self) -> None:
        _check_size(self, self.size)
        if self.rule not in ("pyslowfast", "tsm"):
            raise ValueError(f'rule={self.rule!r} of three crops is neither "pyslowfast" nor "tsm"')

    @property
    def views(self) -> int:
        """Three."""
        return 3

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        free_down, free_across = canvas.heights - height, canvas.widths - width
        if self.rule == "tsm":
            across = np.array([0, 4, 2])[canvas.views]
            return _crop(2 * (free_down // 4), across * (free_across // 4), height, width)
        tall = canvas.heights > canvas.widths
        top, left = (free_down + 1) // 2, (free_across + 1) // 2
        ends = np.array([[0, 0, 1], [0, 1, 0]])[:, canvas.views]  # at which views a crop is at the far end, the centre
        top = np.where(tall, ends[0] * free_down + ends[1] * top, top)
        left = np.where(tall, left, ends[0] * free_across + ends[1] * left)
        return _crop(top, left, height, width)


@dataclass(frozen=True)
class FiveCrop:
    """The four corners (top left, top right, bottom left, bottom right) and the centre.

    Attributes:
        size: one number for a square, (height, width), or None for the output's own size.
        mirrored: then the same five mirrored, which makes ten (TSN).
    """

    size: Size = None
    mirrored: bool = False

    def __post_init__(self) -> None:
        _check_size(self, self.size)

    @property
    def views(self) -> int:
        """Five or ten."""
        return 10 if self.mirrored else 5

    def apply(self, canvas: Canvas) -> Stepped:
        """See `Step.apply`."""
        height, width = canvas.crop_size(self.size)
        free_down, free_across = canvas.heights - height, canvas.widths - width
        place = canvas.views % 5
        top = np.where(place == 4, free_down // 2, free_down * (place // 2))
        left = np.where(place == 4, free_across // 2, free_across * (place % 2))
        matrices, *_ = _crop(top, left, height, width)
        return matrices @ _mirrors(canvas.views >= 5, width), height, width


@dataclass(frozen=True)
class Mirror(_OneView):
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
        return _mirrors(canvas.draw(1)[:, 0] < self.probability, canvas.widths), canvas.heights, canvas.widths


@dataclass(frozen=True)
class Rotation(_OneView):
    """Turn about the centre; corners that lie outside of the frame are black.

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
class Perspective(_OneView):
    """Each corner moves into the frame by |N(0, scale)| of its sides, scale being drawn for each clip (imgaug's).

    Attributes:
        scale: least and largest.
    """

    scale: tuple[float, float] = (0.02, 0.05)

    def __post_init__(self) -> None:
        if not 0 <= self.scale[0] <= self.scale[1] <= 0.15:
            raise ValueError(f"{self}: scales must rise within 0 and 0.15")

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
            matrix = _warp_matrices(warps, heights, widths)
            matrices = matrix if matrices is None else matrices @ matrix
        canvas = Canvas(heights, widths, output, views, seed, epoch, samples)
        matrix, *_ = ResizeExact().apply(canvas)
        return matrix if matrices is None else matrices @ matrix


def perspective_matrices(corners: Reals, heights: Integers, widths: Integers) -> Reals:
    """What imgaug 0.4.0 does to frames whose corners move inwards, its size kept.

    The four-sided figure between the corners becomes a rectangle as large as its longer sides, cut to whole pixels,
    which is then resized to the frame's size.

    Args:
        corners: (B, 4, 2) in [0, 0.5), fractions of the frame's width (x) and height (y); top left, top right, bottom
            right, bottom left.
        heights: (B,) of the frames.
        widths: (B,) of the frames.

    Returns:
        float64 (B, 3, 3), output to source.
    """
    far = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    sides = np.stack([widths, heights], axis=1)[:, None].astype(np.float64)
    # imgaug keeps the corners in single precision.
    points = (np.where(far, 1 - corners, corners) * sides).astype(np.float32).astype(np.float64)
    edges = np.hypot(*np.moveaxis(np.roll(points, -1, axis=1) - points, 2, 0))  # top, right, bottom, left
    across = np.floor(np.maximum(edges[:, 0], edges[:, 2]))
    down = np.floor(np.maximum(edges[:, 1], edges[:, 3]))
    across, down = np.maximum(across, 2), np.maximum(down, 2)
    figure = _unit_square_to(points)
    # OpenCV's matrices are of pixel centres, ours of pixel edges: half a pixel before and after.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    to_unit = _scales(1 / across, 1 / down) @ np.linalg.inv(half)
    return half @ figure @ to_unit @ _scales(across / widths, down / heights)


def rotation_matrices(degrees: Reals, heights: Integers, widths: Integers) -> Reals:
    """Frames turned about their centres, clockwise as seen.

    Args:
        degrees: (B,).
        heights: (B,) of the frames.
        widths: (B,) of the frames.

    Returns:
        float64 (B, 3, 3), output to source.
    """
    radians = np.deg2rad(degrees)
    cosine, sine = np.cos(radians), np.sin(radians)
    x, y = widths / 2, heights / 2
    matrices = np.zeros((len(radians), 3, 3))
    matrices[:, 0] = np.stack([cosine, sine, x - cosine * x - sine * y], axis=1)
    matrices[:, 1] = np.stack([-sine, cosine, y + sine * x - cosine * y], axis=1)
    matrices[:, 2, 2] = 1
    return matrices


def _warp_matrices(warps: Warps, heights: Integers, widths: Integers) -> Reals:
    """Output to source (B, 3, 3) for frames of these sizes (B,); the size stays."""
    matrices = np.tile(np.eye(3), (len(warps.kinds), 1, 1))
    bent, turned = (np.flatnonzero(warps.kinds == kind) for kind in (Warps.PERSPECTIVE, Warps.ROTATION))
    matrices[bent] = perspective_matrices(warps.corners[bent], heights[bent], widths[bent])
    matrices[turned] = rotation_matrices(warps.degrees[turned], heights[turned], widths[turned])
    return matrices


def _unit_square_to(points: Reals) -> Reals:
    """Projective maps (B, 3, 3) of (0, 0), (1, 0), (1, 1), (0, 1) to the four points (B, 4, 2).

    In closed form: Heckbert, "Fundamentals of texture mapping and image warping", 1989, section 2.2.3.
    """
    first, second, third, fourth = np.moveaxis(points, 1, 0)
    a, b, total = second - third, fourth - third, first - second + third - fourth
    determinant = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    g = (total[:, 0] * b[:, 1] - b[:, 0] * total[:, 1]) / determinant
    h = (a[:, 0] * total[:, 1] - total[:, 0] * a[:, 1]) / determinant
    matrices = np.ones((len(points), 3, 3))
    matrices[:, :2, 0] = second - first + g[:, None] * second
    matrices[:, :2, 1] = fourth - first + h[:, None] * fourth
    matrices[:, :2, 2] = first
    matrices[:, 2, 0], matrices[:, 2, 1] = g, h
    return matrices


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


def _crop(top: Integers, left: Integers, height: Integers, width: Integers) -> Stepped:
    matrices = np.tile(np.eye(3), (len(top), 1, 1))
    matrices[:, 0, 2], matrices[:, 1, 2] = left, top
    return matrices, height, width


def _mirrors(mirrored: npt.NDArray[np.bool_], widths: Integers) -> Reals:
    matrices = np.tile(np.eye(3), (len(widths), 1, 1))
    matrices[:, 0, 0] = np.where(mirrored, -1, 1)
    matrices[:, 0, 2] = np.where(mirrored, widths, 0)
    return matrices


def _below(draws: Reals, limits: Integers | int) -> Integers:
    """Whole numbers from 0 to limits - 1."""
    return (draws * limits).astype(np.int64)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _check_size(step: object, size: Size) -> None:
    if size is not None and min(_pair(size)) < 1:
        raise ValueError(f"{step}: a size must be at least 1 pixel")


def _check_positive(step: object, *numbers: float | None) -> None:
    if any(number is not None and number <= 0 for number in numbers):
        raise ValueError(f"{step}: a size must be above 0")
