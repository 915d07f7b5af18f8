"""Reports of tests on labeled videos: scores, confusions, mistakes."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidseg.engine.runs import write_json
from vidseg.frames import FrameDatabase
from vidseg.frames.whole_file import whole_file
from vidseg.labels import VideoDataset
from vidseg.metrics import confusion_matrix, mean_class_accuracy
from vidseg.plots import contact_sheet
from vidseg.tasks.recognition.evaluation import Evaluation

__all__ = ["Mistake", "TestReport", "draw_mistakes", "make_report", "write_report"]


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction: the video, its class, the predicted class, and the probabilities of both."""

    video: str
    true: str
    predicted: str
    probability_true: float
    probability_predicted: float


@dataclass(frozen=True)
class TestReport:
    """Result of a test; `str()` is a table."""

    network: str
    checkpoint: str
    epoch: int | None
    """Finished epochs of the tested weights; None: not known."""
    dataset: str
    """Folder of the data set."""
    split: str
    """Name of the tested split."""
    selected_on: bool
    """Whether the checkpoint was selected on this split, so that the scores are optimistic."""
    videos: int
    clips: int
    crops: int
    fuse: str
    top1: float
    top5: float
    loss: float
    mean_class_accuracy: float
    """Over all classes; one without videos counts as 0."""
    classes: list[str]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    mistakes: list[Mistake]
    """Wrong predictions, the highest probabilities first."""

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
        views = self.clips * self.crops
        counts = (f"{self.videos} video{'' if self.videos == 1 else 's'}", f"{views} view{'' if views == 1 else 's'}")
        lines.append(f"{self.network}, {self.checkpoint}, on {self.split}: {counts[0]}, {counts[1]} each")
        if self.selected_on:
            lines.append(
                "This split also selected the checkpoint, as the data set has no other one: the scores are optimistic."
            )
        return "\n".join(lines)


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
        mistakes=sorted(mistakes, key=lambda mistake: -mistake.probability_predicted),
        **facts,
    )


def write_report(report: TestReport, folder: Path, name: str = "test") -> None:
    """Write `<name>.json` and the mistakes as CSV into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", asdict(report))
    table = folder / f"{name.replace('test', 'mistakes', 1)}.csv"
    with whole_file(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "true", "predicted", "probability_true", "probability_predicted"])
        writer.writerows(asdict(mistake).values() for mistake in report.mistakes)


def draw_mistakes(report: TestReport, folder: Path, name: str = "test", *, rows: int = 12) -> Path | None:
    """Draw frames of the mistakes with the highest probabilities; returns the picture, None without any.

    Videos of a data set of video files have no frame database, and are left out.
    """
    found = [(mistake, Path(report.dataset) / mistake.video / "frames.db") for mistake in report.mistakes]
    drawn = [
        (f"{mistake.true}\nas {mistake.predicted}\n{mistake.probability_predicted:.0%}", FrameDatabase(path))
        for mistake, path in found[:rows]
        if path.is_file()
    ]
    if not drawn:
        return None
    out = folder / f"{name.replace('test', 'mistakes', 1)}.png"
    contact_sheet(drawn, out)
    return out
