"""Published augmentation of each data set as data: which operations, how often, and from which ranges.

The numbers of the six data sets are those of the training code of "Learn to cycle" (arXiv 2006.08247) and
"Right on time" (arXiv 2011.03949), which drew them with imgaug; `published` is the list of their README.
Perspective and rotation belong to a preset, but are part of a clip's matrix: `draw_warps` gives their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import uniform
from vidseg.clips.erasing import ATTEMPTS, erasing_boxes

__all__ = [
    "PRESETS",
    "Choice",
    "ColorPreset",
    "Draw",
    "Erasing",
    "Operation",
    "Range",
    "Warp",
    "Warps",
    "color_jitter",
    "color_presets",
    "draw_warps",
    "random_erasing",
]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Draw:
    """Where an operation gets its random numbers: always the same ones for one clip and one purpose."""

    seed: int
    epoch: int
    samples: npt.NDArray[np.int64]
    purpose: str

    def uniforms(self, count: int) -> Numbers:
        """float64 (B, count) in [0, 1); a longer row begins with the numbers of a shorter one."""
        return uniform(self.seed, self.epoch, self.samples, purpose=self.purpose, count=count)


@dataclass(frozen=True, slots=True)
class Range:
    """Uniform between two bounds; of whole numbers, both bounds can occur."""

    low: float
    high: float
    whole: bool = False

    def __call__(self, numbers: Numbers) -> Numbers:
        if self.whole:
            return np.floor(self.low + (self.high - self.low + 1.0) * numbers)
        return self.low + (self.high - self.low) * numbers


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as likely."""

    options: tuple[float, ...]

    def __call__(self, numbers: Numbers) -> Numbers:
        return np.asarray(self.options)[(numbers * len(self.options)).astype(np.int64)]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of `vidseg.clips.color.OPERATIONS` with the distribution of its parameters.

    Attributes:
        name: of the operation.
        parameters: a distribution for each parameter, or for the first ones where the others are 0.
        probability: of being drawn for a clip that is touched at all.
        alike: every parameter has the value of the first one (the three colors change alike).
    """

    name: str
    parameters: tuple[Range | Choice, ...]
    probability: float = 1.0
    alike: bool = False

    @property
    def count(self) -> int:
        """Random numbers that one clip needs."""
        return 1 if self.alike else len(self.parameters)

    def values(self, numbers: Numbers, source: Draw, height: int, width: int) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Parameters (B, P) from numbers (B, count), and where the operation is possible (B,)."""
        if not self.parameters:
            return np.zeros((len(numbers), 0)), np.ones(len(numbers), bool)
        columns = [
            distribution(numbers[:, 0 if self.alike else index]) for index, distribution in enumerate(self.parameters)
        ]
        return np.stack(columns, axis=1), np.ones(len(numbers), bool)


@dataclass(frozen=True, slots=True)
class Erasing:
    """Random erasing: one box of one color.

    Attributes:
        probability: of being drawn for a clip that is touched at all.
        area: smallest and largest share of the frame.
        aspect: smallest height / width; the largest is its reciprocal.
        fill: red, green and blue of the box.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: float = 0.3
    fill: tuple[int, int, int] = (124, 117, 104)
    name: str = field(default="random_erasing", init=False)
    # Nearly every clip is served by a few attempts; the others get all of them.
    count: int = field(default=2 + 2 * 4, init=False)

    def values(self, numbers: Numbers, source: Draw, height: int, width: int) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Box and color (B, 7) from the first numbers (B, count), and where a box fits (B,)."""
        shape = {"height": height, "width": width}
        boxes, found = erasing_boxes(numbers, area=self.area, aspect=self.aspect, **shape)
        again = np.flatnonzero(~found)
        if len(again):
            more = Draw(source.seed, source.epoch, source.samples[again], source.purpose).uniforms(3 + 2 * ATTEMPTS)
            boxes[again], found[again] = erasing_boxes(more[:, 1:], area=self.area, aspect=self.aspect, **shape)
        return np.concatenate([boxes, np.tile(np.asarray(self.fill, np.float64), (len(boxes), 1))], axis=1), found


@dataclass(frozen=True, slots=True)
class Warp:
    """Perspective or rotation, one of the two, each as likely.

    Attributes:
        probability: of one of them, for a clip that is touched at all.
        perspective: range of the standard deviation of the corners' displacement, in sides of the frame.
        degrees: range of the rotation.
    """

    probability: float
    perspective: tuple[float, float] = (0.02, 0.05)
    degrees: tuple[float, float] = (-10.0, 10.0)


