"""Boxes of random erasing (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020), vectorized over a batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ATTEMPTS", "erasing_boxes"]

ATTEMPTS = 100


def erasing_boxes(
    numbers: npt.NDArray[np.float64],
    *,
    height: int,
    width: int,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: float = 0.3,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Sample one box per clip.

    An attempt takes two numbers: the box's share of the frame's area and its height / width. The first attempt whose
    box fits into the frame is used; the two numbers after it place the box.

    Args:
        numbers: (B, 2 + 2 * attempts) uniform numbers in [0, 1), in the order of use.
        height: height of the frame in pixels.
        width: width of the frame in pixels.
        area: smallest and largest share of the frame's area.
        aspect: smallest height / width. The ratio is uniform between it and its reciprocal.

    Returns:
        float64 (B, 4), top, left, height and width in pixels, 0 where no attempt fits; and bool (B,), whether one
        fits.
    """
    shares = (area[0] + (area[1] - area[0]) * numbers[:, :-2:2]) * height * width
    aspects = aspect + (1.0 / aspect - aspect) * numbers[:, 1:-2:2]
    heights, widths = np.rint(np.sqrt(shares * aspects)), np.rint(np.sqrt(shares / aspects))
    fits = (heights < height) & (widths < width) & (heights >= 1) & (widths >= 1)
    clips = np.arange(len(numbers))
    attempt = np.argmax(fits, axis=1)
    found = fits[clips, attempt]
    tall, wide = heights[clips, attempt], widths[clips, attempt]
    top = np.floor(numbers[clips, 2 * attempt + 2] * (height - tall + 1))
    left = np.floor(numbers[clips, 2 * attempt + 3] * (width - wide + 1))
    return np.where(found[:, None], np.stack([top, left, tall, wide], axis=1), 0.0), found
