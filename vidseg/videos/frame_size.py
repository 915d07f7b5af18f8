"""Target size of the frames of a video, and the largest size that is decoded."""

import re

__all__ = ["MAX_PIXELS", "target_size"]

MAX_PIXELS = 1 << 26
"""Largest frame that is decoded unless an option says otherwise, in pixels: 8192 x 8192, twice 8K video."""


def target_size(size: str | int, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) of the resized frame for a source of `width` x `height` pixels.

    The short side is never enlarged; the long side is rounded to an even number, as 4:2:0 video requires.

    Args:
        size: maximum short side in pixels, WIDTHxHEIGHT, or "none".
        width: source width in pixels.
        height: source height in pixels.

    Raises:
        ValueError: `size` is neither a number, WIDTHxHEIGHT nor "none".
    """
    size = str(size)
    if size == "none":
        return width, height
    if match := re.fullmatch(r"(\d+)x(\d+)", size):
        exact = int(match[1]), int(match[2])
        if min(exact) >= 1 and max(exact) <= 65500:
            return exact
    elif size.isdecimal() and 1 <= int(size) <= 65500:
        short = int(size)
        if min(width, height) <= short:
            return width, height
        scale = short / min(width, height)
        long = max(2, 2 * round(max(width, height) * scale / 2))
        return (long, short) if width >= height else (short, long)
    raise ValueError(f'size is {size!r}, expected a short side such as 256, an exact size such as 340x256, or "none"')
