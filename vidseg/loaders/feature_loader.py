"""A loader of features of whole videos: memory-mapped .npy files, padded, with masks and frame labels.

Features are in `<data set>/features/<video>.npy`, one column per frame label, as in the MS-TCN data set. The content of
a sample is a function of (seed, epoch, sample number): it does not depend on batch size, threads or ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips.draws import uniform
from vidseg.labels import VideoDataset
from vidseg.labels.segmentation_labels import FrameLabels
from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.feature_files import FeatureFiles, Layout
from vidseg.loaders.sample_order import SampleLoader
from vidseg.loaders.threads import default_threads

__all__ = ["IGNORED", "ChunkPooling", "FeatureBatch", "FeatureLoader"]

IGNORED = -100
"""Label of padding: the default `ignore_index` of torch's cross-entropy."""


@dataclass(frozen=True, repr=False, eq=False)
class FeatureBatch(FieldAccess):
    """Features of videos, or of pieces of long videos, padded at the end to the longest.

    `features, mask, labels = batch` unpacks it. `to` moves these three. The other tensors describe the samples and stay
    in host memory, where a training loop reads them without waiting for the device.

    Attributes:
        features: float32 (B, D, L), zeros where padded.
        mask: bool (B, L), False where padded.
        labels: int64 (B, L), -100 where padded.
        videos: int64 (B,), index of each sample's video in the data set.
        starts: int64 (B,), first frame label of the sample in its video; above 0 for a later piece of a long video.
        num_frames: int64 (B,), number of frame labels that the sample covers.
        steps: int64 (B,), number of frame labels per column. To get predictions per frame, repeat each column `steps`
            times and cut the result to `num_frames`.
        valid: bool (B,), False for a sample that pads the batch of a rank; all its columns are padding.
    """

    UNPACKED: ClassVar[tuple[str, ...]] = ("features", "mask", "labels")
    ON_HOST: ClassVar[tuple[str, ...]] = ("videos", "starts", "num_frames", "steps", "valid")

    features: Tensor
    mask: Tensor
    labels: Tensor
    videos: Tensor
    starts: Tensor
    num_frames: Tensor
    steps: Tensor
    valid: Tensor

    @property
    def inputs(self) -> Tensor:
        """The features: the first argument of the model; the second is `mask`."""
        return self.features

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return f"FeatureBatch(features {tuple(self.features.shape)}, lengths {self.mask.sum(1).tolist()})"


@dataclass(frozen=True)
class ChunkPooling:
    """Multi-resolution features of C2F-TCN (Singhania et al., arXiv 2105.10859, feature augmentation).

    `chunk` neighboring columns are max-pooled into one, with their most frequent label (the lowest of equally frequent
    ones). For training, some samples use a chunk drawn log-uniformly from half to twice `chunk`, and at least so large
    that the sample has at most `max_columns` columns. Videos longer than `max_columns` chunks are cut into pieces.

    Attributes:
        chunk: number of columns pooled into one.
        max_columns: largest number of columns of a sample.
        probability: share of training samples with a drawn chunk, 0 to 1.

    Raises:
        ValueError: chunk or max_columns below 1, or a probability outside 0 to 1.
    """

    chunk: int
    max_columns: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.max_columns < 1 or not 0 <= self.probability <= 1:
            raise ValueError(f"{self}: chunk and max_columns must be at least 1, the probability in 0..1")

    def drawn(self, columns: int, draw: float, place: float) -> int:
        """Return the chunk of a training sample.

        Args:
            columns: number of columns of the sample.
            draw: random number in [0, 1); below `probability`, the chunk is drawn.
            place: random number in [0, 1), which determines the drawn chunk.
        """
        if draw >= self.probability:
            return self.chunk
        low = max(self.chunk / 2, math.ceil(columns / self.max_columns), 1)
        high = max(2 * self.chunk, low)
        chunk = round(math.exp(math.log(low) + place * (math.log(high) - math.log(low))))
        return max(chunk, math.ceil(low))


@dataclass(frozen=True)
class _Sample:
    """Columns [start, stop) of a video's features."""

    video: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Loaded:
    """One sample: columns (D, L), their labels (L,), and its row of `FeatureBatch`."""

    columns: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    start: int
    frames: int
    step: int
    valid: bool = True


