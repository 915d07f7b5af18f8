"""Labeling a video while it arrives: frames in, labels out, with what the network needs kept between calls."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips.windows import WindowShape, window_frames, window_valid
from vidseg.models._streaming import StreamModel, StreamState

__all__ = ["LiveLabeler", "LiveLabels"]


@dataclass(frozen=True)
class LiveLabels:
    """The labels of some frames that have just become known.

    Attributes:
        start: number of the first of them in the stream.
        labels: int64 (n,) class numbers.
        probabilities: float32 (n,) of these classes.
        seconds: time that the network took.
    """

    start: int
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    seconds: float


class LiveLabeler:
    """Labels one stream of frames; what it says is what `label_streams` says about the same video as a file.

    A window is labeled as soon as the last frame that the network sees of it is there: the first of its frames then
    waited for (T - 1) * R others. Only frames of windows that are not finished are kept.

    Args:
        model: on `device`; put into evaluation mode.
        shape: how the stream is cut.
        black: (3,) value of R, G and B that a black frame has after normalization, for the last window.
        device: where the model is.
    """

    def __init__(
        self,
        model: StreamModel,
        shape: WindowShape,
        *,
        black: Tensor,
        device: torch.device | str = "cpu",
    ) -> None:
        if black.shape != (3,):
            raise ValueError(f"black must be a value for R, G and B, not of shape {tuple(black.shape)}")
        self.model, self.shape, self.black = model.eval(), shape, black
        self.device = torch.device(device)
        self.seconds = 0.0
        self._state: StreamState | None = None
        self._window = self._seen = 0
        self._kept: dict[int, Tensor] = {}

    @property
    def frames(self) -> int:
        """Frames seen so far."""
        return self._seen

    def push(self, frame: Tensor) -> LiveLabels | None:
        """Take the next frame of the stream.

        Args:
            frame: (3, H, W), normalized; all of one size.

        Returns:
            Labels of the next W frames, when they are known. Some of these may not have arrived yet; should the stream
            end before them, they are to be dropped (`frames` says where it ends).
        """
        if frame.dim() != 3 or frame.shape[0] != 3:
            raise ValueError(f"a frame must be (3, H, W), not {tuple(frame.shape)}")
        known = next(iter(self._kept.values()), frame)
        if known.shape != frame.shape:
            raise ValueError(f"frame {self._seen} is {tuple(frame.shape)}, the ones before it {tuple(known.shape)}")
        start = self._window * self.shape.stride
        offset = self._seen - start
        # What this window shows, and the next one where they overlap; with an odd stride that may be any frame.
        if offset >= 0 and (offset % self.shape.interval == 0 or self.shape.stride % self.shape.interval):
            self._kept[self._seen] = frame
        self._seen += 1
        if offset < (self.shape.frames - 1) * self.shape.interval:
            return None
        return self._answer(start + self.shape.span)

    def finish(self) -> list[LiveLabels]:
        """The stream has ended: label what is left. The next frame begins a new stream."""
        length, rest = self._seen, []
        while self._window < self.shape.count(length):
            rest.append(self._answer(length))
        self._state, self._window, self._seen = None, 0, 0
        self._kept.clear()
        return rest

    @torch.no_grad()
    def _answer(self, length: int) -> LiveLabels:
        start = self._window * self.shape.stride
        numbers = window_frames(self.shape, self._window, length)
        some = next(iter(self._kept.values()))
        empty = self.black.to(some).view(3, 1, 1).expand_as(some)
        clip = torch.stack([self._kept[number] if number >= 0 else empty for number in numbers.tolist()], dim=1)
        valid = window_valid(self.shape, self._window, length)
        mask = torch.arange(self.shape.frames) * self.shape.interval < valid
        begin = time.perf_counter()
        output, self._state = self.model(clip[None].to(self.device), self._state, mask[None].to(self.device))
        best = output.logits[-1, 0].softmax(dim=0).max(dim=0)
        probabilities, labels = best.values.float().cpu().numpy(), best.indices.cpu().numpy()
        seconds = time.perf_counter() - begin
        self.seconds += seconds
        kept = min(valid, self.shape.stride)
        self._window += 1
        for number in [number for number in self._kept if number < self._window * self.shape.stride]:
            del self._kept[number]
        every = self.shape.interval
        return LiveLabels(start, labels.repeat(every)[:kept], probabilities.repeat(every)[:kept], seconds)

    def state_dict(self) -> dict[str, Any]:
        """Everything that labeling goes on from, with tensors on the CPU."""
        return {
            "window": self._window,
            "seen": self._seen,
            "frames": {number: frame.cpu() for number, frame in self._kept.items()},
            "state": None if self._state is None else self._state.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._window, self._seen = saved["window"], saved["seen"]
        self._kept = dict(saved["frames"])
        self._state = None if saved["state"] is None else StreamState(saved["state"]).to(self.device)
