"""Options of segmentation runs on features; imports nothing heavy. The docstrings are the help texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vidseg.engine.option_words import named_values
from vidseg.engine.options import NetworkOptions, OptimizerOptions, TrainOptions, at_least

__all__ = ["BACKGROUND", "LabelingOptions", "SegmentationData", "SegmentationOptions"]

BACKGROUND = ("background",)
"""Classes whose frames are not segments, in data sets that have them; 50Salads' and Breakfast's classes all count, as
in the tables of MS-TCN and its successors (docs/segmental_metrics.md)."""


@dataclass(frozen=True)
class SegmentationData:
    """Features, labels and splits."""

    dataset: str = ""
    """Folder of the data set: catalog.db, as its converter leaves it, and features/<video>.npy."""
    splits: tuple[str, ...] = ()
    """Splits of the cross-validation, such as split1 split3; default: all of the data set."""
    select: Literal["validation", "last", "test"] = "validation"
    """Epoch that is tested. validation: the best one on training videos that are held out. last: the last one, as in
    most published results. test: the best one on the test split itself, as in some published results; such scores are
    too high, and the result says so."""
    validation_share: float = 0.1
    """Share of the training videos that --select validation holds out."""
    batch_size: int = 1
    """Videos in a batch, of each process."""
    features: str = "features"
    """Folder of <video>.npy, within the data set or anywhere."""
    layout: Literal["DL", "LD"] = "DL"
    """DL: a column is a frame; LD: a row is a frame."""
    labels_per_column: int = 1
    """Frame labels for each column, where features were extracted with a stride."""
    length_tolerance: int = 0
    """Largest difference between the columns and the labels of a video; the longer of them is cut."""
    background: tuple[str, ...] = BACKGROUND
    """Classes whose frames are not segments in the scores; names that the data set does not have are ignored."""
    threads: int | None = None
    """Threads that load features; default: one for each core."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch_size", "labels_per_column", "threads")
        at_least(self, 0, "length_tolerance")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} must be between 0 and 1")
        if self.select not in ("validation", "last", "test"):
            raise ValueError(f"select={self.select!r} is not one of validation, last, test")


@dataclass(frozen=True)
class LabelingOptions:
    """Sampling of columns, loss, and how a test labels a video."""

    sample_rate: int = 1
    """Use every N-th column of the features; predictions are repeated for all frames."""
    random_offset: bool = False
    """Start at a random column below --sample-rate in training, and average over all of them in a test."""
    pooling: tuple[int, int] | None = None
    """C2F-TCN: columns pooled into one, and the longest input after that."""
    chunks: tuple[int, ...] = ()
    """C2F-TCN: pooled columns in each run of a test."""
    chunk_weights: tuple[float, ...] = ()
    """C2F-TCN: weights of these runs; default: all equal."""
    median: int = 0
    """Length of a median filter over the probabilities in a test; 0: none."""
    purge: int = 0
    """Assign segments of at most so many frames to their neighbors in a test."""
    loss_option: tuple[str, ...] = ()
    """Options of the loss as NAME=VALUE, such as smoothing=0.3."""

    def __post_init__(self) -> None:
        at_least(self, 1, "sample_rate")
        at_least(self, 0, "median", "purge")
        if self.pooling is not None and self.sample_rate > 1:
            raise ValueError(f"sample_rate={self.sample_rate} with pooling: pooling takes all columns")

    def loss_options(self) -> dict[str, Any]:
        """Return `loss_option` as a dictionary."""
        return named_values(self.loss_option)


@dataclass(frozen=True)
class SegmentationOptions(TrainOptions):
    """Everything about a segmentation run."""

    data: SegmentationData = field(default_factory=SegmentationData)
    network: NetworkOptions = field(default_factory=lambda: NetworkOptions("mstcn"))
    optimizer: OptimizerOptions = field(
        default_factory=lambda: OptimizerOptions(optimizer="adam", weight_decay=0.0, decay_all=True)
    )
    labeling: LabelingOptions = field(default_factory=LabelingOptions)
