"""State of a run: what a checkpoint holds of it, so that the run continues as if it had not stopped.

`vidseg.engine.checkpoints` lists the entries, and writes and reads the files.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidseg.engine import distributed
from vidseg.engine.averaging import WeightAverage
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint
from vidseg.engine.deepspeed import DeepSpeedPrecision
from vidseg.engine.precision import Precision
from vidseg.engine.reports import say
from vidseg.engine.schedules import Schedule
from vidseg.engine.sharding import as_stored, whole_values
from vidseg.engine.task import Task

__all__ = ["Progress", "RunState"]


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the next epoch.
        steps: optimizer steps of the run.
        complete: complete gradients of the epoch so far (accumulated ones included).
        sums: (2, C) sums and weights of the scores of the epoch so far.
        best: best quality so far.
        best_epoch: finished epochs when it was reached.
        best_values: scores of that evaluation.
        lowest: lowest validation loss so far.
    """

    epoch: int = 0
    batch: int = 0
    steps: int = 0
    complete: int = 0
    sums: Tensor | None = None
    best: Any = None
    best_epoch: int = 0
    best_values: tuple[float, ...] = ()
    lowest: float = math.inf

    def start_epoch(self, epoch: int) -> None:
        """Move to the beginning of an epoch, from 0."""
        self.epoch, self.batch, self.complete, self.sums = epoch, 0, 0, None


@dataclass(frozen=True)
class RunState:
    """What a run trains, and everything else of it that has a state.

    Attributes:
        model: on its device, not wrapped.
        optimizer: over the groups from `precision.prepare`.
        precision: opt level, with the loss scale and master copies.
        task: may have a state inside an epoch.
        loader: training batches; its position is stored if it has `state_dict`.
        average: moving average of the weights, or None.
        scheduler: scheduler of `torch.optim.lr_scheduler`, or None.
        sharded: whether the weights are divided over the processes.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    task: Task
    loader: Any
    average: WeightAverage | None
    scheduler: Any
    sharded: bool

    @property
    def rate(self) -> float:
        """Learning rate of the first parameter group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def share_statistics(self) -> None:
        """Make the statistics of norms the same in all processes: what is evaluated is what is saved."""
        distributed.share_statistics(self.model)
        if self.average is not None:
            self.average.share_statistics()

    def state_dict(self, progress: Progress, schedule: Schedule) -> dict[str, Any]:
        """Return the entries of a checkpoint; all processes call it together, and only the first one's is complete."""
        self.share_statistics()
        first = distributed.is_first()
        if not (first or self.sharded or isinstance(self.precision, DeepSpeedPrecision)):
            return {}
        # Slices are gathered by all processes, and kept by the first one.
        own = whole_values(self.precision.weights(self.model), keep=first)
        state = {
            **{name: value for name, value in asdict(progress).items() if name != "sums"},
            "sums": progress.sums,
            "state_dict": own,
            "optimizer": self.precision.optimizer_state(self.optimizer, keep=first),
            "scaler": self.precision.state_dict(),
            "loader": self.loader.state_dict() if progress.batch and hasattr(self.loader, "state_dict") else None,
            "losses": list(schedule.losses),
            "task": self.task.state_dict(),
        }
        if self.average is not None:
            # The weights that are trained further; `state_dict` holds those that are evaluated.
            average = whole_values(self.average.state_dict(), keep=first)
            state |= {"trained": own, "state_dict": average.get("average"), "average": average}
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        return state

    def restore(
        self, folder: CheckpointFolder, schedule: Schedule, *, resume: bool | str | Path, epochs: int
    ) -> Progress:
        """Take up the state of a checkpoint, and return how far its run was.

        Args:
            folder: checkpoints of the run.
            schedule: gets the training losses of the finished epochs.
            resume: a checkpoint; True: the newest one of the folder, if there is one; False: the run starts.
            epochs: length of the run.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the checkpoint is damaged, of another network or optimizer, or further than `epochs`.
        """
        path = Path(resume) if isinstance(resume, (str, Path)) else folder.newest() if resume else None
        if path is None:
            if resume:
                say(f"{folder.folder}: no checkpoint of {folder.name} in it; the run starts")
            return Progress()
        state = read_checkpoint(path)
        if state["epoch"] > epochs:
            raise ValueError(f"{path} is of epoch {state['epoch']}, past the end of this run of {epochs} epochs")
        try:
            self.precision.load_weights(self.model, state.get("trained", state["state_dict"]))
            self.precision.load_optimizer(self.optimizer, state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is not of this network and optimizer: {error}") from error
        self.precision.load_state_dict(state.get("scaler", {}))
        self.task.load_state_dict(state.get("task", {}))
        if self.average is not None and "average" in state:
            average = as_stored(state["average"]["average"], self.average.weights())
            self.average.load_state_dict({**state["average"], "average": average})
        if self.scheduler is not None and "scheduler" in state:
            self.scheduler.load_state_dict(state["scheduler"])
        schedule.losses[:] = state.get("losses", [])
        names = Progress.__dataclass_fields__
        progress = Progress(**{name: value for name, value in state.items() if name in names})
        self.loader.set_epoch(progress.epoch)
        if state.get("loader") is not None and hasattr(self.loader, "load_state_dict"):
            self.loader.load_state_dict(state["loader"])
        say(f"{path}: continuing with epoch [{progress.epoch + 1}], batch [{progress.batch}]")
        return progress
