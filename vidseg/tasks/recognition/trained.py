"""A trained recognition network: predictions for video files and clips, tests, features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.clips.geometry import Geometry
from vidseg.clips.named_geometry import named_geometry
from vidseg.engine import distributed
from vidseg.engine.explanation import Explanation, Method, clip_heat, explain_windows, target_class
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.engine.motion_input import check_motion
from vidseg.engine.trained import TrainedModel, spread_videos
from vidseg.engine.weight_source import test_name
from vidseg.labels import VideoDataset, open_dataset
from vidseg.labels.json_files import write_json
from vidseg.loaders.threads import default_threads
from vidseg.loaders.transfer import copy_ahead
from vidseg.metrics.video_scores import VideoScores, check_suffix, write_scores
from vidseg.models import InputSpec, classifier_name, named_for, read_state
from vidseg.tasks.recognition.class_report import TestReport, draw_mistakes, make_report, write_report
from vidseg.tasks.recognition.data import choose_splits, evaluation_loader, labeled, resolved_input, spec_geometry
from vidseg.tasks.recognition.evaluation import Fuse, evaluate_target
from vidseg.tasks.recognition.options import RecognitionOptions
from vidseg.tasks.recognition.target_kinds import Target, Unlabeled, make_target
from vidseg.tasks.recognition.target_report import TargetReport, target_report
from vidseg.tasks.recognition.video_windows import VideoWindows
from vidseg.videos import draw_labels, open_videos
from vidseg.videos.listing import find_jobs

__all__ = ["Prediction", "Predictions", "RecognitionModel", "draw_prediction"]

_DRAWN, _LEAST = 3, 0.01
"""Largest number and smallest probability of the classes that are drawn into a video."""


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one video.

    Attributes:
        video: path of the file.
        classes: names, the likeliest first.
        probabilities: of these classes.
    """

    video: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Predictions:
    """Predictions for several videos; `str()` is a table.

    Attributes:
        videos: one prediction for each video that could be read.
        scores: probabilities of all classes.
        failed: number of files that could not be read; the log names each.
    """

    videos: tuple[Prediction, ...]
    scores: VideoScores
    failed: int

    def __str__(self) -> str:
        width = max(len(video.video) for video in self.videos)
        lines = []
        for video in self.videos:
            found = (f"{name} {share:.3f}" for name, share in zip(video.classes, video.probabilities, strict=True))
            lines.append(f"{video.video:{width}}  {'  '.join(found)}")
        return "\n".join(lines)


