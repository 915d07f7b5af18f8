"""Reports of frame labels: tables, and the files that hold them."""

from __future__ import annotations

import csv
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.engine import distributed
from vidseg.engine.frame_label_scores import FrameLabelResult
from vidseg.frames.whole_file import whole_file
from vidseg.labels.json_files import write_json
from vidseg.labels.parts import class_numbers
from vidseg.labels.segmentation_files import write_frame_labels
from vidseg.metrics import boundary_scores, label_boundaries
from vidseg.plots import SegmentedVideo, plot_segments

__all__ = [
    "TESTED",
    "CrossValidation",
    "append_scores",
    "draw_result",
    "record_validation",
    "scores_text",
    "summary_row",
    "test_report",
    "write_predictions",
    "write_test",
]

logger = logging.getLogger(__name__)

_ROWS = 12
"""Videos in a picture."""

TESTED = {
    "validation": "the epoch with the best scores on validation videos that were not trained on; the test split was "
    "evaluated once",
    "last": "the last epoch; the test split was evaluated once",
    "test": "THE EPOCH WITH THE BEST SCORES ON THE TEST SPLIT ITSELF, as in some published results; these scores are "
    "too high, and not comparable with those of an epoch that was selected on other videos",
}


@dataclass(frozen=True)
class CrossValidation:
    """Scores of each division in percent, and their means; `str()` is a table."""

    network: str
    dataset: str
    select: str
    splits: list[dict[str, Any]]
    """Of each division: `split`, `epoch`, `videos`, `acc`, `edit` and `f1` by overlap."""

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
        lines = [f"{self.network} on {self.dataset}", f"{'split':{width}}" + "".join(f"{name:>8}" for name in head)]

        def line(name: str, start: str, row: Mapping[str, Any]) -> str:
            scores = [*(row["f1"][overlap] for overlap in overlaps), row["edit"], row["acc"]]
            return f"{name:{width}}{start}" + "".join(f"{score:8.2f}" for score in scores)

        lines += [line(row["split"], f"{row['epoch']:8d}{row['videos']:8d}", row) for row in self.splits]
        if len(self.splits) > 1:
            lines.append(line("mean", f"{'':8}{sum(row['videos'] for row in self.splits):8d}", self.mean))
        return "\n".join([*lines, f"tested: {TESTED[self.select]}"])


