"""Training on videos of any length, window by window, and labeling them.

A step of training is a group of videos. For each of its windows in order: forward, loss, backward at once. What the
model remembers goes on to the next window without its history, so that memory is that of one window, however long the
videos are, and the gradient of the step is the mean over the windows of its videos (truncated back-propagation). One
rule holds in training, validation and inference alike: the memory is cleared exactly when the videos change.

Sources: the ETESVS code base; "Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808; SVTAS-RL,
arXiv 2309.15683, whose update after every window is `update="window"` ("TD") and whose update after the videos is
`update="video"` ("MC").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.clips.windows import StreamItem, WindowShape
from vidseg.engine import distributed
from vidseg.engine.options import OptLevel
from vidseg.engine.precision import make_precision
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.losses.streaming import StreamLoss, etesvs_loss, stage_loss, svtas_rl_loss
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState

__all__ = [
    "StreamMemory",
    "StreamPrediction",
    "StreamReport",
    "StreamState",
    "StreamTrainer",
    "label_streams",
    "published_objective",
]

Update = Literal["video", "window"]

Objective = Callable[[StreamOutput, Tensor, Tensor | None], StreamLoss]
"""The loss of one window from the model's output, the labels (B, T * R) and the windows of each video (B,) or None."""

_IGNORED = -100


class StreamMemory:
    """The state of a model from window to window: kept while the videos stay, cleared exactly when they change.

    It can be saved in the middle of a video and restored on another machine.
    """

    def __init__(self) -> None:
        self._state: StreamState | None = None
        self._group, self._window = -1, -1

    def recall(self, item: StreamItem) -> StreamState | None:
        """The state for this window; None at the start of its videos.

        Raises:
            ValueError: the window before this one has not been seen, so that the memory would be another video's.
        """
        if item.starts:
            return None
        if (item.group, item.window) != (self._group, self._window + 1):
            raise ValueError(
                f"window {item.window} of group {item.group} came after window {self._window} of group {self._group}: "
                "windows of a stream must come in order; to go on in the middle, load the memory that was saved there"
            )
        return self._state

    def keep(self, item: StreamItem, state: StreamState) -> None:
        """What the model returned for this window; at the end of the group it is forgotten."""
        self._state = None if item.last else state.detach()
        self._group, self._window = item.group, item.window

    def pass_by(self, item: StreamItem) -> None:
        """Nothing was to be seen in this window: the state stays as it is."""
        state = self.recall(item)
        self._state = None if item.last else state
        self._group, self._window = item.group, item.window

    def state_dict(self) -> dict[str, Any]:
        """Position and state, with tensors on the CPU."""
        state = None if self._state is None else self._state.state_dict()
        return {"group": self._group, "window": self._window, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any], *, device: torch.device | str = "cpu") -> None:
        """Go on where `state_dict` was taken."""
        self._group, self._window = saved["group"], saved["window"]
        self._state = None if saved["state"] is None else StreamState(saved["state"]).to(device)


@dataclass
class StreamReport:
    """Sums over windows; means by the properties.

    Attributes:
        windows: number of windows of the group, empty ones included.
        steps: optimizer steps.
        loss: sum of the windows' losses before any division by numbers of windows.
        parts: the same for each part of the loss.
        frames: labeled frames.
        correct: frames that the last stage labeled right.
    """

    windows: int = 0
    steps: int = 0
    loss: float = 0.0
    parts: dict[str, float] | None = None
    frames: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float:
        """Share of the labeled frames that were right, 0 to 1; 0 without any."""
        return self.correct / self.frames if self.frames else 0.0

    @property
    def mean_loss(self) -> float:
        """Mean over the windows; 0 without any."""
        return self.loss / self.windows if self.windows else 0.0


