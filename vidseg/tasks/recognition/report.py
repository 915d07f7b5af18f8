"""Tests of a run on held-out videos: scores, confusions, mistakes."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vidseg.engine import distributed
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.runs import build_network, read_run
from vidseg.labels import VideoDataset, open_dataset
from vidseg.metrics import confusion_matrix, mean_class_accuracy
from vidseg.models import load_weights
from vidseg.tasks.recognition.data import choose_splits, labeled, make_loader
from vidseg.tasks.recognition.evaluation import Evaluation, evaluate

__all__ = ["Mistake", "TestReport", "test_run"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the video, its class, the answer, and the probabilities of both."""

    video: str
    true: str
    predicted: str
    probability_true: float
    probability_predicted: float


@dataclass(frozen=True)
class TestReport:
    """What a test found; `str()` is a table."""

    checkpoint: str
    dataset: str
    """Folder of the data set that was tested on."""
    videos: int
    views: int
    top1: float
    top5: float
    loss: float
    mean_class_accuracy: float
    """Over all classes; one without videos counts as 0."""
    classes: list[str]
    confusion: list[list[int]]
    """Rows are true classes, columns predicted ones."""
    mistakes: list[Mistake]
    """The surest wrong answers first."""

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
            f"loss {self.loss:.4f}   ({self.videos} videos, {self.views} view{'' if self.views == 1 else 's'} each)"
        )
        return "\n".join(lines)


def test_run(
    run: str | Path,
    *,
    checkpoint: str | Path | None = None,
    dataset: str | Path | None = None,
    split: str | None = None,
    clips: int = 1,
    crops: int = 1,
    fuse: Literal["softmax", "logits"] = "softmax",
) -> TestReport:
    """Evaluate a run on its held-out videos and leave `test.json` and `mistakes.csv` in its folder.

    Args:
        run: folder of the run.
        checkpoint: weights to test; None takes the run's best ones, else its last ones.
        dataset: another data set than the run's, with the same classes.
        split: another split than the run's held-out videos.
        clips: clips of each video, spread over its length; 1 is the central one.
        crops: crops of each clip: 1 (as in the run's evaluation), 3, 5 or 10.
        fuse: how the views of a video become one: mean of their probabilities, or of their logits.

    Raises:
        FileNotFoundError: the folder holds no run, or no checkpoint.
        ValueError: the data set has other classes.
    """
    run = Path(run)
    options, classes = read_run(run)
    folder = CheckpointFolder(run, options.network.network)
    path = Path(checkpoint) if checkpoint is not None else folder.best if folder.best.is_file() else folder.newest()
    if path is None:
        raise FileNotFoundError(f"{run}: no checkpoint {options.network.network}_*.pth in it")
    if dataset is None and split is None:
        data = choose_splits(options.data, seed=options.session.random_seed)[1]
    else:
        data = labeled(open_dataset(dataset or options.data.dataset, split))
    if data.classes != classes:
        raise ValueError(f"{data}: its classes {data.classes} are not those of the run, {classes}")
    model = build_network(options.network, len(classes))
    load_weights(model, path, network=options.network.network)
    device = distributed.join_group()
    seed = options.session.random_seed
    loader = make_loader(data, options.data, seed=seed, train=False, clips=clips, crops=crops)
    result = evaluate(model.to(device), loader, device=device, fuse=fuse)
    report = _report(result, data, str(path), views=clips * crops)
    (run / "test.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    with (run / "mistakes.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "true", "predicted", "probability_true", "probability_predicted"])
        writer.writerows(asdict(mistake).values() for mistake in report.mistakes)
    return report


def _report(result: Evaluation, data: VideoDataset, checkpoint: str, *, views: int) -> TestReport:
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
        checkpoint=checkpoint,
        dataset=str(data.root),
        videos=len(result.labels),
        views=views,
        top1=top1,
        top5=top5,
        loss=loss,
        mean_class_accuracy=mean_class_accuracy(confusion),
        classes=data.classes,
        confusion=confusion.tolist(),
        mistakes=sorted(mistakes, key=lambda mistake: -mistake.probability_predicted),
    )
