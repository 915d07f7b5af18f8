"""The folder of a run, and training in it, for every task.

    options.json              task, network, input spec, options, classes, splits, versions
    train.log                 log
    *_results_s*.csv          score tables
    events.jsonl              scores, speeds, checkpoints, warnings, see `vidseg.engine.event_file`
    <network>_*.pth           checkpoints, see `vidseg.engine.checkpoints`
    test*.json, predictions*/, pictures/, *.png, tensorboard/     what tests and plots leave

`options.json` describes the run completely; `--resume`, `vidseg test`, `predict`, `plot` and `info` read it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import vidseg
from vidseg.engine import distributed
from vidseg.engine.apex import apex_amp, apex_optimizer
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.deepspeed import deepspeed_package
from vidseg.engine.event_file import EVENTS
from vidseg.engine.launch import choose_device
from vidseg.engine.loggers import check_loggers
from vidseg.engine.monitors import run_log
from vidseg.engine.options import (
    ONE_START,
    CheckpointOptions,
    NetworkOptions,
    ScheduleOptions,
    TrainOptions,
    flat_options,
)
from vidseg.engine.schedules import Schedule, default_rate
from vidseg.engine.task import Result, Task
from vidseg.engine.trainer import Trainer
from vidseg.frames.whole_file import write_text
from vidseg.labels.counting import counted
from vidseg.labels.json_files import read_json
from vidseg.models import InputSpec, LoadReport, classifier_name, load_weights
from vidseg.models._published import find_published
from vidseg.models._torch_file import read_torch_file

__all__ = [
    "RunFolder",
    "Training",
    "TrainingData",
    "base_input",
    "check_record",
    "filled_schedule",
    "load_initial",
    "read_record",
    "run_folder",
    "run_record",
    "run_schedule",
    "start_run",
    "train_run",
    "write_json",
]

logger = logging.getLogger(__name__)

RECORD = "options.json"
_TABLES = "*_results_s*.csv"
_LEFT = (
    _TABLES, "test.json", "test_*.json", "mistakes.*", "mistakes_*", "scores.npz", "scores_*.npz", "classes.csv",
    "classes_*.csv", "confusion*.csv", "validation.csv", "pictures", "predictions", "predictions_*", "tensorboard",
    "events", EVENTS, "wandb", "train.log", "log.txt", "curves.png", "confusion.png", "speed.png", "segments.png",
    "schedule.png", "calibration.png", "features.png", "landscape.png", "report.html",
)  # fmt: skip
"""What a run, its tests and its plots leave in its folder besides the record and the checkpoints."""
_IDENTITY = ("task", "network", "network_options", "input", "classes", "division", "validation_videos", "data")
"""Entries of the record that stay the same as long as a run is resumed."""
_TYPES: dict[str, tuple[type, str]] = {
    "task": (str, "a text"),
    "network": (str, "a text"),
    "network_options": (dict, "a mapping"),
    "input": (dict, "a mapping"),
    "classes": (list, "a list"),
    "division": (str, "a text"),
    "validation_videos": (list, "a list"),
    "options": (dict, "a mapping"),
}
"""Types of the entries of the record, and their descriptions."""
_PLACES = ("out", "model_dir", "task_name")
"""Options that say where the folder of the run is; it may be moved."""
_LONGEST_NAME = 100  # of a task or network
_OWN_IDENTITY = ("stride",)
"""Entries of some tasks that stay the same."""
_WARMUP_STEPS = 500
"""Longest default warm-up."""
_SMALLEST_SHARE = 0.5
"""Share of a network's values that a checkpoint must fill to start training from it."""


class TrainingData(Protocol):
    """What identifies the data of a run: a `VideoDataset`, or a source of picture pairs."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names; empty for data without classes."""

    def __len__(self) -> int:
        """Number of videos or pairs."""

    def video_path(self, row: int, /) -> Any:
        """Return the name of a video or pair."""


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file under another name and rename it, so that it is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def run_folder(options: TrainOptions, dataset: str) -> Path:
    """Return the folder of a run with these options: --out, or MODEL_DIR/NETWORK_TASKNAME."""
    session = options.session
    if session.out is not None:
        return Path(session.out)
    name = options.network.network + (f"_{session.task_name}" if session.task_name else "")
    return Path(session.model_dir or Path("results") / Path(dataset).resolve().name) / name


