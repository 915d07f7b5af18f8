"""A whole run from its options: data, network, training, and the files it leaves.

The folder of a run holds `options.json` (options, classes, versions), `train.log`, score tables and checkpoints.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vidseg
from vidseg.engine import distributed
from vidseg.engine.apex import apex_amp, apex_optimizer
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.dry_run import Planned, plan_run
from vidseg.engine.monitors import run_log
from vidseg.engine.options import NetworkOptions, TrainOptions, flat_options, options_from
from vidseg.engine.schedules import Schedule
from vidseg.engine.trainer import Trainer
from vidseg.models import create_model, load_weights, model_task
from vidseg.tasks.recognition.data import choose_splits, make_loader, make_multigrid

__all__ = ["build_network", "check_recognition", "plan_of", "read_run", "run_folder", "train_run"]

logger = logging.getLogger(__name__)


def train_run(options: TrainOptions) -> Path:
    """Train as the options say; returns the folder of the run.

    Raises:
        FileExistsError: the folder holds a run, and none of resume, resume_epoch and overwrite is given.
        ImportError: something of apex is asked for and not there.
        ValueError: options that do not fit the network, the data set or the run that goes on.
    """
    # Everything that wrong options break comes before the folder is touched.
    run, seed = options.session, options.session.random_seed
    if options.devices.amp == "apex":
        apex_amp()
    if options.optimizer.implementation == "apex":
        apex_optimizer("FusedSGD" if options.optimizer.optimizer == "sgd" else "FusedAdam")
    device = _device(options.devices.gpus)
    train, held_out = choose_splits(options.data, seed=seed)
    multigrid = make_multigrid(train, options.data, options.schedule)
    loader = make_loader(train, options.data, seed=seed, train=True, multigrid=multigrid)
    validation = make_loader(held_out, options.data, seed=seed, train=False)
    torch.manual_seed(seed)
    model = build_network(options.network, train.num_classes)
    out = run_folder(options)
    folder = CheckpointFolder(out, options.network.network, options.checkpoints)
    resume = _resume_from(options, folder)
    report = None
    if options.network.pretrained_3d is not None and not resume:
        report = load_weights(model, options.network.pretrained_3d, strict=False)
    record = {
        "options": flat_options(options) | {"dataset": str(Path(options.data.dataset).resolve())},
        "classes": train.classes,
        "versions": {"vidseg": vidseg.__version__, "torch": str(torch.__version__)},
    }
    if distributed.is_first():
        _prepare_folder(out, folder, record, go_on=bool(resume), overwrite=run.overwrite)
    distributed.barrier()
    with _log(options, out, append=bool(resume)):
        logger.info("%d training and %d held-out videos of %d classes", len(train), len(held_out), train.num_classes)
        values = sum(parameter.numel() for parameter in model.parameters())
        processes = distributed.world_size()
        logger.info("%s: %d parameters, on %d x %s", options.network.network, values, processes, device)
        if report is not None:
            logger.info("%s: %s", options.network.pretrained_3d, report)
        trainer = Trainer(
            model,
            loader,
            validation=validation,
            opt_level=options.devices.opt_level or ("O0" if device.type == "cpu" else "O1"),
            multigrid=multigrid,
            name=options.network.network,
            seed=seed,
            device=device,
            optimizer=options.optimizer,
            schedule=options.schedule,
            devices=options.devices,
            evaluation=options.evaluation,
            checkpoints=options.checkpoints,
            monitors=options.monitors,
            fine_tune=options.network.fine_tune,
            fresh=() if report is None else report.missing,
        )
        trainer.fit(run.end_epoch, out, resume=resume, record=record)
    return out


def plan_of(options: TrainOptions) -> Planned:
    """The schedule that a run of these options would follow; nothing is decoded or written.

    Raises:
        ValueError: options that do not fit the data set.
    """
    train, _ = choose_splits(options.data, seed=options.session.random_seed)
    multigrid = make_multigrid(train, options.data, options.schedule)
    loader = make_loader(train, options.data, seed=options.session.random_seed, train=True, multigrid=multigrid)
    epochs = options.session.end_epoch
    return plan_run(loader, Schedule(options.schedule, epochs), epochs=epochs, multigrid=multigrid)


def _device(gpus: str | None) -> torch.device:
    """Where this process computes; `--gpus` of several GPUs has been answered by starting a process for each."""
    device = distributed.join_group()
    if gpus is None or distributed.world_size() > 1:
        return device
    chosen = distributed.choose_gpus(gpus, present=torch.accelerator.device_count())
    return torch.device(device.type, chosen[0]) if chosen else torch.device("cpu")


def run_folder(options: TrainOptions) -> Path:
    """The folder that a run of these options has."""
    run = options.session
    if run.out is not None:
        return Path(run.out)
    name = options.network.network + (f"_{run.task_name}" if run.task_name else "")
    return Path(run.model_dir or Path("results") / Path(options.data.dataset).resolve().name) / name


def build_network(options: NetworkOptions, num_classes: int) -> nn.Module:
    """The network with fresh weights; only the options that differ from its own defaults are passed on.

    Raises:
        ValueError: no network for clips of RGB has this name, or an option out of its range.
    """
    check_recognition(options.network)
    chosen: dict[str, Any] = {}
    if options.width != 1:
        chosen["width"] = options.width
    if options.placement is not None:
        chosen["placement"] = options.placement
    if options.gate:
        chosen["gate"] = True
    return create_model(options.network, num_classes=num_classes, **chosen)


def check_recognition(name: str) -> None:
    """Refuse networks that do not classify clips of RGB.

    Raises:
        ValueError: the network called `name` does something else, or there is none.
    """
    task = model_task(name)
    if task != "recognition":
        raise ValueError(f"{name} is a network for {task}, and clips of RGB are for those of recognition")


def read_run(run: str | Path) -> tuple[TrainOptions, list[str]]:
    """Options and class names of an earlier run.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    path = Path(run) / "options.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not there, so {run} is not the folder of a run")
    record = json.loads(path.read_text())
    return options_from(record["options"]), record["classes"]


