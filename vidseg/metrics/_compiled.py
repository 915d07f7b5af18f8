"""numba's compiler, set up once for the kernels of this package.

Only the modules of kernels import this one, and they are imported on first use: numba takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

__all__ = ["compiled"]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile on the first call, without the GIL; what was compiled is kept on disk for the next process.

    numba looks for a place beside the source, then in the user's cache folder. Where it may write to neither (a
    read-only container), the kernel is compiled in every process, which takes a few seconds.
    """
    try:
        return cast(Function, njit(cache=True, nogil=True)(function))
    except RuntimeError:  # "cannot cache function: no locator available"
        return cast(Function, njit(nogil=True)(function))
