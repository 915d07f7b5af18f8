"""Presets of color augmentation: the operations, their probabilities and the distributions of their parameters.

The presets of the six data sets have the values of the training code of "Learn to cycle" (arXiv 2006.08247) and
"Right on time" (arXiv 2011.03949), which uses imgaug. `published` is the list of their README. A preset also has a
perspective and a rotation; `draw_warps` samples them, and they become part of a clip's matrix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import uniform
from vidseg.clips.erasing import ATTEMPTS, erasing_boxes
from vidseg.clips.operations import ParameterRule, color_rule
from vidseg.clips.rand_augment import RAND_PRESETS, AffineWarps, RandAugment

__all__ = [
    "PRESETS",
    "Choice",
    "ColorPreset",
    "Erasing",
    "Operation",
    "Preset",
    "RandomSource",
    "Range",
    "Warp",
    "Warps",
    "color_jitter",
    "color_presets",
    "draw_warps",
    "has_warp",
    "random_erasing",
]

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RandomSource:
    """Uniform random numbers of B clips for one purpose; see `vidseg.clips.draws.uniform`.

    Attributes:
        seed: seed of the run.
        epoch: number of the epoch, counted from 0.
        samples: int64 (B,) sample numbers.
        purpose: name of the use; different purposes give independent numbers.
    """

    seed: int
    epoch: int
    samples: npt.NDArray[np.int64]
    purpose: str

    def uniforms(self, count: int) -> Numbers:
        """Return float64 (B, count) in [0, 1); a longer row begins with the numbers of a shorter one."""
        return uniform(self.seed, self.epoch, self.samples, purpose=self.purpose, count=count)


@dataclass(frozen=True, slots=True)
class Range:
    """Uniform distribution between two bounds.

    Attributes:
        low: lower bound.
        high: upper bound; included for whole numbers, excluded for real numbers.
        whole: whole numbers only.
    """

    low: float
    high: float
    whole: bool = False

    @property
    def extremes(self) -> tuple[float, ...]:
        """Smallest and largest value."""
        return self.low, self.high

    def __call__(self, numbers: Numbers) -> Numbers:
        if self.whole:
            return np.floor(self.low + (self.high - self.low + 1.0) * numbers)
        return self.low + (self.high - self.low) * numbers


@dataclass(frozen=True, slots=True)
class Choice:
    """Uniform distribution over several values.

    Attributes:
        options: the values.
    """

    options: tuple[float, ...]

    @property
    def extremes(self) -> tuple[float, ...]:
        """All values."""
        return self.options

    def __call__(self, numbers: Numbers) -> Numbers:
        return np.asarray(self.options)[(numbers * len(self.options)).astype(np.int64)]


@dataclass(frozen=True, slots=True)
class Operation:
    """A color operation with the distributions of its parameters.

    Attributes:
        name: name of the operation; `vidseg.clips.operations.color_rules` lists them.
        parameters: distribution of each parameter; parameters at the end may be left out and are then 0.
        probability: probability of the operation for a clip that the preset changes.
        alike: all parameters get the value of the first one, so that the three channels change equally.
    """

    name: str
    parameters: tuple[Range | Choice, ...]
    probability: float = 1.0
    alike: bool = False

    @property
    def count(self) -> int:
        """Number of random numbers per clip."""
        return 1 if self.alike else len(self.parameters)

    def check(self) -> None:
        """Check the distributions against the ranges of the operation's parameters.

        Raises:
            ValueError: the operation is unknown, has fewer parameters, or a parameter can get a value that it may not
                have.
        """
        rule = color_rule(self.name)
        if len(self.parameters) > len(rule.parameters):
            raise ValueError(
                f"color operation {self.name} has {len(rule.parameters)} parameters, got {len(self.parameters)}"
            )
        for index, parameter in enumerate(rule.parameters):
            if index < len(self.parameters):
                _check_distribution(self.name, parameter, self.parameters[0 if self.alike else index])
            elif not parameter.allows(0.0):
                raise ValueError(
                    f"color operation {self.name}: {parameter.name} is missing, must be {parameter.description}"
                )

    def values(
        self, numbers: Numbers, source: RandomSource, height: int, width: int
    ) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Return parameters (B, P) from numbers (B, count), and whether the operation is possible (B,)."""
        if not self.parameters:
            return np.zeros((len(numbers), 0)), np.ones(len(numbers), bool)
        columns = [
            distribution(numbers[:, 0 if self.alike else index]) for index, distribution in enumerate(self.parameters)
        ]
        return np.stack(columns, axis=1), np.ones(len(numbers), bool)


