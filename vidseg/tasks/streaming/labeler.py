"""Labels of a stream of frames: frames are pushed one by one, and windows are labeled as soon as they are complete."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips.stream_windows import WindowShape, window_frames, window_valid
from vidseg.models._streaming import StreamModel, StreamState

__all__ = ["LiveLabeler", "LiveLabels"]


@dataclass(frozen=True)
class LiveLabels:
    """Labels of the frames of one window.

    Attributes:
        start: number of the first frame in the stream.
        labels: int64 (n,) class numbers.
        probabilities: float32 (n,), of these classes.
        seconds: computation time of the network.
    """

    start: int
    labels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    seconds: float


class LiveLabeler:
    """Labels one stream of frames; the labels equal those of `label_streams` for the same video.

    A window is labeled when the last of its frames that the network sees has arrived, (T - 1) * R frames after its
    first one. Only frames of incomplete windows are kept.

    Args:
        model: on `device`; switched to evaluation mode.
        shape: size and stride of the windows.
        black: (3,) normalized value of a black frame, which fills the last window.
        device: device of the model.

    Attributes:
        seconds: computation time of the network so far.

    Raises:
        ValueError: `black` has another shape.
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
        """Number of frames of the stream so far."""
        return self._seen

    def push(self, frame: Tensor) -> LiveLabels | None:
        """Process the next frame of the stream.

        Args:
            frame: (3, H, W), normalized; all frames have one size.

        Returns:
            Labels of the next W frames if this frame completes a window, else None. The last of them may belong to
            frames that have not arrived; if the stream ends first, ignore the labels past `frames`.

        Raises:
            ValueError: a frame of another shape.
        """
        if frame.dim() != 3 or frame.shape[0] != 3:
            raise ValueError(f"a frame must be (3, H, W), not {tuple(frame.shape)}")
        known = next(iter(self._kept.values()), frame)
        if known.shape != frame.shape:
            raise ValueError(f"frame {self._seen} is {tuple(frame.shape)}, the ones before it {tuple(known.shape)}")
        start = self._window * self.shape.stride
        offset = self._seen - start
        # Frames that the network sees in this window or in overlapping ones, whose frames may be any.
        if offset >= 0 and (offset % self.shape.interval == 0 or self.shape.stride % self.shape.interval):
            self._kept[self._seen] = frame
        self._seen += 1
        if offset < (self.shape.frames - 1) * self.shape.interval:
            return None
        return self._label(start + self.shape.span)

    def finish(self) -> list[LiveLabels]:
        """End the stream and return the labels of the remaining windows; the next frame starts a new stream."""
        length, rest = self._seen, []
        while self._window < self.shape.count(length):
            rest.append(self._label(length))
        self._state, self._window, self._seen = None, 0, 0
        self._kept.clear()
        return rest

    @torch.no_grad()
    def _label(self, length: int) -> LiveLabels:
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
        """Return position, kept frames and state of the model, with tensors on the CPU."""
        return {
            "window": self._window,
            "seen": self._seen,
            "frames": {number: frame.cpu() for number, frame in self._kept.items()},
            "state": None if self._state is None else self._state.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._window, self._seen = saved["window"], saved["seen"]
        self._kept = dict(saved["frames"])
        self._state = None if saved["state"] is None else StreamState(saved["state"]).to(self.device)
