"""What runs of segmentation networks found: tables, and the files that hold them."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.labels.segmentation_files import write_frame_labels
from vidseg.metrics import boundary_scores, label_boundaries
from vidseg.tasks.segmentation.task import SegmentationEvaluation

__all__ = [
    "TESTED",
    "CrossValidation",
    "append_scores",
    "scores_text",
    "summary_row",
    "test_report",
    "write_json",
    "write_predictions",
]

TESTED = {
    "validation": "the epoch with the best scores on a validation part of the training videos, which was not learned "
    "from; the test split was looked at once",
    "last": "the last epoch; the test split was looked at once",
    "test": "THE EPOCH WITH THE BEST SCORES ON THE TEST SPLIT ITSELF, as some published results; these scores are too "
    "high, and are not comparable with those of an epoch that was chosen without looking",
}


@dataclass(frozen=True)
class CrossValidation:
    """Scores of each split in per cent, and their means; `str()` is a table."""

    model: str
    dataset: str
    select: str
    splits: list[dict[str, Any]]
    """Of each split: `split`, `epoch`, `videos`, `acc`, `edit` and `f1` by overlap."""

    @property
    def mean(self) -> dict[str, Any]:
        """Mean over the splits of `acc`, `edit` and `f1` by overlap."""
        overlaps = self.splits[0]["f1"]
        return {
            "acc": float(np.mean([row["acc"] for row in self.splits])),
            "edit": float(np.mean([row["edit"] for row in self.splits])),
            "f1": {overlap: float(np.mean([row["f1"][overlap] for row in self.splits])) for overlap in overlaps},
        }

    def __str__(self) -> str:
        overlaps = list(self.splits[0]["f1"])
        width = max(8, *(len(row["split"]) for row in self.splits))
        head = ["epoch", "videos", *(f"F1@{100 * float(overlap):g}" for overlap in overlaps), "edit", "acc"]
        lines = [f"{self.model} on {self.dataset}", f"{'split':{width}}" + "".join(f"{name:>8}" for name in head)]

        def line(name: str, start: str, row: Mapping[str, Any]) -> str:
            scores = [*(row["f1"][overlap] for overlap in overlaps), row["edit"], row["acc"]]
            return f"{name:{width}}{start}" + "".join(f"{score:8.2f}" for score in scores)

        lines += [line(row["split"], f"{row['epoch']:8d}{row['videos']:8d}", row) for row in self.splits]
        if len(self.splits) > 1:
            lines.append(line("mean", f"{'':8}{sum(row['videos'] for row in self.splits):8d}", self.mean))
        return "\n".join([*lines, f"tested: {TESTED[self.select]}"])


def summary_row(test: Mapping[str, Any]) -> dict[str, Any]:
    scores = test["scores"]
    return {
        "split": test["split"],
        "epoch": test["epoch"],
        "videos": len(test["videos"]),
        "acc": scores["acc"],
        "edit": scores["edit"],
        "f1": scores["f1"],
    }


def append_scores(path: Path, epoch: int, result: SegmentationEvaluation) -> None:
    """A row of validation.csv; rows of this epoch and later ones, of a run that went on, are replaced."""
    scores = result.scores
    head = ["Epoch", "Acc", "Edit", *(f"F1@{100 * overlap:g}" for overlap in scores["f1"]), "CrossEntropy"]
    row = [epoch, scores["acc"], scores["edit"], *scores["f1"].values(), result.cross_entropy]
    earlier: list[list[str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            earlier = [line for line in list(csv.reader(file))[1:] if int(line[0]) < epoch]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *earlier, row])
    temporary.replace(path)


def scores_text(found: Any) -> str:
    scores = getattr(found, "scores", found)
    f1 = ", ".join(f"F1@{100 * float(overlap):g} {value:.2f}" for overlap, value in scores["f1"].items())
    return f"{f1}, edit {scores['edit']:.2f}, acc {scores['acc']:.2f}"


def test_report(
    result: SegmentationEvaluation,
    record: Mapping[str, Any],
    *,
    dataset: str,
    epoch: int,
    background: Sequence[int],
) -> dict[str, Any]:
    scores, options = result.scores, record["options"]
    overlaps = {str(overlap): value for overlap, value in scores["f1"].items()}
    table, videos = scores["classes"], scores["videos"]
    truth = [video.truth for video in result.videos]
    boundaries = boundary_scores(truth, [label_boundaries(video.prediction) for video in result.videos])
    return {
        "task": "segmentation",
        "model": options["model"],
        "dataset": Path(dataset).resolve().name,
        "split": record["split"] or "all",
        "epoch": epoch,
        "select": options["select"],
        "tested": TESTED[options["select"]],
        "validation_videos": record["validation_videos"],
        "classes": record["classes"],
        "background": list(background),
        "scores": {
            "acc": scores["acc"],
            "edit": scores["edit"],
            "f1": overlaps,
            "frames": scores["frames"],
            "cross_entropy": result.cross_entropy,
        },
        "boundaries": dict(boundaries),
        "class_scores": {
            "number": table["number"],
            "frames": table["frames"],
            "acc": table["acc"],
            "precision": table["precision"],
            "iou": table["iou"],
            "f1": {str(overlap): column for overlap, column in table["f1"].items()},
        },
        "videos": [
            {
                "name": name,
                "acc": videos["acc"][place],
                "edit": videos["edit"][place],
                "f1": {str(overlap): column[place] for overlap, column in videos["f1"].items()},
                "truth": _runs(video.truth),
                "prediction": _runs(video.prediction),
            }
            for place, (name, video) in enumerate(zip(result.names, result.videos, strict=True))
        ],
    }


def _runs(labels: np.ndarray) -> list[list[int]]:
    """Run lengths: [class, frames] of each segment."""
    cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [[int(labels[start]), stop - start] for start, stop in itertools.pairwise(cuts)]


def write_predictions(folder: Path, result: SegmentationEvaluation, classes: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.txt"):
        old.unlink()
    for name, video in zip(result.names, result.videos, strict=True):
        write_frame_labels(folder / f"{name}-gt.txt", video.truth, list(classes))
        write_frame_labels(folder / f"{name}-pred.txt", video.prediction, list(classes))


def write_json(path: Path, content: Any) -> None:
    """Write under another name and rename: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
