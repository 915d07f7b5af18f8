"""Sizes of networks with four stages under their options `width` and `blocks`."""

from collections.abc import Sequence

__all__ = ["Width", "scaled", "stage_blocks", "stage_widths"]

Width = float | Sequence[float]
"""Multiplier of all widths, or one for each stage."""
_STAGES = (64, 128, 256, 512)  # published channels of the stages


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


def stage_widths(width: Width, *, channels: Sequence[int] = _STAGES) -> list[int]:
    """Return the number of channels of each stage, see `scaled`.

    Args:
        width: multiplier of all stages, or one for each.
        channels: published channels of the stages.

    Raises:
        ValueError: a multiplier is not positive, or their number is wrong.
    """
    each = [width] * len(channels) if isinstance(width, (int, float)) else list(width)
    if len(each) != len(channels):
        raise ValueError(f"width={width}: give one number, or one for each of the {len(channels)} stages")
    return [scaled(*pair) for pair in zip(channels, each, strict=True)]


def stage_blocks(blocks: Sequence[int] | None, published: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the number of blocks of each of four stages.

    Args:
        blocks: option of the network; None: the published numbers.
        published: blocks of the network of this name.

    Raises:
        ValueError: not four numbers of at least 1.
    """
    found = tuple(published if blocks is None else blocks)
    if len(found) != 4 or not all(isinstance(count, int) and count >= 1 for count in found):
        raise ValueError(f"blocks={blocks}: give four numbers of at least 1, one for each stage")
    return found
