"""The folder of a run that labels frames, from features or from streams: its record, who may go on in it, its test."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

import vidseg
from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.labels import VideoDataset
from vidseg.tasks.segmentation.report import scores_text, test_report, write_json, write_predictions
from vidseg.tasks.segmentation.task import SegmentationEvaluation

__all__ = ["Draw", "check_disjoint", "class_numbers", "leave_test", "prepare_run", "run_record", "video_names"]

Draw = Callable[[Path, list[str], SegmentationEvaluation, str], None]
"""Draws an evaluation: file without a suffix, classes, what was found, title."""

_LEFT = ("test.json", "*_results_s*.csv", "validation.csv", "pictures/epoch_*", "predictions/*.txt")


def video_names(data: VideoDataset | None) -> list[str]:
    """Names of the videos without their folders; none of None."""
    return [] if data is None else [data.video_path(row).rpartition("/")[2] for row in range(len(data))]


def class_numbers(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """Numbers of the classes that have one of these names."""
    return [number for number, name in enumerate(classes) if name in names]


def check_disjoint(learn: VideoDataset, test: VideoDataset, division: str) -> None:
    """Refuse a test on what was learned from.

    Raises:
        ValueError: a video is in both parts.
    """
    paths = [{data.video_path(row) for row in range(len(data))} for data in (learn, test)]
    if both := paths[0] & paths[1]:
        raise ValueError(f"{learn.root}: video {sorted(both)[0]} is in both parts of {division or 'the split'}")


def run_record(
    task: str, options: Any, recipe: Any, *, division: str, classes: Sequence[str], validation: VideoDataset | None
) -> dict[str, Any]:
    """What options.json of a run holds.

    Args:
        task: "segmentation" or "stream_segmentation".
        options: dataclass of what was chosen, with `dataset`.
        recipe: dataclass of how the network is trained.
        division: the split, "" without any.
        classes: their names.
        validation: videos that choose the epoch, not learned from.
    """
    return {
        "task": task,
        "options": asdict(options) | {"dataset": str(Path(options.dataset).resolve())},
        "recipe": asdict(recipe),
        "split": division,
        "classes": list(classes),
        "validation_videos": video_names(validation),
        "versions": {"vidseg": vidseg.__version__, "torch": str(torch.__version__)},
    }


def prepare_run(
    out: Path,
    folder: CheckpointFolder,
    record: Mapping[str, Any],
    options: Any,
    recipe: Any,
    may_change: Collection[str],
) -> None:
    """Make the folder of the run; an earlier run in it is gone on with, or replaced, only where that is wanted.

    Args:
        out: the folder.
        folder: its checkpoints.
        record: of `run_record`.
        options: with `resume` and `overwrite`.
        recipe: of the run.
        may_change: names of options and of fields of the recipe that may differ in a run that goes on.

    Raises:
        FileExistsError: the folder holds a run, and nothing was said about it.
        ValueError: the run there is another one.
    """
    path = out / "options.json"
    if path.is_file() and options.resume:
        _check_same(path, json.loads(json.dumps(record)), _defaults(options) | _defaults(recipe), may_change)
    elif not options.overwrite and (path.is_file() or folder.newest() is not None):
        raise FileExistsError(f"{out} holds a run; go on with --resume, choose another --out, or --overwrite it")
    elif not options.resume:
        folder.remove_all()
        for found in (found for pattern in _LEFT for found in out.glob(pattern)):
            found.unlink()
    write_json(path, record)


def _check_same(path: Path, mine: dict[str, Any], defaults: dict[str, Any], may_change: Collection[str]) -> None:
    known = json.loads(path.read_text())
    if known.get("task") != mine["task"]:
        raise ValueError(f"{path}: of another kind of run, {known.get('task') or 'recognition'}; take another folder")
    for group in ("options", "recipe"):
        for key, value in mine[group].items():
            # An option that is younger than the run had its default then.
            before = known[group].get(key, defaults.get(key))
            if key not in may_change and before != value:
                raise ValueError(
                    f"{path}: that run has {key}={before!r}, now it is {value!r}; go on with what it was started with, "
                    "or take another folder"
                )
    if known["classes"] != mine["classes"] or known["validation_videos"] != mine["validation_videos"]:
        raise ValueError(f"{path}: the data set has other classes or videos now; start in another folder")


def _defaults(chosen: Any) -> dict[str, Any]:
    """The defaults of a dataclass's fields, as JSON has them."""
    values = {}
    for field in fields(chosen):
        if field.default is not MISSING:
            values[field.name] = field.default
        elif field.default_factory is not MISSING:
            values[field.name] = field.default_factory()
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found


def leave_test(
    run: Path,
    result: SegmentationEvaluation,
    record: Mapping[str, Any],
    *,
    dataset: str,
    epoch: int,
    draw: Draw | None,
) -> dict[str, Any]:
    """Leave test.json, predictions/ and a picture in the folder of the run; returns what test.json holds.

    Args:
        run: folder of the run.
        result: of the test part.
        record: of the run.
        dataset: where the data set is.
        epoch: that was tested.
        draw: called with the result; None: no picture.
    """
    background = class_numbers(record["classes"], record["options"]["background"])
    report = test_report(result, record, dataset=dataset, epoch=epoch, background=background)
    if distributed.is_first():
        write_predictions(run / "predictions", result, record["classes"])
        write_json(run / "test.json", report)
        if draw is not None:
            part = record["split"] or "held-out videos"
            title = f"{report['model']}, test of {part}: {scores_text(report['scores'])}"
            draw(run / "pictures" / "test", list(record["classes"]), result, title)
    distributed.barrier()
    return report
