"""Statistics of a data set: frequency and duration of each class, mean and deviation of the pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.counting import counted
from vidseg.labels.dataset import VideoDataset
from vidseg.labels.segmentation_labels import FrameLabels, segments_from_labels

__all__ = ["LabelStatistics", "PixelStatistics", "label_statistics", "pixel_statistics"]


@dataclass
class LabelStatistics:
    """Statistics of frame labels.

    Attributes:
        classes: class names by number.
        frames: number of labeled frames of each class.
        seconds: duration in seconds of each segment of each class, in the order of the videos.
        class_weights: cross-entropy weights by median frequency balancing (Eigen and Fergus, ICCV 2015): the median
            frequency of the classes that occur, divided by the frequency of the class; 0 for a class that does not
            occur.
        boundary_weight: weight of the positive class of a boundary loss (ASRF): number of frames divided by the number
            of frames at which a segment starts.
    """

    classes: list[str]
    frames: list[int]
    seconds: list[list[float]]
    class_weights: list[float]
    boundary_weight: float

    @property
    def segments(self) -> list[int]:
        """Return the number of segments of each class."""
        return list(map(len, self.seconds))


@dataclass
class PixelStatistics:
    """Mean and deviation of RGB values in 0..1 over sampled frames.

    Attributes:
        mean: mean of all pixels of each channel.
        std: deviation of all pixels of each channel, used for normalization.
        std_within: mean over videos of the deviation within each video; published tables of segmentation data sets use
            this value (SVTAS).
        videos: number of videos read.
        frames: number of frames read.
        failed: `<path>: <reason>` of each unreadable video.
    """

    mean: list[float]
    std: list[float]
    std_within: list[float]
    videos: int
    frames: int
    failed: list[str] = field(default_factory=list)


def label_statistics(data: VideoDataset) -> LabelStatistics:
    """Compute statistics of the frame labels of a data set.

    Raises:
        ValueError: a video has no frame labels.
    """
    labels = FrameLabels(data)
    frames = np.zeros(len(data.classes), np.int64)
    seconds: list[list[float]] = [[] for _ in data.classes]
    for video in range(len(data)):
        values = labels[video]
        frames += np.bincount(values, minlength=len(frames))
        for segment in segments_from_labels(values, float(labels.rates[video])):
            seconds[segment.label].append(segment.stop - segment.start)
    median = np.median(frames[frames > 0])
    weights = [float(median / count) if count else 0.0 for count in frames.tolist()]
    return LabelStatistics(
        list(data.classes), frames.tolist(), seconds, weights, float(frames.sum() / sum(map(len, seconds)))
    )


def pixel_statistics(
    data: VideoDataset,
    *,
    frames_per_video: int = 10,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[], object] = lambda: None,
) -> PixelStatistics:
    """Compute mean and deviation of the pixels of randomly sampled frames.

    The choice of frames depends only on the seed and the path of each video. Every pixel has the same weight, so videos
    with larger frames have more weight. Unreadable videos are skipped and listed in `failed`.

    Args:
        data: videos with frame databases; videos without frames (features only) are skipped.
        frames_per_video: number of frames read of each video; shorter videos are read completely.
        seed: random seed of the choice of frames.
        threads: number of decoding threads; None: one per core.
        progress: called after each video.

    Raises:
        ValueError: no video has frames, or none can be read.
    """
    if frames_per_video < 1:
        raise ValueError(f"frames_per_video is {frames_per_video}, must be at least 1")
    paths = [data.video_path(index) for index in range(len(data)) if data[index].height > 0]
    if not paths:
        raise ValueError(f"{data}: no video has frames; convert the videos with `vidseg convert`")
    total, squares = np.zeros(3), np.zeros(3)
    within, pixels, frames, failed = np.zeros(3), 0, 0, []
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda path: _moments(data.root, path, frames_per_video, seed), paths)
        for path, result in zip(paths, results, strict=True):
            progress()
            if isinstance(result, str):
                failed.append(f"{path}: {result}")
                continue
            sums, square_sums, count, read = result
            total, squares, pixels, frames = total + sums, squares + square_sums, pixels + count, frames + read
            within += np.sqrt(np.maximum(0, square_sums / count - (sums / count) ** 2))
    videos = len(paths) - len(failed)
    if not videos:
        raise ValueError(f"{data}: none of {counted(len(paths), 'video')} can be read; first error: {failed[0]}")
    mean = total / pixels
    return PixelStatistics(
        mean=mean.tolist(),
        std=np.sqrt(np.maximum(0, squares / pixels - mean**2)).tolist(),
        std_within=(within / videos).tolist(),
        videos=videos,
        frames=frames,
        failed=failed,
    )


def _moments(
    root: Path, path: str, count: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int, int] | str:
    """Return the sums of values in 0..1 and of their squares per channel, and the numbers of pixels and frames; or an
    error."""
    from vidseg.frames import FrameDatabase

    try:
        with FrameDatabase(root / path / "frames.db") as database:
            rng = np.random.default_rng([seed, *path.encode()])
            chosen = np.sort(rng.choice(len(database), size=min(count, len(database)), replace=False))
            values = database.decode(chosen).numpy().reshape(-1, 3)
    except (OSError, ValueError, RuntimeError) as error:
        return str(error)
    counts = np.stack([np.bincount(values[:, channel], minlength=256) for channel in range(3)])
    levels = np.arange(256) / 255
    return counts @ levels, counts @ levels**2, len(values), len(chosen)
