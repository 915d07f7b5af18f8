"""Ctrl-C and SIGTERM end a command without a traceback, after it has recorded its finished work."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "run_interruptible"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A launcher, a scheduler and the terminal may each send the signal at once.
_SAME_SECONDS = 1.0
_LATER_SECONDS = 0.01


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread by the first SIGINT or SIGTERM."""


class _Handler:
    """Raises `Interrupted` for the first signal, and ends the process for one that comes during the cleanup."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._moment = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            if _is_importing(frame):  # C++ code of a module that is being loaded may end the process at an exception
                _send_later(number)
                return
            self.number, self._moment = number, now
            raise Interrupted(signal.Signals(number).name)
        if now - self._moment > _SAME_SECONDS:
            os._exit(128 + number)  # databases, catalogs and checkpoints are complete or absent at any moment

    def unraisable(self, problem: Any) -> None:
        """Send the signal again if Python dropped the exception, as it does in `__del__` and in callbacks."""
        if self.number is None or not issubclass(problem.exc_type, KeyboardInterrupt):
            sys.__unraisablehook__(problem)
            return
        number, self.number = self.number, None
        _send_later(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _send_later(number: int) -> None:
    """Send a signal to this process again."""
    threading.Timer(_LATER_SECONDS, os.kill, (os.getpid(), number)).start()


def run_interruptible(program: str, run: Callable[[], int], *, last: bool = False) -> int:
    """Run a command so that SIGINT and SIGTERM end it with exit status 130 and 143, without a traceback.

    Within another call, or in another thread than the main one, it only calls `run`. A process of torchrun's group ends
    at once with SIGTERM, which torchrun sends when another process has failed: a handler of Python would not run while
    the process waits for the other one.

    Args:
        program: name of the command, for the message.
        run: does the work and returns the exit status. It can catch `Interrupted` to record what is finished; the exit
            status is 130 or 143 in that case too.
        last: whether the process ends after this call; Ctrl-C then ends it without a traceback until the very end.
    """
    inner = any(isinstance(signal.getsignal(number), _Handler) for number in _SIGNALS)
    if inner or threading.current_thread() is not threading.main_thread():
        return run()
    handler = _Handler()
    hook, sys.unraisablehook = sys.unraisablehook, handler.unraisable
    # A shell starts background commands with SIGINT ignored; that is kept.
    handled = _SIGNALS[:1] if "RANK" in os.environ else _SIGNALS
    before = {
        number: signal.signal(number, handler) for number in handled if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        status = run()
        return status if handler.number is None else 128 + handler.number
    except BaseException:
        # Libraries turn the exception into others, such as an ImportError in the middle of an import.
        if handler.number is None:
            raise
        name = "interrupted" if handler.number == signal.SIGINT else f"ended by {signal.Signals(handler.number).name}"
        print(f"{program}: {name}", file=sys.stderr)
        return 128 + handler.number
    finally:
        sys.unraisablehook = hook
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if last and number == signal.SIGINT else previous)