class RecognitionModel(TrainedModel):
    """A network that gives each clip a class.

    Keyword arguments of `vidseg.load_trained` change its input: frames, interval, sampling, size, resize, mean, std,
    color.
    """

    task = "recognition"

    def change_input(self, spec: InputSpec, changes: Mapping[str, Any]) -> InputSpec:
        """See `TrainedModel.change_input`."""
        self.val_geometry = None if "resize" in changes else self.options(RecognitionOptions()).data.val_geometry
        unknown = changes.keys() - {"frames", "interval", "sampling", "size", "resize", "mean", "std", "color"}
        if unknown:
            raise ValueError(f"{self.network}: its input has no {', '.join(sorted(unknown))}")
        return resolved_input(changes, spec)

    def geometry(self) -> Geometry:
        """Return the crop of an evaluation: that of the run's validation, else the one of the input spec."""
        spec = self.input_spec
        if self.val_geometry is None:
            return spec_geometry(spec)
        return named_geometry(self.val_geometry, size=(spec.size, spec.size), train=False)

    def _class_count(self) -> int:
        with torch.device("meta"):
            model = self.create(1)
        name = classifier_name(model)
        state = named_for(model, read_state(self.source.path))
        if f"{name}.weight" not in state:
            raise ValueError(f"{self.source.path}: has no {name}.weight, so these are not weights of {self.network}")
        return len(state[f"{name}.weight"])

    def predict(
        self,
        source: str | Path | Tensor,
        *,
        clips: int = 1,
        crops: int = 1,
        top: int = 5,
        fuse: Fuse = "softmax",
        batch_size: int = 16,
        threads: int | None = None,
    ) -> Any:
        """Predict the classes of videos, or of clips.

        Args:
            source: a video file, a folder of them, a data set with frame databases, or clips (B, C, T, H, W) that are
                normalized as in `input_spec`. A network that sees motion needs a data set that has it.
            clips: clips of each video, spread over its length; 1 is the middle.
            crops: crops of each clip: 1, 3, 5 or 10.
            top: number of classes to name.
            fuse: mean of the views' probabilities, or of their logits.
            batch_size: clips that the network sees at once.
            threads: decoding threads; None: one for each core.

        Returns:
            `Predictions`; of clips probabilities (of a regression: values), float32 (B, K), on the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a number out of its range.
        """
        if isinstance(source, Tensor):
            with torch.inference_mode():
                return self.target.predictions(self.model(source.to(self.device)).float()).cpu()
        if top < 1:
            raise ValueError(f"top={top} must be at least 1")
        source = Path(source)
        options = self.options(RecognitionOptions()).data
        options = replace(options, threads=threads or options.threads)
        if (source / "catalog.db").is_file():
            data, options, lost = open_dataset(source), replace(options, backend="native"), 0
        else:
            FramePreparer(self.input_spec)  # refuses what the decoded frames of a video do not have
            data, listing, options = open_videos(source), find_jobs(source), replace(options, backend="video")
            lost = len(listing.jobs) + len(listing.problems) - len(data)
        target = Unlabeled(self.target)
        result = self._evaluate(
            data, options, clips=clips, crops=crops, fuse=fuse, batch_size=batch_size, target=target
        )
        scores = _scores(result, data, self.classes, self.target)
        best = torch.from_numpy(scores.scores).topk(min(top, len(self.classes)), dim=1)
        videos = []
        for number, shares, places in zip(
            result.numbers.tolist(), best.values.tolist(), best.indices.tolist(), strict=True
        ):
            names = tuple(self.classes[place] for place in places)
            path = data[number].path if options.backend == "video" else data.root / data.video_path(number)
            videos.append(Prediction(str(path), names, tuple(shares)))
        return Predictions(tuple(videos), scores, failed=lost)

    @property
    def target(self) -> Target:
        """What the network predicts of a video."""
        return make_target(self.options(RecognitionOptions()).loss)

    def _evaluate(
        self, data: VideoDataset, options: Any, *, clips: int, crops: int, fuse: Fuse, batch_size: int, target: Target
    ) -> Any:
        check_motion(self.source.record, data, self.input_spec)
        loader = evaluation_loader(
            data,
            replace(options, val_geometry=self.val_geometry),
            self.input_spec,
            batch_size=min(batch_size, len(data) * clips * crops),
            clips=clips,
            crops=crops,
            target=target.function(data),
        )
        copy_ahead(loader, self.device)
        with loader:
            return evaluate_target(self.model, loader, target, device=self.device, fuse=fuse)

    def test(
        self,
        *,
        dataset: str | Path | None = None,
        split: str | None = None,
        clips: int = 1,
        crops: int = 1,
        fuse: Fuse = "softmax",
        dump: str | Path | None = None,
        mistakes: int = 12,
        clip_positions: Literal["mmaction2", "pyslowfast"] | None = None,
    ) -> TestReport | TargetReport:
        """Evaluate on labeled videos.

        The files test.json, scores.npz, classes.csv, confusion.csv, confusion_shares.csv, mistakes.csv and mistakes.png
        are left in the folder of the run; a test with other arguments than the defaults has names of its own, such as
        test_val_10x3.json and scores_val_10x3.npz.

        Args:
            dataset: another data set than the run's, with the same classes.
            split: another split than the run's test split; without a test split the validation videos are tested.
            clips: clips of each video, spread over its length; 1 is the middle.
            crops: crops of each clip: 1 (as in validation), 3, 5 or 10.
            fuse: mean of the views' probabilities, or of their logits.
            dump: file for the scores of every video, .npz or .csv.
            mistakes: wrong predictions to draw, the highest probabilities first.
            clip_positions: positions of several clips, see `vidseg.clips.sampling.DenseClips`; None: the run's.

        Raises:
            ValueError: the data set has other classes, or none is known.
        """
        options = self.options(RecognitionOptions())
        data, name, selected = self.test_videos(options, dataset, split)
        if options.loss.target != "value" and data.classes != self.classes:
            raise ValueError(f"{data}: its classes {data.classes} are not those of the network, {self.classes}")
        if dump is not None:
            check_suffix(dump)
            if options.loss.target != "class":
                raise ValueError(
                    f"dump={str(dump)!r}: files of scores have one class for each video; this run does not"
                )
        batch_size = options.data.batch_size or 16
        reading = replace(options.data, clip_positions=clip_positions or options.data.clip_positions)
        target = self.target
        result = self._evaluate(
            data, reading, clips=clips, crops=crops, fuse=fuse, batch_size=batch_size, target=target
        )
        source = self.source
        facts: dict[str, Any] = {
            "network": self.network,
            "checkpoint": source.path.name,
            "epoch": source.epoch,
            "split": name,
            "selected_on": selected,
            "clips": clips,
            "crops": crops,
            "fuse": fuse,
        }
        scores = _scores(result, data, self.classes, target) if options.loss.target == "class" else None
        if dump is not None and scores is not None:
            write_scores(dump, scores)
        report = (
            target_report(result, data, self.classes, **facts) if scores is None else make_report(result, data, **facts)
        )
        if source.run is not None and distributed.is_first():
            title = test_name(
                source,
                "" if dataset is None else Path(dataset).resolve().name,
                split or "",
                "" if (clips, crops) == (1, 1) else f"{clips}x{crops}",
                "" if fuse == "softmax" else fuse,
                "" if clip_positions in (None, options.data.clip_positions) else clip_positions,
                *self._changed_input(),
            )
            if isinstance(report, TargetReport):
                write_json(source.run / f"{title}.json", asdict(report))
                return report
            write_report(report, source.run, title, scores=scores)
            if mistakes:
                draw_mistakes(report, source.run, title, most=mistakes)
        return report

    def _changed_input(self) -> list[str]:
        """What differs from the input of the run, as parts of the name of a test."""
        known = self.source.record.get("input", {})
        changed = {name: value for name, value in self.input_spec.as_dict().items() if known.get(name, value) != value}
        return [
            f"{name}{'-'.join(map(str, value if isinstance(value, list) else [value]))}"
            for name, value in changed.items()
        ]

    def test_videos(
        self, options: RecognitionOptions, dataset: str | Path | None, split: str | None
    ) -> tuple[VideoDataset, str, bool]:
        """Return the videos to test, their name, and whether they selected the checkpoint."""
        if dataset is None and not options.data.dataset:
            raise ValueError(f"{self.source.path}: does not belong to a run; name the data set to test on")
        if dataset is not None or split is not None:
            data = labeled(open_dataset(dataset or options.data.dataset, split), options.loss.target)
            return data, split or f"all videos of {data.root}", False
        splits = choose_splits(options.data, seed=options.session.seed, target=options.loss.target)
        if splits.test is not None:
            return splits.test, splits.test.split_name or "test", False
        name = splits.validation.split_name or "the videos held out of training"
        return splits.validation, name, self.source.path.stem.endswith("_best")

    def network_inputs(
        self, *_: Any, videos: int = 8, dataset: str | Path | None = None, split: str | None = None
    ) -> Iterator[list[tuple[Tensor, ...]]]:
        """See `TrainedModel.network_inputs`; one clip of each video."""
        options = self.options(RecognitionOptions())
        data = spread_videos(self.test_videos(options, dataset, split)[0], videos)
        chosen = replace(options.data, val_geometry=self.val_geometry)
        with evaluation_loader(data, chosen, self.input_spec, batch_size=min(4, len(data))) as loader:
            for batch in loader:
                yield [(batch.inputs,)]

    def main_scores(self, *_: Any, dataset: str | Path | None = None, split: str | None = None) -> dict[str, float]:
        """See `TrainedModel.main_scores`; one clip of each video."""
        options = self.options(RecognitionOptions())
        data = self.test_videos(options, dataset, split)[0]
        result = self._evaluate(data, options.data, clips=1, crops=1, fuse="softmax", batch_size=16, target=self.target)
        return dict(zip(self.target.columns[:-1], result.values[:-1], strict=True))

    def loss_function(
        self, *_: Any, videos: int = 64, dataset: str | Path | None = None, split: str | None = None
    ) -> Callable[[], float]:
        """See `TrainedModel.loss_function`; the clips are decoded once and stay in memory."""
        options = self.options(RecognitionOptions())
        data = spread_videos(self.test_videos(options, dataset, split)[0], videos)
        chosen = replace(options.data, val_geometry=self.val_geometry)
        size = min(options.data.batch_size or 16, len(data))
        with evaluation_loader(data, chosen, self.input_spec, batch_size=size) as loader:
            batches = list(loader)
        return lambda: evaluate_target(self.model, batches, self.target, device=self.device).loss

    def explain(
        self,
        video: str | Path,
        *_: Any,
        target: str | None = None,
        method: Method = "grad-cam",
        layer: str | None = None,
        steps: int = 32,
        motion: str | Path | None = None,
        **__: Any,
    ) -> Explanation:
        """Compute which pixels of a video raise the logit of a class, clip by clip over the whole video.

        Clips follow each other without overlap, and the last one repeats the last frame; a network that samples
        segments sees one clip of the whole video.

        Args:
            video: video file.
            target: name of the class; None: the predicted class of each clip.
            method: "grad-cam" or "integrated-gradients".
            layer: module whose maps Grad-CAM uses; None: the last one with maps.
            steps: points of the integral of integrated gradients.
            motion: data set with this one video and its motion; needed for a network that sees motion.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: an unknown class, method or layer, a network without spatial maps, or one that sees stacks.
        """
        names = list(self.classes) or ["value"]  # a regression has no classes
        chosen, spec, predictions = target_class(names, target), self.input_spec, self.target.predictions

        def windows(length: int) -> list[npt.NDArray[np.int64]]:
            if spec.sampling == "segments":  # the middle of each segment, as in evaluation
                return [((np.arange(spec.frames) + 0.5) * length / spec.frames).astype(np.int64)]
            span = spec.frames * spec.interval
            return [
                np.minimum(start + np.arange(spec.frames) * spec.interval, length - 1)
                for start in range(0, length, span)
            ]

        def explained(clip: Tensor, _: Tensor) -> tuple[Tensor, list[str]]:
            with torch.inference_mode():
                found = predictions(self.model(clip).float())[0]
            likeliest = int(found.argmax())
            number = likeliest if chosen is None else chosen
            form = "6.1%" if self.classes else ".3g"
            text = "\n".join(f"{float(found[one]):{form}}  {names[one]}" for one in {likeliest: 0, number: 0})
            heat = clip_heat(
                self.model, clip, lambda x: self.model(x)[:, number], method=method, layer=layer, steps=steps
            )
            return heat[0], [text] * clip.shape[2]

        title = f"{self.network}, {target or 'predicted class'}, {method}"
        shown: dict[str, Any] = {"title": title, "device": self.device}
        if motion is None:
            return explain_windows(video, spec, windows, explained, **shown)
        if spec.stack > 1:
            raise ValueError(f"{self.network} sees stacks of {spec.stack} vectors, whose heat is not that of one frame")
        with closing(VideoWindows(open_dataset(motion), spec, self.geometry(), default_threads())) as clips:
            return explain_windows(
                video, spec, windows, explained, clips=lambda frames: clips.of_frames(0, frames[None]), **shown
            )

    def features(self) -> nn.Module:
        """Return the layer whose input the features of a clip are.

        Raises:
            ValueError: the network has no linear classifier.
        """
        name = classifier_name(self.model)
        if name is None:
            raise ValueError(f"{self.network} has no linear classifier, so its features are not defined")
        return self.model.get_submodule(name)


def _scores(result: Any, data: VideoDataset, classes: Sequence[str], target: Target) -> VideoScores:
    return VideoScores(
        tuple(data.video_path(number) for number in result.numbers.tolist()),
        result.labels.numpy(),
        target.predictions(result.logits).numpy(),
        tuple(classes),
    )


def draw_prediction(prediction: Prediction, out: Path) -> Path:
    """Write the video again, as H.264 with its sound, with its classes drawn into each frame: the three likeliest with
    probabilities of at least 1 %."""
    found = list(zip(prediction.classes, prediction.probabilities, strict=True))[:_DRAWN]
    text = "\n".join(f"{share:6.1%}  {name}" for name, share in found if share >= _LEAST)
    return draw_labels(prediction.video, out, lambda _: text)
