"""The table of color operations: names, parameters and ranges, read from the compiled library.

`csrc/frames/color_operations.cpp` has one entry for each operation. The library is loaded at the first use of the
table, so importing this module does not import torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["ColorRule", "ParameterRule", "color_code", "color_rule", "color_rules", "max_parameters"]


@dataclass(frozen=True, slots=True)
class ParameterRule:
    """Values that a parameter may have.

    Attributes:
        name: name of the parameter.
        low: smallest value.
        high: largest value.
        kind: "real", "whole" (whole numbers) or "odd" (odd whole numbers).
        axis: "height" or "width" for a position or length in pixels along that side of the frame. The sum of an
            operation's parameters of one axis must not exceed the side. None for other parameters.
    """

    name: str
    low: float
    high: float
    kind: Literal["real", "whole", "odd"]
    axis: Literal["height", "width"] | None

    @property
    def description(self) -> str:
        """The rule in words, such as "a whole number of 1 to 31"."""
        kinds = {"real": "", "whole": "a whole number of ", "odd": "an odd number of "}
        return f"{kinds[self.kind]}{self.low:g} to {self.high:g}"

    def allows(self, value: float) -> bool:
        """Return whether `value` is in the range and of the kind; False for NaN."""
        if not self.low <= value <= self.high:
            return False
        return self.kind == "real" or (value == int(value) and (self.kind == "whole" or int(value) % 2 == 1))


@dataclass(frozen=True, slots=True)
class ColorRule:
    """Name and parameters of a color operation.

    Attributes:
        name: name of the operation.
        reads: what an output pixel depends on: "pixel" (the same pixel), "neighbors", or "frame" (all pixels, or the
            position in the frame).
        parameters: rule of each parameter.
    """

    name: str
    reads: Literal["pixel", "neighbors", "frame"]
    parameters: tuple[ParameterRule, ...]

    def check(self, values: Sequence[float], *, height: int | None = None, width: int | None = None) -> None:
        """Check the parameters of one operation, as the compiled library does.

        Args:
            values: one value for each parameter.
            height: height of the frames in pixels; None skips the check of positions and lengths along it.
            width: width of the frames in pixels; None skips the check of positions and lengths along it.

        Raises:
            ValueError: the number of parameters is wrong or a value breaks a rule.
        """
        if len(values) != len(self.parameters):
            raise ValueError(f"color operation {self.name} has {len(self.parameters)} parameters, got {len(values)}")
        for rule, value in zip(self.parameters, values, strict=True):
            if not rule.allows(value):
                raise ValueError(f"color operation {self.name}: {rule.name} is {value:g}, must be {rule.description}")
        for axis, side in (("height", height), ("width", width)):
            along = [
                (rule.name, value) for rule, value in zip(self.parameters, values, strict=True) if rule.axis == axis
            ]
            total = sum(value for _, value in along)
            if side is not None and total > side:
                terms = " + ".join(f"{name} {value:g}" for name, value in along)
                raise ValueError(
                    f"color operation {self.name}: {terms} is {total:g}, must be at most the frame's {axis}, {side}"
                )


@functools.cache
def _table() -> tuple[int, tuple[ColorRule, ...]]:
    from vidseg.frames.native import operators

    table = json.loads(operators.color_operations())
    rules = tuple(
        ColorRule(entry["name"], entry["reads"], tuple(ParameterRule(**rule) for rule in entry["parameters"]))
        for entry in table["operations"]
    )
    return table["max_parameters"], rules


@functools.cache
def _codes() -> dict[str, int]:
    return {rule.name: code for code, rule in enumerate(color_rules())}


def color_rules() -> tuple[ColorRule, ...]:
    """Return the rules of all operations; the position of a rule is the operation's code in a plan."""
    return _table()[1]


def max_parameters() -> int:
    """Return the number of columns of `ColorPlan.parameters`, the largest number of parameters of an operation."""
    return _table()[0]


def color_code(name: str) -> int:
    """Return the code of an operation.

    Raises:
        ValueError: there is no operation of this name.
    """
    codes = _codes()
    if name not in codes:
        raise ValueError(f"color operation {name!r} is unknown: choose from {', '.join(codes)}")
    return codes[name]


def color_rule(name: str) -> ColorRule:
    """Return the rule of an operation.

    Raises:
        ValueError: there is no operation of this name.
    """
    return color_rules()[color_code(name)]
