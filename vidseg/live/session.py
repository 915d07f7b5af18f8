"""Live streams through a trained network: frames are prepared and labeled, and returned in order.

Frames are prepared like those of a conversion with default options followed by the loaders, so that a stream is labeled
like the frame database of the same video, up to the loss of JPEG.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidseg.clips.stream_windows import WindowShape
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.engine.trained import TrainedModel
from vidseg.live.sliding_window import SlidingWindow
from vidseg.models._streaming import StreamModel
from vidseg.tasks.streaming.labeler import LiveLabeler, LiveLabels

__all__ = ["LabeledFrame", "LiveSession"]


@dataclass(frozen=True)
class LabeledFrame:
    """A frame with its label.

    Attributes:
        number: number of the frame in the stream, from 0.
        time: presentation time in seconds.
        label: class number.
        probability: probability of that class.
        frame: `av.VideoFrame`; None if frames are not kept, or if it arrived before the state was saved.
    """

    number: int
    time: float
    label: int
    probability: float
    frame: Any


class LiveSession:
    """One stream through one network: frames in, labeled frames out, in order.

    A streaming network keeps its memory from window to window. A recognition network labels a sliding window: the class
    of a clip is the label of the first `stride` frames of its window.

    Args:
        trained: a trained streaming or recognition network, see `vidseg.load_trained`; its device is used.
        stride: frames from window to window of a recognition network; None: half of a window.
        keep_frames: return the frames together with their labels, for drawing.

    Attributes:
        seconds: computation time of preparation and network so far.
        network_seconds: computation time of the network for the latest window.
        latency: seconds from the oldest frame of the latest window to its label: the duration of the window by the
            timestamps of the stream, plus the computation time after its last frame.
        windows: number of labeled windows.

    Raises:
        ValueError: the network labels neither streams nor clips.
    """

    def __init__(self, trained: TrainedModel, *, stride: int | None = None, keep_frames: bool = False) -> None:
        self.trained, self.keep_frames = trained, keep_frames
        self.classes = trained.classes
        self.prepare = FramePreparer(trained.input_spec)
        model, self.shape = _stream_model(trained, stride)
        self.labeler = LiveLabeler(model, self.shape, black=self.prepare.black, device=trained.device)
        self.seconds = self.network_seconds = self.latency = 0.0
        self.windows = 0
        self._waiting: deque[tuple[int, float, Any]] = deque()  # frames without a label
        self._known: deque[tuple[int, float]] = deque()  # labels of the frames that come first
        self._count = 0

    @property
    def identity(self) -> dict[str, Any]:
        """Network, classes, input and windows, which a saved state must have too."""
        facts = {
            "network": self.trained.network,
            "network options": self.trained.source.network_options,
            "classes": self.classes,
            "input": self.trained.input_spec.as_dict(),
            "stride": self.shape.stride,
        }
        found: dict[str, Any] = json.loads(json.dumps(facts))
        return found

    @property
    def frames(self) -> int:
        """Number of frames of the stream so far."""
        return self._count

    def unlabeled(self) -> list[tuple[Any, float]]:
        """Return the kept frames that have no label yet, with their times."""
        return [(frame, moment) for _, moment, frame in self._waiting if frame is not None]

    def push(self, frame: Any, moment: float) -> list[LabeledFrame]:
        """Process the next frame.

        Args:
            frame: `av.VideoFrame`.
            moment: presentation time in seconds.

        Returns:
            The frames that have their labels now, in order.
        """
        begin = time.perf_counter()
        self._waiting.append((self._count, moment, frame if self.keep_frames else None))
        self._count += 1
        oldest = self._waiting[0][1]
        labels = self.labeler.push(self.prepare(frame))
        spent = time.perf_counter() - begin
        self.seconds += spent
        if labels is not None:
            self._take(labels)
            self.latency = moment - oldest + spent
        return self._ready()

    def finish(self) -> list[LabeledFrame]:
        """End the stream and return the remaining frames with their labels; the next frame starts a new stream."""
        begin = time.perf_counter()
        for labels in self.labeler.finish():
            self._take(labels)
        self.seconds += time.perf_counter() - begin
        ready = self._ready()
        self._known.clear()
        self._count = 0
        return ready

    def _take(self, labels: LiveLabels) -> None:
        self._known.extend(zip(labels.labels.tolist(), labels.probabilities.tolist(), strict=True))
        self.network_seconds = labels.seconds
        self.windows += 1

    def _ready(self) -> list[LabeledFrame]:
        ready = []
        while self._waiting and self._known:
            (number, moment, frame), (label, probability) = self._waiting.popleft(), self._known.popleft()
            ready.append(LabeledFrame(number, moment, label, probability, frame))
        return ready

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stream, from which another process can continue."""
        return {
            "identity": self.identity,
            "labeler": self.labeler.state_dict(),
            "waiting": [(number, moment) for number, moment, _ in self._waiting],
            "known": list(self._known),
            "count": self._count,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: the state is of another network, other classes or other windows.
        """
        for name, value in self.identity.items():
            if saved["identity"].get(name) != value:
                raise ValueError(
                    f"the state is of {name} {saved['identity'].get(name)}, but the model has {value}; use the model "
                    "that it was saved with, or start without a state"
                )
        self.labeler.load_state_dict(saved["labeler"])
        self._waiting = deque((number, moment, None) for number, moment in saved["waiting"])
        self._known = deque((label, probability) for label, probability in saved["known"])
        self._count = saved["count"]


def _stream_model(trained: TrainedModel, stride: int | None) -> tuple[StreamModel, WindowShape]:
    """Return the network as one that labels windows, and the shape of its windows."""
    spec = trained.input_spec
    shape = getattr(trained, "shape", None)
    if isinstance(trained.model, StreamModel) and shape is not None:
        if stride is not None:
            raise ValueError(f"stride={stride}: change the stride of a streaming network in load_trained")
        return trained.model, shape
    if trained.task != "recognition":
        raise ValueError(f"{trained.network} is a network for {trained.task}; a stream needs streaming or recognition")
    if spec.sampling == "segments":
        raise ValueError(
            f"{trained.network} takes segments of a whole video; load it with sampling='dense' and an interval"
        )
    span = spec.frames * spec.interval
    return SlidingWindow(trained.model), WindowShape(stride or max(1, span // 2), spec.frames, spec.interval)
