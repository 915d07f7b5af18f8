"""Dense motion fields made of the motion vectors of blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vidseg.frames.native import operators
from vidseg.videos.coded_order import CodedFrame
from vidseg.videos.orientation import Orientation

__all__ = ["BlockMotion", "Field", "chain_motion"]

Field = npt.NDArray[np.float32]
"""Displacement (x, y) of each pixel in pixels, (2, H, W)."""


@dataclass(frozen=True, eq=False)
class BlockMotion:
    """Blocks of one frame with their motion vectors, and how the frame is displayed.

    A pixel belongs to the block that its center lies in before scaling. Where blocks have a vector to the past and one
    to the future, the first one counts.

    Attributes:
        coded: frame with vectors.
        orientation: how stored pixels become the displayed picture.
        size: (width, height) of the displayed picture in pixels; vectors are scaled, too.
    """

    coded: CodedFrame
    orientation: Orientation
    size: tuple[int, int]

    def field(self, *, past: float | None, future: float | None) -> Field:
        """Return a dense field; zero where there is no block.

        Args:
            past: factor of vectors to the past, not 0; None: leaves their blocks out.
            future: factor of vectors to the future, likewise.
        """
        return self._field(self.coded.vectors, past or 0.0, future or 0.0)

    def only_future(self) -> npt.NDArray[np.bool_]:
        """Return bool (H, W): the block of a pixel has a vector to the future and none to the past."""
        marks = self.coded.vectors.copy()
        marks["motion_x"] = np.where(marks["source"] > 0, marks["motion_scale"], 0)
        marks["motion_y"] = 0
        found: npt.NDArray[np.bool_] = (self._field(marks, 1.0, 1.0) != 0).any(axis=0)
        return found

    def _field(self, vectors: npt.NDArray[np.void], past: float, future: float) -> Field:
        width, height = self.size
        if not len(vectors):
            return np.zeros((2, height, width), np.float32)
        dense: Field = operators.motion_field(
            torch.from_numpy(vectors.view(np.uint8)),
            *self.coded.margins,
            self.coded.frame.width,
            self.coded.frame.height,
            self.orientation.transposed,
            self.orientation.mirrored,
            self.orientation.flipped,
            width,
            height,
            past,
            future,
        ).numpy()
        return dense


def chain_motion(field: Field, earlier: Field) -> Field:
    """Return the motion over two steps.

    Args:
        field: (2, H, W), from a frame to an earlier one.
        earlier: (2, H, W), from that frame to a still earlier one. It is read at the nearest pixel inside the frame.

    Raises:
        ValueError: the shapes differ.
    """
    chained: Field = operators.chain_motion(torch.from_numpy(field), torch.from_numpy(earlier)).numpy()
    return chained
