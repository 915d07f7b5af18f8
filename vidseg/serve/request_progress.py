"""Progress of a computation, and the reasons to end it early: time limit, cancellation, shutdown."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["CanceledError", "Progress", "TimeLimitError", "current_progress", "measured"]


class CanceledError(RuntimeError):
    """Raised in a computation whose result is no longer wanted."""


class TimeLimitError(RuntimeError):
    """Raised in a computation that takes longer than its limit."""


class Progress:
    """Progress of one computation; `check` is called for every frame and every call of the network.

    Args:
        seconds: time limit in seconds; None: no limit.
        canceled: returns whether the computation shall end; None: it is never canceled.
        report: called with the finished fraction, 0 to 1; None: progress is not reported.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        canceled: Callable[[], bool] | None = None,
        report: Callable[[float], None] | None = None,
    ) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._canceled, self._report = canceled, report

    def check(self) -> None:
        """End the computation if there is a reason.

        Raises:
            CanceledError: it was canceled.
            TimeLimitError: its time is over.
        """
        if self._canceled is not None and self._canceled():
            raise CanceledError("canceled")
        if self._end is not None and time.monotonic() > self._end:
            raise TimeLimitError(f"the computation took longer than the limit of {self.seconds:g} s")

    def advance(self, done: float) -> None:
        """Report the finished fraction, 0 to 1, and check."""
        self.check()
        if self._report is not None:
            self._report(min(1.0, done))


_CURRENT: ContextVar[Progress | None] = ContextVar("vidseg_progress", default=None)


def current_progress() -> Progress | None:
    """Return the progress of the computation of this thread, or None."""
    return _CURRENT.get()


@contextlib.contextmanager
def measured(progress: Progress) -> Iterator[None]:
    """Make `progress` that of this thread, for the batched networks."""
    token = _CURRENT.set(progress)
    try:
        yield
    finally:
        _CURRENT.reset(token)
