"""What the tasks share that label the frames of whole videos, and their trained models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vidseg.engine.frame_label_report import draw_result, record_validation, scores_text, test_report, write_test
from vidseg.engine.frame_label_scores import FrameLabelResult, LabeledVideo, score_videos
from vidseg.engine.task import Task
from vidseg.engine.trained import TrainedModel
from vidseg.engine.weight_source import test_name
from vidseg.labels import VideoDataset
from vidseg.metrics import confusion_matrix

__all__ = ["FrameLabelModel", "FrameLabelTask"]


class FrameLabelTask(Task):
    """A task that labels the frames of whole videos.

    Args:
        background: class numbers whose frames are not segments in the scores.
        folder: of the run, for validation.csv and pictures; None: none are written.
        pictures: draw each validation.
    """

    columns: tuple[str, ...] = ("Acc", "Loss")

    def __init__(self, *, background: Sequence[int] = (), folder: Path | None = None, pictures: bool = False) -> None:
        self.background, self.folder, self.pictures = tuple(background), folder, pictures
        self.classes: list[str] = []

    def check(self, model: nn.Module, loader: Any) -> None:
        """See `Task.check`."""
        data = getattr(loader, "data", None)
        if data is None:
            return
        self.classes = list(data.classes)
        outputs = getattr(model, "num_classes", len(self.classes))
        if outputs != len(self.classes):
            raise ValueError(f"{data}: {len(self.classes)} classes, but the network has {outputs} outputs")

    def label_videos(self, model: nn.Module, loader: Any, *_: Any, **options: Any) -> Iterator[LabeledVideo]:
        """Yield every video of a loader with its predicted labels.

        Args:
            model: in evaluation mode, on the device.
            loader: of the videos.
            **options: `device` and `context` of `evaluate`, and the task's own.
        """
        raise TypeError(f"{type(self).__name__} has no label_videos")

    def evaluate(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        *_: Any,
        device: torch.device | str = "cpu",
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        progress: Callable[[int, Any], None] | None = None,
        **options: Any,
    ) -> FrameLabelResult:
        """Label every video of a loader with `train=False`, and score them; in all processes alike.

        Args:
            model: on `device`; its mode is restored afterwards.
            loader: of the videos.
            device: device of the model.
            context: made around each forward pass.
            progress: not called, since F1 is computed from the counts of all videos.
            **options: of the task's `label_videos`.
        """
        training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                found = list(self.label_videos(model, loader, device=torch.device(device), context=context, **options))
        finally:
            model.train(training)
        return score_videos(found, loader.data, self.background)  # type: ignore[attr-defined]

    def evaluated(self, epoch: int, result: FrameLabelResult) -> None:
        """See `Task.evaluated`: writes validation.csv and a picture."""
        if self.folder is not None:
            background = [self.classes[number] for number in self.background]
            record_validation(
                self.folder, epoch + 1, result, self.classes, picture=self.pictures, background=background
            )

    def draw(self, result: FrameLabelResult, folder: Path) -> list[Path]:
        """See `Task.draw`: labels of the worst videos, and the confusion matrix of all frames."""
        if not self.classes:
            return []
        from vidseg.plots import plot_confusion  # matplotlib, which a run may not need

        segments = folder / "segments.png"
        draw_result(segments, self.classes, result, f"validation: {scores_text(result)}")
        truth, prediction = (
            torch.from_numpy(np.concatenate([getattr(video, name) for video in result.videos]))
            for name in ("truth", "prediction")
        )
        counts = confusion_matrix(truth, prediction, len(self.classes))
        return [segments, plot_confusion(counts.tolist(), self.classes, folder / "confusion.png", unit="frames")]

    def scores_text(self, values: tuple[float, ...]) -> str:
        """See `Task.scores_text`."""
        acc, loss = values
        return f"loss = {loss:.5f}, acc = {acc:.5f}"

    def epoch_text(self, kind: str, epoch: int, values: tuple[float, ...], *, iteration: int | None = None) -> str:
        """See `Task.epoch_text`."""
        acc, loss = values
        name = "loss" if kind == "train" else "cross entropy"
        return f"Epoch [{epoch}]  ({kind})  frame accuracy: {acc:.5f}   average {name}: {loss:.5f}"


class FrameLabelModel(TrainedModel):
    """A trained model that labels the frames of whole videos."""

    def evaluate(self, data: VideoDataset, root: Path) -> FrameLabelResult:
        """Label and score the videos of a data set whose folder is `root`, as the options of the run say."""
        raise TypeError(f"{type(self).__name__} has no evaluate")

    def _scores(self, data: VideoDataset, root: Path) -> dict[str, float]:
        scores = self.evaluate(data, root).scores
        return {"frame accuracy": scores["acc"] / 100, "edit": scores["edit"] / 100, "F1@0.5": scores["f1"][0.5] / 100}

    def _loss(self, data: VideoDataset, root: Path) -> float:
        return float(self.evaluate(data, root).cross_entropy)

    def test(
        self, *_: Any, dataset: str | Path | None = None, split: str | None = None, picture: bool = True, **__: Any
    ) -> dict[str, Any]:
        """Test on the test split of the run's division; leaves test.json and predictions/ in the folder of the run.

        Args:
            dataset: folder of the data set, where it has been moved, with the same classes in the same order.
            split: another split than the division's test split.
            picture: draw the labels of the worst videos.

        Returns:
            The content of test.json.

        Raises:
            ValueError: the data set has other classes or no test split, or the weights do not belong to a run.
        """
        data, root, name = self.test_data(dataset, split)
        record = self.source.record
        result = self.evaluate(data, root)
        report = test_report(
            result,
            record,
            dataset=str(root),
            epoch=self.source.epoch,
            checkpoint=self.source.path.name,
            split=name,
        )
        if self.source.run is not None:
            write_test(self.source.run, report, result, name=test_name(self.source, split or ""), picture=picture)
        return report
