"""The folder of a run, and training in it, for every task.

    options.json              record, see `vidseg.engine.run_record`
    train.log                 log
    *_results_s*.csv          score tables
    events.jsonl              scores, speeds, checkpoints, warnings, see `vidseg.engine.event_file`
    <network>_*.pth           checkpoints, see `vidseg.engine.checkpoints`
    test*.json, predictions*/, pictures/, *.png, tensorboard/     what tests and plots leave

`--resume`, `vidseg test`, `predict`, `plot` and `info` read the record.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.engine import distributed
from vidseg.engine.apex import apex_amp, apex_optimizer
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.deepspeed import deepspeed_package
from vidseg.engine.event_file import EVENTS
from vidseg.engine.freed_memory import keep_freed_memory
from vidseg.engine.launch import choose_device
from vidseg.engine.loggers import check_loggers
from vidseg.engine.monitors import run_log
from vidseg.engine.options import CheckpointOptions, TrainOptions
from vidseg.engine.run_record import RECORD, continued_record, read_record, shown_value
from vidseg.engine.schedules import filled_schedule, run_schedule
from vidseg.engine.task import Result, Task
from vidseg.engine.trainer import Trainer
from vidseg.labels.counting import counted
from vidseg.labels.json_files import write_json
from vidseg.models import LoadReport
from vidseg.models._published import find_published

__all__ = ["RunFolder", "Training", "run_folder", "start_run", "train_run"]

logger = logging.getLogger(__name__)

_TABLES = "*_results_s*.csv"
_LEFT = (
    _TABLES, "test.json", "test_*.json", "mistakes.*", "mistakes_*", "scores.npz", "scores_*.npz", "classes.csv",
    "classes_*.csv", "confusion*.csv", "validation.csv", "pictures", "predictions", "predictions_*", "tensorboard",
    "events", EVENTS, "wandb", "train.log", "log.txt", "curves.png", "confusion.png", "speed.png", "segments.png",
    "schedule.png", "calibration.png", "features.png", "landscape.png", "report.html",
)  # fmt: skip
"""What a run, its tests and its plots leave in its folder besides the record and the checkpoints."""


def run_folder(options: TrainOptions, dataset: str) -> Path:
    """Return the folder of a run with these options: --out, or MODEL_DIR/NETWORK_TASKNAME."""
    session = options.session
    if session.out is not None:
        return Path(session.out)
    name = options.network.network + (f"_{session.task_name}" if session.task_name else "")
    return Path(session.model_dir or Path("results") / Path(dataset).resolve().name) / name


class RunFolder:
    """The folder of one run.

    Args:
        path: of the folder.
        network: name of the network, with which the names of checkpoints begin.
        options: of the run, for its checkpoints and for how it starts.
    """

    def __init__(self, path: Path, network: str, options: TrainOptions | None = None) -> None:
        self.path, self.network, self.options = path, network, options or TrainOptions()
        self.checkpoints = CheckpointFolder(path, network, self.options.checkpoints)

    def resume_from(self) -> bool | Path:
        """Return the checkpoint that the run continues from: True is the folder's last one, False starts.

        Raises:
            FileNotFoundError: there is no checkpoint of the epoch before `resume_epoch`.
        """
        session, pretrained = self.options.session, self.options.network.pretrained
        if session.resume_epoch < 0:
            return session.resume and self.checkpoints.newest() is not None
        if pretrained is not None:
            return find_published(pretrained, self.network)
        if session.resume_epoch == 1:
            return False
        path = self.checkpoints.numbered(session.resume_epoch - 1)
        if not path.is_file():
            there = ", ".join(found.name for found in self.checkpoints.found()) or "none"
            raise FileNotFoundError(
                f"{path}: not found, so no run can continue with epoch {session.resume_epoch}; numbered checkpoints "
                f"in the folder: {there}"
            )
        return path

    def check(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Compare a record with the run in the folder; writes nothing.

        Returns:
            The record to store, with the changes of options so far under "changes"; and the options that this start
            changes: name to [old, new].

        Raises:
            FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
            ValueError: the run there is another one.
        """
        session, path = self.options.session, self.path / RECORD
        resumed = session.resume or session.resume_epoch > 1
        if resumed and path.is_file():
            return continued_record(read_record(self.path), record, path)
        self.check_free()
        return dict(record), {}

    def check_free(self) -> None:
        """Refuse a folder with a run that is neither resumed nor overwritten.

        Raises:
            FileExistsError: there is such a run.
        """
        session = self.options.session
        if session.overwrite or session.resume or session.resume_epoch > 1:
            return
        if (self.path / RECORD).is_file() or self.checkpoints.newest() is not None or any(self.path.glob(_TABLES)):
            raise FileExistsError(
                f"{self.path} holds a run; continue it with --resume, choose another --out, or --overwrite it"
            )

    def _old_files(self) -> list[Path]:
        return [found for pattern in _LEFT for found in self.path.glob(pattern)]

    def prepare(self, record: Mapping[str, Any]) -> None:
        """Write the record; with `overwrite` everything of the earlier run is removed first."""
        if self.options.session.overwrite:
            self.checkpoints.remove_all()
            if (self.path / RECORD).is_file():
                earlier = read_record(self.path)
                names = earlier["options"].get("run_files", "vidseg")
                CheckpointFolder(self.path, earlier["network"], CheckpointOptions(run_files=names)).remove_all()
            for found in self._old_files():
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        write_json(self.path / RECORD, record)

    @contextmanager
    def log(self, *, append: bool) -> Iterator[None]:
        """Write the log of the run; in the first process, the others log warnings only."""
        if not distributed.is_first():
            logging.getLogger("vidseg").setLevel(logging.WARNING)
            yield
            return
        experiment = self.checkpoints.as_experiment
        path = Path(self.options.session.log_file or self.path / ("log.txt" if experiment else "train.log"))
        with run_log(path, append=append or experiment, debug=self.options.monitors.debug_mode):
            yield