@dataclass(frozen=True, slots=True)
class ColorPreset:
    """Operations on the colors of a clip.

    Attributes:
        operations: in the order in which they are applied.
        probability: of touching a clip at all.
        warp: the preset's perspective and rotation, drawn for the same clips.
        shuffled: the operations are applied in random order.
    """

    operations: tuple[Operation | Erasing, ...]
    probability: float = 1.0
    warp: Warp | None = None
    shuffled: bool = False


@dataclass(frozen=True, eq=False)
class Warps:
    """Perspective and rotation of B clips.

    Attributes:
        kinds: int64 (B,): 0 none, 1 perspective, 2 rotation.
        corners: float64 (B, 4, 2): how far the corners of the region that fills the output lie inside the frame, in
            widths (x) and heights (y) of it; top left, top right, bottom right, bottom left. 0 but for perspective.
        degrees: float64 (B,), as imgaug's `Affine(rotate=...)`. 0 but for rotation.
    """

    kinds: npt.NDArray[np.int64]
    corners: npt.NDArray[np.float64]
    degrees: npt.NDArray[np.float64]

    NONE = 0
    PERSPECTIVE = 1
    ROTATION = 2


def _thrice(low: float, high: float, *, whole: bool = False) -> tuple[Range, Range, Range]:
    one = Range(low, high, whole)
    return one, one, one


def _learn_to_cycle(probability: float, each: float, *, full: bool) -> ColorPreset:
    operations = [
        Operation("gaussian_blur", (Choice((0.1, 0.2, 0.3)),), each),
        Operation("add", _thrice(-5, 15, whole=True), each),
        Operation("average_blur", (Range(1, 2, whole=True),), each),
        Operation("multiply", _thrice(0.8, 1.2), each, alike=True),
        Operation("gamma", _thrice(0.85, 1.15), each),
        Operation("hue_saturation", (Range(-16, 16, whole=True),) * 2, each),
        Operation("linear_contrast", _thrice(0.85, 1.115), each, alike=True),
    ]
    if not full:
        operations = [one for one in operations if one.name not in ("average_blur", "multiply", "gamma")]
    return ColorPreset(tuple(operations), probability, Warp(each))


_PUBLISHED = ColorPreset(
    (
        Operation("gaussian_blur", (Choice((0.1, 0.2, 0.3)),), 0.4),
        Operation("add", _thrice(-5, 15, whole=True), 0.4),
        Operation("gaussian_noise", (Choice((76.5,)), Range(0, 2.0**53 - 1, whole=True)), 0.4),
        Operation("enhance_color", (Range(1.2, 1.6),), 0.4),
        Operation("motion_blur", (Choice((3, 5, 7)), Range(0, 360), Range(-1, 1)), 0.4),
        Operation("hue_saturation", (Range(-16, 16, whole=True),) * 2, 0.4),
        Operation("linear_contrast", _thrice(0.85, 1.115), 0.4, alike=True),
    ),
    0.8,
    Warp(0.4),
)

PRESETS: dict[str, ColorPreset] = {
    "hacs": _learn_to_cycle(0.9, 0.4, full=True),
    "kinetics": _learn_to_cycle(0.9, 0.4, full=True),
    "moments": _learn_to_cycle(0.9, 0.4, full=True),
    "hmdb51": _learn_to_cycle(0.8, 0.4, full=False),
    "diving48": _learn_to_cycle(0.8, 0.4, full=False),
    "ucf101": _learn_to_cycle(0.65, 0.3, full=False),
    "published": _PUBLISHED,
}


def color_jitter(
    *, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
) -> ColorPreset:
    """Jitter in random order, with torchvision's meaning of the four strengths; 0 leaves one out.

    Args:
        brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness]; contrast and saturation alike.
        contrast: see brightness.
        saturation: see brightness.
        hue: the shift is uniform in [-hue, hue], at most 0.5.

    Raises:
        ValueError: a strength is negative or too large.
    """
    for name, strength, most in (
        ("brightness", brightness, 254.0),
        ("contrast", contrast, 254.0),
        ("saturation", saturation, 254.0),
        ("hue", hue, 0.5),
    ):
        if not 0.0 <= strength <= most:
            raise ValueError(f"{name} is {strength}, must be 0 to {most:g}")
    operations = [
        Operation(name, (Range(max(0.0, 1.0 - strength), 1.0 + strength),))
        for name, strength in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
        if strength
    ]
    if hue:
        operations.append(Operation("hue", (Range(-hue, hue),)))
    return ColorPreset(tuple(operations), shuffled=True)


