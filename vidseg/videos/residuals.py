"""Motion compensation of frames, and what remains of a frame after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidseg.frames.native import operators
from vidseg.videos.block_motion import Field
from vidseg.videos.upright import UprightFrames

__all__ = ["Picture", "Residual", "compensated", "displayed_picture", "residual_of"]

Picture = npt.NDArray[np.uint8]
"""RGB frame, (H, W, 3)."""
Residual = npt.NDArray[np.int16]
"""Difference of two RGB frames, -255 to 255, (H, W, 3)."""


def compensated(reference: Picture, field: Field) -> Picture:
    """Return the reference frame moved by a motion field: bilinear, borders repeated, values rounded.

    Args:
        reference: uint8 (H, W, 3).
        field: float32 (2, H, W), displacement (x, y) of each pixel to its place in the reference, in pixels.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the sizes differ.
    """
    moved: Picture = operators.compensate_motion(
        torch.from_numpy(np.ascontiguousarray(reference)), torch.from_numpy(np.ascontiguousarray(field))
    ).numpy()
    return moved


def residual_of(picture: Picture, reference: Picture, field: Field) -> Residual:
    """Return a frame minus the motion-compensated reference, so that `compensated(reference, field) + residual` is the
    frame.

    Args:
        picture: the frame, uint8 (H, W, 3).
        reference: uint8 (H, W, 3).
        field: float32 (2, H, W), see `compensated`.

    Returns:
        int16 (H, W, 3).

    Raises:
        ValueError: the sizes differ.
    """
    return np.subtract(picture, compensated(reference, field), dtype=np.int16)


def displayed_picture(upright: UprightFrames, frame: Any) -> Picture:
    """Return an `av.VideoFrame` as RGB, upright and in the size of `upright`; the pixels that a conversion encodes."""
    _, (width, height) = upright.measure(frame)
    picture: Picture = upright.sample(frame, torch.eye(3, dtype=torch.float64), height, width).numpy()
    return picture
