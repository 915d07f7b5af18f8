"""The size that a frame of a video is brought to."""

import re

__all__ = ["target_size"]


def target_size(size: str, width: int, height: int) -> tuple[int, int]:
    """(width, height) that a frame of `width` x `height` pixels is brought to.

    A short side is never enlarged; the long side follows, rounded to an even number as 4:2:0 video wants.

    Raises:
        ValueError: `size` is neither a number, WIDTHxHEIGHT nor "none".
    """
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
    raise ValueError(f'size is {size!r}, must be a short side such as 256, an exact size such as 340x256, or "none"')
