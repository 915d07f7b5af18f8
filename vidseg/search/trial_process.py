"""Processes of trials on this machine; imports nothing heavy, as workers of Ray import it."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from vidseg.frames.whole_file import NO_LOCKS

__all__ = ["Launch", "LocalProcess", "Process"]

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_PATIENCE = 20.0
"""Seconds in which a process that is asked to stop must end."""
_WAIT = 0.1
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Launch:
    """A process to start.

    Attributes:
        command: its words.
        log: file that its output is appended to.
        threads: processor threads.
        gpus: GPUs that it sees, as in CUDA_VISIBLE_DEVICES; None: unchanged.
    """

    command: tuple[str, ...]
    log: str
    threads: int
    gpus: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment of the process."""
        found = {**os.environ, **dict.fromkeys(_THREADS, str(self.threads))}
        return found if self.gpus is None else {**found, "CUDA_VISIBLE_DEVICES": self.gpus}


class Process(Protocol):
    """A process that was started, on this machine or on another one."""

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""

    def stop(self) -> None:
        """End the process and wait for its end."""


class LocalProcess:
    """A process of this machine, which ends with its parent.

    A lock on the log excludes two processes of one trial: a process that a killed search has left ends first.

    Args:
        launch: what to start.
    """

    def __init__(self, launch: Launch) -> None:
        parent = os.getpid()
        control = ctypes.CDLL(None).prctl if sys.platform == "linux" else None  # found here: a fork must not load

        def die_with_parent() -> None:
            if control is not None:
                control(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != parent:
                    os._exit(1)

        path = Path(launch.log)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            _wait_for_lock(log, path)  # the child inherits it with the file and frees it when it ends
            self._process = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=launch.environment(),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def poll(self) -> int | None:
        """See `Process.poll`."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for the end of the process; returns its exit status.

        Ray cancels a task with a KeyboardInterrupt that a system call does not notice, so this is a loop.
        """
        while (status := self._process.poll()) is None:
            time.sleep(_WAIT)
        return status

    def stop(self) -> None:
        """See `Process.stop`: SIGTERM to the process and those that it started, SIGKILL if they do not end."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
            end = time.monotonic() + _PATIENCE
            while self._process.poll() is None and time.monotonic() < end:
                time.sleep(_WAIT)


def _wait_for_lock(log: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.warning("%s: a process of an earlier start is still writing; waiting for its end", path)
        fcntl.flock(log, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