@dataclass
class Training:
    """What one run trains.

    Attributes:
        task: of the loop.
        model: with fresh weights.
        loader: training batches.
        validation: batches of the validation split, or None.
        record: of `run_record`.
        summary: what is trained on, in words, for the log.
        report: what `pretrained` filled.
        multigrid: schedule of shapes, see `Trainer`.
        batch_size: samples of a batch over all processes, for the default learning rate.
    """

    task: Task
    model: nn.Module
    loader: Any
    validation: Any
    record: dict[str, Any]
    summary: str
    report: LoadReport | None = None
    multigrid: Any = None
    batch_size: int = 32


def start_run(options: TrainOptions) -> torch.device:
    """Check what does not depend on data, join the group of processes, and return the device to compute on.

    Raises:
        ImportError: an option needs a package that is not installed.
        ValueError: a GPU that does not exist.
    """
    if options.devices.amp == "apex":
        apex_amp()
    if options.optimizer.implementation == "apex":
        apex_optimizer("FusedSGD" if options.optimizer.optimizer == "sgd" else "FusedAdam")
    if options.devices.engine == "deepspeed":
        deepspeed_package()
    check_loggers(options.monitors)
    device = choose_device(options.devices)
    if device.type == "cpu":
        keep_freed_memory()
    return device


def train_run(training: Training, options: TrainOptions, out: Path, *, device: torch.device) -> Result | None:
    """Train in the folder `out`; returns the last evaluation.

    Raises:
        FileExistsError: the folder holds a run, and none of resume, resume_epoch and overwrite is given.
        ValueError: the run in the folder is another one.
    """
    network, report = options.network, training.report
    folder = RunFolder(out, network.network, options)
    schedule = filled_schedule(options, batches=len(training.loader), batch_size=training.batch_size)
    run_schedule(options, schedule)  # a warm-up that does not fit is refused before anything is written
    resume = folder.resume_from()
    record, changed = folder.check(training.record)
    distributed.barrier()  # every process has read the folder before the first one writes into it
    if distributed.is_first():
        folder.prepare(record)
    distributed.barrier()
    with folder.log(append=bool(resume)):
        if changed:
            text = ", ".join(
                f"{name}: {shown_value(old)} -> {shown_value(new)}" for name, (old, new) in changed.items()
            )
            logger.warning("%s: resumed with other options: %s", out, text)
        values = sum(parameter.numel() for parameter in training.model.parameters())
        if distributed.is_first():
            logger.info("%s; %s per epoch", training.summary, counted(len(training.loader), "batch", "batches"))
            processes = distributed.world_size()
            logger.info("%s: %d parameters, on %d x %s", network.network, values, processes, device)
            logger.info(
                "learning rate %g, warm-up %g", schedule.lr, schedule.warmup_steps or schedule.warmup_epochs or 0
            )
            if report is not None:
                logger.info("%s: %s", network.pretrained, report)
        level = options.devices.opt_level or ("O0" if device.type == "cpu" else "O1")
        trainer = Trainer(
            training.model,
            training.loader,
            task=training.task,
            validation=training.validation,
            opt_level=level,
            multigrid=training.multigrid or False,
            name=network.network,
            seed=options.session.seed,
            device=device,
            optimizer=options.optimizer,
            schedule=schedule,
            devices=options.devices,
            evaluation=options.evaluation,
            checkpoints=options.checkpoints,
            monitors=options.monitors,
            fine_tune=network.fine_tune,
            fresh=() if report is None else report.missing,
            freeze_backbone=network.freeze_backbone,
            adapter_rank=network.adapter_rank,
            keep_zeros=network.keep_zeros,
        )
        session = options.session
        epochs = session.epochs if session.max_steps is None else None
        result = trainer.fit(epochs, out, max_steps=session.max_steps, resume=resume, record=record)
        if distributed.is_first():
            logger.info("next: vidseg test %s", out)
    return result
