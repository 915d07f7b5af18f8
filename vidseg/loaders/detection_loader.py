"""A loader of videos with the segments that happen in them, for temporal action detection.

A sample is a video, or a window of it, as columns: features, or snippets of pixels. Positions are in columns: position
x of a sample is the time `offset + x * scale` of its video, and column n covers the positions n to n + 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vidseg.clips.draws import uniform
from vidseg.labels import VideoDataset
from vidseg.labels.counting import counted
from vidseg.labels.segment_table import SegmentTable
from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.feature_files import FeatureFiles, Layout
from vidseg.loaders.feature_resize import resize_features
from vidseg.loaders.sample_order import SampleLoader
from vidseg.loaders.snippet_frames import SnippetFrames
from vidseg.loaders.threads import default_threads

__all__ = ["DetectionBatch", "DetectionLoader", "Fit", "column_times", "fit_columns", "window_spans"]

logger = logging.getLogger(__name__)

Fit = Literal["resize", "interpolate", "window", "whole"]

_NO_LABEL = -1
_TRIALS = 200  # random cuts of a long video before the best one so far is taken


@dataclass(frozen=True, repr=False, eq=False)
class DetectionBatch(FieldAccess):
    """Videos, or windows of them, padded at the end to the longest, and their segments.

    `inputs, mask, segments, labels = batch` unpacks it. `to` moves these four; the other tensors describe the samples
    and stay in host memory.

    Attributes:
        inputs: features float32 (B, D, L), or snippets uint8 (B, L, 3, T, H, W); zeros where padded.
        mask: bool (B, L), False where padded.
        segments: float32 (B, M, 2), start and stop in columns, 0 where padded.
        labels: int64 (B, M), class numbers, -1 where padded.
        videos: int64 (B,), index of each sample's video in the data set.
        numbers: int64 (B,), number of the sample.
        offsets: float64 (B,), time in seconds of position 0.
        scales: float64 (B,), seconds for each column.
        valid: bool (B,), False for a sample that pads the batch of a rank.
    """

    UNPACKED: ClassVar[tuple[str, ...]] = ("inputs", "mask", "segments", "labels")
    ON_HOST: ClassVar[tuple[str, ...]] = ("videos", "numbers", "offsets", "scales", "valid")

    inputs: Tensor
    mask: Tensor
    segments: Tensor
    labels: Tensor
    videos: Tensor
    numbers: Tensor
    offsets: Tensor
    scales: Tensor
    valid: Tensor

    @classmethod
    def of_sample(cls, columns: Tensor, *, video: int, offset: float, scale: float) -> DetectionBatch:
        """Return the batch of one sample without segments: features (D, L) or snippets (L, 3, T, H, W)."""
        length = columns.shape[0] if columns.dim() > 2 else columns.shape[1]
        return cls(
            inputs=columns[None],
            mask=torch.ones(1, length, dtype=torch.bool),
            segments=torch.zeros(1, 0, 2),
            labels=torch.zeros(1, 0, dtype=torch.int64),
            videos=torch.tensor([video]),
            numbers=torch.zeros(1, dtype=torch.int64),
            offsets=torch.tensor([offset], dtype=torch.float64),
            scales=torch.tensor([scale], dtype=torch.float64),
            valid=torch.ones(1, dtype=torch.bool),
        )

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        count = int((self.labels >= 0).sum())
        return f"DetectionBatch(inputs {tuple(self.inputs.shape)}, {counted(count, 'segment')})"


@dataclass(frozen=True)
class _Sample:
    """Columns [start, stop) of a video's features."""

    video: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Loaded:
    """One sample: features (D, L) or snippets (L, 3, T, H, W), its segments, and the time of its positions."""

    columns: Tensor
    segments: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    offset: float
    scale: float
    valid: bool = True


def window_spans(columns: int, *, length: int, overlap: float) -> list[tuple[int, int]]:
    """Return the windows [start, stop) of a video; the last one ends with it, and a short video has one window.

    Args:
        columns: of the video.
        length: of a window.
        overlap: share of a window that the next one shares, 0 to below 1.
    """
    last = max(0, columns - length)
    starts = [*range(0, last, max(1, round(length * (1 - overlap)))), last]
    return [(start, min(columns, start + length)) for start in starts]


