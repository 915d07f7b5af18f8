"""A trained detector: actions in features or videos, tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidseg.engine import distributed
from vidseg.engine.trained import TrainedModel
from vidseg.engine.weight_source import test_name
from vidseg.labels import VideoDataset
from vidseg.labels.json_files import write_json
from vidseg.loaders import DetectionBatch
from vidseg.loaders.detection_loader import column_times, fit_columns, window_spans
from vidseg.loaders.feature_files import SUFFIXES, read_array
from vidseg.plots import DetectedVideo, plot_timelines
from vidseg.tasks.detection.options import DetectionOptions
from vidseg.tasks.detection.result import DetectionResult
from vidseg.tasks.detection.result_files import DetectionResults, DetectionRow, write_detections, write_results
from vidseg.tasks.detection.result_pictures import draw_scores
from vidseg.tasks.detection.result_scores import score_pair
from vidseg.tasks.detection.runs import build_network, make_loader, make_task, snippet_source
from vidseg.videos import draw_labels, open_videos
from vidseg.videos.listing import find_jobs

__all__ = ["DetectionModel", "VideoDetections"]

_DRAWN, _LEAST = 3, 0.01
"""Largest number and smallest score of the actions of one moment that are drawn into a video."""


@dataclass(frozen=True)
class VideoDetections:
    """Actions of one video by falling score; `str()` is a table.

    Attributes:
        video: name of the video.
        seconds: its duration.
        detections: the actions.
    """

    video: str
    seconds: float
    detections: tuple[DetectionRow, ...]

    def above(self, score: float) -> VideoDetections:
        """Return the detections of at least this score."""
        return replace(self, detections=tuple(one for one in self.detections if one.score >= score))

    def __str__(self) -> str:
        rows = (f"{one.start:9.2f} {one.stop:9.2f}  {one.score:.3f}  {one.label}" for one in self.detections)
        return "\n".join([f"{self.video} ({self.seconds:.2f} s)", "    start      stop  score  class", *rows])


class DetectionModel(TrainedModel):
    """A network that finds actions in long videos, given as features or as pixels."""

    task = "detection"

    def build(self) -> nn.Module:
        """See `TrainedModel.build`."""
        options = self.options(DetectionOptions())
        if options.snippets.encoder:  # its weights are in the checkpoint
            options = replace(options, snippets=replace(options.snippets, encoder_weights=None))
            return build_network(options, len(self.classes), None)
        width = {"in_features": self.source.record.get("feature_size"), **self.source.network_options}["in_features"]
        if width is None:
            raise ValueError(
                f"{self.source.path}: does not hold the width of its features; give it with --network-option "
                "in_features=2048"
            )
        network = replace(options.network, network=self.network, network_option=())
        chosen = tuple(f"{name}={value!r}" for name, value in self.source.network_options.items())
        return build_network(
            replace(options, network=replace(network, network_option=chosen)), len(self.classes), width
        )

    def predict(
        self,
        source: str | Path | np.ndarray | Tensor,
        *,
        seconds: float | None = None,
        layout: str | None = None,
        name: str | None = None,
        threads: int | None = None,
    ) -> VideoDetections:
        """Find the actions of one video.

        Args:
            source: a video file, for a network trained from pixels; else a file of features or an array (D, L).
            seconds: duration of the video; None: from the columns, with `feature_stride` and `feature_fps`.
            layout: "DL", or "LD" for rows of time steps; None: as the run's features.
            name: name of the video; None: that of the file.
            threads: decoding threads.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: features of another width, or a video that cannot be decoded.
        """
        options = self.options(DetectionOptions())
        options = replace(options, data=replace(options.data, threads=threads or options.data.threads))
        task = make_task(options, self.classes, class_agnostic=self._class_agnostic)
        title = name or (Path(source).stem if isinstance(source, (str, Path)) else "features")
        if options.snippets.encoder:
            samples, length = self._pixels(source, options)
        else:
            samples, length = self._features(source, options, seconds, layout)
        windows = []
        for sample in samples:
            batch = sample.to(self.device)
            with torch.inference_mode():
                windows += [found for _, found in task.detect(self.model(batch.inputs, batch.mask), batch)]
        found = task.select(windows, name=title, seconds=length)
        rows = zip(found.labels.tolist(), found.segments.tolist(), found.scores.tolist(), strict=True)
        labels = ["action"] if task.class_scores is None and self._class_agnostic else self.classes
        return VideoDetections(
            title,
            length,
            tuple(DetectionRow(labels[label], start, stop, score) for label, (start, stop), score in rows),
        )

    @property
    def example_columns(self) -> int | None:
        """Columns, or snippets, of a sample; None: those of the video."""
        options = self.options(DetectionOptions())
        return options.snippets.snippets or options.data.columns

    def find_sources(self, source: Path) -> list[Path]:
        """Return the videos, or the files of features, of a folder that `predict` takes; a file is itself.

        Raises:
            FileNotFoundError: there is none.
        """
        if source.is_file():
            return [source]
        if self.options(DetectionOptions()).snippets.encoder:
            return [Path(job.source) for job in find_jobs(source).jobs]
        files = sorted(path for path in source.glob("*") if path.suffix in SUFFIXES)
        if not files:
            raise FileNotFoundError(f"{source}: no file of features in it ({', '.join(SUFFIXES)})")
        return files

    @property
    def _class_agnostic(self) -> bool:
        return bool(getattr(getattr(self.model, "detector", self.model), "class_agnostic", False))

    def _features(
        self, source: Any, options: DetectionOptions, seconds: float | None, layout: str | None
    ) -> tuple[Iterator[DetectionBatch], float]:
        """Samples of the features of one video, and its duration."""
        given = options.data
        if isinstance(source, (str, Path)):
            path = Path(source)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file of features")
            values = torch.from_numpy(np.array(read_array(path), np.float32))
        else:
            path, values = Path("the given array"), torch.as_tensor(np.asarray(source, np.float32))
        values = values.T if (layout or given.layout) == "LD" else values
        width = getattr(self.model, "in_features", values.shape[0])
        if values.dim() != 2 or values.shape[0] != width or values.shape[1] == 0:
            raise ValueError(
                f"{path}: features of shape {tuple(values.shape)}, the network takes ({width}, columns); for rows of "
                "time steps use layout LD"
            )
        if not bool(values.isfinite().all()):
            raise ValueError(f"{path}: a value is not finite; extract the features of this video again")
        columns, rate = values.shape[1], given.feature_fps
        if seconds is None:
            if given.feature_stride is None or rate is None:
                raise ValueError(f"{path}: features do not say how long the video is; give its duration with seconds")
            seconds = (columns * given.feature_stride) / rate
        if given.feature_stride is not None and rate is None:
            raise ValueError(f"{path}: the run has no feature_fps, so the frame rate of this video is not known")
        offset, scale = column_times(
            columns, seconds=seconds, stride=given.feature_stride, clip=given.feature_clip, rate=rate or 0.0
        )

        def samples() -> Iterator[DetectionBatch]:
            for start, stop in _spans(columns, options):
                part = fit_columns(values[:, start:stop].contiguous(), given.fit, given.columns)
                yield DetectionBatch.of_sample(
                    part, video=0, offset=offset + start * scale, scale=scale * (stop - start) / part.shape[1]
                )

        return samples(), seconds

    def _pixels(self, source: Any, options: DetectionOptions) -> tuple[Iterator[DetectionBatch], float]:
        """Samples of the snippets of a video file, and its duration."""
        if not isinstance(source, (str, Path)):
            raise ValueError(f"{self.network} was trained from pixels: give a video file, not {type(source).__name__}")
        if not Path(source).is_file():
            raise FileNotFoundError(f"{source}: no such video file")
        data = open_videos(source)
        snippets = snippet_source(data, options, train=False)
        assert snippets is not None
        offset, scale = snippets.time_of(0)

        def samples() -> Iterator[DetectionBatch]:
            for start, stop in _spans(snippets.columns(0), options):
                part = snippets.load(0, start, stop)
                yield DetectionBatch.of_sample(part, video=0, offset=offset + start * scale, scale=scale)

        return samples(), float(data.frames[0]) / data[0].fps

    def _inputs(self, data: VideoDataset, root: Path) -> Iterator[list[tuple[Tensor, ...]]]:
        options = self.options(DetectionOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        for batch in make_loader(data, options, train=False):
            yield [(batch.inputs, batch.mask)]

    def evaluate(self, data: VideoDataset, root: Path) -> DetectionResult:
        """Detect in the videos of a data set whose folder is `root`, with all proposals, and score the detections."""
        options = self.options(DetectionOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        task = make_task(options, self.classes, class_agnostic=self._class_agnostic)
        loader = make_loader(data, options, train=False)
        task.check(self.model, loader)
        return task.evaluate(self.model, loader, device=self.device, thorough=True)

    def _scores(self, data: VideoDataset, root: Path) -> dict[str, float]:
        first, mean, _loss = self.evaluate(data, root).values
        names = ("AUC", "AR@100") if self._class_agnostic else ("mAP", "mAP@0.5")
        return {names[0]: mean, names[1]: first}

    def _loss(self, data: VideoDataset, root: Path) -> float:
        return float(self.evaluate(data, root).values[-1])

    def test(
        self, *_: Any, dataset: str | Path | None = None, split: str | None = None, picture: bool = True, **__: Any
    ) -> dict[str, Any]:
        """Test on the test split of the run's division; leaves test.json and predictions.json in the folder of the run.

        Args:
            dataset: folder of the data set, where it has been moved, with the same classes in the same order.
            split: another split than the division's test split.
            picture: draw the detections of some videos, the curves of precision and the profile of errors.

        Returns:
            The content of test.json.

        Raises:
            ValueError: the data set has other classes or no test split, or the weights do not belong to a run.
        """
        data, root, name = self.test_data(dataset, split)
        record = self.source.record
        result = self.evaluate(data, root)
        scores = score_pair(result.pair)
        report: dict[str, Any] = {
            "task": self.task,
            "network": self.network,
            "dataset": str(root),
            "split": name,
            "epoch": self.source.epoch,
            "checkpoint": self.source.path.name,
            "select": record["options"].get("select"),
            "protocol": record["options"].get("protocol"),
            "loss": result.values[-1],
            "scores": scores.summary(),
            "table": scores.lines(),
        }
        run, files = self.source.run, test_name(self.source, split or "")
        if run is not None and distributed.is_first():
            write_json(run / f"{files}.json", report)
            write_results(run / f"{files.replace('test', 'predictions', 1)}.json", result.results)
            if picture:
                draw_scores(scores, run / "pictures", suffix=files.removeprefix("test"))
        return report


def _spans(columns: int, options: DetectionOptions) -> list[tuple[int, int]]:
    """Samples [start, stop) of a video."""
    given = options.data
    if given.fit != "window":
        return [(0, columns)]
    assert given.columns is not None
    return window_spans(columns, length=given.columns, overlap=given.overlap)


def draw_detections(found: VideoDetections, video: Path, out: Path) -> Path:
    """Write a video again, as H.264 with its sound, with the actions of each moment drawn in: the three with the
    highest scores of at least 1 %."""

    def text_at(moment: float) -> str:
        now = [row for row in found.detections if row.start <= moment < row.stop and row.score >= _LEAST]
        best = sorted(now, key=lambda row: -row.score)[:_DRAWN]
        return "\n".join(f"{row.score:6.1%}  {row.label}" for row in best)

    return draw_labels(video, out, text_at)


def write_predictions(
    path: Path, found: Sequence[VideoDetections], classes: Sequence[str], *, min_score: float
) -> list[Path]:
    """Write the actions of videos in the form of the suffix: .json, .csv, .srt, .vtt or .png.

    Args:
        path: file to write.
        found: actions of each video.
        classes: class names.
        min_score: smallest score in subtitles and pictures.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix == ".png":
        return [_draw_timeline(path, [one.above(min_score) for one in found], classes)]
    names = list(classes) if all(row.label in classes for one in found for row in one.detections) else ["action"]
    numbers = {name: number for number, name in enumerate(names)}
    columns = {
        one.video: (
            [(row.start, row.stop) for row in one.detections],
            [numbers[row.label] for row in one.detections],
            [row.score for row in one.detections],
        )
        for one in found
    }
    return write_detections(path, DetectionResults.of(columns, names), min_score=min_score)


def _draw_timeline(path: Path, found: Sequence[VideoDetections], classes: Sequence[str]) -> Path:
    names = list(classes) if all(row.label in classes for one in found for row in one.detections) else ["action"]
    videos = [
        DetectedVideo(
            one.video,
            one.seconds,
            np.zeros((0, 2)),
            np.zeros(0, np.int64),
            np.array([(row.start, row.stop) for row in one.detections]).reshape(-1, 2),
            np.array([names.index(row.label) for row in one.detections], np.int64),
            np.array([row.score for row in one.detections]),
        )
        for one in found
    ]
    return plot_timelines(videos, names, path)
