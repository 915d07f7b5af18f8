"""Widths of layers under the option `width` of the networks."""

__all__ = ["scaled"]


def scaled(channels: int, width: float) -> int:
    """Return the number of channels times `width`, rounded to a multiple of 8, at least 8; unchanged for width=1.

    Args:
        channels: published number of channels.
        width: multiplier, above 0.

    Raises:
        ValueError: width is not positive.
    """
    if width <= 0:
        raise ValueError(f"width={width} must be positive")
    return channels if width == 1 else max(8, 8 * round(channels * width / 8))
