"""Checks of the numbers that plans are made from, so that a wrong one is named before anything is allocated."""

from __future__ import annotations

import math
import operator
from typing import Any

__all__ = ["MOST_CLIPS", "MOST_FRAMES", "MOST_SIDE", "check_interval", "whole"]

MOST_CLIPS = 1 << 24  # of a batch
MOST_FRAMES = 1 << 20  # of a clip, and between two of its frames
MOST_SIDE = 65500  # pixels; libjpeg's limit


def whole(value: Any, name: str, *, least: int | None = None, most: int | None = None) -> int:
    """Return an integer.

    Args:
        value: Python's or NumPy's integer.
        name: name of the argument, for the message.
        least: smallest allowed value; None: no limit.
        most: largest allowed value; None: no limit.

    Raises:
        TypeError: `value` is no integer.
        ValueError: it is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r:.80}, must be an integer") from None
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}, must be at least {least}")
    if most is not None and number > most:
        raise ValueError(f"{name} is {number}, must be at most {most}")
    return number


def check_interval(values: Any, name: str, *, least: float = -math.inf, most: float = math.inf) -> None:
    """Check a pair of finite numbers in increasing order.

    Args:
        values: lower and upper bound.
        name: name of the argument, for the message.
        least: smallest allowed value.
        most: largest allowed value.

    Raises:
        ValueError: they are not two finite numbers, do not increase, or are out of range.
    """
    pair = tuple(values) if isinstance(values, tuple | list) else ()
    real = len(pair) == 2 and all(isinstance(value, int | float) and abs(value) < math.inf for value in pair)
    if not real or not least <= pair[0] <= pair[1] <= most:
        limits = f" in {least:g} to {most:g}" if math.isfinite(least) and math.isfinite(most) else ""
        raise ValueError(f"{name} is {values!r:.80}, must be two finite numbers in increasing order{limits}")
