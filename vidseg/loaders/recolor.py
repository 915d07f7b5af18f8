"""Color operations on decoded frames, as the native backend applies them while it fills a batch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from vidseg.clips import ColorOperation
from vidseg.clips.operations import color_code, color_rules, max_parameters
from vidseg.frames.native import operators

__all__ = ["apply_colors"]


def apply_colors(frames: npt.NDArray[np.uint8], operations: Sequence[ColorOperation]) -> npt.NDArray[np.uint8]:
    """Apply color operations, in order, to each frame of a clip.

    Args:
        frames: uint8 (T, H, W, 3), RGB; not modified.
        operations: the `colors` of a `ClipPlan`, or any other list.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        ValueError: an unknown operation, a wrong number of parameters, or a parameter out of range.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, must be uint8 (T, H, W, 3)")
    codes = [color_code(operation.name) for operation in operations]
    parameters = np.zeros((len(codes), max_parameters()))
    for row, code, operation in zip(parameters, codes, operations, strict=True):
        color_rules()[code].check(operation.parameters, height=frames.shape[1], width=frames.shape[2])
        row[: len(operation.parameters)] = operation.parameters
    out = operators.apply_colors(
        torch.from_numpy(np.array(frames, order="C")),  # a copy, because torch requires writable memory
        torch.tensor(codes, dtype=torch.int64),
        torch.from_numpy(parameters),
    )
    return np.asarray(out.numpy())
