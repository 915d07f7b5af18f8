"""A live stream of pictures through a trained network: frames are prepared, labeled, and given back in order.

Frames are prepared as a conversion with its default options and the loaders do: a video that arrives is labeled as the
same video is from its frame database, up to the loss of JPEG.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidseg.clips.windows import WindowShape
from vidseg.engine.frame_preparer import FramePreparer
from vidseg.engine.trained import TrainedModel
from vidseg.live.sliding_window import SlidingWindow
from vidseg.models._streaming import StreamModel
from vidseg.tasks.streaming.labeler import LiveLabeler, LiveLabels

__all__ = ["LabeledFrame", "LiveSession"]


@dataclass(frozen=True)
class LabeledFrame:
    """A frame whose label is known.

    Attributes:
        number: of the frame in the stream, from 0.
        time: in seconds.
        label: class number.
        probability: of that class.
        frame: `av.VideoFrame`, None where it was seen before the state was saved or is not kept.
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
        keep_frames: keep the frames until they have labels, for drawing.

    Attributes:
        seconds: seconds that preparation and the network have taken.
        network_seconds: seconds that the network took for the latest window.
        latency: seconds from the oldest frame of the latest window to its label: until the last frame that the network
            sees arrived, by the stream's own clock, plus the computation after that.

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
        """What a saved state must agree with."""
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
        """Frames seen so far."""
        return self._count

    def unlabeled(self) -> list[tuple[Any, float]]:
        """The frames that wait for their labels, where they are kept, and their times."""
        return [(frame, moment) for _, moment, frame in self._waiting if frame is not None]

    def push(self, frame: Any, moment: float) -> list[LabeledFrame]:
        """Take the next frame.

        Args:
            frame: `av.VideoFrame`.
            moment: its time in seconds.

        Returns:
            The frames whose labels have become known.
        """
        begin = time.perf_counter()
        self._waiting.append((self._count, moment, frame if self.keep_frames else None))
        self._count += 1
        oldest = self._waiting[0][1]
        answer = self.labeler.push(self.prepare(frame))
        spent = time.perf_counter() - begin
        self.seconds += spent
        if answer is not None:
            self._take(answer)
            self.latency = moment - oldest + spent
        return self._ready()

    def finish(self) -> list[LabeledFrame]:
        """The stream has ended: the frames that are left. The next frame begins a new stream."""
        begin = time.perf_counter()
        for answer in self.labeler.finish():
            self._take(answer)
        self.seconds += time.perf_counter() - begin
        ready = self._ready()
        self._known.clear()
        self._count = 0
        return ready

    def _take(self, answer: LiveLabels) -> None:
        self._known.extend(zip(answer.labels.tolist(), answer.probabilities.tolist(), strict=True))
        self.network_seconds = answer.seconds
        self.windows += 1

    def _ready(self) -> list[LabeledFrame]:
        ready = []
        while self._waiting and self._known:
            (number, moment, frame), (label, probability) = self._waiting.popleft(), self._known.popleft()
            ready.append(LabeledFrame(number, moment, label, probability, frame))
        return ready

    def state_dict(self) -> dict[str, Any]:
        """Everything that another process goes on from, in the middle of the stream."""
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
            ValueError: it is of another network, other classes or other windows.
        """
        for name, value in self.identity.items():
            if saved["identity"].get(name) != value:
                raise ValueError(
                    f"the state is of {name} {saved['identity'].get(name)}, but the weights are of {value}; take those "
                    "that it was saved with, or start without a state"
                )
        self.labeler.load_state_dict(saved["labeler"])
        self._waiting = deque((number, moment, None) for number, moment in saved["waiting"])
        self._known = deque((label, probability) for label, probability in saved["known"])
        self._count = saved["count"]


def _stream_model(trained: TrainedModel, stride: int | None) -> tuple[StreamModel, WindowShape]:
    """The network as one that labels windows, and the shape of its windows."""
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
