"""Options of streaming runs; imports nothing heavy. The docstrings are the help texts of the commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vidseg.engine.option_words import named_values
from vidseg.engine.options import DeviceOptions, NetworkOptions, OptimizerOptions, TrainOptions, at_least

__all__ = ["StreamData", "StreamInput", "StreamTraining", "StreamingOptions"]

Triple = tuple[float, float, float]
Modality = Literal["rgb", "flow", "motion", "residual", "rgb+flow", "rgb+motion", "rgb+residual"]
Update = Literal["video", "window"]
Weighting = Literal["video", "group"]


@dataclass(frozen=True)
class StreamData:
    """Videos with frame labels, and splits."""

    dataset: str = ""
    """Folder of the data set: frame databases, and a catalog with frame labels."""
    split: str = ""
    """Division to train on, such as split1 with its parts split1/train and split1/test; default: the first one, or all
    videos if there is none."""
    select: Literal["validation", "last"] = "validation"
    """Epoch that is tested: the one with the best F1@50 on the validation videos, or the last one."""
    validation_share: float = 0.1
    """Share of the training videos that is held out for validation, if the split has no part `val`; none with --select
    last."""
    batch_size: int = 1
    """Videos of a process that are trained on together and make one step."""
    flip: bool = False
    """Mirror half of the training videos."""
    background: tuple[str, ...] = ("background",)
    """Classes whose frames are not segments in the scores; names that the data set does not have are ignored."""
    threads: int | None = None
    """Decoding threads; default: one for each core."""
    cache_bytes: int = 0
    """Memory for encoded frames that are kept between epochs."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "threads")
        at_least(self, 0, "cache_bytes")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} must be between 0 and 1")


@dataclass(frozen=True)
class StreamInput:
    """The windows that the network sees; defaults come from the network's input spec."""

    modality: Modality | None = None
    """rgb: frames; flow, motion (motion vectors of the codec) and residual: what `vidseg extract-flow` stored beside
    them; of two of them, such as rgb+motion, the second has a backbone of its own. Default: the network's."""
    stride: int | None = None
    """Frames from the start of a window to the start of the next; default: --frames times --interval."""
    frames: int | None = None
    """Frames that the network sees of a window."""
    interval: int | None = None
    """Distance from one of these frames to the next."""
    size: int | None = None
    """Height and width that the network sees, in pixels."""
    mean: Triple | None = None
    """Mean of R, G and B in 0..1, as `vidseg stats` prints it."""
    std: Triple | None = None
    """Standard deviation of R, G and B."""

    def __post_init__(self) -> None:
        at_least(self, 1, "stride", "frames", "interval", "size")


@dataclass(frozen=True)
class StreamTraining:
    """When the optimizer steps, and the loss."""

    update: Update = "video"
    """Step when the videos of a group end (video), or after every window (window)."""
    weighting: Weighting = "video"
    """With --update video: divide each video's loss by its own number of windows (video), or the loss of the group by
    the group's number of windows (group)."""
    loss_option: tuple[str, ...] = ()
    """Options of the loss as NAME=VALUE, such as smoothing=0.3."""

    def loss_options(self) -> dict[str, Any]:
        """Return `loss_option` as a dictionary."""
        return named_values(self.loss_option)


@dataclass(frozen=True)
class StreamingOptions(TrainOptions):
    """Everything about a streaming run."""

    data: StreamData = field(default_factory=StreamData)
    network: NetworkOptions = field(default_factory=lambda: NetworkOptions("etesvs"))
    input: StreamInput = field(default_factory=StreamInput)
    training: StreamTraining = field(default_factory=StreamTraining)
    optimizer: OptimizerOptions = field(default_factory=lambda: OptimizerOptions(optimizer="adam"))
    devices: DeviceOptions = field(default_factory=lambda: DeviceOptions(channels_last=True))
