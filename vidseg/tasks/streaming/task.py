"""Training on videos of any length, window by window.

A step of training is a group of videos. For each of its windows in order: forward, loss, backward at once. The state of
the model is passed on to the next window without its history, so that memory use is that of one window, however long
the videos are, and the gradient of the step is the mean over the windows of its videos (truncated back-propagation).

Sources: the ETESVS code base; "Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808; SVTAS-RL,
arXiv 2309.15683, whose update after every window is `update="window"` ("TD") and whose update after the videos is
`update="video"` ("MC").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any, get_args

import torch
from torch import Tensor, nn

from vidseg.clips.stream_windows import StreamItem
from vidseg.engine import distributed
from vidseg.engine.frame_label_scores import LabeledVideo
from vidseg.engine.frame_label_task import FrameLabelTask
from vidseg.engine.task import BatchResult, Position, sums_of
from vidseg.loaders.stream_loader import StreamBatch
from vidseg.losses.streaming import Objective, StreamLoss, stage_loss
from vidseg.models._streaming import StreamOutput
from vidseg.tasks.streaming.inference import IGNORED, StreamMemory, forward_window, label_streams, spread_labels
from vidseg.tasks.streaming.options import Update, Weighting

__all__ = ["StreamingTask"]


class StreamingTask(FrameLabelTask):
    """Windows of clips (B, C, T, H, W), a state and a mask to logits (S, B, K, T) and the next state.

    Several processes (torchrun) each have their rank's `StreamPlan`. They step as one process does with all their
    videos in its group, but for dropout, and for batch norm, which sees the videos of its process unless its statistics
    are those of all processes (`sync_bn`).

    Args:
        objective: loss of a window, see `vidseg.losses.create_stream_loss`; None: cross entropy and smoothing.
        update: step when the videos of a group end ("video"), or after every window ("window").
        weighting: with update="video", divide each video's loss by its own number of windows ("video"), or the whole
            loss by the group's ("group", as in ETESVS).
        **common: see `FrameLabelTask`.

    Raises:
        ValueError: an option is not one of those above.
    """

    opt_levels = ("O0", "O1", "bf16")  # the state between windows is float32
    one_backward = False

    def __init__(
        self,
        objective: Objective | None = None,
        *,
        update: Update = "video",
        weighting: Weighting = "video",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if update not in get_args(Update):
            raise ValueError(f"update={update!r} is not one of {', '.join(get_args(Update))}")
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting={weighting!r} is not one of {', '.join(get_args(Weighting))}")
        self.objective = objective or _default_objective
        self.update, self.weighting = update, weighting
        self.memory = StreamMemory()
        self._norm_memory = StreamMemory()

    def steps(self, loader: Any) -> int:
        """See `Task.steps`."""
        return len(loader) if self.update == "window" else int(loader.plan(loader.epoch).groups)

    def train_batch(
        self, model: nn.Module, batch: StreamBatch, position: Position, backward: Callable[[Tensor], None]
    ) -> BatchResult:
        """See `Task.train_batch`.

        Raises:
            ValueError: windows do not come in order.
        """
        item, device = batch.item, batch.mask.device
        windows = None
        if self.update == "video" and self.weighting == "video":
            windows = torch.from_numpy(item.counts).to(device, non_blocking=True)
        if not item.valid.any():  # the videos of other processes continue
            if distributed.world_size() > 1:
                self._accompany(model, batch, windows, backward)
            self.memory.pass_by(item)
            return self._result(item, sums_of([0.0, 0.0], [0.0, 1.0], device=device))
        with distributed.shared_losses():
            before = self.memory.recall(item)
            before = None if before is None else before.to(device)  # of a checkpoint
            output, state = forward_window(model, batch, before)  # type: ignore[arg-type]
            loss = self.objective(output, batch.labels, windows)
        scale = 1 / item.windows if self.update == "video" and self.weighting == "group" else 1.0
        backward(loss.total * scale)
        self.memory.keep(item, model.observe(state, batch.labels))  # type: ignore[operator]
        known = batch.labels != IGNORED
        found = spread_labels(output.logits.detach(), batch.labels.shape[1])
        sums = [((found == batch.labels) & known).sum(), loss.total.detach()]
        return self._result(item, sums_of(sums, [known.sum(), 1.0], device=device))

    def _result(self, item: StreamItem, sums: Tensor) -> BatchResult:
        # A process alone may resume inside a video: its memory is in the checkpoint. Several agree between groups.
        resumable = item.last or (self.update == "window" and distributed.world_size() == 1)
        return BatchResult(sums, complete=self.update == "window" or item.last, resumable=resumable)

    def _accompany(
        self, model: nn.Module, batch: StreamBatch, windows: Tensor | None, backward: Callable[[Tensor], None]
    ) -> None:
        """Take part in what the processes whose videos continue exchange: counts of frames, statistics of norms.

        All videos of this process have ended, as rows of a larger group would have: their logits are 0.
        """
        with distributed.silent_norms(model), distributed.shared_losses():
            output, _ = model(batch.inputs, None, torch.ones_like(batch.mask))
            blank = {field.name: getattr(output, field.name) for field in fields(output)}
            blank = {name: None if values is None else values * 0 for name, values in blank.items()}
            loss = self.objective(StreamOutput(**blank), batch.labels, windows)
            backward(loss.total * 0)

    def forward(self, model: nn.Module, batch: StreamBatch) -> Any:
        """See `Task.forward`; windows come in order, from the beginning of an epoch."""
        memory, item = self._norm_memory, batch.item
        if item.valid.any():
            output, state = forward_window(model, batch, memory.recall(item))  # type: ignore[arg-type]
            memory.keep(item, state)
            return output
        memory.pass_by(item)
        with distributed.silent_norms(model):  # norms over all processes still exchange their statistics
            return model(batch.inputs, None, torch.ones_like(batch.mask))

    def label_videos(
        self,
        model: nn.Module,
        loader: Any,
        *,
        device: torch.device,
        context: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[LabeledVideo]:
        """Label the videos of a loader window by window."""
        for each in label_streams(model, loader, loader.shape, device=device, context=context):  # type: ignore[arg-type]
            yield LabeledVideo(each.video, each.truth, each.labels, each.cross_entropy)

    def state_dict(self) -> dict[str, Any]:
        """See `Task.state_dict`."""
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Task.load_state_dict`."""
        if "memory" in state:
            self.memory.load_state_dict(state["memory"])


def _default_objective(output: Any, labels: Tensor, windows: Tensor | None) -> StreamLoss:
    return StreamLoss(stage_loss(output.logits, labels, windows=windows), {})