def random_erasing(
    probability: float = 0.5,
    area_low: float = 0.02,
    area_high: float = 0.4,
    aspect_low: float = 0.3,
    *,
    fill: tuple[int, int, int] = (124, 117, 104),
) -> ColorPreset:
    """Random erasing with the parameters of Zhong et al., one box for all frames of a clip.

    Args:
        probability: of erasing, 0 to 1.
        area_low: smallest share of the frame, above 0.
        area_high: largest share of the frame, at most 1.
        aspect_low: smallest height / width, above 0 and at most 1; the largest is its reciprocal.
        fill: red, green and blue of the box, by default the published mean.

    Raises:
        ValueError: a parameter is out of its range.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability is {probability}, must be 0 to 1")
    if not 0.0 < area_low <= area_high <= 1.0:
        raise ValueError(f"area_low {area_low} and area_high {area_high}: must rise, above 0 and at most 1")
    if not 0.0 < aspect_low <= 1.0:
        raise ValueError(f"aspect_low is {aspect_low}, must be above 0 and at most 1")
    if len(fill) != 3 or not all(0 <= value <= 255 and value == int(value) for value in fill):
        raise ValueError(f"fill is {fill}, must be three whole numbers of 0 to 255")
    return ColorPreset((Erasing(probability, (area_low, area_high), aspect_low, fill),))


def color_presets(preset: str | ColorPreset | Sequence[ColorPreset] | None) -> tuple[ColorPreset, ...]:
    """The presets that an `augment=` argument stands for.

    Raises:
        ValueError: there is no preset of this name.
    """
    if preset is None:
        return ()
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset {preset!r} is unknown: choose from {', '.join(PRESETS)}")
        return (PRESETS[preset],)
    return (preset,) if isinstance(preset, ColorPreset) else tuple(preset)


def draw_warps(
    preset: str | ColorPreset | Sequence[ColorPreset] | None, seed: int, epoch: int, samples: npt.ArrayLike
) -> Warps:
    """Perspective or rotation of each clip of a batch.

    The corners move as imgaug 0.4.0's `PerspectiveTransform` moves them: each coordinate by the absolute value of a
    normal number whose standard deviation is drawn for the clip.

    Args:
        preset: as for `vidseg.clips.color.draw_colors`; one of several may have a warp.
        seed: of the run.
        epoch: from 0.
        samples: (B,) sample numbers.

    Raises:
        ValueError: more than one preset has a warp.
    """
    numbers = np.atleast_1d(np.asarray(samples, np.int64))
    clips = len(numbers)
    warps = Warps(np.zeros(clips, np.int64), np.zeros((clips, 4, 2)), np.zeros(clips))
    having = [(group, one) for group, one in enumerate(color_presets(preset)) if one.warp is not None]
    if len(having) > 1:
        raise ValueError(f"{len(having)} presets have a warp; a clip can have one")
    for group, one in having:
        warp = one.warp
        assert warp is not None
        touched = uniform(seed, epoch, numbers, purpose=f"color {group}")[:, 0] < one.probability
        drawn = uniform(seed, epoch, numbers, purpose=f"warp {group}", count=11)
        active = touched & (drawn[:, 0] < warp.probability)
        warps.kinds[:] = np.where(active, np.where(drawn[:, 1] < 0.5, Warps.PERSPECTIVE, Warps.ROTATION), Warps.NONE)
        turned, bent = warps.kinds == Warps.ROTATION, warps.kinds == Warps.PERSPECTIVE
        warps.degrees[turned] = Range(*warp.degrees)(drawn[turned, 2])
        deviation = Range(*warp.perspective)(drawn[bent, 2])
        # pairs of independent normal numbers (Box and Muller, 1958)
        radius = np.sqrt(-2.0 * np.log1p(-drawn[bent, 3:7]))
        angle = 2.0 * np.pi * drawn[bent, 7:11]
        normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
        warps.corners[bent] = np.abs(normal * deviation[:, None, None]) % 1.0
    return warps
