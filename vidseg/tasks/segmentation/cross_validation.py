"""Runs of segmentation networks: each split trained and tested, and a table over the splits.

The folder of a cross-validation holds `results.json`, and for each split the folder of a run (`vidseg.engine.runs`)
with

    validation.csv            scores of each validation
    test.json                 scores of the test, by class and video; labels of every video as run lengths
    predictions/              <video>-gt.txt and <video>-pred.txt, a class name a line
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.engine import distributed
from vidseg.engine.checkpoints import read_checkpoint
from vidseg.engine.dry_run import PlannedEpochs, plan_epochs
from vidseg.engine.frame_label_report import CrossValidation, scores_text, summary_row
from vidseg.engine.initial_weights import load_initial
from vidseg.engine.run_record import RECORD, read_record, run_record
from vidseg.engine.runs import RunFolder, Training, run_folder, start_run, train_run
from vidseg.engine.schedules import filled_schedule, run_schedule
from vidseg.labels import VideoDataset, apply_segmentation, open_dataset, read_segmentation
from vidseg.labels.json_files import write_json
from vidseg.labels.parts import Parts, choose_parts, class_numbers, divisions_of, part_name, video_names
from vidseg.labels.segmentation_files import check_mapping
from vidseg.loaders import ChunkPooling, FeatureLoader
from vidseg.losses import create_loss
from vidseg.models import create_model, model_input_spec, model_options
from vidseg.tasks.final_test import log_test
from vidseg.tasks.segmentation.options import SegmentationOptions
from vidseg.tasks.segmentation.task import SegmentationTask

__all__ = [
    "build_network",
    "cross_validate",
    "make_loader",
    "plan_segmentation",
    "split_training",
    "train_split",
    "training_divisions",
]

logger = logging.getLogger(__name__)


def cross_validate(options: SegmentationOptions, *, rate: float = 15.0) -> CrossValidation:
    """Train and test on each split, and write `results.json` into the folder of the cross-validation.

    The results include all tested splits of this network in the folder. With `resume` a split that has been tested
    after as many epochs or steps is not trained again.

    Args:
        options: such as those of `vidseg.tasks.segmentation.recipes.recipe_options`.
        rate: labels a second, for a data set in the published form that has no catalog yet.

    Raises:
        FileNotFoundError: no catalog or features.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
        ValueError: a split, a network or an option that does not exist, wrong data (names file and line), or a run to
            resume that has another network, other classes or other videos.
    """
    device = start_run(options)
    root = Path(options.data.dataset)
    _make_catalog(root, rate)
    divisions = training_divisions(root, options.data.splits)
    out = run_folder(options, options.data.dataset)
    folders = {division: out / (division or "all") for division in divisions}
    for division, folder in folders.items():  # refused before the first split is trained
        run = RunFolder(folder, options.network.network, options)
        run.check(_record(options, division, _parts(options, division)))
    for division, folder in folders.items():
        if not _finished(folder, options):
            train_split(options, division, folder, device=device)
    network = options.network.network
    tests = {}
    for path in sorted(out.glob("*/test.json")):
        test = json.loads(path.read_text(encoding="utf-8"))
        if test.get("network") == network and test.get("select") == options.data.select:
            tests[path.parent.name] = test
    table = CrossValidation(
        network, root.resolve().name, options.data.select, [summary_row(test) for test in tests.values()]
    )
    if distributed.is_first():
        write_json(out / "results.json", {"task": "segmentation", **asdict(table), "mean": table.mean})
    return table


def _finished(folder: Path, options: SegmentationOptions) -> bool:
    """Whether a resumed cross-validation has tested this split after as many epochs or steps."""
    session, last = options.session, RunFolder(folder, options.network.network).checkpoints.newest()
    if not session.resume or last is None or not all((folder / name).is_file() for name in ("test.json", RECORD)):
        return False
    known, state = read_record(folder)["options"], read_checkpoint(last)
    ended = state["epoch"] >= session.epochs or (session.max_steps is not None and state["steps"] >= session.max_steps)
    return ended and all(known.get(name) == getattr(session, name) for name in ("epochs", "max_steps"))


def _parts(options: SegmentationOptions, division: str) -> Parts:
    data = options.data
    return choose_parts(
        data.dataset, division, select=data.select, validation_share=data.validation_share, seed=options.session.seed
    )


def _record(options: SegmentationOptions, division: str, parts: Parts, **more: Any) -> dict[str, Any]:
    """The record of a split's run."""
    return run_record(
        "segmentation",
        options,
        input_spec=model_input_spec(options.network.network),
        dataset=str(Path(options.data.dataset).resolve()),
        train=parts.train,
        division=division,
        validation_videos=video_names(parts.validation),
        network_options=network_options(options),
        **more,
    )


def _batches_and_steps(batches: int, _: int) -> tuple[int, int]:
    """Every epoch has the same number of batches, each of which may be a step."""
    return batches, batches


def plan_segmentation(options: SegmentationOptions, *, rate: float = 15.0) -> dict[str, PlannedEpochs]:
    """Return the epochs, steps and learning rates of each split; nothing is trained or written but a missing catalog.

    Args:
        options: of the run.
        rate: see `cross_validate`.

    Raises:
        ValueError: options that do not fit the data set.
    """
    root, found = Path(options.data.dataset), {}
    model_input_spec(options.network.network)  # an unknown name is refused
    _make_catalog(root, rate)
    for division in training_divisions(root, options.data.splits):
        loader = make_loader(_parts(options, division).train, options, train=True)
        schedule = filled_schedule(
            options, batches=len(loader), batch_size=options.data.batch_size * distributed.world_size()
        )
        found[division] = plan_epochs(
            run_schedule(options, schedule),
            epochs=options.session.epochs,
            counts=partial(_batches_and_steps, len(loader)),
            accumulate=options.optimizer.accumulate,
        )
    return found