def fit_columns(columns: Tensor, fit: Fit, length: int | None) -> Tensor:
    """Return features (D, L) resized to `length` columns, for fit="resize" and "interpolate"; others as they are."""
    if length is None or fit not in ("resize", "interpolate"):
        return columns
    if fit == "resize":
        return resize_features(columns[None], frames=length)[0]
    return F.interpolate(columns[None], size=length, mode="linear", align_corners=False)[0]


def column_times(
    columns: int, *, seconds: float, stride: float | None, clip: float | None, rate: float
) -> tuple[float, float]:
    """Return the time in seconds of position 0, and the seconds for each column.

    Args:
        columns: of the video.
        seconds: duration of the video.
        stride: frames from one column to the next; None: the columns divide the duration evenly.
        clip: frames that a column was computed from; None: as many as `stride`.
        rate: frames per second, with `stride`.

    Raises:
        ValueError: the columns end far from the end of the video.
    """
    if stride is None:
        return 0.0, seconds / columns
    offset, scale = ((stride if clip is None else clip) - stride) / 2 / rate, stride / rate
    end = offset + columns * scale
    if not 0.5 * seconds <= end <= 2 * seconds:
        raise ValueError(
            f"{columns} columns of {stride:g} frames at {rate:g} frames a second end at {end:.1f} s, but the video has "
            f"{seconds:.1f} s; check stride and fps"
        )
    return offset, scale


