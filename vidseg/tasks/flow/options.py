"""Options of runs for optical flow; imports nothing heavy. The docstrings are the help texts of the commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vidseg.engine.option_words import named_values
from vidseg.engine.options import NetworkOptions, OptimizerOptions, ScheduleOptions, TrainOptions, at_least

__all__ = ["SHAPES", "FlowAugment", "FlowData", "FlowLossOptions", "FlowOptions"]

SHAPES = "shapes"
"""Name of the generated data set."""


@dataclass(frozen=True)
class FlowData:
    """Picture pairs with true flow."""

    dataset: str = ""
    """shapes: generated pairs of moving shapes, new ones in each epoch. Otherwise a folder with the layout of
    FlyingChairs, Sintel or KITTI, or with <name>_img1.*, <name>_img2.* and <name>_flow.flo."""
    passes: Literal["clean", "final", "both"] = "both"
    """Sintel: pictures without (clean) or with (final) motion blur and fog, or both."""
    validation_share: float = 0.1
    """Folders: share of the scenes that is held out, where the data set has no file of splits."""
    pairs: int | None = None
    """shapes: pairs of an epoch; default: 1000."""
    held_out: int | None = None
    """shapes: pairs of the validation, and of the test; default: 64."""
    motion: float | None = None
    """shapes: largest translation in pixels; default: 8."""
    height: int = 64
    """Height of training pictures in pixels."""
    width: int = 96
    """Width of training pictures in pixels."""
    batch_size: int = 4
    """Pairs in a batch, of each process."""
    threads: int | None = None
    """Threads that load or generate pairs; default: one for each core, at most 4."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "threads", "pairs", "held_out")
        at_least(self, 16, "height", "width")
        at_least(self, 0, "motion")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} must be between 0 and 1")
        if self.passes not in ("clean", "final", "both"):
            raise ValueError(f"passes={self.passes!r} is not one of clean, final, both")
        given = [name for name in ("pairs", "held_out", "motion") if getattr(self, name) is not None]
        if given and self.dataset and self.dataset != SHAPES:
            raise ValueError(f"{given[0]}={getattr(self, given[0])} is for generated pairs, not for {self.dataset}")


@dataclass(frozen=True)
class FlowAugment:
    """Random changes of training pairs; see docs/motion.md."""

    augment: Literal["auto", "on", "off"] = "auto"
    """Scale, mirror, crop and recolor training pairs. auto: pairs of folders, but not generated ones. off: pairs of
    folders are cropped at random."""
    scale: tuple[float, float] = (-0.2, 0.6)
    """Augmentation: smallest and largest exponent of the size; a pair is scaled by 2 to the power of it."""
    flip: bool = True
    """Augmentation: mirror half of the pairs, and turn a tenth upside down."""

    def __post_init__(self) -> None:
        if self.augment not in ("auto", "on", "off"):
            raise ValueError(f"augment={self.augment!r} is not one of auto, on, off")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale={self.scale}: the first number must not be above the second")


@dataclass(frozen=True)
class FlowLossOptions:
    """The loss."""

    loss_option: tuple[str, ...] = ()
    """Options of the loss as NAME=VALUE, such as gamma=0.85."""

    def loss_options(self) -> dict[str, Any]:
        """Return `loss_option` as a dictionary."""
        return named_values(self.loss_option)


@dataclass(frozen=True)
class FlowOptions(TrainOptions):
    """Everything about a run for optical flow."""

    data: FlowData = field(default_factory=FlowData)
    network: NetworkOptions = field(default_factory=lambda: NetworkOptions("raft_small"))
    augmentation: FlowAugment = field(default_factory=FlowAugment)
    loss: FlowLossOptions = field(default_factory=FlowLossOptions)
    schedule: ScheduleOptions = field(default_factory=lambda: ScheduleOptions(schedule="linear", lr=4e-4))
    optimizer: OptimizerOptions = field(default_factory=lambda: OptimizerOptions(optimizer="adamw", clip_norm=1.0))