def read_record(run: str | Path) -> dict[str, Any]:
    """Return the content of a run's `options.json`.

    Raises:
        FileNotFoundError: the folder holds no run; names the runs in its folders.
        ValueError: the file is not of this version.
    """
    path = Path(run) / RECORD
    if not path.is_file():
        parts = ", ".join(sorted(str(found.parent) for found in Path(run).glob(f"*/{RECORD}")))
        hint = f"; the runs in it are {parts}" if parts else ""
        raise FileNotFoundError(f"{path}: not found, so {run} is not the folder of a run{hint}")
    return check_record(read_json(path), str(path))


def check_record(record: Any, place: str) -> dict[str, Any]:
    """Return the record of a run, after checking that it is complete and has values of the right types.

    Args:
        record: content of `options.json`, or the entry `record` of a checkpoint.
        place: file, for the message.

    Raises:
        ValueError: it is not the record of a run.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{place}: it is not the record of a run, but {type(record).__name__}")
    missing = [name for name in (*_IDENTITY, "options") if name not in record]
    if missing:
        raise ValueError(f"{place}: has no {', '.join(missing)}; it is not the record of a run")
    for name, (kind, description) in _TYPES.items():
        if not isinstance(record[name], kind):
            raise ValueError(f"{place}: {name} is {record[name]!r:.80}, expected {description}")
    for name in ("task", "network"):
        if len(record[name]) > _LONGEST_NAME or set("/\\\0") & set(record[name]):
            raise ValueError(f"{place}: {name} is {record[name]!r:.80}, which is not a name")
    for name in ("network_options", "input", "options"):
        wrong = [key for key in record[name] if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"{place}: {name} has the key {wrong[0]!r:.80}, expected texts")
    wrong = [name for name in record["classes"] if not isinstance(name, str)]
    if wrong:
        raise ValueError(f"{place}: classes has {wrong[0]!r:.80}, expected names")
    return record


def run_record(
    task: str,
    options: TrainOptions,
    *,
    input_spec: InputSpec,
    dataset: str,
    train: TrainingData,
    division: str = "",
    validation_videos: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return the record of a run, plain data for `options.json` and the checkpoints.

    Args:
        task: name of the task.
        options: resolved options; those that concern one start are left out.
        input_spec: how the network sees pictures.
        dataset: absolute path of the data set's folder.
        train: training videos, or picture pairs.
        division: division of the data set, "" without any.
        validation_videos: names of the videos that select the epoch.
        **more: entries of the task's own.
    """
    digest = hashlib.blake2b(digest_size=8)
    for row in range(len(train)):
        digest.update(f"{train.video_path(row)}\n".encode())
    record = {
        "task": task,
        "network": options.network.network,
        "network_options": options.network.chosen_options(),
        "input": input_spec.as_dict(),
        "options": {name: value for name, value in flat_options(options).items() if name not in ONE_START},
        "classes": list(train.classes),
        "division": division,
        "validation_videos": list(validation_videos),
        "dataset": dataset,
        "data": {"videos": len(train), "fingerprint": digest.hexdigest()},
        "versions": {"vidseg": vidseg.__version__, "torch": str(torch.__version__)},
        **more,
    }
    found: dict[str, Any] = json.loads(json.dumps(record))
    return found


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
            return _continued(read_record(self.path), record, path)
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


