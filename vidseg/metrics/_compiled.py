"""Configuration of numba's compiler for the kernels of this package.

Only kernel modules import this module, and they are imported on first use, because importing numba takes a third of a
second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function on its first call, without the GIL, and cache the result on disk.

    numba caches beside the source, or else in the user's cache folder. If neither is writable (a read-only container),
    every process compiles the kernel again, which takes a few seconds.
    """
    try:
        return cast(Function, njit(cache=True, nogil=True)(function))
    except RuntimeError:  # "cannot cache function: no locator available"
        return cast(Function, njit(nogil=True)(function))