def published_objective(name: str, *, update: Update = "video") -> Objective:
    """The loss that the streaming network called `name` was published with.

    Raises:
        ValueError: no loss is known for it.
    """
    if name in ("etesvs", "etesvs_convlstm"):
        return _etesvs
    if name in ("svtas_rl", "block_recurrent"):
        offset = -1.0 if update == "window" else -0.5
        return lambda output, labels, windows: _svtas_rl(output, labels, windows, offset)
    smoothing = {"memory_tcn": 0.5, "transeger": 0.5, "mobilenet_v2_tsm_frames": 0.0}
    if name not in smoothing:
        raise ValueError(f"no published loss is known for {name!r}; give one of your own")
    return lambda output, labels, windows: _staged(output, labels, windows, smoothing[name])


def _staged(output: StreamOutput, labels: Tensor, windows: Tensor | None, smoothing: float) -> StreamLoss:
    return StreamLoss(stage_loss(output.logits, labels, windows=windows, smoothing=smoothing), {})


def _etesvs(output: StreamOutput, labels: Tensor, windows: Tensor | None) -> StreamLoss:
    if output.backbone_logits is None or output.neck_logits is None:
        raise ValueError("the loss of ETESVS needs a network with logits of its backbone and its neck")
    return etesvs_loss(output.logits, output.backbone_logits, output.neck_logits, labels, windows=windows)


def _svtas_rl(output: StreamOutput, labels: Tensor, windows: Tensor | None, offset: float) -> StreamLoss:
    if output.backbone_logits is None:
        raise ValueError("the loss of SVTAS-RL needs a network with logits of its backbone")
    return svtas_rl_loss(output.logits, output.backbone_logits, labels, windows=windows, offset=offset)


