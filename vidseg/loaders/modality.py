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
from vidseg.frames import FlowDatabase, FrameDatabaseError
from vidseg.frames.schema import DATABASE_NAMES
from vidseg.labels import VideoDataset

__all__ = [
    "MODALITIES",
    "Frames",
    "Modality",
    "ModalityDatabases",
    "as_modalities",
    "check_stack",
    "derivatives",
    "is_lossless",
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
    return np.asarray(
        np.linalg.inv(derivatives(plan.matrices / plan.matrices[:, 2:, 2:], plan.height, plan.width)), np.float64
    )


def derivatives(matrices: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.float64]:
    """Return the derivatives (B, 2, 2) of the maps of homogeneous matrices (B, 3, 3) at the center of an output."""
    point = matrices @ np.array([width / 2, height / 2, 1.0])
    place = point[:, :2] / point[:, 2:]
    moved = (matrices[:, :2, :2] - place[:, :, None] * matrices[:, None, 2, :2]) / point[:, 2, None, None]
    return np.asarray(moved, np.float64)


def is_lossless(data: VideoDataset, modality: str) -> bool:
    """Return whether the databases of a modality hold float16 instead of JPEGs."""
    return modality != "rgb" and ModalityDatabases(data, modality).values == "float16"


class ModalityDatabases:
    """The databases of one modality other than "rgb" of a data set, which are checked when they are first read.

    All have the bound and the type of values of the first video that has such a database.

    Args:
        data: the videos.
        modality: "flow", "motion" or "residual".

    Attributes:
        values: "uint8" or "float16"; "uint8" if no video has a database.
    """

    def __init__(self, data: VideoDataset, modality: str) -> None:
        self.data, self.modality = data, modality
        self._checked = np.zeros(len(data), bool)
        self._first = self._find_first()
        self.values = "uint8" if self._first is None else self._first.values

    def path(self, video: int) -> Path:
        """Path of the database of a video."""
        return Path(self.data.root) / self.data.video_path(video) / DATABASE_NAMES[self.modality]

    def check(self, videos: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Check the databases of videos; each is opened once.

        Raises:
            FrameDatabaseError: a video has no database of this modality, or one that does not fit: another number or
                size of frames than the catalog, another modality, or other values than the other videos.
        """
        for video in np.unique(np.asarray(videos, np.int64)).tolist():
            if not self._checked[video]:
                self._check(video)
                self._checked[video] = True

    def _find_first(self) -> FlowDatabase | None:
        for video in range(len(self.data)):
            path = self.path(video)
            if path.is_file():
                try:
                    return FlowDatabase(path)
                except FrameDatabaseError:
                    continue  # `check` raises the error of a video that is read
        return None

    def _check(self, video: int) -> None:
        path, method = self.path(video), _METHODS[self.modality]
        remedy = f"run `vidseg extract-flow {self.data.root} --method {method}`"
        try:
            database = FlowDatabase(path)
        except FileNotFoundError:
            raise FrameDatabaseError(
                f"{path}: video {self.data.video_path(video)} has no {path.name}; {remedy}"
            ) from None
        if database.modality != self.modality:
            raise FrameDatabaseError(f"{path}: holds {database.modality!r}, not {self.modality!r}; {remedy}")
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
        first = self._first or database
        if (database.bound, database.values) != (first.bound, first.values):
            raise FrameDatabaseError(
                f"{path}: its values are {database.values} with a bound of {database.bound:g} pixels, those of"
                f" {first.path} are {first.values} with {first.bound:g}; extract both with the same options"
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
