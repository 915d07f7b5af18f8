"""Loggers: what receives the scores, speeds and pictures of a run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vidseg.engine.monitors import Speeds
from vidseg.engine.options import MonitorOptions

__all__ = [
    "Done",
    "EpochScores",
    "IterationScores",
    "Logger",
    "Picture",
    "RunStart",
    "SavedCheckpoint",
    "Status",
    "check_loggers",
    "make_loggers",
]

Done = tuple[int, int]
"""How far a run is: finished epochs, and finished batches of the next one."""

Status = Literal["complete", "interrupted", "failed"]

_CLASSES = {
    "tensorboard": ("vidseg.engine.tensorboard", "TensorBoardLogger"),
    "wandb": ("vidseg.engine.wandb", "WandbLogger"),
    "mlflow": ("vidseg.engine.mlflow", "MlflowLogger"),
}
"""Module and class of each logger, by the name of its option in `MonitorOptions`, its package and its extra."""


@dataclass(frozen=True)
class RunStart:
    """A start of a run.

    Attributes:
        run_id: identifier of the run; a resumed run keeps it.
        folder: of the run.
        name: name of the network.
        done: how far the run is; (0, 0) at its beginning.
        batches: batches of an epoch.
        facts: plain data: versions, device, length of the run, and under "record" its options.
    """

    run_id: str
    folder: Path
    name: str
    done: Done
    batches: int
    facts: Mapping[str, Any]

    @property
    def resumed(self) -> bool:
        """Whether the run continues from a checkpoint."""
        return self.done != (0, 0)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the run by name: those of its record, else those of the training loop."""
        record = self.facts.get("record", {})
        return dict(record.get("options") or self.facts.get("schedule", {}))


@dataclass(frozen=True)
class IterationScores:
    """A training iteration.

    Attributes:
        epoch: from 1.
        batch: from 0, within the epoch.
        number: of the iteration in the run, from 0.
        scores: by name, means over the batch.
        rate: learning rate.
        speeds: times of the batch.
        logged: whether the log has a line of this iteration, see `MonitorOptions.log_every`.
    """

    epoch: int
    batch: int
    number: int
    scores: Mapping[str, float]
    rate: float
    speeds: Speeds
    logged: bool

    def numbers(self) -> dict[str, float]:
        """Return all numbers under the names that trackers show."""
        seconds = {"reading": self.speeds.fill, "forward": self.speeds.forward, "backward": self.speeds.backward}
        return {
            **{f"iteration/{name}": value for name, value in self.scores.items()},
            "iteration/rate": self.rate,
            **{f"clips per second/{part}": self.speeds.clips / time for part, time in seconds.items() if time},
            "seconds waited for the loader": self.speeds.wait,
        }


@dataclass(frozen=True)
class EpochScores:
    """Scores of an epoch.

    Attributes:
        split: "train" or "val".
        epoch: from 1.
        done: how far the run was; a validation may be inside an epoch.
        scores: by name, over the whole epoch or validation split.
        seconds: training or evaluation time.
        best: whether this is the best validation so far; None for training.
    """

    split: Literal["train", "val"]
    epoch: int
    done: Done
    scores: Mapping[str, float]
    seconds: float
    best: bool | None = None

    def numbers(self) -> dict[str, float]:
        """Return the scores under the names that trackers show."""
        return {f"{self.split}/{name}": value for name, value in self.scores.items()}


@dataclass(frozen=True)
class Picture:
    """A picture of inputs or results.

    Attributes:
        name: such as "clips", "confusion" or "timelines".
        epoch: from 1.
        data: content of the file.
        kind: "png", or "gif" for moving pictures.
    """

    name: str
    epoch: int
    data: bytes
    kind: Literal["png", "gif"]


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint that has been written.

    Attributes:
        path: of the file.
        done: how far the run is.
        best: whether it is also the best checkpoint.
        numbered: whether it is also kept as a numbered checkpoint.
    """

    path: Path
    done: Done
    best: bool
    numbered: bool


class Logger:
    """Receives what happens in a run, in the first process only.

    Your own logger derives from this class and defines the methods it needs; the others ignore their argument. Pass it
    to `Trainer(loggers=[...])`. An exception of a logger is logged once, and the run continues without that logger.
    """

    def start(self, run: RunStart) -> None:
        """Take note that a run starts or continues; called before all other methods."""

    def iteration(self, iteration: IterationScores) -> None:
        """Record a training iteration."""

    def epoch(self, scores: EpochScores) -> None:
        """Record the scores of an epoch or of a validation."""

    def picture(self, picture: Picture) -> None:
        """Record a picture."""

    def checkpoint(self, saved: SavedCheckpoint) -> None:
        """Take note of a checkpoint."""

    def close(self, status: Status, error: str) -> None:
        """Write what is pending and close.

        Args:
            status: how the run ended.
            error: the exception that ended it, "" without one.
        """


def check_loggers(monitors: MonitorOptions) -> None:
    """Refuse options whose package is not installed, before a run starts.

    Raises:
        ImportError: a package is not installed; names the extra.
    """
    for name in _chosen(monitors):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"the option {name} needs the package {name}: pip install 'vidseg[{name}]'")


def make_loggers(monitors: MonitorOptions, *, tensorboard: str = "tensorboard") -> list[Logger]:
    """Return the loggers that the options choose.

    Args:
        monitors: options.
        tensorboard: name of the folder of TensorBoard's files in the folder of the run.
    """
    made: list[Logger] = []
    for name in _chosen(monitors):
        module, class_name = _CLASSES[name]
        options = {"folder": tensorboard} if name == "tensorboard" else {}
        made.append(getattr(importlib.import_module(module), class_name)(**options))
    return made


def _chosen(monitors: MonitorOptions) -> list[str]:
    return [name for name in _CLASSES if getattr(monitors, name)]
