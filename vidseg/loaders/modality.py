"""Modalities of clips: colors, optical flow, motion vectors and residuals, each in a database of its own per video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.labels import VideoDataset

__all__ = [
    "MODALITIES",
    "Frames",
    "Modality",
    "ModalityDatabases",
    "as_modalities",
    "check_stack",
    "database_name",
    "is_vector",
    "joined",
    "linear_parts",
    "map_frames",
    "of_modality",
]

Modality = Literal["rgb", "flow", "motion", "residual"]
MODALITIES: tuple[str, ...] = get_args(Modality)

_VECTORS = ("flow", "motion")
_METHODS = {"flow": "raft_small", "motion": "motion-vectors", "residual": "residual"}


def is_vector(modality: str) -> bool:
    """Return whether a modality has vectors (x, y), which geometric transforms also rotate, mirror and scale."""
    return modality in _VECTORS


def database_name(modality: str) -> str:
    """Return the file name of a modality's database in the folder of a video."""
    return "frames.db" if modality == "rgb" else f"{modality}.db"


def as_modalities(modality: str | Sequence[str]) -> tuple[str, ...]:
    """Return the modalities of a `modality=` argument, one or several.

    Raises:
        ValueError: none, an unknown one, or one twice.
    """
    several = (modality,) if isinstance(modality, str) else tuple(modality)
    for one in several:
        if one not in MODALITIES:
            raise ValueError(f"modality={one!r} is not one of {', '.join(map(repr, MODALITIES))}")
    if not several or len(set(several)) != len(several):
        raise ValueError(f"modality={modality!r}: name each modality once, at least one")
    return several


def check_stack(stack: int, modalities: Sequence[str]) -> None:
    """Raise ValueError for a stack below 1, or one of modalities without vectors."""
    if stack < 1 or (stack > 1 and not any(map(is_vector, modalities))):
        raise ValueError(f"stack={stack} of {', '.join(modalities)}: only flow and motion are stacked, at least 1")


def linear_parts(plan: BatchPlan) -> npt.NDArray[np.float64]:
    """Return the maps of displacements in the stored frame to displacements in the output, float64 (B, 2, 2).

    The map of positions has a constant derivative unless it has a perspective; then it is that at the center of the
    output.
    """
    matrices = plan.matrices / plan.matrices[:, 2:, 2:]
    center = np.array([plan.width / 2, plan.height / 2, 1.0])
    point = matrices @ center
    place = point[:, :2] / point[:, 2:]
    derivative = (matrices[:, :2, :2] - place[:, :, None] * matrices[:, None, 2, :2]) / point[:, 2, None, None]
    return np.linalg.inv(derivative)


class ModalityDatabases:
    """The databases of one modality other than "rgb" of a data set, which are checked when they are first read.

    Args:
        data: the videos.
        modality: "flow", "motion" or "residual".
    """

    def __init__(self, data: VideoDataset, modality: str) -> None:
        self.data, self.modality = data, modality
        self._checked = np.zeros(len(data), bool)
        self._first: tuple[str, float] | None = None  # a video, and the bound of its vectors

    def path(self, video: int) -> Path:
        """Path of the database of a video."""
        return Path(self.data.root) / self.data.video_path(video) / database_name(self.modality)

    @property
    def bound(self) -> float:
        """Largest absolute value of a vector's coordinate in pixels, of the first database that was read.

        Raises:
            FrameDatabaseError: see `check`.
        """
        if self._first is None:
            self.check([0])
        assert self._first is not None
        return self._first[1]

    def check(self, videos: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Check the databases of videos; each is opened once.

        Raises:
            FrameDatabaseError: a video has no database of this modality, or one that does not fit: another number or
                size of frames than the catalog, another modality, or another bound than the other videos.
        """
        for video in np.unique(np.asarray(videos, np.int64)).tolist():
            if not self._checked[video]:
                self._check(video)
                self._checked[video] = True

    def _check(self, video: int) -> None:
        path, method = self.path(video), _METHODS[self.modality]
        remedy = f"run `vidseg extract-flow {self.data.root} --method {method}`"
        try:
            database = FrameDatabase(path)
        except FileNotFoundError:
            raise FrameDatabaseError(
                f"{path}: video {self.data.video_path(video)} has no {path.name}; {remedy}"
            ) from None
        meta = database.meta
        if meta.get("modality") != self.modality:
            raise FrameDatabaseError(f"{path}: holds {meta.get('modality', 'rgb')!r}, not {self.modality!r}; {remedy}")
        if meta.get("values", "uint8") != "uint8":
            raise FrameDatabaseError(
                f"{path}: stores {meta['values']} values, which loaders do not read; {remedy} with 8-bit values"
            )
        known = int(self.data.frames[video]), (int(self.data.heights[video]), int(self.data.widths[video]))
        if len(database) != known[0]:
            raise FrameDatabaseError(
                f"{path}: has {len(database)} frames, but the catalog has {known[0]} for this video; {remedy} again"
            )
        if database.frame_size != known[1]:
            raise FrameDatabaseError(
                f"{path}: has frames of {database.frame_size[1]}x{database.frame_size[0]} pixels, but the catalog has"
                f" {known[1][1]}x{known[1][0]}; {remedy} again"
            )
        if not is_vector(self.modality):
            return
        bound: Any = meta.get("bound")
        if not isinstance(bound, int | float) or not 0 < bound < 1e6:
            raise FrameDatabaseError(f"{path}: its bound is {bound!r:.40}, expected a number of pixels; {remedy} again")
        if self._first is None:
            self._first = (str(path), float(bound))
        elif bound != self._first[1]:
            raise FrameDatabaseError(
                f"{path}: its bound is {bound:g} pixels, that of {self._first[0]} is {self._first[1]:g}; extract both"
                " with the same bound"
            )


def of_modality(values: Any, modality: str, defaults: Mapping[str, Any]) -> Any:
    """Return the value for a modality of an argument that is one value for all, or a mapping.

    Args:
        values: the argument.
        modality: key of the mapping.
        defaults: values of the modalities that the mapping does not have.

    Raises:
        ValueError: the mapping has an unknown key.
    """
    if not isinstance(values, Mapping):
        return values
    for key in values:
        if key not in MODALITIES:
            raise ValueError(f"{key!r} is not a modality; expected {', '.join(MODALITIES)}")
    return values[modality] if modality in values else defaults[modality]


Frames = Tensor | dict[str, Tensor]
"""Frames of a batch: one tensor, or with several modalities one for each."""


def joined(frames: Frames) -> Tensor:
    """Return frames (B, C, T, H, W); those of several modalities are one behind the other in the channels.

    Raises:
        ValueError: they have another layout.
    """
    if isinstance(frames, Tensor):
        return frames
    several = list(frames.values())
    if len({(len(one), *one.shape[2:]) for one in several}) != 1:
        raise ValueError(f"{', '.join(frames)} are joined in the channels of layout='bcthw' only")
    return torch.cat(several, dim=1)


def map_frames(change: Any, frames: Frames) -> Frames:
    """Apply a function to each tensor of frames."""
    if isinstance(frames, Tensor):
        return torch.as_tensor(change(frames))
    return {name: change(tensor) for name, tensor in frames.items()}