def _check_distribution(operation: str, rule: ParameterRule, distribution: Range | Choice) -> None:
    for value in distribution.extremes:
        if not rule.allows(value):
            raise ValueError(f"color operation {operation}: {rule.name} can be {value:g}, must be {rule.description}")
    if isinstance(distribution, Range) and distribution.low < distribution.high:
        if rule.kind == "odd":
            raise ValueError(f"color operation {operation}: {rule.name} must be odd: use Choice instead of Range")
        if rule.kind == "whole" and not distribution.whole:
            raise ValueError(f"color operation {operation}: {rule.name} must be whole: use Range(..., whole=True)")


@dataclass(frozen=True, slots=True)
class Erasing:
    """Random erasing: one box of one color.

    Attributes:
        probability: probability of the box for a clip that the preset changes.
        area: smallest and largest share of the frame's area.
        aspect: smallest height / width; the largest is its reciprocal.
        fill: red, green and blue of the box.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: float = 0.3
    fill: tuple[int, int, int] = (124, 117, 104)
    name: str = field(default="random_erasing", init=False)
    # Four attempts find a box for nearly every clip; `values` makes all attempts for the other clips.
    count: int = field(default=2 + 2 * 4, init=False)

    def check(self) -> None:
        """Check the color of the box.

        Raises:
            ValueError: `fill` is not three whole numbers of 0 to 255.
        """
        color_rule(self.name).check((0, 0, 1, 1, *self.fill))

    def values(
        self, numbers: Numbers, source: RandomSource, height: int, width: int
    ) -> tuple[Numbers, npt.NDArray[np.bool_]]:
        """Return box and color (B, 7) from the first numbers (B, count), and whether a box fits (B,)."""
        shape = {"height": height, "width": width}
        boxes, found = erasing_boxes(numbers, area=self.area, aspect=self.aspect, **shape)
        again = np.flatnonzero(~found)
        if len(again):
            more = dataclasses.replace(source, samples=source.samples[again]).uniforms(3 + 2 * ATTEMPTS)
            boxes[again], found[again] = erasing_boxes(more[:, 1:], area=self.area, aspect=self.aspect, **shape)
        return np.concatenate([boxes, np.tile(np.asarray(self.fill, np.float64), (len(boxes), 1))], axis=1), found


@dataclass(frozen=True, slots=True)
class Warp:
    """Either perspective or rotation, with equal probability.

    Attributes:
        probability: probability of a warp for a clip that the preset changes.
        perspective: range of the standard deviation of the corners' displacement, as a fraction of the frame's sides.
        degrees: range of the rotation in degrees.
    """

    probability: float
    perspective: tuple[float, float] = (0.02, 0.05)
    degrees: tuple[float, float] = (-10.0, 10.0)


@dataclass(frozen=True, slots=True)
class ColorPreset:
    """Color operations that are sampled for each clip.

    Attributes:
        operations: operations in the order in which they are applied.
        probability: probability that the preset changes a clip.
        warp: perspective and rotation, sampled for the clips that the preset changes.
        shuffled: apply the operations in random order.
    """

    operations: tuple[Operation | Erasing, ...]
    probability: float = 1.0
    warp: Warp | None = None
    shuffled: bool = False


Preset = ColorPreset | RandAugment
"""Augmentation of a clip: color operations with a warp, or RandAugment."""


@dataclass(frozen=True, eq=False)
class Warps:
    """Perspective and rotation of B clips.

    Attributes:
        kinds: int64 (B,), 0 for none, 1 for perspective, 2 for rotation.
        corners: float64 (B, 4, 2), distances of the corners of the sampled region from those of the frame, inwards, as
            fractions of its width (x) and height (y); top left, top right, bottom right, bottom left. 0 unless the
            kind is perspective.
        degrees: float64 (B,), angle as in imgaug's `Affine(rotate=...)`. 0 unless the kind is rotation.
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
    """Return a preset of color jitter in random order, as torchvision's `ColorJitter`.

    Args:
        brightness: the factor is uniform in [max(0, 1 - brightness), 1 + brightness]; 0 leaves the operation out.
        contrast: like brightness.
        saturation: like brightness.
        hue: the shift is uniform in [-hue, hue], as a fraction of the hue's circle; 0 leaves the operation out.

    Raises:
        ValueError: a strength is negative or exceeds the operation's range.
    """
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
    operations = []
    for name, strength in strengths.items():
        neutral = 0.0 if name == "hue" else 1.0
        (rule,) = color_rule(name).parameters
        most = rule.high - neutral
        if not 0.0 <= strength <= most:
            raise ValueError(f"{name} is {strength}, must be 0 to {most:g}")
        if strength:
            operations.append(Operation(name, (Range(max(rule.low, neutral - strength), neutral + strength),)))
    return ColorPreset(tuple(operations), shuffled=True)