class DetectionLoader(SampleLoader[_Loaded, DetectionBatch]):
    """Batches of features, or of snippets of pixels, with segments.

    For training, samples without a segment are left out, and their number is logged.

    Args:
        data: videos with segments and durations in the catalog.
        features: folder of `<video>.npy`, or of another form of `vidseg.loaders.feature_files`, relative to the data
            set's folder or absolute; of several folders the values of a column are concatenated.
        snippets: pixels instead of features; `features`, `layout`, `stride`, `clip` and `fps` then have no effect.
        layout: "DL" for files of shape (D, L), one column per time step; "LD" for (L, D).
        fit: how a video becomes samples. "resize": its columns are averaged to `length` columns as in ETAD;
            "interpolate": they are interpolated linearly to `length` columns as in ActionFormer; "window": windows of
            `length` columns; "whole": all columns, of which training takes at most `length`. Snippets are not resized:
            their number is chosen by `SnippetFrames`.
        length: columns of a sample; None with fit="whole": no limit.
        overlap: fit="window": share of a window that the next one shares, 0 to below 1.
        min_inside: training, "window" and "whole": share of a segment that a sample must contain to learn from it,
            above 0 to 1; the segment is cut to the sample.
        crop: training, "whole": smallest share of the columns that a random piece of a video has; 1: all columns.
        stride: frames from one column to the next; None: the columns divide the duration evenly.
        clip: frames that a column was computed from, with `stride`; None: as many as `stride`.
        fps: frames per second of the video that the features were extracted from, with `stride`; None: the rate of each
            video in the catalog.
        batch_size: B over all ranks, a multiple of `world_size`.
        train: shuffle, cut at random, drop incomplete batches.
        left_out: class numbers whose segments are left out, such as the background of frame labels.
        seed: seed of order and cuts.
        rank: index of this process.
        world_size: number of processes, which divide each batch.
        threads: number of loading threads. None: up to 4, one for each available core.
        pin: allocate batches in page-locked memory. None: where CUDA is available.
        device: copy inputs, mask and segments to this device, one batch ahead of their use. None leaves them in host
            memory.

    Raises:
        FileNotFoundError: a video without a feature file.
        ValueError: a file of the wrong shape or rate, a video without a duration, or an argument out of range.
    """

    def __init__(
        self,
        data: VideoDataset,
        *,
        features: str | Path | Sequence[str | Path] = "features",
        layout: Layout = "DL",
        snippets: SnippetFrames | None = None,
        fit: Fit = "whole",
        length: int | None = None,
        overlap: float = 0.5,
        min_inside: float = 0.5,
        crop: float = 1.0,
        stride: float | None = None,
        clip: float | None = None,
        fps: float | None = None,
        batch_size: int = 1,
        train: bool = True,
        left_out: Container[int] = (),
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        pin: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if fit not in ("resize", "interpolate", "window", "whole"):
            raise ValueError(f"fit={fit!r} is not one of resize, interpolate, window, whole")
        if length is None and fit != "whole":
            raise ValueError(f"fit={fit!r} needs length, the number of columns of a sample")
        if length is not None and length < 1:
            raise ValueError(f"length={length} must be at least 1")
        if not 0 <= overlap < 1 or not 0 < min_inside <= 1 or not 0 < crop <= 1:
            raise ValueError(f"overlap={overlap} must be in [0, 1), min_inside={min_inside} and crop={crop} in (0, 1]")
        if stride is None and (clip is not None or fps is not None):
            raise ValueError(f"clip={clip} and fps={fps} need stride, the frames from one column to the next")
        if min(value for value in (stride, clip, fps, 1.0) if value is not None) <= 0:
            raise ValueError(f"stride={stride}, clip={clip} and fps={fps} must be above 0")
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
        self.data, self.fit, self.length, self.overlap = data, fit, length, overlap
        self.min_inside, self.crop = min_inside, crop
        if snippets is not None and fit in ("resize", "interpolate"):
            raise ValueError(f"fit={fit!r} with snippets: choose their number with SnippetFrames(count=)")
        self.snippets = snippets
        self.files = None if snippets is not None else FeatureFiles(data, features, layout=layout)
        self.table = SegmentTable(data, left_out=left_out)
        videos = range(len(data))
        if snippets is not None:
            self._columns = [snippets.columns(video) for video in videos]
            self._times = [snippets.time_of(video) for video in videos]
        elif self.files is not None:
            self._columns = [self.files.shape(video)[1] for video in videos]
            self._times = [self._time_of(self.files, video, stride, clip, fps) for video in videos]
        self.samples = self._cut()
        if train:
            self._leave_out_empty()

    @property
    def feature_size(self) -> int | None:
        """D, number of values per column; None for snippets."""
        return None if self.files is None else self.files.size

    @property
    def sample_count(self) -> int:
        """See `SampleLoader`."""
        return len(self.samples)

    def _time_of(
        self, files: FeatureFiles, video: int, stride: float | None, clip: float | None, fps: float | None
    ) -> tuple[float, float]:
        """Time of position 0 of a video's columns, and seconds for each column."""
        rate = fps or self.data[video].fps
        if stride is not None and not rate > 0:
            raise ValueError(
                f"{self.data.video_path(video)}: its frame rate is unknown; give fps, the rate at which the features "
                "were extracted"
            )
        seconds, columns = float(self.table.seconds[video]), self._columns[video]
        try:
            return column_times(columns, seconds=seconds, stride=stride, clip=clip, rate=rate)
        except ValueError as error:
            raise ValueError(f"{files.path(video)}: {error}") from None

    def _cut(self) -> list[_Sample]:
        if self.fit != "window":
            return [_Sample(video, 0, columns) for video, columns in enumerate(self._columns)]
        assert self.length is not None
        return [
            _Sample(video, *span)
            for video, columns in enumerate(self._columns)
            for span in window_spans(columns, length=self.length, overlap=self.overlap)
        ]

    def _leave_out_empty(self) -> None:
        """Keep the samples that have a segment to learn from."""
        kept = [sample for sample in self.samples if len(self._inside(sample)[1])]
        if not kept:
            raise ValueError(
                f"{self.data}: no sample has a segment; import annotations with `vidseg labels apply "
                f"{self.data.root} LABELS.csv`"
            )
        if len(kept) < len(self.samples):
            kind = "window" if self.fit == "window" else "video"
            logger.info("%r: left out %s without a segment", self.data, counted(len(self.samples) - len(kept), kind))
        self.samples = kept
        if len(kept) < self.world_size:
            raise ValueError(f"{self.data}: {len(kept)} samples for {self.world_size} processes; take fewer processes")

    def _inside(self, sample: _Sample) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Segments of a sample in its columns, cut to it."""
        times, labels = self.table[sample.video]
        offset, scale = self._times[sample.video]
        places = (times - offset) / scale - sample.start
        cut = places.clip(0, sample.stop - sample.start)
        share = (cut[:, 1] - cut[:, 0]) / (places[:, 1] - places[:, 0])
        whole = (sample.start, sample.stop) == (0, self._columns[sample.video])
        kept = share > 0 if whole else share >= self.min_inside
        return cut[kept], labels[kept]

    def load_sample(self, number: int, epoch: int, valid: bool) -> _Loaded:
        """See `SampleLoader`."""
        sample = self.samples[number]
        if not valid:
            empty = self._read(sample.video, sample.start, sample.start + 1, epoch).zero_()
            return _Loaded(empty, np.zeros((0, 2)), np.zeros(0, np.int64), 0.0, 1.0, valid=False)
        if self.train and self.fit == "whole":
            sample = self._piece(sample, number, epoch)
        columns = self._read(sample.video, sample.start, sample.stop, epoch)
        segments, labels = self._inside(sample)
        offset, scale = self._times[sample.video]
        offset += sample.start * scale
        if self.fit in ("resize", "interpolate"):
            before = columns.shape[1]
            columns = fit_columns(columns, self.fit, self.length)
            segments, scale = segments * (columns.shape[1] / before), scale * (before / columns.shape[1])
        return _Loaded(columns, segments, labels, offset, scale)

    def _read(self, video: int, start: int, stop: int, epoch: int) -> Tensor:
        """Columns [start, stop) of a video: features (D, L), or snippets (L, 3, T, H, W)."""
        if self.snippets is not None:
            return self.snippets.load(video, start, stop, epoch=epoch)
        assert self.files is not None
        return torch.from_numpy(np.array(self.files.load(video, start, stop)))

    def _piece(self, sample: _Sample, number: int, epoch: int) -> _Sample:
        """A random piece of a video that has a segment, at most `length` columns."""
        columns = sample.stop
        most = columns if self.length is None else min(columns, self.length)
        if most == columns and self.crop == 1:
            return sample
        draws = uniform(self.seed, epoch, [number], purpose="piece", count=2 * _TRIALS)[0].reshape(_TRIALS, 2)
        for share, place in draws:
            size = max(1, min(most, math.ceil(columns * (self.crop + (1 - self.crop) * share))))
            start = int(place * (columns - size + 1))
            piece = _Sample(sample.video, start, start + size)
            if len(self._inside(piece)[1]):
                return piece
        # No piece contains enough of a segment: the one around the middle of a segment has the most of it.
        times, _ = self.table[sample.video]
        offset, scale = self._times[sample.video]
        middle = (float(times[int(draws[0, 0] * len(times))].mean()) - offset) / scale
        start = min(max(0, round(middle - most / 2)), columns - most)
        return _Sample(sample.video, start, start + most)

    def make_batch(self, numbers: list[int], loaded: list[_Loaded]) -> DetectionBatch:
        """See `SampleLoader`."""
        axis = 0 if self.snippets is not None else 1
        longest = max(sample.columns.shape[axis] for sample in loaded)
        if self.fit == "window":
            assert self.length is not None
            longest = max(longest, self.length)  # one shape for every batch
        most = max(len(sample.labels) for sample in loaded)
        shape = list(loaded[0].columns.shape)
        shape[axis] = longest
        inputs = torch.zeros(len(loaded), *shape, dtype=loaded[0].columns.dtype, pin_memory=self.pin)
        mask = torch.zeros(len(loaded), longest, dtype=torch.bool, pin_memory=self.pin)
        segments = torch.zeros(len(loaded), most, 2, pin_memory=self.pin)
        labels = torch.full((len(loaded), most), _NO_LABEL, pin_memory=self.pin)
        for row, sample in enumerate(loaded):
            count = sample.columns.shape[axis]
            inputs[row].narrow(axis, 0, count).copy_(sample.columns)
            mask[row, :count] = True
            segments[row, : len(sample.labels)] = torch.from_numpy(sample.segments).float()
            labels[row, : len(sample.labels)] = torch.from_numpy(sample.labels)
        return DetectionBatch(
            inputs=inputs,
            mask=mask,
            segments=segments,
            labels=labels,
            videos=torch.tensor([self.samples[number].video for number in numbers]),
            numbers=torch.tensor(numbers),
            offsets=torch.tensor([sample.offset for sample in loaded], dtype=torch.float64),
            scales=torch.tensor([sample.scale for sample in loaded], dtype=torch.float64),
            valid=torch.tensor([sample.valid for sample in loaded]),
        )
