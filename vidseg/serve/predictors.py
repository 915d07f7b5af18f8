"""Predictions of trained models as plain data for the server."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.engine.trained import TrainedModel
from vidseg.live.frame_segments import join_frames
from vidseg.live.session import LabeledFrame, LiveSession
from vidseg.serve.dynamic_batching import batch_calls
from vidseg.serve.request_progress import Progress, measured
from vidseg.serve.serve_options import ServeOptions
from vidseg.serve.upload_checks import RequestError, VideoFacts, check_video, read_features
from vidseg.tasks.detection.options import DetectionOptions
from vidseg.videos.decoding import VideoError, VideoSource

__all__ = ["PredictOptions", "Predictor", "Upload", "upload_in"]

_DIGITS = 5  # of probabilities


@dataclass(frozen=True)
class Upload:
    """A file that a client sent.

    Attributes:
        path: the file, under a name of the server's.
        kind: "video" or "features".
    """

    path: Path
    kind: str


def upload_in(folder: Path, kind: str) -> Upload:
    """Return the upload of a folder; features have the suffix of their format."""
    return Upload(folder / ("upload.npy" if kind == "features" else "upload"), kind)


@dataclass(frozen=True)
class PredictOptions:
    """Options of one prediction.

    Attributes:
        clips: recognition: clips of the video, spread over its length, whose probabilities are averaged; 1 to 32.
        crops: recognition: crops of each clip, 1, 3, 5 or 10.
        top: recognition: number of classes, 1 to 1000.
        timeline: recognition: also label a sliding window over the whole video.
        min_score: detection: smallest score, 0 to 1.
        fps: features: columns per second, for segments in seconds; above 0.
        seconds: detection from features: duration of the video, above 0.
    """

    clips: int = 1
    crops: int = 1
    top: int = 5
    timeline: bool = False
    min_score: float = 0.0
    fps: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("clips", 1, 32), ("top", 1, 1000), ("min_score", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise RequestError(422, f"{name}={getattr(self, name)} must be from {low} to {high}")
        if self.crops not in (1, 3, 5, 10):
            raise RequestError(422, f"crops={self.crops} must be 1, 3, 5 or 10")
        for name in ("fps", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RequestError(422, f"{name}={value} must be greater than 0")

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> PredictOptions:
        """Return options from plain data; unknown names are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return asdict(self)


