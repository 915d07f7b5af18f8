"""A run for optical flow from its options: trained, validated after each epoch, tested at the end.

Besides what every run leaves (`vidseg.engine.runs`), the folder holds test.json.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from vidseg.engine import distributed
from vidseg.engine.dry_run import PlannedEpochs, plan_epochs
from vidseg.engine.initial_weights import load_initial
from vidseg.engine.run_record import run_record
from vidseg.engine.runs import RunFolder, Training, run_folder, start_run, train_run
from vidseg.engine.schedules import filled_schedule, run_schedule
from vidseg.labels.flow_pairs import FlowFolder, FlowSource
from vidseg.loaders.flow_augmentation import FlowAugmentation
from vidseg.loaders.flow_loader import FlowLoader
from vidseg.loaders.moving_shapes import MovingShapes
from vidseg.losses.flow_losses import create_flow_loss
from vidseg.models import create_model, list_models, model_input_spec, model_task
from vidseg.tasks.final_test import log_test
from vidseg.tasks.flow.options import SHAPES, FlowOptions
from vidseg.tasks.flow.task import FlowTask

__all__ = ["build_network", "make_loader", "make_source", "plan_flow", "train_flow"]

_TASK = "flow"
_PAIRS, _HELD_OUT, _MOTION = 1000, 64, 8.0
_LARGER = 1.25  # generated pictures that are augmented, relative to the crop


def build_network(options: FlowOptions) -> nn.Module:
    """Return the network with fresh weights.

    Raises:
        ValueError: the name is not a flow network's, or an option is out of its range.
    """
    name = options.network.network
    if model_task(name) != _TASK:
        raise ValueError(f"{name} is a network for {model_task(name)}; flow networks are {_names()}")
    return create_model(name, **options.network.chosen_options())


def _names() -> str:
    return ", ".join(list_models(task=_TASK))


def make_source(options: FlowOptions, split: str) -> FlowSource:
    """Return the picture pairs of a split.

    Args:
        options: of the run.
        split: "train", "val" or "test"; of a folder, "val" and "test" are both the pairs that are held out.

    Raises:
        FileNotFoundError: there is no such folder, or it has no pairs.
    """
    data, seed, train = options.data, options.session.seed, split == "train"
    if data.dataset != SHAPES:
        sides = FlowFolder(data.dataset, passes=data.passes).split(data.validation_share, seed)
        return sides[0] if train else sides[1]
    larger = _LARGER if train and options.augmentation.augment == "on" else 1.0
    return MovingShapes(
        (data.pairs or _PAIRS) if train else (data.held_out or _HELD_OUT),
        height=round(data.height * larger),
        width=round(data.width * larger),
        reach=_MOTION if data.motion is None else data.motion,
        seed=seed,
        split=split,
    )


def _augmentation(options: FlowOptions) -> FlowAugmentation | None:
    data, chosen = options.data, options.augmentation
    generated = data.dataset == SHAPES
    if chosen.augment == "on" or (chosen.augment == "auto" and not generated):
        found = FlowAugmentation(data.height, data.width, scale=chosen.scale)
        return found if chosen.flip else replace(found, mirror=0.0, upside_down=0.0)
    if generated:
        return None
    return FlowAugmentation(data.height, data.width, scaled=0, mirror=0, upside_down=0, color=0, erase=0)  # a crop


def make_loader(source: FlowSource, options: FlowOptions, *, train: bool) -> FlowLoader:
    """Return the batches of a source: shuffled and augmented for training, else whole pairs in order."""
    ranks = distributed.world_size()
    one_size = train or isinstance(source, MovingShapes)  # pictures of a folder may have several sizes
    return FlowLoader(
        source,
        batch_size=(options.data.batch_size if one_size else 1) * ranks,
        train=train,
        augmentation=_augmentation(options),
        seed=options.session.seed,
        rank=distributed.rank(),
        world_size=ranks,
        threads=options.data.threads,
    )


def plan_flow(options: FlowOptions) -> PlannedEpochs:
    """Return the epochs, steps and learning rates of a run; nothing is computed or written.

    Raises:
        ValueError: options that do not fit the data set.
    """
    model_input_spec(options.network.network)  # an unknown name is refused
    batches = len(make_loader(make_source(options, "train"), options, train=True))
    size = options.data.batch_size * distributed.world_size()
    schedule = filled_schedule(options, batches=batches, batch_size=size)
    session, accumulate = options.session, options.optimizer.accumulate
    epochs = session.epochs
    if session.max_steps is not None:
        epochs = -(-session.max_steps * accumulate // batches)
    return plan_epochs(
        run_schedule(options, schedule), epochs=epochs, counts=lambda _: (batches, batches), accumulate=accumulate
    )


def train_flow(options: FlowOptions) -> Path:
    """Train a flow network and test its best epoch on held-out pairs; returns the folder of the run.

    Raises:
        FileNotFoundError: there is no such folder of pairs.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
        ValueError: a network or option that does not exist, or wrong data.
    """
    device = start_run(options)
    data, network = options.data, options.network
    torch.manual_seed(options.session.seed)
    model = build_network(options)
    out = run_folder(options, data.dataset)
    folder = RunFolder(out, network.network, options)
    report = load_initial(model, network, folder)
    sources = {split: make_source(options, split) for split in ("train", "val")}
    generated = data.dataset == SHAPES
    record = run_record(
        _TASK,
        options,
        input_spec=model_input_spec(network.network, **network.chosen_options()),
        dataset=SHAPES if generated else str(Path(data.dataset).resolve()),
        train=sources["train"],
    )
    training = Training(
        task=FlowTask(create_flow_loss(network.network, **options.loss.loss_options())),
        model=model,
        loader=make_loader(sources["train"], options, train=True),
        validation=make_loader(sources["val"], options, train=False),
        record=record,
        summary=(
            f"{len(sources['train'])} training and {len(sources['val'])} held-out pairs, batches of "
            f"{data.batch_size * distributed.world_size()} pairs of {data.width} x {data.height} pixels"
        ),
        report=report,
        batch_size=data.batch_size * distributed.world_size(),
    )
    train_run(training, options, out, device=device)
    log_test(folder, device, words=lambda test: str(test["text"]))
    return out