def _make_catalog(root: Path, rate: float) -> None:
    """Read a data set in the published form into its catalog, where it has none yet, as its converter does."""
    if distributed.is_first() and not (root / "catalog.db").is_file() and (root / "groundTruth").is_dir():
        report = apply_segmentation(root, read_segmentation(root, rate=rate), mapping=root / "mapping.txt")
        logger.info("%s: made from groundTruth/ and splits/: %s", root / "catalog.db", report)
    distributed.barrier()


def training_divisions(root: Path, wanted: Sequence[str]) -> list[str]:
    """Return the names of the divisions into train and test to run; "" for the splits `train` and `test`.

    Args:
        root: folder of the data set.
        wanted: names that the options give; none: all of the data set.

    Raises:
        ValueError: there is no such division, or none at all.
    """
    data = open_dataset(root)
    found = [division for division in divisions_of(data) if part_name(division, "test") in data.splits]
    if not found:
        raise ValueError(
            f"{root}: no split has a train and a test part; it has {', '.join(data.splits) or 'no splits'}. Splits come"
            " from splits/train.split1.bundle and test.split1.bundle"
        )
    for division in wanted:
        if division not in found:
            raise ValueError(f"{root}: no split {division!r} with train and test; there are {', '.join(found)}")
    return list(wanted) or found


def make_loader(data: VideoDataset, options: SegmentationOptions, *, train: bool) -> FeatureLoader:
    """Return the features of videos: shuffled batches for training, else whole videos in order."""
    given, labeling, ranks = options.data, options.labeling, distributed.world_size()
    common: dict[str, Any] = {
        "features": given.features,
        "layout": given.layout,
        "labels_per_column": given.labels_per_column,
        "length_tolerance": given.length_tolerance,
        "seed": options.session.seed,
        "threads": given.threads,
        "rank": distributed.rank(),
        "world_size": ranks,
    }
    if not train:
        return FeatureLoader(data, batch_size=ranks, train=False, **common)
    return FeatureLoader(
        data,
        batch_size=given.batch_size * ranks,
        sample_rate=labeling.sample_rate,
        random_offset=labeling.random_offset,
        pooling=None if labeling.pooling is None else ChunkPooling(*labeling.pooling),
        **common,
    )


def network_options(options: SegmentationOptions) -> dict[str, Any]:
    """Return the options that the network is created with.

    In batches of several videos a network with the option `padding` gets exact padding: the published one lets padding
    influence the end of a video.
    """
    chosen = options.network.chosen_options()
    if options.data.batch_size > 1 and "padding" in model_options(options.network.network):
        chosen.setdefault("padding", "exact")
    return chosen


def build_network(options: SegmentationOptions, classes: int, width: int) -> nn.Module:
    """Return the network with fresh weights.

    Args:
        options: of the run.
        classes: K.
        width: D.
    """
    return create_model(options.network.network, num_classes=classes, in_features=width, **network_options(options))


def split_training(options: SegmentationOptions, division: str, out: Path) -> Training:
    """Return what the run of one split trains.

    Args:
        options: of the run.
        division: name of the split, such as split1.
        out: folder of this split's run.

    Raises:
        ValueError: options that do not fit the data set, or wrong data.
    """
    data, seed, root = options.data, options.session.seed, Path(options.data.dataset)
    parts = _parts(options, division)
    if (root / "mapping.txt").is_file():
        check_mapping(root / "mapping.txt", parts.train.classes)
    assert parts.test is not None
    loader = make_loader(parts.train, options, train=True)
    validation = None if parts.validation is None else make_loader(parts.validation, options, train=False)
    for _ in make_loader(parts.test, options, train=False):
        pass  # an error in the test's files, NaN included, shows now and not after the training
    classes = parts.train.classes
    torch.manual_seed(seed)
    model = build_network(options, len(classes), loader.feature_size)
    folder = RunFolder(out, options.network.network, options)
    report = load_initial(model, options.network, folder)
    step = options.labeling.sample_rate * data.labels_per_column
    sequences = [torch.from_numpy(loader.labels[row][::step]) for row in range(len(parts.train))]
    loss = create_loss(
        options.network.network,
        num_classes=len(classes),
        label_sequences=sequences,
        **options.labeling.loss_options(),
    )
    record = _record(options, division, parts, feature_size=loader.feature_size)
    counts = [len(parts.train), 0 if validation is None else len(validation.data), len(parts.test)]
    return Training(
        task=SegmentationTask(
            loss,
            options.labeling,
            background=class_numbers(classes, data.background),
            seed=seed,
            folder=out,
            pictures=options.monitors.pictures,
        ),
        model=model,
        loader=loader,
        validation=validation,
        record=record,
        summary=(
            f"{division or root}: {counts[0]} training, {counts[1]} validation and {counts[2]} test videos, "
            f"{len(classes)} classes"
        ),
        report=report,
        batch_size=data.batch_size * distributed.world_size(),
    )


def train_split(options: SegmentationOptions, division: str, out: Path, *, device: torch.device) -> Path:
    """Train on one split, select the epoch, and test; returns the folder, which then holds `test.json`.

    Args:
        options: of the run.
        division: name of the split, such as split1.
        out: folder of this split's run.
        device: device to compute on.
    """
    training = split_training(options, division, out)
    if distributed.is_first() and (out / "test.json").is_file():
        (out / "test.json").unlink()  # it is of fewer epochs
    train_run(training, options, out, device=device)
    folder = RunFolder(out, options.network.network, options)
    log_test(folder, device, words=lambda test: scores_text(test["scores"]))
    return out