class FeatureLoader(SampleLoader[_Loaded, FeatureBatch]):
    """Batches of features with frame labels.

    For training, samples are shuffled and an incomplete last batch is dropped, unless it is the only one. One iteration
    is one epoch. The next iteration is the next epoch, unless `set_epoch` chooses another.

    Args:
        data: videos with frame labels.
        features: folder of `<video>.npy`, or of another form of `vidseg.loaders.feature_files`, relative to the data
            set's folder or absolute; of several folders the values of a column are concatenated.
        layout: "DL" for files of shape (D, L), one column per frame; "LD" for (L, D).
        batch_size: B over all ranks, a multiple of `world_size`.
        train: shuffle, draw random offsets and chunks, drop incomplete batches.
        sample_rate: take every N-th column. Models for 50Salads use 2.
        random_offset: for training, begin at a random column below `sample_rate`, as DiffAct does.
        labels_per_column: number of frame labels per column of the files, for features extracted with a stride.
        pooling: max-pool neighboring columns, in several resolutions; requires sample_rate=1.
        min_length: smallest number of columns that the model accepts, after sampling or pooling with `pooling.chunk`.
        length_tolerance: accepted difference between the number of columns and of labels; both are cut to the shorter.
        seed: seed for order, offsets and chunks.
        rank: index of this process.
        world_size: number of processes, which divide each batch. All have the same number of batches of the same size:
            for evaluation, samples with `valid` False pad the last batch.
        threads: number of loading threads. None: up to 4, one for each available core.
        pin: allocate batches in page-locked memory. None: where CUDA is available.
        device: copy features, mask and labels to this device, one batch ahead of its use. None leaves them in host
            memory.

    Raises:
        FileNotFoundError: a video without a feature file; the message has the first one and their number.
        ValueError: a video without labels or too short, a file of the wrong shape, or an argument out of range; the
            message has the file. NaN and infinite values raise when they are loaded, with file and column.
    """

    def __init__(
        self,
        data: VideoDataset,
        *,
        features: str | Path | Sequence[str | Path] = "features",
        layout: Layout = "DL",
        batch_size: int = 1,
        train: bool = True,
        sample_rate: int = 1,
        random_offset: bool = False,
        labels_per_column: int = 1,
        pooling: ChunkPooling | None = None,
        min_length: int = 1,
        length_tolerance: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        pin: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if min(sample_rate, labels_per_column, min_length) < 1 or length_tolerance < 0:
            raise ValueError(
                f"sample_rate={sample_rate}, labels_per_column={labels_per_column} and min_length={min_length} must be"
                f" at least 1, length_tolerance={length_tolerance} at least 0"
            )
        if pooling is not None and sample_rate > 1:
            raise ValueError(f"sample_rate={sample_rate} with pooling: pooling uses all columns, set sample_rate=1")
        super().__init__(
            batch_size=batch_size,
            train=train,
            seed=seed,
            rank=rank,
            world_size=world_size,
            threads=min(4, default_threads()) if threads is None else threads,
            pin=pin,
            device=device,
        )
        self.data, self.files = data, FeatureFiles(data, features, layout=layout)
        self.sample_rate, self.random_offset = sample_rate, random_offset
        self.labels_per_column, self.pooling = labels_per_column, pooling
        self.labels = FrameLabels(data)
        self.samples = self._cut(self._lengths(length_tolerance), min_length)
        if train and len(self.samples) < world_size:
            raise ValueError(f"{data}: {len(self.samples)} samples for {world_size} processes; take fewer processes")

    @property
    def feature_size(self) -> int:
        """D, number of values per column."""
        return self.files.size

    @property
    def sample_count(self) -> int:
        """See `SampleLoader`."""
        return len(self.samples)

    def _lengths(self, tolerance: int) -> list[int]:
        """Number of columns of each video that have labels."""
        columns = []
        for video in range(len(self.data)):
            size, length = self.files.shape(video)
            expected = math.ceil(int(self.labels.lengths[video]) / self.labels_per_column)
            if abs(length - expected) > tolerance:
                turned = "; is the layout the other one?" if abs(size - expected) <= tolerance else ""
                raise ValueError(
                    f"{self.files.path(video)}: {length} columns, but the video has {self.labels.lengths[video]} frame "
                    f"labels ({self.labels_per_column} for each column){turned}"
                    + ("" if turned else f"; {abs(length - expected)} is above length_tolerance={tolerance}")
                )
            columns.append(min(length, expected))
        return columns

    def _cut(self, columns: list[int], min_length: int) -> list[_Sample]:
        samples = []
        for video, count in enumerate(columns):
            step = self.pooling.chunk if self.pooling else self.sample_rate
            length = math.ceil(count / step)
            if length < min_length:
                raise ValueError(
                    f"{self.files.path(video)}: {length} columns at a step of {step}, but the model needs"
                    f" {min_length}; leave the video out, or use a smaller sample_rate or chunk"
                )
            most = self.pooling.max_columns * self.pooling.chunk if self.pooling else count
            pieces = math.ceil(count / most)
            # Pieces of equal length; cutting at max_columns could leave a last piece of one column.
            borders = [count * piece // pieces for piece in range(pieces + 1)]
            samples += [_Sample(video, *borders[piece : piece + 2]) for piece in range(pieces)]
        return samples

    def load_sample(self, number: int, epoch: int, valid: bool) -> _Loaded:
        """See `SampleLoader`."""
        sample, per_column = self.samples[number], self.labels_per_column
        start = sample.start * per_column
        if not valid:
            return _Loaded(np.zeros((self.feature_size, 1), np.float32), np.full(1, IGNORED), start, 0, 1, valid=False)
        frames = min(sample.stop * per_column, int(self.labels.lengths[sample.video])) - start
        columns = self.files.load(sample.video, sample.start, sample.stop)
        labels = self.labels[sample.video][start : start + frames : per_column]
        if self.pooling is not None:
            chunk = self.pooling.chunk
            if self.train:
                draw, place = uniform(self.seed, epoch, [number], purpose="chunk", count=2)[0]
                chunk = self.pooling.drawn(columns.shape[1], draw, place)
            columns, labels = _pooled(columns, labels, chunk)
            return _Loaded(columns, labels, start, frames, chunk * per_column)
        offset = 0
        if self.train and self.random_offset:
            draw = uniform(self.seed, epoch, [number], purpose="offset")[0, 0]
            offset = int(draw * min(self.sample_rate, columns.shape[1]))
        return _Loaded(
            columns[:, offset :: self.sample_rate],
            labels[offset :: self.sample_rate],
            start + offset * per_column,
            frames - offset * per_column,
            self.sample_rate * per_column,
        )

    def make_batch(self, numbers: list[int], loaded: list[_Loaded]) -> FeatureBatch:
        """See `SampleLoader`."""
        length = max(len(sample.labels) for sample in loaded)
        features = torch.zeros(len(loaded), self.feature_size, length, pin_memory=self.pin)
        labels = torch.full((len(loaded), length), IGNORED, pin_memory=self.pin)
        mask = torch.zeros(len(loaded), length, dtype=torch.bool, pin_memory=self.pin)
        for row, sample in enumerate(loaded):
            count = len(sample.labels)
            features[row, :, :count] = torch.from_numpy(np.array(sample.columns))
            labels[row, :count] = torch.from_numpy(np.array(sample.labels))
            mask[row, :count] = sample.valid
        return FeatureBatch(
            features=features,
            mask=mask,
            labels=labels,
            videos=torch.tensor([self.samples[number].video for number in numbers]),
            starts=torch.tensor([sample.start for sample in loaded]),
            num_frames=torch.tensor([sample.frames for sample in loaded]),
            steps=torch.tensor([sample.step for sample in loaded]),
            valid=torch.tensor([sample.valid for sample in loaded]),
        )


def _pooled(
    columns: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], chunk: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Pool each chunk of columns (D, L) to the maximum, of labels (L,) to the most frequent (the lowest of equals)."""
    starts = np.arange(0, columns.shape[1], chunk)
    classes = int(labels.max()) + 1
    cells = np.arange(len(labels)) // chunk * classes + labels
    counts = np.bincount(cells, minlength=len(starts) * classes).reshape(len(starts), classes)
    return np.maximum.reduceat(columns, starts, axis=1), counts.argmax(axis=1)
