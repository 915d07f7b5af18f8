"""Options of detection runs; imports nothing heavy. The docstrings are the help texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vidseg.engine.option_words import named_values
from vidseg.engine.options import NetworkOptions, OptimizerOptions, TrainOptions, at_least
from vidseg.tasks.detection.suppression_options import SuppressionOptions

__all__ = ["DetectionData", "DetectionOptions", "ObjectiveOptions", "SnippetOptions"]

BACKGROUND = ("background",)
"""Classes whose segments are not actions, in data sets that were labeled frame by frame."""


@dataclass(frozen=True)
class DetectionData:
    """Videos, their features and their splits."""

    dataset: str = ""
    """Folder of the data set: catalog.db with segments, and features/<video>.npy, or frame databases with --encoder."""
    split: str = ""
    """Division of the data set, such as split1; default: its first one."""
    select: Literal["validation", "last", "test"] = "validation"
    """Epoch that is tested. validation: the best one on the split val, or on training videos that are held out. last:
    the last one, as in most published results. test: the best one on the test split itself; such scores are too high,
    and the result says so."""
    validation_share: float = 0.1
    """Share of the training videos that --select validation holds out where there is no split val."""
    batch_size: int = 2
    """Videos, or windows of videos, in a batch of each process."""
    features: tuple[str, ...] = ("features",)
    """Folder of <video>.npy (or .npz, .pt, .csv, .pkl), within the data set or anywhere; of several the values of a
    column are concatenated."""
    layout: Literal["DL", "LD"] = "DL"
    """DL: a column is a time step; LD: a row is a time step."""
    fit: Literal["resize", "interpolate", "window", "whole"] = "whole"
    """How a video becomes samples: averaged or interpolated to --length columns, windows of --length columns, or all
    columns, of which training takes at most --length."""
    length: int | None = None
    """Columns of a sample; default: 128 for resize and interpolate, 256 for window, no limit for whole."""
    overlap: float = 0.5
    """Share of a window that the next one shares."""
    min_inside: float = 0.5
    """Share of an action that a training sample must contain to learn from it."""
    crop: float = 1.0
    """Smallest share of a video that a training sample of --fit whole has."""
    feature_stride: float | None = None
    """Video frames from one column to the next; default: the columns divide the duration evenly."""
    feature_clip: float | None = None
    """Video frames that a column was computed from; default: --feature-stride."""
    feature_fps: float | None = None
    """Frame rate at which the features were extracted; default: that of each video."""
    background: tuple[str, ...] = BACKGROUND
    """Classes whose segments are not actions; names that the data set does not have are ignored."""
    class_scores: str | None = None
    """File with scores of the classes of whole videos (CUHK's .json, UntrimmedNet's .npy), for networks that propose
    segments without a class."""
    class_top: int = 2
    """Classes of a video that each proposal gets from --class-scores."""
    protocol: str = "thumos14"
    """Rules of the scores: thumos14 (mAP at IoU 0.3 to 0.7), activitynet (0.5 to 0.95), hacs, fineaction, multithumos,
    charades, epic, ego4d."""
    threads: int | None = None
    """Threads that load features or decode frames; default: one for each core, for features at most four."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "length", "threads", "class_top")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} must be between 0 and 1")
        if self.select not in ("validation", "last", "test"):
            raise ValueError(f"select={self.select!r} is not one of validation, last, test")
        if not self.features:
            raise ValueError("features: name at least one folder")

    @property
    def columns(self) -> int | None:
        """`length` with its default."""
        return self.length or {"resize": 128, "interpolate": 128, "window": 256}.get(self.fit)


@dataclass(frozen=True)
class SnippetOptions:
    """Training from pixels: a recognition network encodes snippets of the video."""

    encoder: str = ""
    """Recognition network that makes the features, such as ig65m_r2plus1d_34; default: features from files."""
    encoder_option: tuple[str, ...] = ()
    """Options of this network as NAME=VALUE."""
    encoder_weights: str | None = None
    """Its weights; default: random."""
    encoder_frozen: tuple[str, ...] = ()
    """Its first layers that are not trained, such as stem layer1 layer2."""
    snippets: int | None = None
    """Snippets of a video, spread over it; default: one every --snippet-stride frames."""
    snippet_stride: int | None = None
    """Video frames from one snippet to the next; default: the frames that a snippet covers."""
    snippet_places: Literal["centers", "ends"] = "centers"
    """With --snippets: each in the middle of an equal part of the video, or from its first to its last frame (ETAD)."""
    snippet_frames: int | None = None
    """Frames of a snippet; default: the encoder's."""
    snippet_interval: int | None = None
    """Distance from one frame of a snippet to the next; default: the encoder's."""
    snippet_size: int | None = None
    """Height and width of a snippet in pixels; default: the encoder's."""
    flip: bool = False
    """Mirror half of the training videos; only where classes do not distinguish left and right."""
    gradients: Literal["sampled", "all", "recomputed", "none"] = "sampled"
    """How the encoder is trained: with the gradients of a sample of the snippets, whose memory does not grow with the
    video; of all snippets; of all snippets with activations computed twice; not at all."""
    snippet_ratio: float = 0.3
    """Share of the snippets whose gradients --gradients sampled takes."""
    snippet_strategy: Literal["random", "grid", "block", "boundary"] = "random"
    """How these are chosen: at random, at even distances, neighboring ones, or rather near the ends of actions."""
    unbiased: bool = False
    """Divide their gradients by the probability of being chosen; the published training does not."""
    chunk: int = 16
    """Snippets in one pass of the encoder."""

    def __post_init__(self) -> None:
        at_least(self, 1, "snippets", "snippet_stride", "snippet_frames", "snippet_interval", "snippet_size", "chunk")
        if not 0 <= self.snippet_ratio <= 1:
            raise ValueError(f"snippet_ratio={self.snippet_ratio} must be from 0 to 1")
        if self.snippets is not None and self.snippet_stride is not None:
            raise ValueError(f"snippets={self.snippets} and snippet_stride={self.snippet_stride}: give one of them")

    def chosen_options(self) -> dict[str, Any]:
        """Return `encoder_option` as a dictionary."""
        return named_values(self.encoder_option)


@dataclass(frozen=True)
class ObjectiveOptions:
    """The loss."""

    loss_option: tuple[str, ...] = ()
    """Options of the loss as NAME=VALUE."""

    def loss_options(self) -> dict[str, Any]:
        """Return `loss_option` as a dictionary."""
        return named_values(self.loss_option)


@dataclass(frozen=True)
class DetectionOptions(TrainOptions):
    """Everything about a detection run."""

    data: DetectionData = field(default_factory=DetectionData)
    network: NetworkOptions = field(default_factory=lambda: NetworkOptions("actionformer"))
    optimizer: OptimizerOptions = field(
        default_factory=lambda: OptimizerOptions(optimizer="adamw", weight_decay=0.05, decay_all=False, clip_norm=1.0)
    )
    snippets: SnippetOptions = field(default_factory=SnippetOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    suppression: SuppressionOptions = field(default_factory=SuppressionOptions)
