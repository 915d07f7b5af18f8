"""Runs of segmentation networks: each split trained, its epoch chosen, tested; a table over the splits.

The folder of a cross-validation holds `results.json` and for each split a folder with

    options.json              options, recipe, classes, videos of the validation part, versions
    train.log, *_results_s*.csv, <network>_*.pth    as the training loop leaves them
    validation.csv            scores of each validation
    test.json                 scores of the test, by class and video; labels of every video as run lengths
    predictions/              <video>-gt.txt and <video>-pred.txt, a class name a line
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder, read_checkpoint
from vidseg.engine.monitors import run_log
from vidseg.engine.options import (
    CheckpointOptions,
    EvaluationOptions,
    MonitorOptions,
    OptimizerOptions,
    ScheduleOptions,
)
from vidseg.engine.trainer import Trainer
from vidseg.labels import VideoDataset, apply_segmentation, open_dataset, read_segmentation
from vidseg.labels.segmentation_files import check_mapping
from vidseg.loaders import ChunkPooling, FeatureLoader
from vidseg.losses import create_loss
from vidseg.models import create_model, load_weights
from vidseg.tasks.segmentation.folder import (
    Draw,
    check_disjoint,
    class_numbers,
    leave_test,
    prepare_run,
    run_record,
)
from vidseg.tasks.segmentation.recipes import RATES, Recipe, SegmentationOptions, recipe_of
from vidseg.tasks.segmentation.report import (
    TESTED,
    CrossValidation,
    append_scores,
    scores_text,
    summary_row,
    write_json,
)
from vidseg.tasks.segmentation.task import SegmentationEvaluation, SegmentationTask

__all__ = ["PlateauRate", "cross_validate", "read_segmentation_run", "results_folder", "test_split", "train_split"]

logger = logging.getLogger(__name__)

_MAY_CHANGE = {"splits", "resume", "overwrite", "out", "device", "threads", "pictures", "dataset", "epochs"}


class PlateauRate:
    """Halves the rate when the training loss of more than three epochs in a row has not fallen (ASFormer's schedule).

    The losses are read from the score tables of the run, so a run that goes on has the rates of one that never stopped.

    Args:
        folder: of the run.
        factor: what the rate is multiplied by.
        patience: epochs without a better loss that are borne.
        threshold: share by which a loss must be below the best one to be better.
    """

    def __init__(self, folder: Path, *, factor: float = 0.5, patience: int = 3, threshold: float = 1e-4):
        self.folder, self.factor, self.patience, self.threshold = folder, factor, patience, threshold
        self._known: tuple[int, float] = (-1, 1.0)

    def lr_factor(self, epoch: int, batch: int) -> float:
        """Share of the rate that epoch's batches have."""
        if self._known[0] != epoch:
            self._known = (epoch, self.of_losses(_losses(self.folder, epoch)))
        return self._known[1]

    def of_losses(self, losses: Sequence[float]) -> float:
        """Share of the rate that is left after epochs with these losses."""
        best, worse, share = float("inf"), 0, 1.0
        for loss in losses:
            better = loss < best * (1 - self.threshold)
            best, worse = (loss, 0) if better else (best, worse + 1)
            if worse > self.patience:
                share, worse = share * self.factor, 0
        return share


def _losses(folder: Path, epochs: int) -> list[float]:
    """Training losses of the first `epochs` epochs; of an epoch that was trained twice the later one."""
    losses: dict[int, float] = {}
    for path in sorted(folder.glob("train_results_s*.csv")):
        with path.open(newline="") as file:
            losses |= {int(row["Epoch"]): float(row["Loss"]) for row in csv.DictReader(file)}
    return [losses[epoch] for epoch in range(epochs) if epoch in losses]


def cross_validate(name: str, options: SegmentationOptions, *, draw: Draw | None = None) -> CrossValidation:
    """Train and test on each split, and leave `results.json` in the folder of the results.

    Args:
        name: data set whose recipes are taken: gtea, 50salads or breakfast.
        options: what is chosen.
        draw: called with each validation and test.

    Raises:
        FileNotFoundError: no catalog or features.
        FileExistsError: the folder holds a run, and neither resume nor overwrite is given.
        ValueError: a split, a network or an option that does not exist, or wrong data; names file and line.
    """
    recipe, root = recipe_of(name, options), Path(options.dataset)
    _make_catalog(root, RATES[name])
    divisions = _divisions(root, options.splits)
    out = results_folder(options)
    results = []
    for division in divisions:
        folder = out / (division or "all")
        if not (options.resume and (folder / "test.json").is_file()):
            train_split(options, recipe, division, folder, draw=draw)
        results.append(json.loads((folder / "test.json").read_text()))
        table = CrossValidation(
            options.model, root.resolve().name, options.select, [summary_row(test) for test in results]
        )
        if distributed.is_first():
            summary = {"task": "segmentation", **asdict(table), "mean": table.mean, "tested": TESTED[options.select]}
            write_json(out / "results.json", summary)
    return table


def results_folder(options: SegmentationOptions) -> Path:
    """Folder of the results of these options."""
    if options.out is not None:
        return Path(options.out)
    return Path("results") / Path(options.dataset).resolve().name / options.model


def _make_catalog(root: Path, rate: float) -> None:
    """Read a data set in the published form into its catalog, where it has none yet, as its converter does."""
    distributed.join_group()
    if distributed.is_first() and not (root / "catalog.db").is_file() and (root / "groundTruth").is_dir():
        report = apply_segmentation(root, read_segmentation(root, rate=rate), mapping=root / "mapping.txt")
        logger.info("%s: made of groundTruth/ and splits/: %s", root / "catalog.db", report)
    distributed.barrier()


def _divisions(root: Path, wanted: Sequence[str]) -> list[str]:
    """Names of the divisions into train and test that are to be run; "" for the splits `train` and `test`."""
    known = open_dataset(root).splits
    found = [split.rpartition("/")[0] for split in known if split.rpartition("/")[2] == "train"]
    found = [division for division in found if _part(division, "test") in known]
    if not found:
        raise ValueError(
            f"{root}: no split has a train and a test part; it has {', '.join(known) or 'no splits'}. Splits come from"
            " splits/train.split1.bundle and test.split1.bundle"
        )
    for division in wanted:
        if division not in found:
            raise ValueError(f"{root}: no split {division!r} with train and test; there are {', '.join(found)}")
    return list(wanted) or found


def _part(division: str, part: str) -> str:
    return f"{division}/{part}" if division else part


@dataclass(frozen=True)
class _Parts:
    """Videos of a split."""

    learn: VideoDataset
    validation: VideoDataset | None
    test: VideoDataset


def _parts(options: SegmentationOptions, division: str) -> _Parts:
    root = Path(options.dataset)
    train = open_dataset(root, _part(division, "train"))
    test = open_dataset(root, _part(division, "test"))
    check_disjoint(train, test, division)
    if (root / "mapping.txt").is_file():
        check_mapping(root / "mapping.txt", train.classes)
    if options.select != "validation":
        return _Parts(train, test if options.select == "test" else None, test)
    if len(train) < 2:
        raise ValueError(f"{train}: one video cannot be divided into learning and validation; use --select last")
    learn, validation = train.split(1 - options.validation_share, seed=options.seed)
    return _Parts(learn, validation, test)


def _loader(data: VideoDataset, options: SegmentationOptions, recipe: Recipe, *, train: bool) -> FeatureLoader:
    common: dict[str, Any] = {
        "features": options.features,
        "layout": options.layout,
        "labels_per_column": options.labels_per_column,
        "length_tolerance": options.length_tolerance,
        "seed": options.seed,
        "threads": options.threads,
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
    }
    if not train:
        return FeatureLoader(data, batch_size=distributed.world_size(), train=False, **common)
    pooling = None if recipe.pooling is None else ChunkPooling(*recipe.pooling)
    return FeatureLoader(
        data,
        batch_size=recipe.batch_size * distributed.world_size(),
        sample_rate=recipe.sample_rate,
        random_offset=recipe.random_offset,
        pooling=pooling,
        **common,
    )


def _network(model: str, recipe: Recipe, classes: int, width: int) -> nn.Module:
    return create_model(model, num_classes=classes, in_features=width, **recipe.network)


def train_split(
    options: SegmentationOptions, recipe: Recipe, division: str, out: Path, *, draw: Draw | None = None
) -> Path:
    """Train on one split, choose the epoch, and test; returns the folder, which holds `test.json` then.

    Args:
        options: what is chosen.
        recipe: how to train, of `recipe_of`.
        division: name of the split, such as split1.
        out: folder of this split's run.
        draw: called with each validation and with the test.
    """
    device = distributed.process_device(options.device)
    parts = _parts(options, division)
    loader = _loader(parts.learn, options, recipe, train=True)
    validation = None if parts.validation is None else _loader(parts.validation, options, recipe, train=False)
    for _ in _loader(parts.test, options, recipe, train=False):
        pass  # what is wrong with the test's files, NaN included, shows now and not after the training
    classes = parts.learn.classes
    torch.manual_seed(options.seed)
    model = _network(options.model, recipe, len(classes), loader.feature_size)
    step = recipe.sample_rate * options.labels_per_column
    sequences = [torch.from_numpy(loader.labels[row][::step]) for row in range(len(parts.learn))]
    loss = create_loss(options.model, num_classes=len(classes), label_sequences=sequences, **recipe.loss)
    record = run_record(
        "segmentation", options, recipe, division=division, classes=classes, validation=parts.validation
    )
    record["feature_size"] = loader.feature_size
    checkpoints = CheckpointOptions(save_frequency=recipe.epochs, keep=1)
    folder = CheckpointFolder(out, options.model, checkpoints)
    if distributed.is_first():
        prepare_run(out, folder, record, options, recipe, _MAY_CHANGE)
    distributed.barrier()
    table = out / "validation.csv"

    def evaluated(epoch: int, result: SegmentationEvaluation) -> None:
        append_scores(table, epoch, result)
        logger.info("Epoch [%d]  (val)  %s", epoch, scores_text(result))
        if draw is not None and options.pictures:
            title = f"{options.model}, {division or 'held out'}, after {epoch + 1} epochs: {scores_text(result)}"
            draw(out / "pictures" / f"epoch_{epoch + 1:04d}", classes, result, title)

    task = SegmentationTask(loss, recipe, class_numbers(classes, options.background), options.seed, evaluated)
    with _log(out / "train.log", append=options.resume):
        counts = [len(parts.learn), 0 if validation is None else len(validation.data), len(parts.test)]
        logger.info(
            "%s: %d training, %d validation and %d test videos, %d classes", division or options.dataset, *counts,
            len(classes),
        )  # fmt: skip
        logger.info("%s: %d parameters, on %s", options.model, sum(map(torch.Tensor.numel, model.parameters())), device)
        trainer = Trainer(
            model,
            loader,
            task=task,
            validation=validation,
            name=options.model,
            seed=options.seed,
            device=device,
            multigrid=PlateauRate(out) if recipe.plateau else False,
            optimizer=OptimizerOptions(
                optimizer="adam", weight_decay=recipe.weight_decay, accumulate=recipe.accumulate
            ),
            schedule=ScheduleOptions(lr_base=recipe.rate),
            evaluation=EvaluationOptions(test_every=recipe.validate_every),
            checkpoints=checkpoints,
            monitors=MonitorOptions(log_every=len(loader)),
        )
        trainer.fit(recipe.epochs, out, resume=options.resume, record=record)
        result = test_split(out, draw=draw if options.pictures else None, device=device)
        logger.info("test of epoch %d: %s", result["epoch"], scores_text(result["scores"]))
    return out


def test_split(
    run: str | Path,
    *,
    dataset: str | Path | None = None,
    checkpoint: str | Path | None = None,
    draw: Draw | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Test a split's run on its test part, as its recipe says; leaves `test.json` and predictions/ in the folder.

    Args:
        run: folder of the split's run.
        dataset: where the data set is now, with the same classes in the same order.
        checkpoint: weights to test; None: those of the chosen epoch.
        draw: called with the result.
        device: where to compute.

    Returns:
        What `test.json` holds.

    Raises:
        FileNotFoundError: the folder holds no run of this kind, or no checkpoint.
        ValueError: the mapping or the classes are not those of the run; names file and line.
    """
    run = Path(run)
    record = read_segmentation_run(run)
    options, recipe = _options_of(record, dataset), _recipe_of(record)
    classes, division = record["classes"], record["split"]
    root = Path(options.dataset)
    if (root / "mapping.txt").is_file():
        check_mapping(root / "mapping.txt", classes)
    data = open_dataset(root, _part(division, "test"))
    if data.classes != classes:
        wrong = next((pair for pair in zip(data.classes, classes, strict=False) if pair[0] != pair[1]), ("", ""))
        raise ValueError(
            f"{root / 'catalog.db'}: {len(data.classes)} classes, of which {wrong[0]!r} stands where the run {run} has"
            f" {wrong[1]!r} of {len(classes)}; use the data set that it was trained on"
        )
    loader = _loader(data, options, recipe, train=False)
    model = _network(options.model, recipe, len(classes), record["feature_size"])
    folder = CheckpointFolder(run, options.model)
    path = Path(checkpoint) if checkpoint is not None else folder.last if options.select == "last" else folder.best
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; the run {run} has not got that far, go on with --resume")
    load_weights(model, path)
    epoch = int(read_checkpoint(path)["epoch"])
    device = distributed.process_device(device)
    background = class_numbers(classes, options.background)
    loss = create_loss(options.model, num_classes=len(classes))  # a task has one; a test asks it nothing
    task = SegmentationTask(loss, recipe, background, options.seed)
    task.check(model, loader)
    result = task.label(model.to(device), loader, device=device, thorough=True)
    return leave_test(run, result, record, dataset=options.dataset, epoch=epoch, draw=draw)


def read_segmentation_run(run: str | Path) -> dict[str, Any]:
    """What `options.json` of a split's run holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another kind of run.
    """
    path = Path(run) / "options.json"
    if not path.is_file():
        parts = ", ".join(sorted(found.parent.name for found in Path(run).glob("*/options.json")))
        hint = f"; its splits are {parts}" if parts else ""
        raise FileNotFoundError(f"{path}: not there, so {run} is not the folder of a split's run{hint}")
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("task") != "segmentation":
        raise ValueError(f"{path}: not of a segmentation of features; `vidseg test {run}` tests it")
    return record


def _options_of(record: Mapping[str, Any], dataset: str | Path | None) -> SegmentationOptions:
    options = SegmentationOptions(**_with_tuples(record["options"]))
    return options if dataset is None else replace(options, dataset=str(dataset))


def _recipe_of(record: Mapping[str, Any]) -> Recipe:
    values = _with_tuples(record["recipe"])
    return Recipe(**{**values, "network": _with_tuples(values["network"])})


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values read from JSON, lists as the tuples that they were."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


@contextmanager
def _log(path: Path, *, append: bool) -> Iterator[None]:
    """The log of the run, written by the first process."""
    if not distributed.is_first():
        logging.getLogger("vidseg").setLevel(logging.WARNING)
        yield
        return
    with run_log(path, append=append):
        yield
