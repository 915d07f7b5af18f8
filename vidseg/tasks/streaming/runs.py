"""A streaming run from its options: trained end to end from pixels, validated after each epoch, tested at the end.

Besides what every run leaves (`vidseg.engine.runs`), the folder holds validation.csv, and test.json and predictions/
where the data set has a test split.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vidseg.clips.stream_windows import WindowShape
from vidseg.engine import distributed
from vidseg.engine.dry_run import PlannedEpochs, plan_epochs
from vidseg.engine.frame_label_report import scores_text
from vidseg.engine.initial_weights import base_input, load_initial
from vidseg.engine.motion_input import modality_options, motion_sources
from vidseg.engine.run_record import run_record
from vidseg.engine.runs import RunFolder, Training, run_folder, start_run, train_run
from vidseg.engine.schedules import filled_schedule, run_schedule
from vidseg.labels import VideoDataset
from vidseg.labels.parts import Parts, choose_parts, chosen_division, class_numbers, video_names
from vidseg.loaders import StreamLoader
from vidseg.losses import create_stream_loss
from vidseg.models import (
    InputSpec,
    create_model,
    input_options,
    list_models,
    model_input_spec,
    model_options,
    model_task,
)
from vidseg.models._input_spec import HALF
from vidseg.models._streaming import StreamModel
from vidseg.tasks.final_test import log_test
from vidseg.tasks.streaming.options import StreamingOptions, StreamInput
from vidseg.tasks.streaming.task import StreamingTask

__all__ = [
    "build_network",
    "make_loader",
    "network_options",
    "plan_streaming",
    "resolved_input",
    "train_streaming",
    "window_shape",
]

_TASK = "streaming"


def network_options(options: Mapping[str, Any], name: str, spec: InputSpec, classes: list[str]) -> dict[str, Any]:
    """Return the options that a network is created with: those given, and those that the windows and classes decide.

    Args:
        options: options of the network.
        name: of the network.
        spec: how the network sees windows.
        classes: class names.
    """
    known = model_options(name)
    decided = {"frames": spec.frames, "class_names": list(classes)}
    return input_options(name, {key: value for key, value in decided.items() if key in known} | dict(options), spec)


def build_network(name: str, num_classes: int, options: Mapping[str, Any]) -> StreamModel:
    """Return the streaming network called `name` with fresh weights.

    Raises:
        ValueError: the name is not a streaming network's.
    """
    if model_task(name) != _TASK:
        raise ValueError(f"{name} is not a streaming network; these are {', '.join(list_models(task=_TASK))}")
    model = create_model(name, num_classes=num_classes, **options)
    assert isinstance(model, StreamModel)
    return model


def resolved_input(options: StreamInput | Mapping[str, Any], spec: InputSpec) -> InputSpec:
    """Return the input spec of a network with what the options change.

    With another modality the statistics of colors have no meaning: flow and its like have a mean and a standard
    deviation of 0.5, unless the options say otherwise.
    """
    given = options if isinstance(options, Mapping) else vars(options)
    names = ("modality", "frames", "interval", "size", "mean", "std")
    chosen = {name: given[name] for name in names if given.get(name) is not None}
    modality = chosen.get("modality", spec.modality)
    if modality != spec.modality and not modality.startswith("rgb"):
        chosen = {"mean": HALF, "std": HALF} | chosen
    if "size" in chosen and spec.resize is not None:
        chosen["resize"] = round(chosen["size"] * spec.resize / spec.size)
    return replace(spec, **chosen)


def window_shape(spec: InputSpec, stride: int | None) -> WindowShape:
    """Return how videos are cut; without a stride windows follow each other without overlap."""
    return WindowShape(stride or spec.frames * spec.interval, spec.frames, spec.interval)


def make_loader(
    data: VideoDataset, options: StreamingOptions, spec: InputSpec, shape: WindowShape, *, train: bool
) -> StreamLoader:
    """Return the windows of videos: shuffled groups for training, else in order."""
    given = options.data
    return StreamLoader(
        data,
        shape,
        group=given.batch_size,
        size=spec.size,
        resize=spec.resize,
        train=train,
        flip=given.flip,
        seed=options.session.seed,
        **modality_options(spec),
        threads=given.threads,
        cache_bytes=given.cache_bytes if train else 0,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )


def _parts(options: StreamingOptions) -> Parts:
    data = options.data
    return choose_parts(
        data.dataset,
        chosen_division(data.dataset, data.split),
        select=data.select,
        validation_share=data.validation_share,
        seed=options.session.seed,
    )


def plan_streaming(options: StreamingOptions) -> PlannedEpochs:
    """Return the epochs, steps and learning rates of a run; nothing is decoded or written.

    Raises:
        ValueError: options that do not fit the data set.
    """
    parts = _parts(options)
    spec = resolved_input(options.input, model_input_spec(options.network.network))
    task = StreamingTask(update=options.training.update, weighting=options.training.weighting)
    with make_loader(parts.train, options, spec, window_shape(spec, options.input.stride), train=True) as loader:

        def counts(epoch: int) -> tuple[int, int]:
            loader.set_epoch(epoch)
            return len(loader), task.steps(loader)

        schedule = filled_schedule(
            options, batches=len(loader), batch_size=options.data.batch_size * distributed.world_size()
        )
        return plan_epochs(
            run_schedule(options, schedule),
            epochs=options.session.epochs,
            counts=counts,
            accumulate=options.optimizer.accumulate,
        )


def train_streaming(options: StreamingOptions) -> Path:
    """Train a streaming network on the training split, and test it on the test split; returns the folder of the run.

    Raises:
        FileNotFoundError: there is no catalog.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
        ValueError: a network, split or option that does not exist, or wrong data.
    """
    device = start_run(options)
    data, session, network = options.data, options.session, options.network
    parts = _parts(options)
    out, classes = run_folder(options, data.dataset), list(parts.train.classes)
    folder = RunFolder(out, network.network, options)
    spec = resolved_input(options.input, base_input(folder, None, model_input_spec(network.network)))
    chosen = network_options(network.chosen_options(), network.network, spec, classes)
    torch.manual_seed(session.seed)
    model = build_network(network.network, len(classes), chosen)
    report = load_initial(model, network, folder)
    shape = window_shape(spec, options.input.stride)
    objective = create_stream_loss(network.network, update=options.training.update, **options.training.loss_options())
    record = run_record(
        _TASK,
        options,
        input_spec=spec,
        dataset=str(Path(data.dataset).resolve()),
        train=parts.train,
        division=parts.division,
        validation_videos=video_names(parts.validation),
        network_options=chosen,
        motion=motion_sources(parts.train, spec),
        stride=shape.stride,
    )
    with ExitStack() as stack:
        loader = stack.enter_context(make_loader(parts.train, options, spec, shape, train=True))
        validation = parts.validation and stack.enter_context(
            make_loader(parts.validation, options, spec, shape, train=False)
        )
        counts = [0 if part is None else len(part) for part in (parts.train, parts.validation, parts.test)]
        training = Training(
            task=StreamingTask(
                objective,
                update=options.training.update,
                weighting=options.training.weighting,
                background=class_numbers(classes, data.background),
                folder=out,
                pictures=options.monitors.pictures,
            ),
            model=model,
            loader=loader,
            validation=validation,
            record=record,
            summary=(
                f"{counts[0]} training, {counts[1]} validation and {counts[2]} test videos, {len(classes)} classes, "
                f"windows of {shape.frames} frames, {shape.interval} apart, every {shape.stride}"
            ),
            report=report,
            batch_size=data.batch_size * distributed.world_size(),
        )
        train_run(training, options, out, device=device)
    if parts.test is not None:
        log_test(folder, device, words=lambda test: scores_text(test["scores"]))
    return out