def _resume_from(options: TrainOptions, folder: CheckpointFolder) -> bool | Path:
    """Which checkpoint the run goes on from; False starts."""
    run = options.session
    if run.resume_epoch < 0:
        return run.resume
    if options.network.pretrained_3d is not None:
        return Path(options.network.pretrained_3d)
    if run.resume_epoch == 1:
        return False
    path = folder.numbered(run.resume_epoch - 1)
    if not path.is_file():
        there = ", ".join(found.name for found in folder.found()) or "none"
        raise FileNotFoundError(
            f"{path}: not there, so no run can go on with epoch {run.resume_epoch}; checkpoints in it: {there}"
        )
    return path


def _prepare_folder(
    out: Path, folder: CheckpointFolder, record: Mapping[str, Any], *, go_on: bool, overwrite: bool
) -> None:
    """Make the folder of the run; an earlier run in it is replaced only if that is wanted."""
    path = out / "options.json"
    earlier = [found for name in ("test.json", "*_results_s*.csv") for found in sorted(out.glob(name))]
    if go_on:
        if path.is_file():
            known = json.loads(path.read_text())
            if known["classes"] != record["classes"]:
                raise ValueError(f"{out}: that run has the classes {known['classes']}, the data set now has others")
            changed = {
                name: f"{known['options'].get(name)} -> {value}"
                for name, value in json.loads(json.dumps(record["options"])).items()
                if known["options"].get(name) != value and name not in _MAY_CHANGE
            }
            if changed:
                logger.warning("%s goes on with other options: %s", out, changed)
    elif not overwrite and (path.is_file() or earlier or folder.newest() is not None):
        raise FileExistsError(f"{out} holds a run; go on with --resume, choose another folder, or --overwrite it")
    else:
        folder.remove_all()
        for found in earlier:
            found.unlink()
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n")


_MAY_CHANGE = {"resume", "resume_epoch", "overwrite", "out", "model_dir", "pretrained_3d", "threads", "log_every"}


@contextmanager
def _log(options: TrainOptions, out: Path, *, append: bool) -> Iterator[None]:
    """The log of the run, written by the first process."""
    if not distributed.is_first():
        logging.getLogger("vidseg").setLevel(logging.WARNING)
        yield
        return
    path = Path(options.session.log_file or out / "train.log")
    with run_log(path, append=append, debug=options.monitors.debug_mode):
        yield
