"""Statistics of a data set: how often and how long each class is, and the mean and deviation of its pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.dataset import VideoDataset
from vidseg.labels.segmentation import FrameLabels, segments_from_labels

__all__ = ["LabelStatistics", "PixelStatistics", "label_statistics", "pixel_statistics"]


@dataclass
class LabelStatistics:
    """Counts of frame labels.

    Attributes:
        classes: names by number.
        frames: labeled frames of each class.
        seconds: duration of each segment of each class, in the order of the videos.
        class_weights: for cross-entropy, median frequency balancing (Eigen and Fergus, ICCV 2015): the median of the
            frequencies of the classes that occur, over that of the class; 0 for a class that does not occur.
        boundary_weight: for the positive class of a boundary loss (ASRF): all frames over the frames where a segment
            begins.
    """

    classes: list[str]
    frames: list[int]
    seconds: list[list[float]]
    class_weights: list[float]
    boundary_weight: float

    @property
    def segments(self) -> list[int]:
        """Number of segments of each class."""
        return list(map(len, self.seconds))


@dataclass
class PixelStatistics:
    """Mean and deviation of RGB values in 0..1 over sampled frames.

    Attributes:
        mean: of all pixels.
        std: of all pixels; what normalization divides by.
        std_within: mean over the videos of the deviation inside each; published tables of the segmentation data sets
            have this one (SVTAS).
        videos: number of videos read.
        frames: number of frames read.
        failed: `<path>: <reason>` of each video that cannot be read.
    """

    mean: list[float]
    std: list[float]
    std_within: list[float]
    videos: int
    frames: int
    failed: list[str] = field(default_factory=list)


def label_statistics(data: VideoDataset) -> LabelStatistics:
    """Counts the frame labels of the videos.

    Raises:
        ValueError: a video without frame labels.
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
    """Mean and deviation of the pixels of randomly chosen frames.

    Which frames are read follows from the seed and the path of each video alone. Every pixel of the sample counts
    alike, so a video of larger frames weighs more. Videos that cannot be read are left out and named.

    Args:
        data: videos with frame databases; those without any (features only) are left out.
        frames_per_video: frames to read of each; a shorter video is read whole.
        seed: another seed, other frames.
        threads: decoding threads; None takes one for each core.
        progress: called after each video.

    Raises:
        ValueError: no video with frames, or none that can be read.
    """
    if frames_per_video < 1:
        raise ValueError(f"frames_per_video={frames_per_video}: at least 1")
    paths = [data.video_path(index) for index in range(len(data)) if data[index].height > 0]
    if not paths:
        raise ValueError(f"{data}: none of its videos has frames; convert them with `vidseg convert`")
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
        raise ValueError(f"{data}: none of {len(paths)} videos can be read; the first: {failed[0]}")
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
    """Sums of the values in 0..1 and of their squares by channel, number of pixels and of frames; or what is wrong."""
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