class StreamTrainer:
    """Trains a streaming model on the windows of a stream, in order.

    Several processes (torchrun) each take their rank's `StreamPlan`; gradients are averaged once in each step. They
    step as one process does with all their videos in its group, but for dropout, and for BatchNorm, which sees the
    videos of its process unless `vidseg.engine.distributed.synchronize_norms` has been called.

    Args:
        model: on `device`.
        objective: see `published_objective`.
        optimizer: of the model's parameters.
        update: step once when the videos of a group end ("video"), or after every window ("window").
        weighting: with update="video", divide each video's loss by its own number of windows ("video"), or the whole
            loss by the group's ("group", as in ETESVS).
        frozen_norms: leave BatchNorm as it is, so that what a video teaches does not depend on the others in its group.
        clip_norm: largest norm of a step's gradient; None: any.
        opt_level: O0 (float32), O1 (float16 where it is safe) or bf16, see `vidseg.engine.precision`.
        device: where the model is.

    Raises:
        ValueError: an option is not one of those above.
    """

    def __init__(
        self,
        model: StreamModel,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        update: Update = "video",
        weighting: Literal["video", "group"] = "video",
        frozen_norms: bool = False,
        clip_norm: float | None = None,
        opt_level: OptLevel = "O0",
        device: torch.device | str = "cpu",
    ) -> None:
        if update not in ("video", "window"):
            raise ValueError(f"update={update!r} is not one of video, window")
        if weighting not in ("video", "group"):
            raise ValueError(f"weighting={weighting!r} is not one of video, group")
        if clip_norm is not None and clip_norm <= 0:
            raise ValueError(f"clip_norm={clip_norm} must be positive")
        if opt_level not in ("O0", "O1", "bf16"):
            raise ValueError(f"opt_level={opt_level!r}: the memory between windows is float32; take O0, O1 or bf16")
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.update, self.weighting = update, weighting
        self.frozen_norms, self.clip_norm = frozen_norms, clip_norm
        self.device = torch.device(device)
        self.memory = StreamMemory()
        self.precision = make_precision(opt_level, self.device)
        self.precision.prepare(model, optimizer.param_groups)
        if distributed.world_size() > 1:
            for value in model.state_dict().values():
                torch.distributed.broadcast(value, src=0)

    def train(self, batches: Iterable[StreamBatch], *, report: StreamReport | None = None) -> StreamReport:
        """Train on the windows of an epoch, or of the rest of one.

        Args:
            batches: windows in order.
            report: to add to, after each window; None begins a new one.

        Returns:
            The report.

        Raises:
            ValueError: windows do not come in order, or the loss of one is not finite.
        """
        self._train_mode()
        report = StreamReport(parts={}) if report is None else report
        for batch in batches:
            self._window(batch.to(self.device, non_blocking=True), report)
        return report

    def _train_mode(self) -> None:
        self.model.train()
        if self.frozen_norms:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def _window(self, batch: StreamBatch, report: StreamReport) -> None:
        item = batch.item
        windows = None
        if self.update == "video" and self.weighting == "video":
            windows = torch.from_numpy(item.counts).to(self.device)
        if not item.valid.any():  # the videos of other processes go on
            if distributed.world_size() > 1:
                self._accompany(batch, windows)
            self.memory.pass_by(item)
            report.windows += 1
            self._step_where_due(item, report)
            return
        with self.precision.forward(), distributed.shared_losses():
            output, state = _forward(self.model, batch, self.memory.recall(item))
            loss = self.objective(output, batch.labels, windows)
        if not torch.isfinite(loss.total):
            raise ValueError(
                f"the loss of window {item.window} of group {item.group} (videos {item.videos.tolist()}) is "
                f"{loss.total.item()}: lower the learning rate, or clip gradients with clip_norm"
            )
        scale = 1 / item.windows if self.update == "video" and self.weighting == "group" else 1.0
        self.precision.backward(loss.total * scale)
        self.memory.keep(item, self.model.observe(state, batch.labels))
        _count(report, output, batch.labels, loss)
        self._step_where_due(item, report)

    def _accompany(self, batch: StreamBatch, windows: Tensor | None) -> None:
        """Take part in what the processes whose videos go on exchange: counts of frames, statistics of norms.

        All videos of this process have ended, as rows of a larger group would have: their logits are 0.
        """
        with distributed.silent_norms(self.model), self.precision.forward(), distributed.shared_losses():
            output, _ = self.model(batch.clips, None, torch.ones_like(batch.mask))
            blank = {field.name: getattr(output, field.name) for field in fields(output)}
            blank = {name: None if values is None else values * 0 for name, values in blank.items()}
            loss = self.objective(StreamOutput(**blank), batch.labels, windows)
            self.precision.backward(loss.total * 0)

    def _step_where_due(self, item: StreamItem, report: StreamReport) -> None:
        if self.update == "window" or item.last:
            self._step()
            report.steps += 1

    def _step(self) -> None:
        _average_gradients([value for group in self.optimizer.param_groups for value in group["params"]])
        self.precision.step(self.model, self.optimizer, clip_norm=self.clip_norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from, also in the middle of a video: gradients so far are part of it."""
        gradients = {
            name: value.grad.cpu().clone() for name, value in self.model.named_parameters() if value.grad is not None
        }
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "memory": self.memory.state_dict(),
            "gradients": gradients,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: next comes the window behind it."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.precision.load_state_dict(saved["precision"])
        self.memory.load_state_dict(saved["memory"], device=self.device)
        for name, value in self.model.named_parameters():
            gradient = saved["gradients"].get(name)
            value.grad = None if gradient is None else gradient.to(value.device).clone()


def _forward(model: StreamModel, batch: StreamBatch, state: StreamState | None) -> tuple[StreamOutput, StreamState]:
    """One window of the videos that have not ended yet.

    The logits of the others are 0, as behind a mask; they cost nothing, and BatchNorm does not see their black frames.
    """
    count, rows = len(batch.item.valid), torch.from_numpy(np.flatnonzero(batch.item.valid)).to(batch.clips.device)
    if len(rows) == count:
        return model(batch.clips, state, batch.mask)
    before = None if state is None else state.take(rows)
    output, after = model(batch.clips[rows], before, batch.mask[rows])

    def spread(values: Tensor, dim: int) -> Tensor:
        shape = [*values.shape[:dim], count, *values.shape[dim + 1 :]]
        return values.new_zeros(shape).index_copy(dim, rows, values)

    others = {
        name: spread(values, 0)
        for name in ("backbone_logits", "neck_logits")
        if (values := getattr(output, name)) is not None
    }
    whole = StreamOutput(spread(output.logits, 1), **others)
    return whole, StreamState({name: spread(value, 0) for name, value in after.items()})


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Mean of the gradients over all processes; a parameter without any in every process keeps none."""
    if distributed.world_size() == 1:
        return
    present = torch.tensor([float(value.grad is not None) for value in parameters], device=parameters[0].device)
    known = distributed.sum_over_group(present).tolist()
    gradients = []
    for value, count in zip(parameters, known, strict=True):
        if count:
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
            gradients.append(value.grad)
    distributed.mean_over_group(gradients)


def _spread_labels(logits: Tensor, length: int) -> Tensor:
    """Class numbers (B, L) from the last stage of logits (S, B, K, T), each column for L / T frames."""
    labels = logits[-1].argmax(dim=1)
    return labels.repeat_interleave(length // labels.shape[1], dim=1)


def _count(report: StreamReport, output: StreamOutput, labels: Tensor, loss: StreamLoss) -> None:
    known = labels != _IGNORED
    found = _spread_labels(output.logits.detach(), labels.shape[1])
    report.windows += 1
    report.loss += loss.total.item()
    report.frames += int(known.sum())
    report.correct += int(((found == labels) & known).sum())
    parts = report.parts if report.parts is not None else {}
    for name, value in loss.parts.items():
        parts[name] = parts.get(name, 0.0) + value.item()
    report.parts = parts


@dataclass(frozen=True)
class StreamPrediction:
    """The labels of one video.

    Attributes:
        video: its number.
        labels: int64 (L,), what the model says.
        truth: int64 (L,), what the loader says, -100 where it does not know.
        cross_entropy: mean over the frames whose truth is known; 0 without any.
    """

    video: int
    labels: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    cross_entropy: float = 0.0


@torch.no_grad()
def label_streams(
    model: StreamModel,
    batches: Iterable[StreamBatch],
    shape: WindowShape,
    *,
    memory: StreamMemory | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[StreamPrediction]:
    """Label videos window by window; each is given as soon as it has ended.

    Of each window the first W frames are kept, so that a frame's label never changes.

    Args:
        model: on `device`; put into evaluation mode.
        batches: all windows of all videos, in order.
        shape: how the videos were cut.
        memory: to go on in the middle of videos; the labels of earlier windows must have been kept by the caller.
        device: where the model is.

    Raises:
        ValueError: windows do not come in order.
    """
    model.eval()
    memory = StreamMemory() if memory is None else memory
    parts: dict[int, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]]] = {}
    for batch in batches:
        item = batch.item
        if not item.valid.any():
            memory.pass_by(item)
            continue
        batch = batch.to(device, non_blocking=True)
        output, state = _forward(model, batch, memory.recall(item))
        memory.keep(item, state)
        found = _spread_labels(output.logits, batch.labels.shape[1]).cpu().numpy()
        losses = _frame_losses(output.logits[-1], batch.labels).cpu().numpy()
        truth = batch.labels.cpu().numpy()
        for row, (video, counted, ends, valid) in enumerate(
            zip(item.videos.tolist(), item.counted.tolist(), item.ends.tolist(), item.valid.tolist(), strict=True)
        ):
            if not counted or not valid:
                continue
            kept = min(valid, shape.stride)
            parts.setdefault(video, []).append((found[row, :kept], truth[row, :kept], losses[row, :kept]))
            if ends:
                labels, known, loss = map(np.concatenate, zip(*parts.pop(video), strict=True))
                count = max(1, int((known != _IGNORED).sum()))
                yield StreamPrediction(video, labels, known, float(loss.sum()) / count)


def _frame_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B, L) of logits (B, K, T), each column for L / T frames; 0 where there is no label."""
    spread = logits.double().repeat_interleave(labels.shape[1] // logits.shape[2], dim=2)
    return nn.functional.cross_entropy(spread, labels, ignore_index=_IGNORED, reduction="none")
