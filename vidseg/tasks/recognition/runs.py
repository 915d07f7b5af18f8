"""A recognition run from its options: data, network, training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.engine import distributed
from vidseg.engine.dry_run import Planned, plan_run
from vidseg.engine.initial_weights import base_input, load_initial
from vidseg.engine.motion_input import motion_sources
from vidseg.engine.options import NetworkOptions
from vidseg.engine.run_record import run_record
from vidseg.engine.runs import RunFolder, Training, run_folder, start_run, train_run
from vidseg.engine.schedules import filled_schedule, run_schedule
from vidseg.labels import VideoDataset
from vidseg.loaders import ClipLoader
from vidseg.models import InputSpec, LoadReport, create_model, input_options, model_input_spec, model_task
from vidseg.tasks.recognition.data import (
    Splits,
    choose_splits,
    evaluation_loader,
    fitting_batch,
    make_multigrid,
    resolved_input,
    training_loader,
)
from vidseg.tasks.recognition.options import InputOptions, RecognitionOptions
from vidseg.tasks.recognition.target_kinds import Target, make_target
from vidseg.tasks.recognition.task import RecognitionTask

__all__ = [
    "build_network",
    "check_network",
    "network_options",
    "plan_recognition",
    "recognition_training",
    "run_input",
    "train_recognition",
]


@dataclass(frozen=True)
class _Data:
    """What a run reads, and how.

    Attributes:
        options: with the batch size that was chosen.
        batch_size: over all processes.
    """

    splits: Splits
    spec: InputSpec
    multigrid: Any
    loader: ClipLoader
    options: RecognitionOptions
    batch_size: int


def _data(options: RecognitionOptions, splits: Splits, spec: InputSpec) -> _Data:
    world, clips = distributed.world_size(), len(splits.train) * options.data.repeats
    size = options.data.batch_size or fitting_batch(clips, world)
    if options.data.process_batch_size is not None:
        size = options.data.process_batch_size * world
    else:
        options = replace(options, data=replace(options.data, batch_size=size))
    multigrid = make_multigrid(clips, size, spec, options.multigrid)
    loader = training_loader(
        splits.train,
        options.data,
        spec,
        seed=options.session.seed,
        batch_size=size,
        train_interval=options.input.train_interval,
        stretch_intervals=options.input.stretch_intervals,
        multigrid=multigrid,
        augmentation=options.augmentation,
        target=make_target(options.loss).function(splits.train),
    )
    return _Data(splits, spec, multigrid, loader, options, size)


def recognition_training(options: RecognitionOptions, out: Path) -> tuple[Training, RecognitionOptions]:
    """Return what a run trains, and its options with the batch size that was chosen.

    Args:
        options: of the run.
        out: folder of the run, whose record decides the input of a run that is resumed.

    Raises:
        ValueError: options that do not fit the network, the data set or the run that is resumed.
    """
    network = options.network
    check_network(network.network)
    splits = choose_splits(options.data, seed=options.session.seed, target=options.loss.target)
    folder = RunFolder(out, network.network, options)
    torch.manual_seed(options.session.seed)
    names = ["value"] if options.loss.target == "value" else splits.train.classes
    chosen = network_options(network, options.input)
    model = build_network(network, len(names), options.input)
    report = load_initial(model, network, folder, classes=names)
    data = _data(options, splits, run_input(options, folder, report))
    options, size = data.options, data.batch_size
    target = make_target(options.loss, splits.train)
    dataset = str(Path(options.data.dataset).resolve())
    training = Training(
        task=RecognitionTask(target=target, mixup=options.loss.mixup, cutmix=options.loss.cutmix),
        model=model,
        loader=data.loader,
        validation=_validation_loader(splits.validation, options, data.spec, batch_size=size, target=target),
        record=run_record(
            "recognition",
            options,
            input_spec=data.spec,
            dataset=dataset,
            train=splits.train,
            classes=list(names),
            network_options=chosen,
            motion=motion_sources(splits.train, data.spec),
        ),
        summary=(
            f"{len(splits.train)} training and {len(splits.validation)} validation videos "
            + ("with a number" if options.loss.target == "value" else f"of {len(names)} classes")
            + f", batches of {size} clips"
        ),
        report=report,
        multigrid=data.multigrid,
        batch_size=size,
    )
    return training, options


def train_recognition(options: RecognitionOptions) -> Path:
    """Train as the options say; returns the folder of the run.

    Raises:
        FileExistsError: the folder holds a run, and none of resume, resume_epoch and overwrite is given.
        ImportError: an option needs apex, which is not installed.
        ValueError: options that do not fit the network, the data set or the run that is resumed.
    """
    check_network(options.network.network)
    device = start_run(options)
    out = run_folder(options, options.data.dataset)
    training, options = recognition_training(options, out)
    train_run(training, options, out, device=device)
    return out


def _validation_loader(
    data: VideoDataset, options: RecognitionOptions, spec: InputSpec, *, batch_size: int, target: Target
) -> ClipLoader:
    """The views of each validation video that the options ask for."""
    chosen = options.data
    return evaluation_loader(
        data,
        chosen,
        spec if chosen.val_frames is None else replace(spec, frames=chosen.val_frames),
        batch_size=batch_size,
        clips=chosen.val_clips,
        crops=chosen.val_crops,
        target=target.function(data),
    )


def plan_recognition(options: RecognitionOptions) -> Planned:
    """Return the schedule that a run of these options follows; nothing is decoded or written.

    Raises:
        ValueError: options that do not fit the data set.
    """
    check_network(options.network.network)
    splits = choose_splits(options.data, seed=options.session.seed, target=options.loss.target)
    data = _data(options, splits, run_input(options))
    schedule = filled_schedule(options, batches=len(data.loader), batch_size=data.batch_size)
    session, rates = options.session, run_schedule(options, schedule)
    return plan_run(
        data.loader, rates, epochs=session.epochs, multigrid=data.multigrid, accumulate=options.optimizer.accumulate
    )


def run_input(
    options: RecognitionOptions, folder: RunFolder | None = None, report: LoadReport | None = None
) -> InputSpec:
    """Return the input spec of a run: of the run that is resumed, of its weights, or of its network, with the options.

    The modality is never that of the weights, which may be those of another one.

    Args:
        options: of the run.
        folder: of the run; None: nothing is resumed.
        report: what `pretrained` filled.
    """
    network, given = options.network, options.input
    default = model_input_spec(network.network, **network.chosen_options())
    base = default if folder is None else base_input(folder, report, default)
    chosen = {
        **vars(given),
        "modality": given.modality or default.modality,
        "stack": given.stack or default.stack,
    }
    if base.modality != chosen["modality"] == default.modality:  # statistics of another modality
        base = replace(base, mean=default.mean, std=default.std, color=default.color)
    return resolved_input(chosen, base, val_geometry=options.data.val_geometry)


def network_options(network: NetworkOptions, given: InputOptions) -> dict[str, Any]:
    """Return the options that the network of a run is created with: those given, and the channels of its input.

    Raises:
        ValueError: the network has other channels than the modality.
    """
    chosen = network.chosen_options()
    spec = model_input_spec(network.network, **chosen)
    spec = replace(spec, modality=given.modality or spec.modality, stack=given.stack or spec.stack)
    return input_options(network.network, chosen, spec)


def build_network(options: NetworkOptions, num_classes: int, given: InputOptions | None = None) -> nn.Module:
    """Return the network with fresh weights.

    Args:
        options: name and options of the network.
        num_classes: K.
        given: the input of the run, whose modality decides the channels.

    Raises:
        ValueError: no network for clips has this name, an option is out of its range, or the network has other channels
            than the modality.
        TypeError: the network has no such option.
    """
    check_network(options.network)
    chosen = network_options(options, given or InputOptions())
    return create_model(options.network, num_classes=num_classes, **chosen)


def check_network(name: str) -> None:
    """Refuse networks that do not classify clips.

    Raises:
        ValueError: there is no network called `name`, or it is of another task.
    """
    if not name:
        raise ValueError("network: name the network; `vidseg models` shows all names")
    task = model_task(name)
    if task != "recognition":
        raise ValueError(f"{name} is a network for {task}; recognition needs one that classifies clips")
