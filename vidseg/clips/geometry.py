"""Geometry of clips: one matrix for each clip, from a point of the output to a point of the stored frame.

Vectorised over the B clips of a batch; frames may differ in size from clip to clip. Coordinates are continuous: pixel i
covers [i, i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["WarpDraws"]


@dataclass(frozen=True, eq=False)
class WarpDraws:
    """Perspective or rotation of B clips, drawn by a preset and independent of the frame's size.

    Attributes:
        kind: int64 (B,): 0 none, 1 perspective, 2 rotation.
        numbers: float64 (B, 8), unused ones 0. Perspective: how far each corner moves into the frame, as a fraction of
            the frame's width (x) and height (y), in [0, 0.5), in the order top left x, y, top right, bottom right,
            bottom left (imgaug's |jitter|). Rotation: degrees in the first column, clockwise as seen when positive
            (imgaug's sign).
    """

    NONE = 0
    PERSPECTIVE = 1
    ROTATION = 2

    kind: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.float64]

    @classmethod
    def none(cls, clips: int) -> WarpDraws:
        """No warp for any of `clips` clips."""
        return cls(np.zeros(clips, np.int64), np.zeros((clips, 8)))

    def __post_init__(self) -> None:
        if self.numbers.shape != (len(self.kind), 8):
            raise ValueError(f"warps of {len(self.kind)} clips with numbers of shape {self.numbers.shape}")
        if len(self.kind) and not 0 <= self.kind.min() <= self.kind.max() <= self.ROTATION:
            raise ValueError(
                f"kinds of warp {np.unique(self.kind).tolist()}; they are 0 none, 1 perspective, 2 rotation"
            )
        corners = self.numbers[self.kind == self.PERSPECTIVE]
        if corners.size and not 0 <= corners.min() <= corners.max() < 0.5:
            raise ValueError(
                f"a perspective moves a corner by {corners.min()} to {corners.max()} of the frame; it must be in [0, 0.5)"
            )
