"""Labels that a trained model suggests for the videos of a data set."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from vidseg.engine.trained import TrainedModel
from vidseg.frames import FrameDatabase
from vidseg.labels.annotation import AnnotatedVideo
from vidseg.live.frame_segments import join_frames
from vidseg.live.session import LabeledFrame, LiveSession
from vidseg.loaders.feature_files import SUFFIXES

__all__ = ["SuggestedSegment", "Suggester", "Suggestion"]

logger = logging.getLogger(__name__)

_LEAST_SCORE = 0.3  # of a suggested detection


@dataclass(frozen=True)
class SuggestedSegment:
    """A segment that the model found: start and stop in seconds, class, and its probability or score."""

    start: float
    stop: float
    label: str
    probability: float


@dataclass(frozen=True)
class Suggestion:
    """What the model suggests for one video.

    Attributes:
        label: class of the whole video, or None.
        segments: by start.
        uncertainty: 0 to 1: 1 minus the mean probability of what is suggested.
    """

    label: str | None
    segments: tuple[SuggestedSegment, ...]
    uncertainty: float


class Suggester:
    """Computes suggestions, one at a time: those asked for first, and all videos in the background.

    A recognition network suggests the class of a video, from a window that slides over it. A streaming network suggests
    segments. Networks for segmentation and detection do so from features.

    Args:
        trained: the model.
        root: folder of the data set.
        features: folder of <video>.npy, for a network that takes features.
        left_out: class whose segments are not suggested, such as the background, in videos that may have gaps.

    Attributes:
        pending: number of videos that the background has not reached yet.

    Raises:
        ValueError: the network takes features and there are none, or it labels neither streams nor features.
    """

    def __init__(
        self,
        trained: TrainedModel,
        *,
        root: Path,
        features: Path | None = None,
        left_out: str | None = None,
    ) -> None:
        if trained.task not in ("recognition", "streaming", "segmentation", "detection"):
            raise ValueError(f"{trained.network} is a network for {trained.task}, which suggests no labels")
        self.takes_features = trained.input_spec.modality == "features"
        if self.takes_features and features is None:
            raise ValueError(f"{trained.network} takes features; give their folder with --features")
        if not self.takes_features and trained.task == "detection":
            raise ValueError(f"{trained.network} is trained from pixels; suggestions come from detectors on features")
        if not self.takes_features:
            LiveSession(trained)  # refuses a network whose clips are not windows of a stream
        self.trained, self.root, self.features, self.left_out = trained, root, features, left_out
        self._found: dict[str, Suggestion] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.pending = 0
        self._thread: threading.Thread | None = None

    def known(self, path: str) -> Suggestion | None:
        """Return the suggestion for a video if it has been computed."""
        return self._found.get(path)

    def find(self, video: AnnotatedVideo) -> Suggestion:
        """Return the suggestion for a video, computed now if need be.

        Raises:
            FileNotFoundError: its frames or features do not exist.
            ValueError: they do not fit the network.
        """
        with self._lock:
            found = self._found.get(video.path)
            if found is None:
                found = self._of_features(video) if self.takes_features else self._of_frames(video)
                self._found[video.path] = found
            return found

    def start(self, videos: Sequence[AnnotatedVideo]) -> None:
        """Compute the suggestions for videos in a background thread, in their order."""

        self.pending = len(videos)

        def run() -> None:
            for video in videos:
                if self._stop.is_set():
                    return
                try:
                    self.find(video)
                except (OSError, ValueError) as error:  # shown when the video is opened
                    logger.warning("no suggestion for %s: %s", video.path, error)
                finally:
                    self.pending -= 1

        self._thread = threading.Thread(target=run, name="vidseg-suggestions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the background thread after the video that it is at."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _of_frames(self, video: AnnotatedVideo) -> Suggestion:
        session, fps = LiveSession(self.trained), video.fps if video.fps > 0 else 25.0
        frames: list[LabeledFrame] = []
        with FrameDatabase(self.root / video.path / "frames.db") as database:
            for number, pixels in enumerate(database.stream()):
                frames += session.push(av.VideoFrame.from_ndarray(pixels.numpy(), format="rgb24"), number / fps)
        frames += session.finish()
        if not frames:
            return Suggestion(None, (), 1.0)
        sure = sum(frame.probability for frame in frames) / len(frames)
        if self.trained.task == "recognition":
            shares: dict[int, float] = {}
            for frame in frames:
                shares[frame.label] = shares.get(frame.label, 0.0) + frame.probability
            best = max(shares, key=lambda label: shares[label])
            return Suggestion(self.trained.classes[best], (), 1 - shares[best] / len(frames))
        joined = join_frames(frames, self.trained.classes, step=1 / fps)
        return self._kept(video, [(one.start, one.stop, one.label, one.probability) for one in joined], sure)

    def _of_features(self, video: AnnotatedVideo) -> Suggestion:
        assert self.features is not None
        name = video.path.rpartition("/")[2]
        file = next((path for end in SUFFIXES if (path := self.features / f"{name}{end}").is_file()), None)
        if file is None:
            raise FileNotFoundError(f"{self.features / name}.npy: no such file of features")
        found: Any
        if self.trained.task == "detection":
            found = self.trained.predict(file, seconds=video.seconds or None).above(_LEAST_SCORE)
            rows = [(row.start, row.stop, row.label, row.score) for row in found.detections]
            return self._kept(video, rows, sum(row[3] for row in rows) / len(rows) if rows else 0.0)
        found = self.trained.predict(file)
        best = found.probabilities.max(axis=0)
        total = len(found.frame_labels())
        scale = (video.seconds if video.seconds > 0 else total / 25.0) / total
        rows = [
            (start * scale, stop * scale, label, float(best[start * len(best) // total : stop].mean()))
            for label, start, stop in found.segments()
        ]
        return self._kept(video, rows, float(best.mean()))

    def _kept(self, video: AnnotatedVideo, rows: list[tuple[float, float, str, float]], sure: float) -> Suggestion:
        kept = [SuggestedSegment(*row) for row in sorted(rows) if video.dense or row[2] != self.left_out]
        return Suggestion(None, tuple(kept), 1 - sure)
