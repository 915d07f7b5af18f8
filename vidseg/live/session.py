"""A live stream of pictures through a streaming network: where frames come from, how they are prepared, their labels.

Frames are prepared as a conversion with its default options and `StreamLoader` do: a video that arrives is labeled as
the same video is from its frame database, but for what JPEG loses.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidseg.clips.windows import WindowShape
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.frames.native import operators
from vidseg.live.labeler import LiveLabeler, LiveLabels
from vidseg.loaders.output import OutputForm
from vidseg.models import load_weights, read_state
from vidseg.models._streaming import StreamModel
from vidseg.tasks.streaming.recipes import RECIPES, StreamRecipe
from vidseg.tasks.streaming.runs import create_stream_model
from vidseg.videos.upright import UprightFrames

__all__ = ["FramePreparer", "LabeledFrame", "LiveSession", "StreamNetwork", "load_stream_network"]


@dataclass(frozen=True)
class StreamNetwork:
    """A trained streaming network and how it sees a stream.

    Attributes:
        name: of the network.
        model: with its weights.
        recipe: windows, size, mean and std that it was trained with.
        classes: names by number.
    """

    name: str
    model: StreamModel
    recipe: StreamRecipe
    classes: list[str]

    @property
    def shape(self) -> WindowShape:
        """How the stream is cut."""
        return WindowShape(self.recipe.stride, self.recipe.frames, self.recipe.interval)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same where a saved state is gone on with."""
        names = ("stride", "frames", "interval", "size", "mean", "std", "network")
        seen: dict[str, Any] = json.loads(json.dumps({name: getattr(self.recipe, name) for name in names}, default=str))
        return {"network": self.name, "classes": self.classes, "recipe": seen}


def load_stream_network(
    weights: str | Path,
    *,
    network: str | None = None,
    classes: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> StreamNetwork:
    """A trained streaming network.

    Args:
        weights: folder of a run of `vidseg train stream`, one of its checkpoints, or a file of weights.
        network: name of the network, for a file that does not say it.
        classes: names of the classes, for a file that does not say them.
        changes: fields of the recipe to change, such as stride.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: weights of another kind, that do not say whose they are, or do not fill the network.
    """
    weights, record = Path(weights), None
    path: Path | None = weights
    if weights.is_dir():
        options = weights / "options.json"
        if not options.is_file():
            raise FileNotFoundError(f"{options}: not there, so {weights} is not the folder of a run")
        record = json.loads(options.read_text())
        if record.get("task") == "stream_segmentation":
            folder = CheckpointFolder(weights, record["options"]["model"])
            path = folder.best if folder.best.is_file() else folder.newest()
    elif weights.suffix != ".safetensors":
        read_state(weights)  # says what is wrong with a file that is no checkpoint
        content = torch.load(weights, map_location="cpu", weights_only=True)
        record = content.get("record")
    if path is None or not path.is_file():
        raise FileNotFoundError(f"{weights}: no checkpoint, and no file of weights")
    if record is not None and record.get("task") != "stream_segmentation":
        raise ValueError(f"{weights}: not of a streaming network; `vidseg train stream` trains one")
    if record is not None:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record["recipe"].items()
        }
        known = {field.name for field in fields(StreamRecipe)}
        recipe = StreamRecipe(**{name: value for name, value in values.items() if name in known})
        network, classes = network or record["options"]["model"], classes or record["classes"]
    elif network is None or classes is None:
        raise ValueError(f"{weights}: does not say whose weights it holds; name the network and give its classes")
    elif network not in RECIPES["gtea"]:
        raise ValueError(f"{network!r} is no streaming network; there are {', '.join(RECIPES['gtea'])}")
    else:
        recipe = RECIPES["gtea"][network]
    recipe = replace(recipe, **(changes or {}))
    model = create_stream_model(network, recipe, list(classes))
    load_weights(model, path)
    return StreamNetwork(network, model, recipe, list(classes))


class FramePreparer:
    """Decoded frames to what a network sees: short side, central crop, normalization, as `StreamLoader` in validation.

    Args:
        recipe: size, mean and std.
    """

    def __init__(self, recipe: StreamRecipe) -> None:
        self.size = recipe.size
        self.resize = round(recipe.size * 9 / 8)
        self.form = OutputForm(mean=recipe.mean, std=recipe.std)
        scale, offset = self.form.normalization.float()
        self._scale, self._offset = scale.view(3, 1, 1), offset.view(3, 1, 1)
        self._upright = UprightFrames()

    @property
    def black(self) -> Tensor:
        """(3,): a black pixel."""
        return self._offset.view(3)

    def __call__(self, frame: Any) -> Tensor:
        """An `av.VideoFrame` as float32 (3, H, W)."""
        planes = self._upright.planes(frame)
        scale = min(planes.height, planes.width) / self.resize
        left, top = (planes.width - self.size * scale) / 2, (planes.height - self.size * scale) / 2
        matrix = torch.tensor([[scale, 0, left], [0, scale, top], [0, 0, 1]], dtype=torch.float64)
        pixels = operators.sample_planes(
            *planes.planes,
            *planes.strides,
            planes.width,
            planes.height,
            self._upright.chroma,
            *planes.luma_weights,
            planes.full_range,
            matrix,
            self.size,
            self.size,
        )
        return pixels.permute(2, 0, 1).float() * self._scale + self._offset


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

    Args:
        network: a trained network.
        device: where to compute; the model is moved there.
        keep_frames: hold the frames until they have labels, for drawing.

    Attributes:
        seconds: that preparing and the network have taken.
        network_seconds: that the network took for the latest window.
        latency: seconds from the oldest frame of the latest window to its label: until the last frame arrived that the
            network looks at, by the stream's own clock, and what was computed after that.
    """

    def __init__(
        self, network: StreamNetwork, *, device: torch.device | str = "cpu", keep_frames: bool = False
    ) -> None:
        self.network, self.keep_frames = network, keep_frames
        self.prepare = FramePreparer(network.recipe)
        self.labeler = LiveLabeler(network.model.to(device), network.shape, black=self.prepare.black, device=device)
        self.seconds = self.network_seconds = self.latency = 0.0
        self.windows = 0
        self._waiting: deque[tuple[int, float, Any]] = deque()  # frames without a label
        self._known: deque[tuple[int, float]] = deque()  # labels of the frames that come first
        self._count = 0

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
            "identity": self.network.identity,
            "labeler": self.labeler.state_dict(),
            "waiting": [(number, moment) for number, moment, _ in self._waiting],
            "known": list(self._known),
            "count": self._count,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: it is of another network, other classes or other windows.
        """
        for name, value in self.network.identity.items():
            if saved["identity"].get(name) != value:
                raise ValueError(
                    f"the state is of {name} {saved['identity'].get(name)}, but the weights are of {value}; take those "
                    "that it was saved with, or begin without a state"
                )
        self.labeler.load_state_dict(saved["labeler"])
        self._waiting = deque((number, moment, None) for number, moment in saved["waiting"])
        self._known = deque((label, probability) for label, probability in saved["known"])
        self._count = saved["count"]
