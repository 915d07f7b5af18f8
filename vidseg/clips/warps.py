"""Perspective and rotation as matrices from points of the result to points of the frame; the frame size is unchanged.

Vectorized over B frames of different sizes. Both equal imgaug 0.4.0 for the same parameters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg.clips.augmentations import Warps
from vidseg.clips.rand_augment import AffineWarps

__all__ = ["perspective_matrices", "rotation_matrices", "warp_matrices"]

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def warp_matrices(warps: Warps | AffineWarps, heights: Integers, widths: Integers) -> Reals:
    """Return the matrices (B, 3, 3) from output to source of drawn warps, for frames of the given sizes, int64 (B,)."""
    if isinstance(warps, AffineWarps):
        return warps.matrices(heights, widths)
    matrices = np.tile(np.eye(3), (len(warps.kinds), 1, 1))
    bent, turned = (np.flatnonzero(warps.kinds == kind) for kind in (Warps.PERSPECTIVE, Warps.ROTATION))
    matrices[bent] = perspective_matrices(warps.corners[bent], heights[bent], widths[bent])
    matrices[turned] = rotation_matrices(warps.degrees[turned], heights[turned], widths[turned])
    return matrices


def perspective_matrices(corners: Reals, heights: Integers, widths: Integers) -> Reals:
    """Return the perspective transform of imgaug 0.4.0 for frames whose corners move inwards, with unchanged frame
    size.

    The quadrilateral between the corners is mapped to a rectangle with the lengths of its longer sides, truncated to
    whole pixels, and then resized to the frame size.

    Args:
        corners: (B, 4, 2) in [0, 0.5), fractions of the frame's width (x) and height (y); top left, top right, bottom
            right, bottom left.
        heights: (B,) frame heights.
        widths: (B,) frame widths.

    Returns:
        float64 (B, 3, 3), output to source.
    """
    far = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    sides = np.stack([widths, heights], axis=1)[:, None].astype(np.float64)
    # imgaug stores the corners in single precision.
    points = (np.where(far, 1 - corners, corners) * sides).astype(np.float32).astype(np.float64)
    edges = np.hypot(*np.moveaxis(np.roll(points, -1, axis=1) - points, 2, 0))  # top, right, bottom, left
    across = np.floor(np.maximum(edges[:, 0], edges[:, 2]))
    down = np.floor(np.maximum(edges[:, 1], edges[:, 3]))
    across, down = np.maximum(across, 2), np.maximum(down, 2)
    figure = _unit_square_to(points)
    # OpenCV's matrices refer to pixel centers, these to pixel edges, hence the shifts by half a pixel.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    to_unit = _scaling(1 / across, 1 / down) @ np.linalg.inv(half)
    return half @ figure @ to_unit @ _scaling(across / widths, down / heights)


def rotation_matrices(degrees: Reals, heights: Integers, widths: Integers) -> Reals:
    """Return rotations about the frame center, positive for clockwise.

    Args:
        degrees: (B,) angles in degrees.
        heights: (B,) frame heights.
        widths: (B,) frame widths.

    Returns:
        float64 (B, 3, 3), output to source.
    """
    radians = np.deg2rad(degrees)
    cosine, sine = np.cos(radians), np.sin(radians)
    x, y = widths / 2, heights / 2
    matrices = np.zeros((len(radians), 3, 3))
    matrices[:, 0] = np.stack([cosine, sine, x - cosine * x - sine * y], axis=1)
    matrices[:, 1] = np.stack([-sine, cosine, y + sine * x - cosine * y], axis=1)
    matrices[:, 2, 2] = 1
    return matrices


def _unit_square_to(points: Reals) -> Reals:
    """Return the projective maps (B, 3, 3) of (0, 0), (1, 0), (1, 1), (0, 1) to four points (B, 4, 2).

    Closed form of Heckbert, "Fundamentals of texture mapping and image warping", 1989, section 2.2.3.
    """
    first, second, third, fourth = np.moveaxis(points, 1, 0)
    a, b, total = second - third, fourth - third, first - second + third - fourth
    determinant = a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]
    g = (total[:, 0] * b[:, 1] - b[:, 0] * total[:, 1]) / determinant
    h = (a[:, 0] * total[:, 1] - total[:, 0] * a[:, 1]) / determinant
    matrices = np.ones((len(points), 3, 3))
    matrices[:, :2, 0] = second - first + g[:, None] * second
    matrices[:, :2, 1] = fourth - first + h[:, None] * fourth
    matrices[:, :2, 2] = first
    matrices[:, 2, 0], matrices[:, 2, 1] = g, h
    return matrices


def _scaling(across: Reals, down: Reals) -> Reals:
    matrices = np.zeros((len(across), 3, 3))
    matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 2, 2] = across, down, 1
    return matrices