def summary_row(test: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a `CrossValidation` from the file of a test."""
    scores = test["scores"]
    return {
        "split": test["division"],
        "epoch": test["epoch"],
        "videos": len(test["videos"]),
        "acc": scores["acc"],
        "edit": scores["edit"],
        "f1": scores["f1"],
    }


def append_scores(path: Path, epoch: int, result: FrameLabelResult) -> None:
    """Add a row to validation.csv, in place of rows of this epoch (from 1) and later ones."""
    scores = result.scores
    head = ["Epoch", "Acc", "Edit", *(f"F1@{100 * overlap:g}" for overlap in scores["f1"]), "CrossEntropy"]
    row = [epoch, scores["acc"], scores["edit"], *scores["f1"].values(), result.cross_entropy]
    earlier: list[list[str]] = []
    if path.is_file():
        with path.open(newline="") as file:
            earlier = [line for line in list(csv.reader(file))[1:] if int(line[0]) < epoch]
    with whole_file(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *earlier, row])


def scores_text(found: Any) -> str:
    """Return F1, edit score and accuracy in words, from a result or from the scores of a report."""
    scores = getattr(found, "scores", found)
    f1 = ", ".join(f"F1@{100 * float(overlap):g} {value:.2f}" for overlap, value in scores["f1"].items())
    return f"{f1}, edit {scores['edit']:.2f}, acc {scores['acc']:.2f}"


def test_report(
    result: FrameLabelResult, record: Mapping[str, Any], *, dataset: str, epoch: int | None, checkpoint: str, split: str
) -> dict[str, Any]:
    """Return what the file of a test holds.

    Args:
        result: of the tested videos.
        record: of the run, see `vidseg.engine.run_record`.
        dataset: folder of the data set.
        epoch: tested epoch, from 1; None: not known.
        checkpoint: file of the tested weights.
        split: name of the tested split.
    """
    scores, options = result.scores, record["options"]
    overlaps = {str(overlap): value for overlap, value in scores["f1"].items()}
    table, videos = scores["classes"], scores["videos"]
    truth = [video.truth for video in result.videos]
    boundaries = boundary_scores(truth, [label_boundaries(video.prediction) for video in result.videos])
    return {
        "task": record["task"],
        "network": record["network"],
        "dataset": Path(dataset).resolve().name,
        "split": split,
        "division": record["division"] or "all",
        "epoch": epoch,
        "checkpoint": checkpoint,
        "select": options["select"],
        "tested": TESTED[options["select"]],
        "validation_videos": record["validation_videos"],
        "classes": record["classes"],
        "background": class_numbers(record["classes"], options["background"]),
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
                "fps": result.rates[place] or None,
                "acc": videos["acc"][place],
                "edit": videos["edit"][place],
                "f1": {str(overlap): column[place] for overlap, column in videos["f1"].items()},
                "truth": _runs(video.truth),
                "prediction": _runs(video.prediction),
            }
            for place, (name, video) in enumerate(zip(result.names, result.videos, strict=True))
        ],
    }


def write_test(
    run: Path, report: Mapping[str, Any], result: FrameLabelResult, *, name: str = "test", picture: bool = True
) -> None:
    """Write `<name>.json`, predictions and a picture of a test into the folder of its run; in the first process.

    Args:
        run: folder of the run.
        report: of `test_report`.
        result: of the tested videos.
        name: "test", or another name for a test of other videos or another checkpoint.
        picture: draw the labels of the worst videos.
    """
    if distributed.is_first():
        folder = "predictions" if name == "test" else f"predictions_{name.removeprefix('test_')}"
        write_predictions(run / folder, result, report["classes"])
        write_json(run / f"{name}.json", report)
        if picture:
            title = f"{report['network']}, {report['split']}: {scores_text(report['scores'])}"
            background = [report["classes"][number] for number in report["background"]]
            draw_result(run / "pictures" / f"{name}.png", report["classes"], result, title, background=background)
    distributed.barrier()


def record_validation(
    run: Path,
    epoch: int,
    result: FrameLabelResult,
    classes: Sequence[str],
    *,
    picture: bool = True,
    background: Sequence[str] = ("background",),
) -> None:
    """Add a validation to validation.csv of a run, and draw it.

    Args:
        run: folder of the run.
        epoch: from 1.
        result: of the validation videos.
        classes: class names.
        picture: draw the labels of the worst videos.
        background: background classes, which are gray.
    """
    append_scores(run / "validation.csv", epoch, result)
    logger.info("Epoch [%d]  (val)  %s", epoch, scores_text(result))
    if picture:
        title = f"validation after epoch {epoch}: {scores_text(result)}"
        draw_result(run / "pictures" / f"epoch_{epoch:04d}.png", classes, result, title, background=background)


def draw_result(
    path: Path,
    classes: Sequence[str],
    result: FrameLabelResult,
    title: str,
    *,
    background: Sequence[str] = ("background",),
) -> None:
    """Draw true and predicted labels of the worst videos.

    Args:
        path: file of the picture.
        classes: class names.
        result: of the videos.
        title: heading.
        background: background classes, which are gray.
    """
    videos = [
        SegmentedVideo(name, video.truth, video.prediction, fps or None)
        for name, video, fps in zip(result.names, result.videos, result.rates, strict=True)
    ]
    videos.sort(key=lambda video: (video.truth == video.prediction).mean())
    left_out = f" (the worst {_ROWS} of {len(videos)} videos)" if len(videos) > _ROWS else ""
    plot_segments(videos[:_ROWS], list(classes), path, title=title + left_out, background=background)


def _runs(labels: np.ndarray) -> list[list[int]]:
    """Run lengths: [class, frames] of each segment."""
    cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [[int(labels[start]), stop - start] for start, stop in itertools.pairwise(cuts)]


def write_predictions(folder: Path, result: FrameLabelResult, classes: Sequence[str]) -> None:
    """Write true and predicted labels of each video as text files, one class name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.txt"):
        old.unlink()
    for name, video in zip(result.names, result.videos, strict=True):
        write_frame_labels(folder / f"{name}-gt.txt", video.truth, list(classes))
        write_frame_labels(folder / f"{name}-pred.txt", video.prediction, list(classes))
