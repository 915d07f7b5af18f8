"""A live stream of pictures through a streaming network: where frames come from, how they are prepared, their labels.

Frames are prepared as a conversion with its default options and `StreamLoader` do: a video that arrives is labeled as
the same video is from its frame database, but for what JPEG loses.
"""

from __future__ import annotations

import errno
import json
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import av
import av.error
import torch
from torch import Tensor

from vidseg.clips.windows import WindowShape
from vidseg.convert.decoding import VideoError, VideoSource
from vidseg.convert.encoding import FrameEncoder
from vidseg.convert.options import ConvertOptions
from vidseg.engine.checkpoints import CheckpointFolder
from vidseg.engine.live import LiveLabeler, LiveLabels
from vidseg.engine.stream_recipes import RECIPES, StreamRecipe
from vidseg.engine.stream_runs import create_stream_model
from vidseg.frames.native import operators
from vidseg.loaders.output import OutputForm
from vidseg.models import load_weights, read_state
from vidseg.models.streaming import StreamModel

__all__ = ["FramePreparer", "LabeledFrame", "LiveSession", "LiveSource", "StreamNetwork", "load_stream_network"]


_PATIENCE = 0.1  # seconds between two looks at whether a source that is silent has been stopped


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
    report = load_weights(model, path)
    if report.missing:
        raise ValueError(f"{path} does not fill {network} with {len(classes)} classes: {report}")
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
        self._encoder = FrameEncoder(ConvertOptions())

    @property
    def black(self) -> Tensor:
        """(3,): a black pixel."""
        return self._offset.view(3)

    def __call__(self, frame: Any) -> Tensor:
        """An `av.VideoFrame` as float32 (3, H, W)."""
        planes = self._encoder.planes(frame)
        scale = min(planes.height, planes.width) / self.resize
        left, top = (planes.width - self.size * scale) / 2, (planes.height - self.size * scale) / 2
        matrix = torch.tensor([[scale, 0, left], [0, scale, top], [0, 0, 1]], dtype=torch.float64)
        pixels = operators.sample_planes(
            *planes.planes,
            *planes.strides,
            planes.width,
            planes.height,
            self._encoder.options.chroma,
            *planes.luma_weights,
            planes.full_range,
            matrix,
            self.size,
            self.size,
        )
        return pixels.permute(2, 0, 1).float() * self._scale + self._offset


class LiveSource:
    """Frames of a video file, a camera, an address or standard input, as they come.

    Args:
        source: path of a file, a camera as /dev/video0 or its number, an address that FFmpeg knows, or "-" for a
            container on standard input (one that can be read from its beginning: MPEG-TS, Matroska, fragmented MP4).
        container_format: FFmpeg's name of the format or of the kind of device; None: v4l2 for cameras, else found out.
        options: for FFmpeg, such as {"framerate": "30", "video_size": "1280x720"}.

    Attributes:
        fps: frames a second, as the source says, 25 where it does not; known once iteration has begun.
        damage: what was found wrong, one sentence each.

    Raises:
        FileNotFoundError: no such file, or no such camera.
    """

    def __init__(
        self, source: str, *, container_format: str | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        self.source, self.options, self.format = source, dict(options or {}), container_format
        local = source != "-" and "://" not in source
        self.is_file = local and Path(source).is_file()
        found = container_format == "v4l2" or (container_format is None and _is_camera(source))
        self.camera = local and not self.is_file and found
        if self.camera:
            self.source = f"/dev/video{source}" if source.isdigit() else source
            self.format = "v4l2"
            _check_camera(self.source)
        elif local and container_format is None and not Path(source).exists():
            raise FileNotFoundError(f"{source}: no such file or device")
        self.fps = 25.0
        self.damage: list[str] = []
        self._stopped = False

    def stop(self) -> None:
        """End the source, as if nothing more came: from a signal's handler, or another thread."""
        self._stopped = True

    def read(self, size: int) -> bytes:
        """What has arrived on standard input, `size` bytes at most; waits for the first. For FFmpeg."""
        while not self._stopped:
            if select.select([0], [], [], _PATIENCE)[0]:
                return os.read(0, size)
        return b""

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """Yield frames, `av.VideoFrame`, and their times in seconds: of a camera from its first frame on.

        Raises:
            VideoError: not a video that FFmpeg can open, or one without a frame.
        """
        if self.is_file and self.format is None:
            video = VideoSource(Path(self.source), damage=self.damage)
            for timed in video:
                self.fps = float(video.properties["fps"] or 25)
                yield timed.frame, timed.time
                if self._stopped:
                    break
            return
        with ExitStack() as stack:
            target: Any = self if self.source == "-" else self.source
            try:
                container = av.open(target, format=self.format, options=self.options, metadata_errors="ignore")
            except (av.error.FFmpegError, ValueError) as error:
                if self._stopped:
                    return
                remedy = _camera_remedy(self.source, error) if self.camera else ""
                raise VideoError(f"{self.source}: FFmpeg cannot open it: {error}{remedy}") from error
            yield from self._decode(stack.enter_context(container))

    def _decode(self, container: Any) -> Iterator[tuple[Any, float]]:
        stream = container.streams.best("video")
        if stream is None:
            raise VideoError(f"{self.source}: has no video stream")
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else 25.0
        number, origin = 0, 0.0
        packets = container.demux(stream)
        while not self._stopped:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:  # a camera that is pulled out, a connection that breaks
                self.damage.append(f"reading stops after frame {number}: {error}")
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self.damage.append(f"a packet after frame {number} cannot be decoded: {error}")
                continue
            for frame in frames:
                moment = number / self.fps if frame.time is None else float(frame.time)
                if number == 0 and self.camera:  # whose clock began with the machine
                    origin = moment
                yield frame, moment - origin
                number += 1
        if number == 0 and not self._stopped:
            raise VideoError(f"{self.source}: no frame could be decoded{f': {self.damage[0]}' if self.damage else ''}")


def _is_camera(source: str) -> bool:
    """Whether it is the number of a camera, its device, or a link to it such as those in /dev/v4l/by-id."""
    return source.isdigit() or str(Path(source).resolve()).startswith("/dev/video")


def _check_camera(device: str) -> None:
    """Refuse a camera that is not there, or that this FFmpeg could not read."""
    if not Path(device).exists():
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        hint = f"there are {', '.join(there)}" if there else "there is none: plug one in"
        raise FileNotFoundError(
            f"{device}: no such camera; {hint} (a container needs it passed on: docker run --device {device})"
        )
    if not any("v4l2" in name.split(",") for name in av.formats_available):
        raise FileNotFoundError(
            f"{device}: this PyAV's FFmpeg has no v4l2 input; pipe the camera in: ffmpeg -f v4l2 -i {device} "
            "-f mpegts - | vidseg predict --stream -"
        )


def _camera_remedy(device: str, error: Exception) -> str:
    """What to do about a camera that cannot be opened."""
    remedies = {
        errno.EACCES: "you may not read it: sudo usermod -aG video $USER, and log in again",
        errno.EBUSY: "another program has it open",
        errno.EINVAL: f"it may not know these options; v4l2-ctl --device {device} --list-formats-ext has its own",
        errno.ENOTTY: "this device gives no pictures: cameras often have a second one, try the numbers beside it",
    }
    remedy = remedies.get(getattr(error, "errno", None) or 0)
    return "" if remedy is None else f"; {remedy}"


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
