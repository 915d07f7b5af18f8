"""What a row of the loader benchmark has to do, and what all peers share."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from loader_data import Sources
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.labels import VideoDataset

__all__ = ["Job", "MissingError", "Peer", "crop_box", "load"]


class MissingError(RuntimeError):
    """Raised when a peer is not installed; the message names the missing package."""


@dataclass(frozen=True)
class Job:
    """Batches that a loader has to deliver, and the location of the data."""

    data: VideoDataset
    sources: Sources
    plans: list[BatchPlan]
    workers: int
    warm: int
    """Batches that a row delivers before the timed pass: workers start, and memory is allocated."""
    mean: tuple[float, float, float]
    """Mean and deviation of RGB values in 0..1."""
    std: tuple[float, float, float]
    augment: str | None = None
    """Preset of the plans' warps and color operations."""
    crops: tuple[BatchPlan, ...] = ()
    """The plans without warps and color operations, if `augment` is a preset; they have the same crops."""

    @property
    def passes(self) -> tuple[list[BatchPlan], list[BatchPlan]]:
        """The plans of the untimed batches, and those of the timed pass."""
        return self.plans[: self.warm], self.plans

    def name(self, video: int) -> str:
        return self.data.video_path(video).rpartition("/")[2]


@dataclass(frozen=True)
class Peer:
    """Peer of the benchmark, a row of the table."""

    what: str
    modules: tuple[str, ...]
    """Modules that must be importable."""
    batches: Callable[[Job], Iterator[Tensor]]
    store: str
    """Format of the data that it reads, for the bytes of a frame: a method of `Sources`."""
    from_jpegs: bool = True
    """Whether its frames are the stored JPEGs of the plans, so that pixels can be compared."""
    augments: bool = False
    """Whether it applies the warps and color operations of the plans; it is then a row of `--augment` only."""
    batches_per_worker: int = 4
    """Largest number of batches of a pass, for each worker; slow rows have few, because a full pass takes minutes."""

    def start(self, job: Job) -> Iterator[Tensor]:
        """Return the iterator over its batches.

        Raises:
            MissingError: it is not installed.
        """
        for module in self.modules:
            load(module)
        return self.batches(job)


def load(module: str) -> Any:
    """Import the module of a peer.

    Raises:
        MissingError: the module is not installed or cannot be loaded (missing FFmpeg, another torch version).
    """
    try:
        return importlib.import_module(module)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # torchcodec raises OSError or RuntimeError for missing libraries
        reason = str(error).strip().split("\n")[0]
        raise MissingError(f"{module.split('.')[0]}: {reason}") from None


def crop_box(
    matrix: np.ndarray, height: int, width: int, *, scale: tuple[float, float] = (1.0, 1.0)
) -> tuple[int, int, int, int, bool]:
    """Return the crop of a plan's crop-and-resize matrix.

    Args:
        matrix: (3, 3), from output to stored frame.
        height: height of the output.
        width: width of the output.
        scale: width and height of the frame that is cropped, divided by those of the stored frame.

    Returns:
        Left, top, width and height in whole pixels, and whether the crop is mirrored.
    """
    (scale_x, _, left), (_, scale_y, top), _ = (matrix * [[scale[0]], [scale[1]], [1]]).tolist()
    across, down = scale_x * width, scale_y * height
    mirrored = across < 0
    if mirrored:
        left, across = left + across, -across
    return round(left), round(top), max(1, round(across)), max(1, round(down)), mirrored
