"""A trained streaming network: tests; `vidseg.live` labels streams with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.clips.stream_windows import WindowShape, window_frames
from vidseg.engine.explanation import Explanation, Method, clip_heat, explain_windows, target_class
from vidseg.engine.frame_label_scores import FrameLabelResult
from vidseg.engine.frame_label_task import FrameLabelModel
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.engine.motion_input import check_motion
from vidseg.labels import VideoDataset
from vidseg.labels.parts import class_numbers
from vidseg.loaders.transfer import copy_ahead
from vidseg.models import InputSpec
from vidseg.models._streaming import StreamState
from vidseg.tasks.streaming.labeler import LiveLabeler
from vidseg.tasks.streaming.options import StreamingOptions
from vidseg.tasks.streaming.runs import build_network, make_loader, network_options, resolved_input, window_shape
from vidseg.tasks.streaming.task import StreamingTask
from vidseg.videos import VideoSource
from vidseg.videos.decoding import VideoError

__all__ = ["StreamingModel", "VideoLabels"]

_WINDOWS = 8  # of a video that `network_inputs` yields


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
            artifact = self.source.artifact
            stride = self.source.record.get("stride") if artifact is None else artifact.stride
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

    def explain(
        self,
        video: str | Path,
        *_: Any,
        target: str | None = None,
        method: Method = "grad-cam",
        layer: str | None = None,
        steps: int = 32,
        **__: Any,
    ) -> Explanation:
        """Compute which pixels of a video raise the logits of a class, window by window with the network's memory.

        Args:
            video: video file.
            target: name of the class; None: the predicted class of each frame.
            method: "grad-cam" or "integrated-gradients".
            layer: module whose maps Grad-CAM uses; None: the last one with maps.
            steps: points of the integral of integrated gradients.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: an unknown class, method or layer, or a network without spatial maps.
        """
        chosen, shape = target_class(self.classes, target), self.shape
        state: StreamState | None = None

        def windows(length: int) -> list[npt.NDArray[np.int64]]:
            return [window_frames(shape, window, length) for window in range(shape.count(length))]

        def explained(clip: Tensor, mask: Tensor) -> tuple[Tensor, list[str]]:
            nonlocal state
            before = state
            with torch.no_grad():
                output, state = self.model(clip, before, mask)
            shares = output.logits[-1, 0].float().softmax(dim=0)  # (K, T)
            labels = shares.argmax(dim=0)
            numbers = labels if chosen is None else torch.full_like(labels, chosen)

            def score(clips: Tensor) -> Tensor:
                logits = self.model(clips, before, mask)[0].logits[-1]  # (B, K, T)
                return (logits[:, numbers, torch.arange(logits.shape[2], device=logits.device)] * mask).sum(dim=1)

            heat = clip_heat(self.model, clip, score, method=method, layer=layer, steps=steps)
            texts = []
            for column in range(clip.shape[2]):
                named = dict.fromkeys((int(labels[column]), int(numbers[column])))
                texts.append("\n".join(f"{float(shares[one, column]):6.1%}  {self.classes[one]}" for one in named))
            return heat[0], texts

        title = f"{self.network}, {target or 'predicted class'}, {method}"
        return explain_windows(
            video,
            self.input_spec,
            windows,
            explained,
            title=title,
            device=self.device,
            until=lambda window: (window + 1) * shape.stride,
        )

    def _inputs(self, data: VideoDataset, root: Path) -> Iterator[list[tuple[Tensor, ...]]]:
        options = self.options(StreamingOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        calls: list[tuple[Tensor, ...]] = []
        with closing(make_loader(data, options, self.input_spec, self.shape, train=False)) as loader:
            for batch in loader:
                if batch.item.starts and calls:
                    yield calls
                    calls = []
                if batch.item.valid.all() and len(calls) < _WINDOWS:  # rows of ended videos are not computed
                    calls.append((batch.inputs, batch.mask))
        if calls:
            yield calls

    def evaluate(self, data: VideoDataset, root: Path) -> FrameLabelResult:
        """See `FrameLabelModel.evaluate`."""
        check_motion(self.source.record, data, self.input_spec)
        options = self.options(StreamingOptions())
        options = replace(options, data=replace(options.data, dataset=str(root)))
        task = StreamingTask(background=class_numbers(self.classes, options.data.background))
        with closing(make_loader(data, options, self.input_spec, self.shape, train=False)) as loader:
            copy_ahead(loader, self.device)
            return task.evaluate(self.model, loader, device=self.device)
