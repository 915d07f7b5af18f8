"""Color operations of plans as steps of a DALI pipeline.

A batch is processed in slots. Slot s has the s-th operation of every clip, and DALI sends each frame through the branch
of its kind. Operations with the same arithmetic share a kind; this module computes the parameters of the kind. The
results differ from those of `csrc/frames/color_operations.cpp` by rounding, up to two gray levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.clips import ColorPlan
from vidseg.clips.operations import color_rules

__all__ = ["COUNT", "Steps", "apply_step", "color_steps"]

NONE, LINEAR, POWER, MIX, CONTRAST, FILTER, ERASE = range(7)
COUNT = 8
"""Number of parameters of a step."""

_UNIT = np.ones((1, 1), np.float32)  # the kernel of steps that do not filter

Numbers = npt.NDArray[np.float64]
Step = tuple[int, Numbers, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Steps:
    """The steps of B clips in S slots.

    Attributes:
        kinds: int32 (B, S), one of `NONE` to `ERASE`.
        numbers: float32 (B, S, 8), parameters.
        kernels: B lists of S float32 arrays (height, width), filter kernels.
    """

    kinds: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.float32]
    kernels: list[list[npt.NDArray[np.float32]]]

    @property
    def slots(self) -> int:
        """S, number of slots."""
        return self.kinds.shape[1]

    def inputs(self, clips: npt.NDArray[np.int64], frames: int) -> tuple[Any, ...]:
        """Kinds, numbers and kernels of each slot, with one row for each of the `frames` frames of some clips."""
        rows = np.repeat(clips, frames)
        result: list[Any] = []
        for slot in range(self.slots):
            kernels = [self.kernels[clip][slot] for clip in rows.tolist()]
            result += [self.kinds[rows, slot], self.numbers[rows, slot], kernels]
        return tuple(result)


def color_steps(colors: ColorPlan) -> Steps:
    """Convert the operations of B clips to steps, with an even number of slots to limit the number of pipelines.

    Raises:
        NotImplementedError: DALI does not have an operation; the message names it.
        ValueError: a parameter is out of its range.
    """
    rules, counts = color_rules(), np.diff(colors.offsets)
    slots = int(-(-counts.max(initial=0) // 2) * 2)
    kinds = np.full((len(counts), slots), NONE, np.int32)
    numbers = np.zeros((len(counts), slots, COUNT), np.float32)
    kernels = [[_UNIT] * slots for _ in counts]
    for clip, count in enumerate(counts.tolist()):
        for slot in range(count):
            row = int(colors.offsets[clip]) + slot
            rule = rules[int(colors.codes[row])]
            name, parameters = rule.name, colors.parameters[row, : len(rule.parameters)]
            if name not in _STEPS:
                raise NotImplementedError(
                    f'DALI has no operation for {name!r} (it has {", ".join(_STEPS)}): use backend="native"'
                )
            rule.check(parameters.tolist())
            kind, values, kernel = _STEPS[name](parameters)
            kinds[clip, slot], kernels[clip][slot] = kind, kernel
            numbers[clip, slot, : len(values)] = values
    return Steps(kinds, numbers, kernels)


def _linear(factor: npt.ArrayLike, offset: npt.ArrayLike) -> Step:
    """value * factor + offset, for red, green and blue."""
    both = [np.broadcast_to(np.asarray(values, np.float64), 3) for values in (factor, offset)]
    return LINEAR, np.concatenate(both), _UNIT


def _filter(kernel: npt.NDArray[np.float64]) -> Step:
    return FILTER, np.zeros(0), (kernel / kernel.sum()).astype(np.float32)


def _gaussian(parameters: Numbers) -> Step:
    """imgaug's window for a sigma."""
    (sigma,) = parameters
    if sigma <= 1e-3:
        return NONE, np.zeros(0), _UNIT
    reach = 3.3 if sigma < 3 else 2.9 if sigma < 5 else 2.6
    radius = max(int(reach * sigma), 5) // 2
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return _filter(np.outer(weights, weights))


_STEPS: dict[str, Callable[[Numbers], Step]] = {
    "add": lambda p: _linear(1, np.rint(p)),
    "multiply": lambda p: _linear(p, 0),
    "brightness": lambda p: _linear(p, 0),
    "linear_contrast": lambda p: _linear(p, 127 * (1 - p)),
    "gamma": lambda p: (POWER, p, _UNIT),
    "enhance_color": lambda p: (MIX, p, _UNIT),
    "saturation": lambda p: (MIX, p, _UNIT),
    "grayscale": lambda p: (MIX, np.zeros(1), _UNIT),
    "contrast": lambda p: (CONTRAST, p, _UNIT),
    "gaussian_blur": _gaussian,
    "average_blur": lambda p: _filter(np.ones((int(p[0]), int(p[0])))),
    "random_erasing": lambda p: (ERASE, p, _UNIT),
}


def apply_step(fn: Any, types: Any, frames: Any, kind: Any, numbers: Any, kernel: Any, *, cuda: bool) -> Any:
    """One slot of a pipeline that is built with conditionals.

    Args:
        fn: DALI's operators.
        types: DALI's types.
        frames: uint8 (H, W, 3) in RGB, on the GPU where `cuda`.
        kind: a number on the CPU for each frame.
        numbers: (8,) on the CPU for each frame.
        kernel: (height, width) on the CPU for each frame.
        cuda: whether the frames are on a GPU.
    """
    values, weights = (numbers.gpu(), kernel.gpu()) if cuda else (numbers, kernel)
    if kind == LINEAR:
        frames = _cut(fn, types, frames * values[0:3] + values[3:6])
    elif kind == POWER:
        frames = _cut(fn, types, _power(frames / 255.0, values[0:3]) * 255.0)
    elif kind == MIX:
        gray = fn.color_space_conversion(frames, image_type=types.RGB, output_type=types.GRAY)
        frames = _cut(fn, types, frames * values[0:1] + gray * (1.0 - values[0:1]))
    elif kind == CONTRAST:
        gray = fn.color_space_conversion(frames, image_type=types.RGB, output_type=types.GRAY)
        frames = _cut(fn, types, frames * values[0:1] + fn.reductions.mean(gray) * (1.0 - values[0:1]))
    elif kind == FILTER:
        frames = fn.filter(frames, weights, border="reflect_101")
    elif kind == ERASE:
        frames = fn.erase(frames, anchor=numbers[0:2], shape=numbers[2:4], fill_value=numbers[4:7], axis_names="HW")
    return frames


def _power(base: Any, exponent: Any) -> Any:
    from nvidia.dali import math

    return math.pow(base, exponent)


def _cut(fn: Any, types: Any, values: Any) -> Any:
    """To uint8, without rounding."""
    from nvidia.dali import math

    return fn.cast(math.floor(math.clamp(values, 0.0, 255.0)), dtype=types.UINT8)
