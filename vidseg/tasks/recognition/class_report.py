"""Reports of tests on labeled videos: scores, confusions, mistakes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.frames import FrameDatabase
from vidseg.frames.whole_file import whole_file
from vidseg.labels import VideoDataset
from vidseg.labels.json_files import write_json
from vidseg.metrics import confused_pairs, confusion_matrix, mean_class_accuracy
from vidseg.metrics.video_scores import VideoScores, write_scores
from vidseg.plots import contact_sheet
from vidseg.tasks.recognition.evaluation import Evaluation
from vidseg.tasks.recognition.tested_weights import TestedWeights

__all__ = ["Mistake", "TestReport", "draw_mistakes", "make_report", "write_report"]

_ROWS = 25  # mistakes in a picture
_PAIRS = 20  # pairs of classes in a report


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the video, its class, the predicted class, and the probabilities of both."""

    video: str
    true: str
    predicted: str
    probability_true: float
    probability_predicted: float


@dataclass(frozen=True)
class TestReport(TestedWeights):
    """Result of a test; `str()` is a table."""

    top1: float
    top5: float
    loss: float
    mean_class_accuracy: float
    """Over all classes; one without videos counts as 0."""
    classes: list[str]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    confused_pairs: list[tuple[str, str, int]]
    """(true class, predicted class, videos) of the pairs that are confused most often, at most 20."""
    mistakes: list[Mistake]
    """Wrong predictions, the highest probabilities first."""
    task: str = "recognition"

    def __str__(self) -> str:
        width = max(map(len, (*self.classes, "class")))
        lines = [f"{'class':{width}}  videos  recall  precision  most often taken for"]
        for number, (name, row) in enumerate(zip(self.classes, self.confusion, strict=True)):
            videos, predicted = sum(row), sum(other[number] for other in self.confusion)
            recall = f"{row[number] / videos:.3f}" if videos else "-"
            precision = f"{row[number] / predicted:.3f}" if predicted else "-"
            wrong = {other: count for other, count in zip(self.classes, row, strict=True) if count and other != name}
            worst = max(wrong, key=lambda other: wrong[other], default="")
            taken = f"{worst} ({wrong[worst]})" if worst else ""
            lines.append(f"{name:{width}}  {videos:6d}  {recall:>6}  {precision:>9}  {taken}".rstrip())
        lines.append(
            f"top-1 {self.top1:.4f}   top-5 {self.top5:.4f}   mean class accuracy {self.mean_class_accuracy:.4f}   "
            f"loss {self.loss:.4f}"
        )
        return "\n".join([*lines, *self.footer()])


def make_report(result: Evaluation, data: VideoDataset, **facts: Any) -> TestReport:
    """Return the report of an evaluation.

    Args:
        result: predictions for the videos of `data`.
        data: the tested videos.
        **facts: the fields of `TestReport` that do not follow from the predictions.
    """
    confusion = confusion_matrix(result.labels, result.predictions, data.num_classes)
    probabilities = result.logits.softmax(dim=1)
    mistakes = []
    for index in (result.predictions != result.labels).nonzero().flatten().tolist():
        true, predicted = int(result.labels[index]), int(result.predictions[index])
        mistakes.append(
            Mistake(
                video=data.video_path(int(result.numbers[index])),
                true=data.classes[true],
                predicted=data.classes[predicted],
                probability_true=round(float(probabilities[index, true]), 6),
                probability_predicted=round(float(probabilities[index, predicted]), 6),
            )
        )
    top1, top5, loss = result.values
    return TestReport(
        dataset=str(data.root),
        videos=len(result.labels),
        top1=top1,
        top5=top5,
        loss=loss,
        mean_class_accuracy=mean_class_accuracy(confusion),
        classes=data.classes,
        confusion=confusion.tolist(),
        confused_pairs=[
            (data.classes[true], data.classes[predicted], count)
            for true, predicted, count in confused_pairs(confusion, _PAIRS)
        ],
        mistakes=sorted(mistakes, key=lambda mistake: -mistake.probability_predicted),
        **facts,
    )


def write_report(report: TestReport, folder: Path, name: str = "test", *, scores: VideoScores | None = None) -> None:
    """Write the results of a test into a folder.

    For the name "test": test.json, mistakes.csv (wrong predictions, the highest probabilities first), classes.csv
    (videos, recall and precision of each class), confusion.csv (counts, rows are true classes),
    confusion_shares.csv (counts divided by the videos of the true class), and scores.npz. Other names, such as
    test_val, have their own files: mistakes_val.csv.

    Args:
        report: of `make_report`.
        folder: folder of the run.
        name: name of the test.
        scores: of every video; None: no file of scores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", asdict(report))
    if scores is not None:
        write_scores(folder / f"{name.replace('test', 'scores', 1)}.npz", scores)
    mistakes = [asdict(mistake) for mistake in report.mistakes]
    head = [one.name for one in fields(Mistake)]
    _write_table(folder, name, "mistakes", head, [list(mistake.values()) for mistake in mistakes])
    counts = np.array(report.confusion, np.int64)
    videos, predicted, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    rows = [
        [
            report.classes[number],
            int(videos[number]),
            _share(right[number], videos[number]),
            _share(right[number], predicted[number]),
        ]
        for number in range(len(counts))
    ]
    _write_table(folder, name, "classes", ["class", "videos", "recall", "precision"], rows)
    head = ["true", *report.classes]
    lines = zip(report.classes, counts.tolist(), strict=True)
    _write_table(folder, name, "confusion", head, [[label, *line] for label, line in lines])
    shares = [
        [report.classes[row], *(_share(value, videos[row]) for value in counts[row])] for row in range(len(counts))
    ]
    _write_table(folder, name, "confusion_shares", head, shares)


def _share(count: int, total: int) -> str:
    """Return count / total with six digits; "" without a total."""
    return f"{count / total:.6f}" if total else ""


def _write_table(folder: Path, name: str, title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    path = folder / f"{name.replace('test', title, 1)}.csv"
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def draw_mistakes(report: TestReport, folder: Path, name: str = "test", *, most: int = 12) -> list[Path]:
    """Draw frames of the mistakes with the highest probabilities, at most 25 in each picture.

    Videos of a data set of video files have no frame database, and are left out.

    Args:
        report: of `make_report`.
        folder: folder of the pictures.
        name: name of the test; "test" gives mistakes.png, mistakes_page2.png and so on.
        most: largest number of mistakes.

    Returns:
        The pictures; none without a mistake that can be drawn.
    """
    found = [(mistake, Path(report.dataset) / mistake.video / "frames.db") for mistake in report.mistakes[:most]]
    drawn = [
        (
            f"{mistake.video.rpartition('/')[2]}\ntrue: {mistake.true}\npredicted: {mistake.predicted}\n"
            f"{mistake.probability_predicted:.0%}, true class {mistake.probability_true:.0%}",
            path,
        )
        for mistake, path in found
        if path.is_file()
    ]
    stem, pictures = name.replace("test", "mistakes", 1), []
    title = f"{report.network} on {report.split}: mistakes, highest probability first"
    for first in range(0, len(drawn), _ROWS):
        page = "" if first == 0 else f"_page{first // _ROWS + 1}"
        with ExitStack() as stack:
            rows = [(text, stack.enter_context(FrameDatabase(path))) for text, path in drawn[first : first + _ROWS]]
            pictures.append(contact_sheet(rows, folder / f"{stem}{page}.png", row_each=True, title=title))
    return pictures
