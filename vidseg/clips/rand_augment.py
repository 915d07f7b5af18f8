"""RandAugment of clips (Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
CVPR Workshops 2020): a few operations of a list of 14, all of one magnitude, drawn once for all frames of a clip.

Operations on colors are those of the compiled table. Shear, translation and rotation become part of the clip's matrix,
so that frames are resampled once; areas outside the frame are black. Colors change after the geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import uniform
from vidseg.clips.operations import color_code, max_parameters

__all__ = ["COLORS", "GEOMETRY", "RAND_PRESETS", "AffineWarps", "RandAugment"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
"""Operations of the matrix. At magnitude 10: shear by 0.3, translation by 0.45 of the side, rotation by 30 degrees."""
COLORS = ("brightness", "enhance_color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize")
"""Operations of the compiled table. At magnitude 10: factors 0.1 or 1.9, 4 bits, threshold 0. The 14th operation of the
list leaves the clip as it is."""
_LARGEST = {"shear_x": 0.3, "shear_y": 0.3, "translate_x": 0.45, "translate_y": 0.45, "rotate": 30.0}
_COUNT = len(GEOMETRY) + len(COLORS) + 1
_FACTORS = ("brightness", "enhance_color", "contrast", "sharpness")
MOST_MAGNITUDE = 10.0
MOST_OPERATIONS = 8


@dataclass(frozen=True, eq=False)
class AffineWarps:
    """Shears, translations and rotations of B clips, each in S slots.

    Attributes:
        kinds: int64 (B, S), positions in `GEOMETRY`; -1 for none.
        amounts: float64 (B, S), shear, fraction of the side, or degrees.
    """

    kinds: Integers
    amounts: Reals

    def matrices(self, heights: Integers, widths: Integers) -> Reals:
        """Return the matrices (B, 3, 3) from output to source, for frames of the given sizes, int64 (B,)."""
        found = np.tile(np.eye(3), (len(self.kinds), 1, 1))
        center = np.tile(np.eye(3), (len(self.kinds), 1, 1))
        center[:, 0, 2], center[:, 1, 2] = widths / 2, heights / 2
        for slot in range(self.kinds.shape[1]):
            step = np.tile(np.eye(3), (len(self.kinds), 1, 1))
            kinds, amounts = self.kinds[:, slot], self.amounts[:, slot]
            radians = np.deg2rad(np.where(kinds == 4, amounts, 0.0))
            step[:, 0, 0] = step[:, 1, 1] = np.cos(radians)
            step[:, 0, 1] = np.where(kinds == 0, amounts, np.sin(radians))
            step[:, 1, 0] = np.where(kinds == 1, amounts, -np.sin(radians))
            step[:, 0, 2] = np.where(kinds == 2, amounts * widths, 0.0)
            step[:, 1, 2] = np.where(kinds == 3, amounts * heights, 0.0)
            found = found @ step
        away = center.copy()
        away[:, :2, 2] *= -1
        return center @ found @ away


@dataclass(frozen=True, slots=True)
class RandAugment:
    """A preset of `augment=` that draws operations from `GEOMETRY`, `COLORS` and the identity, each equally likely.

    Attributes:
        operations: operations of a clip, 1 to 8; an operation may be drawn twice.
        magnitude: strength of all operations, 0 to 10.
        deviation: standard deviation of a clip's magnitude around `magnitude`, cut to 0 to 10 (timm's `mstd`).
    """

    operations: int = 2
    magnitude: float = 9.0
    deviation: float = 0.0

    def __post_init__(self) -> None:
        limits = {"operations": (1, MOST_OPERATIONS), "magnitude": (0, MOST_MAGNITUDE), "deviation": (0, 10)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most or (name == "operations" and value != int(value)):
                whole = "a whole number of " if name == "operations" else ""
                raise ValueError(f"RandAugment: {name} is {value:g}, must be {whole}{least} to {most:g}")

    def _draw(self, group: int, seed: int, epoch: int, samples: Integers) -> tuple[Integers, Reals, Reals]:
        """The operation, the magnitude in 0..1 and the sign of each slot of each clip, (B, S) each."""
        slots = int(self.operations)
        draws = uniform(seed, epoch, samples, purpose=f"rand augment {group}", count=4 * slots)
        draws = draws.reshape(-1, slots, 4)
        normal = np.sqrt(-2.0 * np.log1p(-draws[..., 1])) * np.cos(2.0 * np.pi * draws[..., 2])
        strength = np.clip(self.magnitude + self.deviation * normal, 0.0, MOST_MAGNITUDE) / MOST_MAGNITUDE
        return (draws[..., 0] * _COUNT).astype(np.int64), strength, np.where(draws[..., 3] < 0.5, -1.0, 1.0)

    def colors(
        self, group: int, seed: int, epoch: int, samples: Integers
    ) -> tuple[npt.NDArray[np.bool_], Integers, Reals]:
        """Draw the color operations of B clips in S slots.

        Args:
            group: position of the preset among those of the loader.
            seed: seed of the run.
            epoch: from 0.
            samples: int64 (B,) sample numbers.

        Returns:
            Whether a slot has a color operation (B, S), its code (B, S) and its parameters (B, S, P).
        """
        chosen, strength, sign = self._draw(group, seed, epoch, samples)
        codes = np.zeros(chosen.shape, np.int64)
        parameters = np.zeros((*chosen.shape, max_parameters()))
        for number, name in enumerate(COLORS, start=len(GEOMETRY)):
            here = chosen == number
            codes[here] = color_code(name)
            if name in _FACTORS:
                parameters[here, 0] = (1.0 + 0.9 * sign * strength)[here]
            elif name == "posterize":
                parameters[here, 0] = np.rint(8.0 - 4.0 * strength[here])
            elif name == "solarize":
                parameters[here, 0] = 256.0 * (1.0 - strength[here])
        return (chosen >= len(GEOMETRY)) & (chosen < _COUNT - 1), codes, parameters

    def warps(self, group: int, seed: int, epoch: int, samples: Integers) -> AffineWarps:
        """Draw shears, translations and rotations of B clips; see `colors`."""
        chosen, strength, sign = self._draw(group, seed, epoch, samples)
        kinds = np.where(chosen < len(GEOMETRY), chosen, -1)
        largest = np.array([*(_LARGEST[name] for name in GEOMETRY), 0.0])
        return AffineWarps(kinds, largest[kinds] * strength * sign)


RAND_PRESETS = {"rand_augment": RandAugment(2, 9.0), "rand_augment_videomae": RandAugment(4, 7.0, 0.5)}
"""By name: the paper's setting for ImageNet on a scale of 10, and that of VideoMAE's fine-tuning
(`rand-m7-n4-mstd0.5`)."""
