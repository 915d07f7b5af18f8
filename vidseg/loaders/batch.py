"""What a loader yields."""

import logging
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.labels import VideoDataset

__all__ = ["ClipBatch", "count_replaced"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ClipBatch:
    """Some clips of equal size, their classes, and how they came about.

    Attributes:
        frames: (B, 3, T, H, W), or (B, T, H, W, 3) where the loader was asked for that.
        labels: int64 (B,), -1 without a class.
        numbers: int64 (B,), each clip's video as an index into the data set.
        views: int64 (B,), which view of its video each clip is.
        valid: bool (B,), False for clips that only pad the last batch of a rank: leave them out of scores.
        plan: what the batch was made from.
        fill_seconds: how long the loader worked on it; B / fill_seconds is what the loader can deliver, whether the
            training loop waits for it or it waits for the loop.
        wait_seconds: how long the loop waited for it.
        replaced: frames that are not those of the plan, because they were damaged (`on_error="replace"`).
    """

    frames: Tensor
    labels: Tensor
    numbers: Tensor
    views: Tensor
    valid: Tensor
    plan: BatchPlan
    fill_seconds: float = 0.0
    wait_seconds: float = 0.0
    replaced: int = 0

    @classmethod
    def of(cls, plan: BatchPlan, frames: Tensor, *, fill_seconds: float, replaced: int) -> "ClipBatch":
        """The batch of a plan and its filled frames."""
        return cls(
            frames=frames,
            labels=torch.from_numpy(plan.labels),
            numbers=torch.from_numpy(plan.videos),
            views=torch.from_numpy(plan.views),
            valid=torch.from_numpy(plan.valid),
            plan=plan,
            fill_seconds=fill_seconds,
            replaced=replaced,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"ClipBatch(frames {tuple(self.frames.shape)} {self.frames.dtype}, labels {tuple(self.labels.shape)})"

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ClipBatch":
        """The same batch with its tensors on another device."""
        names = ("frames", "labels", "numbers", "views", "valid")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)


def count_replaced(data: VideoDataset, plan: BatchPlan, shown: Tensor) -> npt.NDArray[np.int64]:
    """How many frames of each clip are not those of the plan, int64 (B,); each such clip is named in a warning.

    Args:
        data: the videos of the plan.
        plan: of B clips of T frames.
        shown: int64 (B, T), the frames that a backend put in.
    """
    wrong = shown.numpy() != plan.frames
    for clip in np.flatnonzero(wrong.any(axis=1)).tolist():
        logger.warning(
            "%s: damaged frames %s show their neighbors %s",
            data.video_path(int(plan.videos[clip])),
            plan.frames[clip, wrong[clip]].tolist(),
            shown.numpy()[clip, wrong[clip]].tolist(),
        )
    return wrong.sum(axis=1)
