"""One trial: an ordinary training run in a process of its own, from a file of options that repeats it.

OUT/trials/0007/
    trial.json      options of the run; `vidseg train NAME --config trial.json` repeats it
    trial.log       output of the process
    ...             what every run leaves, see `vidseg.engine.runs`
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidseg.labels.json_files import write_json
from vidseg.search.program import TrainProgram
from vidseg.search.trial_process import Launch

__all__ = ["Failure", "explain_failure", "train_launch", "trial_folder", "write_trial"]

OPTIONS, LOG = "trial.json", "trial.log"
_TAIL = 20_000  # bytes
_DIVERGED = re.compile(r"not finite|the (validation )?loss is -?(inf|nan)")
_MEMORY = re.compile(r"out of memory|can't allocate memory|MemoryError|Cannot allocate memory")


@dataclass(frozen=True)
class Failure:
    """Why a trial has no score.

    Attributes:
        kind: "out of memory", "diverged", "over budget", "refused", "killed" or "error".
        message: one sentence.
    """

    kind: str
    message: str


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
