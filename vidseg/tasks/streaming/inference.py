"""Inference of streaming networks window by window, and their memory between windows.

Training, validation and inference follow one rule: the memory is cleared exactly when the videos change.

Shapes: B videos, C channels, T frames of a window, K classes, L labels, S stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from vidseg.clips.stream_windows import StreamItem, WindowShape
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState

__all__ = ["IGNORED", "StreamMemory", "StreamPrediction", "forward_window", "label_streams", "spread_labels"]

IGNORED = -100
"""Label of frames that have none."""


class StreamMemory:
    """State of a model between windows: kept while the videos stay the same, cleared exactly when they change.

    It can be saved in the middle of a video and loaded in another process.
    """

    def __init__(self) -> None:
        self._state: StreamState | None = None
        self._group, self._window = -1, -1

    def recall(self, item: StreamItem) -> StreamState | None:
        """Return the state for this window; None at the start of its videos.

        Raises:
            ValueError: the window before this one was not processed, so the state belongs to another window.
        """
        if item.starts:
            return None
        if (item.group, item.window) != (self._group, self._window + 1):
            raise ValueError(
                f"window {item.window} of group {item.group} came after window {self._window} of group {self._group}: "
                "windows of a stream must come in order; to resume in the middle, load the memory saved there"
            )
        return self._state

    def keep(self, item: StreamItem, state: StreamState) -> None:
        """Store the state that the model returned for this window; the end of the group clears it."""
        self._state = None if item.last else state.detach()
        self._group, self._window = item.group, item.window

    def pass_by(self, item: StreamItem) -> None:
        """Advance over a window in which all videos of this process have ended; the state does not change."""
        state = self.recall(item)
        self._state = None if item.last else state
        self._group, self._window = item.group, item.window

    def state_dict(self) -> dict[str, Any]:
        """Return position and state, with tensors on the CPU."""
        state = None if self._state is None else self._state.state_dict()
        return {"group": self._group, "window": self._window, "state": state}

    def load_state_dict(self, saved: Mapping[str, Any], *, device: torch.device | str = "cpu") -> None:
        """Continue from a `state_dict`."""
        self._group, self._window = saved["group"], saved["window"]
        self._state = None if saved["state"] is None else StreamState(saved["state"]).to(device)


def forward_window(
    model: StreamModel, batch: StreamBatch, state: StreamState | None
) -> tuple[StreamOutput, StreamState]:
    """Run the network on one window of the videos that have not ended.

    The other videos are not computed: their logits and states are 0, and batch norm does not include their black
    frames.

    Args:
        model: on the device of the batch.
        batch: window of B videos.
        state: state after the window before; None at the start of the videos.
    """
    count, rows = len(batch.item.valid), torch.from_numpy(np.flatnonzero(batch.item.valid)).to(batch.mask.device)
    if len(rows) == count:
        return model(batch.inputs, state, batch.mask)
    before = None if state is None else state.take(rows)
    output, after = model(batch.inputs[rows], before, batch.mask[rows])

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


def spread_labels(logits: Tensor, length: int) -> Tensor:
    """Return class numbers (B, L) of the last stage of logits (S, B, K, T), each column for L / T frames."""
    labels = logits[-1].argmax(dim=1)
    return labels.repeat_interleave(length // labels.shape[1], dim=1)


@dataclass(frozen=True)
class StreamPrediction:
    """Predicted labels of one video.

    Attributes:
        video: number of the video.
        labels: int64 (L,), predicted class numbers.
        truth: int64 (L,), labels of the loader, -100 where there is none.
        cross_entropy: mean over the frames that have a label; 0 without any.
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
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[StreamPrediction]:
    """Label videos window by window; yields each video as soon as it has ended.

    The first W labels of each window are kept, so that a frame's label never changes.

    Args:
        model: on `device`; put into evaluation mode.
        batches: all windows of all videos, in order.
        shape: how the videos were cut.
        memory: state to resume from in the middle of videos; the predictions then begin at that window.
        device: device of the model.
        context: made around each forward pass, such as an autocast.

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
        with context():
            output, state = forward_window(model, batch, memory.recall(item))
        memory.keep(item, state)
        found = spread_labels(output.logits, batch.labels.shape[1]).cpu().numpy()
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
                count = max(1, int((known != IGNORED).sum()))
                yield StreamPrediction(video, labels, known, float(loss.sum()) / count)


def _frame_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy (B, L) of logits (B, K, T), each column for L / T frames; 0 without a label."""
    spread = logits.double().repeat_interleave(labels.shape[1] // logits.shape[2], dim=2)
    return nn.functional.cross_entropy(spread, labels, ignore_index=IGNORED, reduction="none")
