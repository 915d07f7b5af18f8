"""A trained streaming network: tests; `vidseg.live` labels streams with it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from vidseg.clips.stream_windows import WindowShape
from vidseg.engine.frame_label_scores import FrameLabelResult
from vidseg.engine.frame_label_task import FrameLabelModel
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.labels import VideoDataset
from vidseg.labels.parts import class_numbers
from vidseg.loaders.transfer import copy_ahead
from vidseg.models import InputSpec
from vidseg.tasks.streaming.labeler import LiveLabeler
from vidseg.tasks.streaming.options import StreamingOptions
from vidseg.tasks.streaming.runs import build_network, make_loader, network_options, resolved_input, window_shape
from vidseg.tasks.streaming.task import StreamingTask
from vidseg.videos import VideoSource
from vidseg.videos.decoding import VideoError

__all__ = ["StreamingModel", "VideoLabels"]


@dataclass(frozen=True)
class VideoLabels:
    """Predicted labels of the frames of one video.

    Attributes:
        labels: int64 (L,) class numbers.
        probabilities: float32 (L,), of these classes.
        times: float64 (L,), presentation time of each frame in seconds.
        duration: end of the last frame in seconds.
        classes: class names by number.
    """

    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]
    duration: float
    classes: tuple[str, ...]

    def segments(self) -> list[tuple[str, float, float]]:
        """Return the segments as (class, start, end), in seconds."""
        cuts = [0, *(np.flatnonzero(np.diff(self.labels)) + 1).tolist(), len(self.labels)]
        ends = [*self.times.tolist(), self.duration]
        return [(self.classes[self.labels[start]], ends[start], ends[stop]) for start, stop in itertools.pairwise(cuts)]


class StreamingModel(FrameLabelModel):
    """A network that labels frames window by window, from pixels.

    Keyword arguments of `vidseg.load_trained` change its windows: stride, frames, interval, size, mean, std.
    """

    task = "streaming"

    def build(self) -> nn.Module:
        """See `TrainedModel.build`."""
        options = self.source.network_options
        if not self.source.record:
            spec = self.default_input()
            options = network_options(options, self.network, spec, self.classes)
        return build_network(self.network, len(self.classes), options)

    def change_input(self, spec: InputSpec, changes: Mapping[str, Any]) -> InputSpec:
        """See `TrainedModel.change_input`."""
        unknown = changes.keys() - {"stride", "frames", "interval", "size", "mean", "std"}
        if unknown:
            raise ValueError(f"{self.network}: its windows have no {', '.join(sorted(unknown))}")
        stride = changes.get("stride")
        if stride is None and not {"frames", "interval"} & changes.keys():
            stride = self.source.record.get("stride")
        changed = resolved_input(changes, spec)
        self.shape: WindowShape = window_shape(changed, stride)
        return changed

    def predict(self, source: str | Path) -> VideoLabels:
        """Label the frames of a video file window by window; `vidseg.live` labels other streams.

        Args:
            source: video file.

        Raises:
            FileNotFoundError: there is no such file.
            VideoError: the file is not a video, or has no frame.
        """
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        prepare = FramePreparer(self.input_spec)
        labeler = LiveLabeler(self.model, self.shape, black=prepare.black, device=self.device)  # type: ignore[arg-type]
        times, found = [], []
        try:
            video = VideoSource(path)
            for timed in video:
                times.append(timed.time)
                if (labels := labeler.push(prepare(timed.frame))) is not None:
                    found.append(labels)
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from error
        found += labeler.finish()
        count = len(times)
        return VideoLabels(
            np.concatenate([part.labels for part in found])[:count],
            np.concatenate([part.probabilities for part in found])[:count],
            np.array(times),
            times[-1] + 1 / float(video.properties["fps"] or 25),
            tuple(self.classes),
        )

    def evaluate(self, data: VideoDataset, root: Path) -> FrameLabelResult:
        """See `FrameLabelModel.evaluate`."""
        options = self.options(StreamingOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        task = StreamingTask(background=class_numbers(self.classes, options.data.background))
        with closing(make_loader(data, options, self.input_spec, self.shape, train=False)) as loader:
            copy_ahead(loader, self.device)
            return task.evaluate(self.model, loader, device=self.device)
