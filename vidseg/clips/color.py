"""Sampling of color operations: which operations of a preset each clip of a batch gets, with which parameters.

All frames of a clip share the operations and their parameters, including noise. docs/augmentation.md describes the
operations; `csrc/frames/color_operations.cpp` implements them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vidseg.clips.augmentations import ColorPreset, RandomSource, color_presets
from vidseg.clips.draws import uniform
from vidseg.clips.operations import color_code, max_parameters
from vidseg.clips.plan import ColorPlan

__all__ = ["draw_colors"]


def draw_colors(
    preset: str | ColorPreset | Sequence[ColorPreset] | None,
    seed: int,
    epoch: int,
    samples: npt.ArrayLike,
    *,
    height: int,
    width: int,
) -> ColorPlan:
    """Sample the color operations of each clip of a batch.

    Args:
        preset: name of a preset, a preset, several presets that are applied one after another, or None for no
            operation.
        seed: seed of the run.
        epoch: number of the epoch, counted from 0.
        samples: (B,) sample numbers.
        height: height of the output frames in pixels.
        width: width of the output frames in pixels.

    Returns:
        Operations of B clips. Those of clip b are a function of seed, epoch, samples[b], preset and frame size.

    Raises:
        ValueError: the preset is unknown, or an operation of it is unknown or samples a value out of its range.
    """
    numbers = np.atleast_1d(np.asarray(samples, np.int64))
    clips = len(numbers)
    presets = color_presets(preset)
    operations = [operation for one in presets for operation in one.operations]
    if not operations or not clips:
        return ColorPlan.none(clips)
    drawn = np.zeros((clips, len(operations)), bool)
    places = np.zeros((clips, len(operations)))
    parameters = np.zeros((clips, len(operations), max_parameters()))
    column = 0
    for group, one in enumerate(presets):
        touched = uniform(seed, epoch, numbers, purpose=f"color {group}")[:, 0] < one.probability
        for position, operation in enumerate(one.operations):
            purpose = f"color {group} {position} {operation.name}"
            source = RandomSource(seed, epoch, numbers, purpose)
            first = source.uniforms(1 + operation.count)
            values, possible = operation.values(first[:, 1:], source, height, width)
            drawn[:, column] = touched & (first[:, 0] < operation.probability) & possible
            parameters[:, column, : values.shape[1]] = values
            places[:, column] = group + position / len(one.operations)
            column += 1
        if one.shuffled:
            count = len(one.operations)
            shuffle = uniform(seed, epoch, numbers, purpose=f"color order {group}", count=count)
            places[:, column - count : column] = group + shuffle
    order = np.argsort(places, axis=1, kind="stable")
    rows = np.arange(clips)[:, None]
    drawn = drawn[rows, order]
    codes = np.array([color_code(operation.name) for operation in operations], np.int64)[order]
    offsets = np.concatenate([[0], np.cumsum(drawn.sum(axis=1))]).astype(np.int64)
    return ColorPlan(offsets, codes[drawn], parameters[rows, order][drawn])