def random_erasing(
    probability: float = 0.5,
    area_low: float = 0.02,
    area_high: float = 0.4,
    aspect_low: float = 0.3,
    *,
    fill: tuple[int, int, int] = (124, 117, 104),
) -> ColorPreset:
    """Return a preset of random erasing (Zhong et al.), with one box for all frames of a clip.

    Args:
        probability: probability of a box, 0 to 1.
        area_low: smallest share of the frame's area, above 0.
        area_high: largest share of the frame's area, at most 1.
        aspect_low: smallest height / width, above 0 and at most 1; the largest is its reciprocal.
        fill: red, green and blue of the box, whole numbers of 0 to 255; default is the published mean.

    Raises:
        ValueError: a parameter is out of its range.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability is {probability}, must be 0 to 1")
    if not 0.0 < area_low <= area_high <= 1.0:
        raise ValueError(f"area_low {area_low} and area_high {area_high}: must rise, above 0 and at most 1")
    if not 0.0 < aspect_low <= 1.0:
        raise ValueError(f"aspect_low is {aspect_low}, must be above 0 and at most 1")
    if len(fill) != 3:
        raise ValueError(f"fill is {fill}, must be three whole numbers: red, green, blue")
    erasing = Erasing(probability, (area_low, area_high), aspect_low, fill)
    erasing.check()
    return ColorPreset((erasing,))


def color_presets(preset: str | Preset | Sequence[Preset] | None) -> tuple[Preset, ...]:
    """Return the presets of an `augment=` argument.

    Args:
        preset: name of a preset, a preset, several presets, or None for no preset.

    Raises:
        ValueError: the preset is unknown, or an operation of it is unknown or samples a value out of its range.
    """
    if preset is None:
        return ()
    if isinstance(preset, str):
        named: dict[str, Preset] = {**PRESETS, **RAND_PRESETS}
        if preset not in named:
            raise ValueError(f"preset {preset!r} is unknown: choose from {', '.join(named)}")
        return (named[preset],)
    presets = (preset,) if isinstance(preset, (ColorPreset, RandAugment)) else tuple(preset)
    for one in presets:
        for operation in one.operations if isinstance(one, ColorPreset) else ():
            operation.check()
    return presets


def has_warp(preset: Preset) -> bool:
    """Return whether a preset has geometric operations."""
    return isinstance(preset, RandAugment) or preset.warp is not None


def draw_warps(
    preset: str | Preset | Sequence[Preset] | None, seed: int, epoch: int, samples: npt.ArrayLike
) -> Warps | AffineWarps:
    """Sample perspective or rotation of each clip of a batch.

    The corners move as in imgaug 0.4.0's `PerspectiveTransform`: each coordinate by the absolute value of a normally
    distributed number, whose standard deviation is sampled per clip.

    Args:
        preset: as for `vidseg.clips.color.draw_colors`; at most one preset may have a warp.
        seed: seed of the run.
        epoch: number of the epoch, counted from 0.
        samples: (B,) sample numbers.

    Raises:
        ValueError: more than one preset has a warp.
    """
    numbers = np.atleast_1d(np.asarray(samples, np.int64))
    clips = len(numbers)
    warps = Warps(np.zeros(clips, np.int64), np.zeros((clips, 4, 2)), np.zeros(clips))
    presets = list(enumerate(color_presets(preset)))
    having = [(group, one) for group, one in presets if has_warp(one)]
    if len(having) > 1:
        raise ValueError(f"{len(having)} presets have a warp; a clip can have one")
    for group, one in having:
        if isinstance(one, RandAugment):
            return one.warps(group, seed, epoch, numbers)
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
