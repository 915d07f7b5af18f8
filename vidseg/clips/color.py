"""Color and noise of clips: the operations by name, and what a preset draws for each clip of a batch.

The pixels are changed by `csrc/frames/color.cpp`, which has the same operations in the same order; what each of them
computes, and with which published function it agrees, stands in docs/augmentation.md. All frames of a clip share the
operations and their parameters, noise included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vidseg.clips.augmentations import ColorPreset, Draw, color_presets
from vidseg.clips.draws import uniform
from vidseg.clips.plan import MAX_PARAMETERS, ColorPlan, color_code

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
    """The operations of each clip of a batch.

    Args:
        preset: name of a preset, a preset, several that follow each other, or None for no operation.
        seed: of the run.
        epoch: from 0.
        samples: (B,) sample numbers.
        height: of the frames that are changed, pixels.
        width: of the frames that are changed, pixels.

    Returns:
        Operations of B clips; those of clip b depend on (seed, epoch, samples[b]), the preset and the size alone.
    """
    numbers = np.atleast_1d(np.asarray(samples, np.int64))
    clips = len(numbers)
    presets = color_presets(preset)
    operations = [operation for one in presets for operation in one.operations]
    if not operations or not clips:
        return ColorPlan.none(clips)
    drawn = np.zeros((clips, len(operations)), bool)
    places = np.zeros((clips, len(operations)))
    parameters = np.zeros((clips, len(operations), MAX_PARAMETERS))
    column = 0
    for group, one in enumerate(presets):
        touched = uniform(seed, epoch, numbers, purpose=f"color {group}")[:, 0] < one.probability
        for position, operation in enumerate(one.operations):
            purpose = f"color {group} {position} {operation.name}"
            source = Draw(seed, epoch, numbers, purpose)
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
