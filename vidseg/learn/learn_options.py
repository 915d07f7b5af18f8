"""Options of `vidseg learn`; imports nothing heavy. The docstrings are the help texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidseg.engine.options import at_least

__all__ = ["LearnOptions"]


@dataclass(frozen=True)
class LearnOptions:
    """Decisions that the command leaves to the user; those that are not given follow from the videos."""

    labels: Path | None = None
    """Label file: CSV with the columns video and class (recognition) or video, start, end and class (detection), any
    label file of `vidseg labels`, or a folder of frame labels with mapping.txt (segmentation). Default: the class
    folders, or the only label file in VIDEOS."""
    out: Path = Path("learned")
    """Folder of everything that the command writes; report.html is the result."""
    task: Literal["recognition", "detection", "segmentation"] | None = None
    """Task; default: as the labels show."""
    fps: float | None = None
    """Frames per second of the converted videos; default: the median if the rates differ, else as they are."""
    short_side: int | None = None
    """Short side of the converted frames in pixels; default: 8/7 of --size, at least 128."""
    fractions: tuple[float, ...] = ()
    """Fractions of training, validation and test videos; default: 0.6 0.2 0.2 for fewer than 1000 videos, else 0.8 0.1
    0.1. Ignored where the labels or folders define splits."""
    by_group: str | None = None
    r"""Regular expression of the group in a video's path, such as "_(g\d+)_": videos of a group stay in one split;
    default: such groups if all names have one."""
    network: str | None = None
    """Recognition network; `vidseg models --task recognition` shows all. Default: by the number of videos, or the one
    of --pretrained."""
    network_option: tuple[str, ...] = ()
    """Options of the network as NAME=VALUE."""
    pretrained: str | None = None
    """File of published weights, or their name such as kinetics400: a linear probe on frozen features is trained first,
    then the network is fine-tuned from it."""
    fine_tune: bool = True
    """With --pretrained: fine-tune the network after the probe; --no-fine-tune ends with the probe."""
    epochs: int | None = None
    """Passes over the training videos, of every network; default: about 1500 optimizer steps, 20 to 100 epochs; 40 for
    detection and 50 for segmentation on features."""
    size: int | None = None
    """Height and width of clips in pixels; default: by the number of videos, or as the weights were trained."""
    frames: int | None = None
    """Frames of a clip; default: the network's."""
    interval: int | None = None
    """Distance from one frame of a clip to the next; default: clips cover most of the median video, at most 8."""
    batch_size: int | None = None
    """Clips in a batch; default: 8 for fewer than 500 training videos, else 32."""
    lr: float | None = None
    """Highest learning rate; default: 0.08 for 32 clips from random weights, an eighth of it for fine-tuning."""
    mirror: bool | None = None
    """Mirror half of the training clips; default: unless names of classes contain left, right or clockwise."""
    train_option: tuple[str, ...] = ()
    """Further options of `vidseg train` for the recognition network as NAME=VALUE, such as augment=hacs."""
    times_option: tuple[str, ...] = ()
    """Options of `vidseg train detection` or `segmentation` for the network on the features as NAME=VALUE, such as
    network=tridet."""
    seed: int = 1
    """Seed of splits, weights, order and augmentation."""
    device: str | None = None
    """Device such as cpu or cuda; default: the accelerator if there is one."""
    workers: int | None = None
    """Processes of the conversion; default: one per core."""
    overwrite: bool = False
    """Do all steps again, also those that are finished."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))  # a text is as good as a path
        if self.labels is not None:
            object.__setattr__(self, "labels", Path(self.labels))
        at_least(self, 1, "short_side", "epochs", "size", "frames", "interval", "batch_size", "workers")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps={self.fps} must be above 0")
        if self.fractions and len(self.fractions) != 3:
            raise ValueError(f"fractions={self.fractions}: give three, of training, validation and test videos")
        if not self.fine_tune and self.pretrained is None:
            raise ValueError("fine_tune=False needs --pretrained, whose frozen features the probe is trained on")
