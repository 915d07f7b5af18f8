"""Windows of long videos, from frame databases and those of motion beside them.

Shapes: B windows, C channels, T frames of a window, H, W.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.clips.geometry import Geometry
from vidseg.clips.plan import ColorPlan
from vidseg.engine.motion_input import modality_options
from vidseg.labels import VideoDataset
from vidseg.loaders.backends import make_filler
from vidseg.loaders.modality import as_modalities, joined
from vidseg.loaders.output import OutputForm, make_forms
from vidseg.models import InputSpec
from vidseg.ops import window_gather

__all__ = ["Position", "VideoWindows", "window_frames"]

Position = Literal["center", "start"]
"""Whether frame k * stride is in the center of window k, or its first frame."""


def window_frames(
    spec: InputSpec, windows: range, stride: int, length: int, *, position: Position = "center"
) -> npt.NDArray[np.int64]:
    """Return the frame numbers (B, T x stack) of windows of a video of `length` frames, none of them outside it."""
    count = spec.frames * spec.stack
    offsets = (np.arange(count) - (count // 2 if position == "center" else 0)) * spec.interval
    places = np.array(windows, np.int64)[:, None] * stride + offsets
    return np.clip(places, 0, length - 1)


def _decoded(form: OutputForm) -> OutputForm:
    """Return the form in which frames are decoded: pixels as bytes, which are copied in a quarter of the time."""
    return form if form.vectors else replace(form, dtype=torch.uint8, layout="bthwc")


def _normalized(pixels: Tensor, form: OutputForm) -> Tensor:
    """Return the windows (B, C, T, H, W) of uint8 pixels (B, T, H, W, C)."""
    scale, offset = form.normalization.flip(1) if form.color == "bgr" else form.normalization
    mean, std = (-offset / scale).tolist(), (1 / scale).tolist()
    starts = torch.zeros(len(pixels), 1, dtype=torch.int64, device=pixels.device)
    return window_gather(pixels, starts, pixels.shape[1], mean=mean, std=std)[:, 0]


class VideoWindows:
    """Windows of videos as the input of one network; a frame of several windows is decoded once.

    Args:
        data: videos with frame databases.
        spec: how the network sees clips.
        geometry: part of the frames.
        threads: number of decoding threads.
    """

    def __init__(self, data: VideoDataset, spec: InputSpec, geometry: Geometry, threads: int) -> None:
        self._data, self._spec, self._geometry = data, spec, geometry
        options = modality_options(spec)
        names = as_modalities(options.pop("modality"))
        forms = make_forms(names, color=spec.color, **options)  # stacks are made of single frames here
        self._parts = [
            (form, make_filler("native", data, [_decoded(form)], threads=threads, on_error="raise")) for form in forms
        ]

    def clips(
        self,
        video: int,
        windows: range,
        stride: int,
        position: Position,
        *,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return windows (B, C, T, H, W) of a video on a device, see `window_frames`."""
        length = int(self._data.frames[video])
        frames = window_frames(self._spec, windows, stride, length, position=position)
        return self.of_frames(video, frames, device=device)

    def of_frames(self, video: int, frames: npt.NDArray[np.int64], *, device: torch.device | str = "cpu") -> Tensor:
        """Return the windows (B, C, T, H, W) with these frames (B, T x stack) of a video, on a device."""
        spec = self._spec
        distinct, places = np.unique(frames, return_inverse=True)
        plan = self._plan(video, distinct)
        stacked = torch.from_numpy(places.reshape(len(frames), spec.frames, spec.stack)).to(device)
        found = []
        for form, filler in self._parts:
            shown = joined(filler.fill(plan)[0])[0].to(device)
            if form.vectors:  # (C, N, H, W)
                found.append(shown[:, stacked].permute(1, 3, 0, 2, 4, 5).flatten(1, 2))
            else:  # (N, H, W, C)
                found.append(_normalized(shown[stacked[:, :, 0]], form))
        return torch.cat(found, dim=1)

    def _plan(self, video: int, frames: npt.NDArray[np.int64]) -> BatchPlan:
        one, size = np.zeros(1, np.int64), self._spec.size
        return BatchPlan(
            epoch=0,
            index=0,
            height=size,
            width=size,
            videos=np.array([video], np.int64),
            views=one,
            labels=one - 1,
            frames=frames[None],
            matrices=self._geometry.matrices(
                self._data.heights[[video]].astype(np.int64),
                self._data.widths[[video]].astype(np.int64),
                output=(size, size),
                views=one,
                seed=0,
                epoch=0,
                samples=one,
            ),
            colors=ColorPlan.none(1),
        )

    def close(self) -> None:
        """Free the memory of the loaders."""
        for _, filler in self._parts:
            filler.close()
