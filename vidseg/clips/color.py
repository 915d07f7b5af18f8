"""Sampling of color operations: which operations of a preset each clip of a batch gets, with which parameters.

All frames of a clip share the operations and their parameters, including noise. docs/augmentation.md describes the
operations; `csrc/frames/color_operations.cpp` implements them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vidseg.clips.augmentations import ColorPreset, Preset, RandomSource, color_presets
from vidseg.clips.draws import uniform
from vidseg.clips.operations import color_code, max_parameters
from vidseg.clips.plan import ColorPlan
from vidseg.clips.rand_augment import RandAugment

__all__ = ["draw_colors"]


def draw_colors(
    preset: str | Preset | Sequence[Preset] | None,
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
    if not presets or not clips:
        return ColorPlan.none(clips)
    columns: list[tuple[npt.NDArray[Any], ...]] = []
    for group, one in enumerate(presets):
        if isinstance(one, RandAugment):
            drawn, codes, parameters = one.colors(group, seed, epoch, numbers)
            slots = drawn.shape[1]
            columns.append((drawn, np.tile(group + np.arange(slots) / slots, (clips, 1)), codes, parameters))
        elif one.operations:
            columns.append(_draw_preset(one, group, seed, epoch, numbers, height=height, width=width))
    if not columns:
        return ColorPlan.none(clips)
    drawn, places, codes, parameters = (np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True))
    order = np.argsort(places, axis=1, kind="stable")
    rows = np.arange(clips)[:, None]
    drawn = drawn[rows, order]
    offsets = np.concatenate([[0], np.cumsum(drawn.sum(axis=1))]).astype(np.int64)
    return ColorPlan(offsets, codes[rows, order][drawn], parameters[rows, order][drawn])


def _draw_preset(
    preset: ColorPreset, group: int, seed: int, epoch: int, samples: npt.NDArray[np.int64], *, height: int, width: int
) -> tuple[npt.NDArray[Any], ...]:
    """Which operations B clips get (B, M), their places in the order, codes (B, M) and parameters (B, M, P)."""
    clips, count = len(samples), len(preset.operations)
    drawn = np.zeros((clips, count), bool)
    parameters = np.zeros((clips, count, max_parameters()))
    touched = uniform(seed, epoch, samples, purpose=f"color {group}")[:, 0] < preset.probability
    for column, operation in enumerate(preset.operations):
        source = RandomSource(seed, epoch, samples, f"color {group} {column} {operation.name}")
        first = source.uniforms(1 + operation.count)
        values, possible = operation.values(first[:, 1:], source, height, width)
        drawn[:, column] = touched & (first[:, 0] < operation.probability) & possible
        parameters[:, column, : values.shape[1]] = values
    places = np.tile(group + np.arange(count) / count, (clips, 1))
    if preset.shuffled:
        places = group + uniform(seed, epoch, samples, purpose=f"color order {group}", count=count)
    codes = np.array([color_code(operation.name) for operation in preset.operations], np.int64)
    return drawn, places, np.tile(codes, (clips, 1)), parameters