class Predictor:
    """One model of a server.

    Args:
        name: name of the model in addresses.
        trained: the model; its calls are batched from now on.
        options: limits and batching.

    Raises:
        ValueError: a task without classes, segments or detections, or a model that needs computed motion.
    """

    def __init__(self, name: str, trained: TrainedModel, options: ServeOptions) -> None:
        if trained.task not in ("recognition", "segmentation", "streaming", "detection"):
            raise ValueError(f"{name}: {trained.network} is a network for {trained.task}, which cannot be served")
        if trained.input_spec.modality not in ("rgb", "features"):
            raise ValueError(
                f"{name}: {trained.network} sees {trained.input_spec.modality}, which an uploaded video does not have"
            )
        self.name, self.trained, self.limits = name, trained, options
        self.batcher = batch_calls(trained, batch_size=options.batch_size, delay=options.batch_delay)
        self.window: dict[str, int] | None = None
        with contextlib.suppress(ValueError):  # a network whose clips are not windows of a stream
            shape = LiveSession(trained).shape
            self.window = {"stride": shape.stride, "frames": shape.frames, "interval": shape.interval}

    @property
    def takes(self) -> str:
        """What the model takes: "video" or "features"."""
        if self.trained.task == "segmentation":
            return "features"
        if self.trained.task == "detection":
            return "video" if self.trained.options(DetectionOptions()).snippets.encoder else "features"
        return "video"

    def facts(self) -> dict[str, Any]:
        """Return the description of the model for clients."""
        trained = self.trained
        return {
            "name": self.name,
            "task": trained.task,
            "network": trained.network,
            "classes": list(trained.classes),
            "takes": self.takes,
            "streams": self.window is not None,
            "window": self.window,
            "input": trained.input_spec.as_dict(),
        }

    def session(self) -> LiveSession:
        """Return a new stream.

        Raises:
            RequestError: the model does not label streams (409).
        """
        if self.window is None:
            raise RequestError(409, f"{self.name} is a model for {self.trained.task}, which does not label streams")
        return LiveSession(self.trained)

    def predict(
        self, upload: Upload, options: PredictOptions, progress: Progress, *, max_seconds: float
    ) -> dict[str, Any]:
        """Return the prediction for an upload as plain data.

        Args:
            upload: the file.
            options: of the prediction.
            progress: checked for every frame and every call of the network.
            max_seconds: longest video.

        Raises:
            RequestError: the upload cannot be used.
            CanceledError, TimeLimitError: see `Progress`.
        """
        begin = time.perf_counter()
        if upload.kind != self.takes:
            needed = "features: send a .npy file" if self.takes == "features" else "a video"
            raise RequestError(422, f"{self.name} takes {needed}; the upload is {upload.kind}")
        with measured(progress):
            found = (
                self._features(upload, options)
                if self.takes == "features"
                else self._video(upload, options, progress, max_seconds)
            )
        found["computed_seconds"] = round(time.perf_counter() - begin, 4)
        return {"model": self.name, "task": self.trained.task, "network": self.trained.network, **found}

    def _video(self, upload: Upload, options: PredictOptions, progress: Progress, max_seconds: float) -> dict[str, Any]:
        limits = self.limits
        facts = check_video(
            upload.path,
            max_seconds=max_seconds,
            max_pixels=limits.max_pixels,
            max_frames=limits.max_frames,
            progress=progress,
        )
        progress.advance(0.0)
        found: dict[str, Any] = {
            "seconds": facts.seconds,
            "frames": facts.frames,
            "fps": round(facts.fps, 4),
            "width": facts.width,
            "height": facts.height,
            "damage": [facts.damage] if facts.damage else [],
        }
        try:
            if self.trained.task == "detection":
                found |= self._detections(upload.path, options)
            if self.trained.task == "recognition":
                found |= self._classes(upload.path, options)
            if self.trained.task == "streaming" or options.timeline:
                found |= self._timeline(upload.path, facts, progress, found["damage"])
        except (VideoError, ValueError) as error:
            said = str(error).replace(f"{upload.path}", "the video").replace(f"{upload.path.parent}", "the upload")
            raise RequestError(422, said) from error
        progress.advance(1.0)
        return found

    def _classes(self, path: Path, options: PredictOptions) -> dict[str, Any]:
        found = self.trained.predict(path, clips=options.clips, crops=options.crops, top=options.top, threads=1).videos[
            0
        ]
        pairs = zip(found.classes, found.probabilities, strict=True)
        return {"classes": [{"label": name, "probability": round(share, _DIGITS)} for name, share in pairs]}

    def _timeline(self, path: Path, facts: VideoFacts, progress: Progress, damage: list[str]) -> dict[str, Any]:
        """Label every frame of the video."""
        session = self.session()
        frames: list[LabeledFrame] = []
        video = VideoSource(path, max_pixels=self.limits.max_pixels)
        for number, timed in enumerate(video):
            if number >= self.limits.max_frames:
                raise RequestError(413, f"the video has more frames than the limit of {self.limits.max_frames}")
            progress.advance(number / max(1, facts.frames))
            frames += session.push(timed.frame, timed.time - video.origin)
        frames += session.finish()
        damage += video.damage
        segments = join_frames(frames, self.trained.classes, step=1 / facts.fps)
        return {
            "segments": [segment._asdict() for segment in segments],
            "unit": "seconds",
            "timeline": _curve(
                [each.time for each in frames],
                [each.label for each in frames],
                [each.probability for each in frames],
                self.trained.classes,
            ),
        }

    def _detections(self, path: Path, options: PredictOptions) -> dict[str, Any]:
        found = self.trained.predict(path, threads=1)
        return _detection_rows(found, options)

    def _features(self, upload: Upload, options: PredictOptions) -> dict[str, Any]:
        values = read_features(upload.path, max_frames=self.limits.max_frames)
        try:
            if self.trained.task == "detection":
                found = self.trained.predict(values, seconds=options.seconds, name="features")
                return {"seconds": round(found.seconds, 3), **_detection_rows(found, options)}
            labels = self.trained.predict(values)
        except ValueError as error:
            raise RequestError(422, str(error)) from error
        best = labels.probabilities.max(axis=0)
        scale = labels.labels_per_column / options.fps if options.fps else labels.labels_per_column
        bounds = labels.segments()
        return {
            "frames": len(labels.frame_labels()),
            "seconds": round(len(labels.labels) * scale, 3) if options.fps else None,
            "unit": "seconds" if options.fps else "frames",
            "segments": [
                {
                    "label": name,
                    "start": round(start * scale, 3),
                    "stop": round(stop * scale, 3),
                    "probability": round(float(best[start:stop].mean()), 4),
                }
                for name, start, stop in bounds
            ],
            "timeline": _curve(
                (np.arange(len(best)) * scale).tolist(), labels.labels.tolist(), best.tolist(), self.trained.classes
            ),
        }


def _detection_rows(found: Any, options: PredictOptions) -> dict[str, Any]:
    rows = [
        {"label": row.label, "start": round(row.start, 3), "stop": round(row.stop, 3), "score": round(row.score, 5)}
        for row in found.above(options.min_score).detections
    ]
    return {"detections": rows, "unit": "seconds"}


def _curve(
    times: list[float], labels: list[int], probabilities: list[float], classes: list[str]
) -> dict[str, list[Any]]:
    """Return time, label and probability where label or probability change, and of the last frame."""
    kept = [
        place
        for place in range(len(times))
        if place in (0, len(times) - 1)
        or labels[place] != labels[place - 1]
        or probabilities[place] != probabilities[place - 1]
    ]
    return {
        "times": [round(times[place], 3) for place in kept],
        "labels": [classes[labels[place]] for place in kept],
        "probabilities": [round(float(probabilities[place]), 4) for place in kept],
    }