def _continued(
    known: dict[str, Any], record: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    for name in (*_IDENTITY, *_OWN_IDENTITY):
        old, new = known.get(name), record.get(name)
        if name == "input":  # records of earlier versions lack fields that have their defaults
            old, new = (InputSpec.from_dict(value or {}).as_dict() for value in (old, new))
        if old != new:
            raise ValueError(
                f"{path}: that run has {name}={_shown(old)}, now it is {_shown(new)}; resume it with "
                "what it was started with, or start another run with --out"
            )
    changed = {
        name: [known["options"].get(name), value]
        for name, value in record["options"].items()
        if known["options"].get(name) != value and name not in _PLACES
    }
    return {**record, "changes": [*known.get("changes", []), *([changed] if changed else [])]}, changed


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


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


def filled_schedule(options: TrainOptions, *, batches: int, batch_size: int) -> ScheduleOptions:
    """Return the schedule with the defaults for this data: a rate in proportion to the batch, and a short warm-up.

    Args:
        options: of the run.
        batches: batches of an epoch.
        batch_size: samples of a batch over all processes.
    """
    schedule, session = options.schedule, options.session
    filled = replace(schedule, lr=schedule.lr or default_rate(batch_size))
    if schedule.warmup_epochs is not None or schedule.warmup_steps is not None:
        return filled
    if session.max_steps is not None:
        return replace(filled, warmup_steps=min(session.max_steps // 10, _WARMUP_STEPS))
    return replace(filled, warmup_epochs=min(session.epochs / 10, _WARMUP_STEPS / max(1, batches)))


def run_schedule(options: TrainOptions, schedule: ScheduleOptions) -> Schedule:
    """Return the learning rates over the run: counted in epochs, or in steps with `max_steps`.

    Args:
        options: of the run.
        schedule: of `filled_schedule`.
    """
    session = options.session
    return (
        Schedule(schedule, session.epochs)
        if session.max_steps is None
        else Schedule(schedule, session.max_steps, "step")
    )


def load_initial(
    model: nn.Module, network: NetworkOptions, folder: RunFolder, *, classes: Sequence[str] | None = None
) -> LoadReport | None:
    """Fill the network from `pretrained`; returns the report, None without it or for a run that is resumed.

    Args:
        model: with random weights.
        network: its name, and `pretrained`.
        folder: of the run.
        classes: class names of the run; the classifier of a checkpoint that records other names is not used.

    Raises:
        FileNotFoundError: no such file, or published weights that are not on this machine.
        ValueError: less than half of the network's values are in the file, or `cross_modality` has no effect.
    """
    if network.pretrained is None or folder.resume_from():
        return None
    path = find_published(network.pretrained, network.network)
    name = classifier_name(model)
    random = {key: value.clone() for key, value in model.state_dict().items() if key.startswith(f"{name}.")}
    report = load_weights(model, path, strict=False, network=network.network, cross_modality=network.cross_modality)
    if report.filled < _SMALLEST_SHARE:
        raise ValueError(
            f"{network.pretrained} fills {report.filled:.0%} of {network.network}, less than half: {report}"
        )
    recorded = None if classes is None else _recorded_classes(path)
    if recorded is None or recorded == list(classes or ()):
        return report
    model.load_state_dict(random, strict=False)
    return replace(
        report,
        taken=tuple(key for key in report.taken if key not in random),
        missing=(*report.missing, *(key for key in report.taken if key in random)),
        notes=(*report.notes, f"the weights are for other classes, so the classifier {name} has random weights"),
    )


def _recorded_classes(path: Path) -> list[str] | None:
    """Return the class names that a checkpoint records; None for other files."""
    content = None if path.suffix == ".safetensors" else read_torch_file(path)
    record = content.get("record") if isinstance(content, Mapping) else None
    classes = record.get("classes") if isinstance(record, Mapping) else None
    return list(classes) if isinstance(classes, (list, tuple)) else None


def base_input(folder: RunFolder, report: LoadReport | None, default: InputSpec) -> InputSpec:
    """Return the input spec before options change it: of the run that is resumed, of the weights, or the default."""
    if folder.resume_from() and (folder.path / RECORD).is_file():
        return InputSpec.from_dict(read_record(folder.path)["input"])
    return default if report is None or report.input_spec is None else report.input_spec


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
    return choose_device(options.devices)


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
            text = ", ".join(f"{name}: {_shown(old)} -> {_shown(new)}" for name, (old, new) in changed.items())
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
