"""Training targets other than class numbers: computed by a user's function for each clip."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.labels import VideoDataset

__all__ = ["TargetFunction", "count_positional"]


class TargetFunction:
    """Calls a user's function for each clip and collates the results.

    Args:
        function: called with the `vidseg.labels.Video` of the clip, or with the video and the `ClipPlan` (frame
            numbers, crop) if it takes two positional arguments. Returns a tensor (multi-label, regression) or any
            other value (a caption).

    Raises:
        TypeError: it cannot be called, or takes another number of arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise TypeError(f"target={function!r} cannot be called")
        count = count_positional(function)
        if count not in (1, 2):
            raise TypeError(f"target={function!r} takes {count} arguments; it must take a video, or a video and a plan")
        self.function, self.takes_plan = function, count == 2

    def __call__(self, data: VideoDataset, plan: BatchPlan) -> list[Any]:
        """Return the target of each clip of a plan."""
        if self.takes_plan:
            return [self.function(data[clip.video], clip) for clip in plan]
        return [self.function(data[video]) for video in plan.videos.tolist()]

    def collated(self, data: VideoDataset, plan: BatchPlan) -> Tensor | list[Any]:
        """Return the targets of a batch: (B, ...) if all are tensors, else a list of B values.

        Raises:
            ValueError: tensors of different shapes.
        """
        targets = self(data, plan)
        if not all(isinstance(target, Tensor) for target in targets):
            return targets
        shapes = {tuple(target.shape) for target in targets}
        if len(shapes) > 1:
            raise ValueError(
                f"the target function returned tensors of shapes {sorted(shapes)} in one batch; return equal shapes"
                " (pad them), or lists"
            )
        return torch.stack(targets)


def count_positional(function: Callable[..., Any]) -> int:
    """Number of positional arguments of a function that have no default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(one.kind in positional and one.default is inspect.Parameter.empty for one in parameters)
