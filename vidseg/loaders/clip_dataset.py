"""A map-style data set of single clips, for `torch.utils.data.DataLoader` and training loops of your own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vidseg.clips.augmentations import Preset
from vidseg.clips.geometry import Geometry
from vidseg.clips.plan import ClipPlan
from vidseg.clips.planner import ClipPlanner
from vidseg.clips.sampling import FrameSampling
from vidseg.labels import VideoDataset
from vidseg.loaders.adapters import ClipTransform, as_transform, transform_clips
from vidseg.loaders.backends import Filler, make_filler, open_data
from vidseg.loaders.batch import count_replaced
from vidseg.loaders.modality import Modality, as_modalities, check_stack, map_frames
from vidseg.loaders.output import MEANS, STDS, Colors, Layout, make_forms, sample_type
from vidseg.loaders.replacement import ReplacingFiller, replaced_clips
from vidseg.loaders.target_hook import TargetFunction

__all__ = ["ClipDataset", "ClipItem"]

ClipItem = dict[str, Any]
"""A clip: `frames`, `label`, `number` (of its video), `view`, `replaced` (number of damaged frames that were replaced),
and `target` if the data set has a target hook."""


class ClipDataset(Dataset[ClipItem]):
    """The clips of a data set's videos by sample number, for `DataLoader`, `StatefulDataLoader` or a loop of your own.

    Item s equals, bit for bit, the clip that a `ClipLoader` with the same arguments makes for sample s of the same
    epoch. It is a function of (seed, epoch, s): it does not depend on the sampler, the worker, or the items taken
    before. Sample numbers count the views of video 0, then those of video 1, and so on.

    Forked and spawned workers are supported. The epoch is in shared memory, so that `set_epoch` reaches persistent
    workers too; call it between two passes, because batches that workers have prepared already are of the previous
    epoch. A copy that is pickled otherwise than by torch.multiprocessing has an epoch of its own.

    Args:
        data: videos of `vidseg.open_dataset`, or of `vidseg.open_videos` for `backend="video"`, or the folder of a data
            set, which is opened with all its videos.
        modality: "rgb", "flow", "motion", "residual", or several; see `ClipLoader`.
        stack: flow and motion vectors of one frame; see `ClipLoader`.
        frames: T, frames of a clip.
        interval: distance between consecutive frames of a clip; with several, each clip draws one.
        size: height and width of the clips in pixels; one number for a square.
        seed: seed for frames, crops, colors and transforms.
        train: True: random start, crop and mirroring. False: center clip and crop. The sampler of the `DataLoader`
            determines the order.
        sampling: which frames; see `ClipLoader`.
        geometry: which part of the frame; see `ClipLoader`.
        augment: colors, noise and warps; names or objects of `vidseg.clips.augmentations`, or None.
        short: videos shorter than a clip "loop" or "clamp" to their last frame.
        transform: function of a clip's frames, or an imgaug pipeline; see `ClipLoader`.
        target: function from a clip's video to its target, which is the item's `target`; see `ClipLoader`.
        dtype: uint8, or float32, float16, bfloat16, which are normalized; a torch type or its name.
        layout: axis order of an item, as that of a batch without B: "bcthw" gives (3, T, H, W), "btchw" (T, 3, H, W),
            "bthwc" (T, H, W, 3).
        color: "rgb" or "bgr".
        mean: mean of R, G and B in 0..1, or of each modality; see `ClipLoader`.
        std: standard deviation of R, G and B in 0..1. None: as for `mean`.
        backend: "native" or "video".
        on_error: "raise" or "replace"; see `ClipLoader`.

    Raises:
        FileNotFoundError: `data` is a folder without a data set.
        TypeError: a transform or target of the wrong kind.
        ValueError: an argument out of range, or a data set without videos.
    """

    def __init__(
        self,
        data: VideoDataset | str | Path,
        *,
        modality: Modality | Sequence[Modality] = "rgb",
        stack: int = 1,
        frames: int = 16,
        interval: int | Sequence[int] = (1, 2),
        size: int | tuple[int, int] = 112,
        seed: int = 0,
        train: bool = True,
        sampling: FrameSampling | str | None = None,
        geometry: Geometry | str | None = None,
        augment: str | Preset | Sequence[Preset] | None = None,
        short: Literal["loop", "clamp"] = "loop",
        transform: ClipTransform | Callable[..., Any] | None = None,
        target: Callable[..., Any] | None = None,
        dtype: torch.dtype | str = torch.float32,
        layout: Layout = "bcthw",
        color: Literal["rgb", "bgr"] = "rgb",
        mean: Colors = MEANS,
        std: Colors = STDS,
        backend: Literal["native", "video"] = "native",
        on_error: Literal["raise", "replace"] = "raise",
    ) -> None:
        data = open_data(data)
        if backend == "dali":
            raise ValueError("backend='dali' works with ClipLoader only; use 'native' or 'video' for a ClipDataset")
        self.data, self.seed, self.modalities = data, seed, as_modalities(modality)
        check_stack(stack, self.modalities)
        if transform is not None and self.modalities != ("rgb",):
            raise ValueError(f"modality={modality!r}: transform= changes colors; use it with modality='rgb' only")
        self.transform = None if transform is None else as_transform(transform)
        self.target = None if target is None else TargetFunction(target)
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
            stack=stack,
            colors="rgb" in self.modalities,
        )
        self.forms = make_forms(
            self.modalities,
            stack=stack,
            dtype=sample_type(dtype),
            layout=layout,
            color=color,
            mean=mean,
            std=std,
        )
        self.form = self.forms[0]
        self.backend, self.on_error = backend, on_error
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._filler: Filler | None = None
        self._replacing: ReplacingFiller | None = None
        self._make_filler()  # an error of the backend is raised here instead of in a worker

    def __len__(self) -> int:
        """Number of samples."""
        return self.planner.samples

    def __repr__(self) -> str:
        return f"ClipDataset({self.data!r}: {len(self)} clips, epoch {self.epoch}, backend {self.backend!r})"

    @property
    def epoch(self) -> int:
        """Epoch of the items, from 0."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of all later items, in all worker processes.

        Raises:
            ValueError: a negative number.
        """
        if epoch < 0:
            raise ValueError(f"epoch {epoch}: must be at least 0")
        self._epoch.fill_(epoch)

    def plan(self, sample: SupportsIndex) -> ClipPlan:
        """Return the plan of item `sample` in this epoch; decodes nothing."""
        return self.planner.plan_samples(self.epoch, self._numbers([sample]))[0]

    def __getitem__(self, sample: SupportsIndex) -> ClipItem:
        """Return one clip.

        Raises:
            IndexError: a sample number out of range.
            FrameDatabaseError, VideoError: a damaged frame, unless `on_error` is "replace"; names file and frame.
        """
        return self.__getitems__([sample])[0]

    def __getitems__(self, samples: Sequence[SupportsIndex]) -> list[ClipItem]:
        """Return several clips, planned and filled at once; `DataLoader` calls it for each batch."""
        plan = self.planner.plan_samples(self.epoch, self._numbers(samples))
        if self._filler is None:
            self._filler = self._make_filler()
        asked = plan
        if self.on_error == "replace":
            if self._replacing is None:
                self._replacing = ReplacingFiller(self.data, self.planner, self.modalities)
            plan, frames, shown = self._replacing.fill(self._filler, plan)
        else:
            frames, shown = self._filler.fill(plan)
        if self.transform is not None:
            assert isinstance(frames, Tensor)
            frames = transform_clips(self.transform, frames, plan, seed=self.seed, form=self.form)
        replaced = count_replaced(self.data, plan, shown) + replaced_clips(asked, plan)
        targets: list[dict[str, Any]] = [{}] * len(plan)
        if self.target is not None:
            targets = [{"target": target} for target in self.target(self.data, plan)]
        return [
            {
                "frames": map_frames(operator.itemgetter(clip), frames),
                "label": int(plan.labels[clip]),
                "number": int(plan.videos[clip]),
                "view": int(plan.views[clip]),
                "replaced": int(replaced[clip]),
                **targets[clip],
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
        forms = self.forms if self.transform is None else (plain,)
        # One thread, because the worker processes of a DataLoader share the cores.
        return make_filler(self.backend, self.data, forms, threads=1, on_error=self.on_error)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filler": None, "_replacing": None}  # each process makes its own
