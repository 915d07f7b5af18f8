"""Clips one by one, for those who bring their own loop: a map-style data set for `torch.utils.data`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidseg.clips.augmentations import ColorPreset
from vidseg.clips.geometry import Geometry
from vidseg.clips.plan import ClipPlan
from vidseg.clips.planner import ClipPlanner
from vidseg.clips.sampling import FrameSampling
from vidseg.labels import VideoDataset
from vidseg.loaders.adapters import ClipTransform, as_transform, transform_clips
from vidseg.loaders.backends import Filler, make_filler
from vidseg.loaders.batch import count_replaced
from vidseg.loaders.output import MEAN, STD, OutputForm

__all__ = ["ClipDataset", "ClipItem"]

ClipItem = dict[str, Tensor | int]
"""A clip: `frames`, `label`, `number` (of its video), `view`, `replaced` (damaged frames that show another one)."""


class ClipDataset(Dataset[ClipItem]):
    """The clips of a data set's videos by sample number, for `DataLoader`, `StatefulDataLoader` or a loop of your own.

    Item s is the clip that a `ClipLoader` with the same arguments gives for sample s in the same epoch, bit for bit: a
    function of (seed, epoch, s) alone, whatever the sampler, the worker and what was taken before. Sample numbers count
    the views of video 0, of video 1, and so on.

    Works in forked and spawned workers. The epoch lies in shared memory, so that `set_epoch` reaches persistent workers
    as well: call it between two passes, since batches that workers prepare already keep the epoch before. Pickled
    elsewhere than by torch.multiprocessing, a copy has an epoch of its own. No file is kept open by Python.

    Args:
        data: videos, as `vidseg.open_dataset` gives them, or `vidseg.open_videos` for `backend="video"`.
        frames: T.
        interval: step from one frame of a clip to the next; of several, each clip draws one.
        size: of the clips in pixels, one number for a square or (H, W).
        seed: of everything that is drawn.
        train: random start, crop and mirroring; otherwise central. The order is the sampler's business.
        sampling: which frames; see `ClipLoader`.
        geometry: which part of the frame; see `ClipLoader`.
        augment: colors, noise and warps; names or objects of `vidseg.clips.augmentations`, or None.
        short: videos shorter than a clip "loop" or "clamp" to their last frame.
        transform: your own function of a clip, or an imgaug pipeline; see `vidseg.loaders.adapters`.
        dtype: uint8, or float32, float16, bfloat16, which are normalized.
        layout: of an item: "bcthw" is (C, T, H, W), "bthwc" is (T, H, W, C).
        color: "rgb" or "bgr".
        mean: of R, G and B in 0..1.
        std: of R, G and B.
        backend: "native" or "video".
        on_error: "raise" for a damaged frame, or "replace" it by the nearest one that can be read, and count it.

    Raises:
        ValueError: an argument out of range, or a data set without videos.
    """

    def __init__(
        self,
        data: VideoDataset,
        *,
        frames: int = 16,
        interval: int | Sequence[int] = (1, 2),
        size: int | tuple[int, int] = 112,
        seed: int = 0,
        train: bool = True,
        sampling: FrameSampling | str | None = None,
        geometry: Geometry | str | None = None,
        augment: str | ColorPreset | Sequence[ColorPreset] | None = None,
        short: Literal["loop", "clamp"] = "loop",
        transform: ClipTransform | Callable[..., Any] | None = None,
        dtype: torch.dtype = torch.float32,
        layout: Literal["bcthw", "bthwc"] = "bcthw",
        color: Literal["rgb", "bgr"] = "rgb",
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
        backend: Literal["native", "video"] = "native",
        on_error: Literal["raise", "replace"] = "raise",
    ) -> None:
        if backend == "dali":
            raise ValueError("backend='dali' fills batches of a ClipLoader; a ClipDataset has 'native' and 'video'")
        self.data, self.seed = data, seed
        self.transform = None if transform is None else as_transform(transform)
        self.planner = ClipPlanner(
            data,
            frames=frames,
            interval=interval,
            size=size,
            batch_size=1,
            seed=seed,
            train=train,
            sampling=sampling,
            geometry=geometry,
            augment=augment,
            short=short,
        )
        self.form = OutputForm(dtype=dtype, layout=layout, color=color, mean=mean, std=std)
        self.backend, self.on_error = backend, on_error
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._filler: Filler | None = None
        self._make_filler()  # what is wrong with the backend is told now, not by a worker

    def __len__(self) -> int:
        """Number of samples."""
        return self.planner.samples

    def __repr__(self) -> str:
        return f"ClipDataset({self.data!r}: {len(self)} clips, epoch {self.epoch}, backend {self.backend!r})"

    @property
    def epoch(self) -> int:
        """Of the items, from 0."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the items from now on, in all worker processes.

        Raises:
            ValueError: a negative number.
        """
        if epoch < 0:
            raise ValueError(f"epoch {epoch}: must be at least 0")
        self._epoch.fill_(epoch)

    def plan(self, sample: SupportsIndex) -> ClipPlan:
        """What item `sample` holds in this epoch; decodes nothing."""
        return self.planner.plan_samples(self.epoch, self._numbers([sample]))[0]

    def __getitem__(self, sample: SupportsIndex) -> ClipItem:
        """One clip.

        Raises:
            IndexError: a number out of range.
            FrameDatabaseError, VideoError: a damaged frame, unless `on_error` is "replace"; names it.
        """
        return self.__getitems__([sample])[0]

    def __getitems__(self, samples: Sequence[SupportsIndex]) -> list[ClipItem]:
        """Several clips, planned and filled at once; `DataLoader` asks for its batches in this way."""
        plan = self.planner.plan_samples(self.epoch, self._numbers(samples))
        if self._filler is None:
            self._filler = self._make_filler()
        frames, shown = self._filler.fill(plan)
        if self.transform is not None:
            frames = self.form.from_pixels(transform_clips(self.transform, frames, plan, seed=self.seed))
        replaced = count_replaced(self.data, plan, shown)
        return [
            {
                "frames": frames[clip],
                "label": int(plan.labels[clip]),
                "number": int(plan.videos[clip]),
                "view": int(plan.views[clip]),
                "replaced": int(replaced[clip]),
            }
            for clip in range(len(plan))
        ]

    def _numbers(self, samples: Sequence[SupportsIndex]) -> np.ndarray:
        numbers = np.array([sample.__index__() for sample in samples], np.int64)
        if len(numbers) and not (numbers.min() >= -len(self) and numbers.max() < len(self)):
            raise IndexError(f"samples {numbers.min()} to {numbers.max()} of a data set of {len(self)} clips")
        return numbers % len(self)

    def _make_filler(self) -> Filler:
        plain = replace(self.form, dtype=torch.uint8, layout="bthwc", color="rgb")
        form = self.form if self.transform is None else plain
        # One thread: a DataLoader's processes share the cores among them.
        return make_filler(self.backend, self.data, form, threads=1, on_error=self.on_error)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filler": None}  # a process makes its own
