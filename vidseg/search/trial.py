"""One trial: an ordinary training run in a process of its own, from a file of options that repeats it.

OUT/trials/0007/
    trial.json      options of the run; `vidseg train NAME --config trial.json` repeats it
    trial.log       output of the process
    ...             what every run leaves, see `vidseg.engine.runs`
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from vidseg.engine.runs import write_json
from vidseg.frames.whole_file import NO_LOCKS
from vidseg.search.program import TrainProgram

__all__ = [
    "Failure",
    "Launch",
    "LocalProcess",
    "Process",
    "explain_failure",
    "train_launch",
    "trial_folder",
    "write_trial",
]

logger = logging.getLogger(__name__)

OPTIONS, LOG = "trial.json", "trial.log"
_PR_SET_PDEATHSIG = 1
_PATIENCE = 20.0
"""Seconds in which a process that is asked to stop must end."""
_WAIT = 0.1
_TAIL = 20_000  # bytes
_DIVERGED = re.compile(r"not finite|the (validation )?loss is -?(inf|nan)")
_MEMORY = re.compile(r"out of memory|can't allocate memory|MemoryError|Cannot allocate memory")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Failure:
    """Why a trial has no score.

    Attributes:
        kind: "out of memory", "diverged", "over budget", "refused", "killed", "repetition" or "error".
        message: one sentence.
    """

    kind: str
    message: str


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
        """Wait for the end of the process; returns its exit status."""
        return self._process.wait()

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


def trial_folder(out: Path, number: int) -> Path:
    """Return the folder of a trial's run."""
    return out / "trials" / f"{number:04d}"


def write_trial(folder: Path, program: TrainProgram, values: Mapping[str, Any], *, threads: int, **more: Any) -> None:
    """Write the options of a trial, as `--config` reads them.

    Args:
        folder: of the trial.
        program: that trains.
        values: options by name, `network_option.NAME` included.
        threads: processor threads, which sums of floating-point numbers may depend on.
        **more: facts about the trial.
    """
    content = {"task": program.task, "program": program.name, "options": program.given(values)}
    repeat = " ".join(["vidseg", "train", *([program.name] if program.name else []), "--config", str(folder / OPTIONS)])
    command = f"OMP_NUM_THREADS={threads} {repeat} --out {folder}_again"
    write_json(folder / OPTIONS, {**content, "threads": threads, "command": command, **more})


def train_launch(folder: Path, program: TrainProgram, *, threads: int, gpus: str | None = None) -> Launch:
    """Return the process that trains the run of `write_trial`, or continues it."""
    words = ("--config", str(folder / OPTIONS), "--out", str(folder), "--resume")
    return Launch((*program.command, *words), str(folder / LOG), threads, gpus)


def explain_failure(status: int, log: Path) -> Failure:
    """Return why a process ended with an exit status other than 0.

    Args:
        status: negative for a signal.
        log: output of the process.
    """
    lines = _last_lines(log)
    message = lines[-1] if lines else f"no output in {log}"
    message = re.sub(r"^vidseg \w+( \w+)?: ", "", message)
    if _MEMORY.search(message):
        return Failure("out of memory", message)
    if _DIVERGED.search(message):
        return Failure("diverged", message)
    if status < 0:
        name = signal.Signals(-status).name
        hint = "; the system may have had too little memory" if name == "SIGKILL" else ""
        return Failure("killed", f"the process was ended by {name}{hint}")
    return Failure("refused" if status == 2 else "error", message)


def _last_lines(path: Path) -> Sequence[str]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        text = file.read().decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
