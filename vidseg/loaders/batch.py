"""Batches of clips, and what batches of every loader have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.labels import VideoDataset
from vidseg.loaders.modality import Frames, joined, map_frames

__all__ = ["ClipBatch", "FieldAccess", "count_replaced"]

logger = logging.getLogger(__name__)

BatchType = TypeVar("BatchType", bound="FieldAccess")


class FieldAccess:
    """What the batches of every loader can do: access to their fields, and copies to a device.

    `batch["labels"]`, `batch.keys()`, `dict(batch)` and `"labels" in batch` work; iteration yields the fields of
    `UNPACKED`, so that a batch can be unpacked into them. `to` leaves the tensors of `ON_HOST` in host memory.
    """

    UNPACKED: ClassVar[tuple[str, ...]]
    ON_HOST: ClassVar[tuple[str, ...]] = ()

    def keys(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(field.name for field in fields(self))  # type: ignore[arg-type]

    def values(self) -> tuple[Any, ...]:
        """Values of the fields, in the order of `keys`."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Pairs of name and value."""
        return tuple(zip(self.keys(), self.values(), strict=True))

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name.

        Raises:
            KeyError: there is no such field.
            TypeError: the name is not a string.
        """
        if not isinstance(name, str):
            raise TypeError(
                f"a {type(self).__name__} is indexed by field name, such as {self.keys()[0]!r}; got {name!r}"
            )
        if name not in self.keys():
            raise KeyError(f"{name!r} is not a field of a {type(self).__name__}; it has {', '.join(self.keys())}")
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, name) for name in self.UNPACKED])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that `to` moves, by the name of their field; those of several modalities as "frames.flow"."""
        found: dict[str, Tensor] = {}
        for name, value in self.items():
            if name not in self.ON_HOST:
                found |= _tensors(name, value)
        return found

    def map_tensors(self: BatchType, change: Callable[[Tensor], Tensor]) -> BatchType:
        """Return the batch with `change(tensor)` in place of each of its `tensors`."""
        changed = {
            name: map_frames(change, value)
            for name, value in self.items()
            if name not in self.ON_HOST and _tensors(name, value)
        }
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self: BatchType, device: torch.device | str, *, non_blocking: bool = False) -> BatchType:
        """Return the batch with its `tensors` on `device`; all other fields are the same objects."""
        return self.map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, repr=False, eq=False)
class ClipBatch(FieldAccess):
    """Clips of equal size and their classes.

    `frames, labels = batch` unpacks it; with a target hook the second value is `targets`.

    Attributes:
        frames: (B, C, T, H, W), (B, T, C, H, W) or (B, T, H, W, C), depending on the loader's layout. C is 3, or
            2 * `stack` for flow and motion vectors. Of a loader with several modalities: a dict of tensors.
        labels: int64 (B,), class numbers; -1 for a video without a class.
        numbers: int64 (B,), index of each clip's video in the data set.
        views: int64 (B,), which view of its video each clip is.
        valid: bool (B,), False for clips that pad the last batch of a rank; leave them out of scores.
        plan: the plan that the batch was filled from.
        targets: results of the loader's target hook: (B, ...) if they are tensors, else a list of B values. None
            without a hook.
        fill_seconds: time the loader spent on the batch; B / fill_seconds is the throughput of the loader alone.
        wait_seconds: time the consumer waited for the batch.
        replaced: number of damaged frames that were replaced by a neighbor, and of frames of another video in place of
            one that cannot be read (`on_error="replace"`).
    """

    frames: Frames
    labels: Tensor
    numbers: Tensor
    views: Tensor
    valid: Tensor
    plan: BatchPlan
    targets: Tensor | list[Any] | None = None
    fill_seconds: float = 0.0
    wait_seconds: float = 0.0
    replaced: int = 0

    @classmethod
    def of(
        cls,
        plan: BatchPlan,
        frames: Frames,
        *,
        targets: Tensor | list[Any] | None = None,
        fill_seconds: float = 0.0,
        replaced: int = 0,
    ) -> ClipBatch:
        """Make the batch of a plan and its filled frames."""
        return cls(
            frames=frames,
            labels=torch.from_numpy(plan.labels),
            numbers=torch.from_numpy(plan.videos),
            views=torch.from_numpy(plan.views),
            valid=torch.from_numpy(plan.valid),
            plan=plan,
            targets=targets,
            fill_seconds=fill_seconds,
            replaced=replaced,
        )

    @property
    def inputs(self) -> Tensor:
        """The frames: what the model is called with; several modalities are one behind the other in the channels."""
        return joined(self.frames)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frames, self.labels if self.targets is None else self.targets))

    def __repr__(self) -> str:
        shapes = [f"{name} {tuple(one.shape)} {one.dtype}" for name, one in _tensors("frames", self.frames).items()]
        return f"ClipBatch({', '.join(shapes)}, labels {tuple(self.labels.shape)})"


def _tensors(name: str, value: Any) -> dict[str, Tensor]:
    """The tensors of a field, by name."""
    if isinstance(value, dict):
        return {f"{name}.{key}": one for key, one in value.items() if isinstance(one, Tensor)}
    return {name: value} if isinstance(value, Tensor) else {}


def count_replaced(data: VideoDataset, plan: BatchPlan, shown: Tensor) -> npt.NDArray[np.int64]:
    """Count the frames of each clip that are not those of the plan, and log a warning for each such clip.

    Args:
        data: videos of the plan.
        plan: plan of B clips of T frames.
        shown: int64 (B, T), the frame numbers that the backend decoded.

    Returns:
        int64 (B,).
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
