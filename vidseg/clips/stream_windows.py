"""Windows of long videos, for models that read a video window by window, and joining of the windows' predictions.

A video of L labeled frames has ceil(L / W) windows, which start every W frames. The model gets T frames of a window, R
frames apart, and labels all T * R frames. The videos of a group are processed together: item k of a group is window k
of each of its videos. A video that has ended gets empty windows until the longest video of the group has ended. This is
the protocol of ETESVS and of "Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808.

Shapes: B videos, N windows, T frames of a window, R frames between them, L labels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vidseg.clips.arguments import MOST_CLIPS, whole
from vidseg.clips.draws import permutation, uniform

__all__ = [
    "IGNORED_LABEL",
    "StreamItem",
    "StreamPlan",
    "WindowShape",
    "window_frames",
    "window_labels",
    "window_ticks",
    "window_valid",
]

Sampling = Literal["uniform", "random", "linspace", "uniform_random"]

IGNORED_LABEL = -100

_LONGEST = 1 << 40  # frames of a video
_MOST_SPAN = 1 << 24  # frames of a window
_MOST_WINDOWS = 1 << 24  # of one video; (video, window) gives one number to draw with


@dataclass(frozen=True, slots=True)
class WindowShape:
    """Size and stride of the windows of a video.

    Attributes:
        stride: W, distance in frames between the starts of consecutive windows.
        frames: T, number of frames of a window that the model gets.
        interval: R, distance between these frames.

    Raises:
        ValueError: a value below 1, or a stride above T * R, which would leave frames without a label.
    """

    stride: int
    frames: int
    interval: int = 1

    def __post_init__(self) -> None:
        for name in ("stride", "frames", "interval"):
            whole(getattr(self, name), name, least=1, most=_MOST_SPAN)
        if self.span > _MOST_SPAN:
            raise ValueError(f"{self}: a window of {self.span} frames is longer than {_MOST_SPAN}")
        if self.span < self.stride:
            raise ValueError(
                f"{self}: windows of {self.frames} x {self.interval} frames at a stride of {self.stride} leave gaps; "
                f"stride must be at most {self.span}"
            )

    @property
    def span(self) -> int:
        """T * R, number of frames that the model labels in a window."""
        return self.frames * self.interval

    def count(self, length: int) -> int:
        """Return the number of windows of a video of `length` frames: ceil(length / W)."""
        return -(-length // self.stride)


def window_frames(
    shape: WindowShape,
    window: int,
    length: int,
    *,
    sampling: Sampling = "uniform",
    seed: int = 0,
    epoch: int = 0,
    video: int = 0,
) -> npt.NDArray[np.int64]:
    """Return the numbers of the frames of one window that the model gets.

    Args:
        shape: size and stride of the windows.
        window: number of the window, from 0; a window after the end of the video has black frames only.
        length: number of frames of the video that have a picture and a label.
        sampling: "uniform": every R-th frame. "random": as many frames, drawn without replacement. "linspace": T frames
            at equal distances from the first to the last frame of the window. "uniform_random": as "linspace", with 0
            to R - 1 added to each frame. Frames are in temporal order.
        seed: seed of the random samplings.
        epoch: epoch of the random samplings.
        video: index of the video, for the random samplings.

    Returns:
        int64 (T,); -1 for a black frame.

    Raises:
        ValueError: an unknown sampling.
    """
    if sampling not in ("uniform", "random", "linspace", "uniform_random"):
        raise ValueError(f"sampling={sampling!r} is not one of uniform, random, linspace, uniform_random")
    start = window * shape.stride
    stop = min(start + shape.span, length)
    frames = np.full(shape.frames, -1, np.int64)
    if stop <= start:
        return frames
    # A number for (video, window), so that each window draws its own random numbers.
    sample = video * _MOST_WINDOWS + window
    if sampling in ("uniform", "random"):
        chosen = np.arange(start, stop, shape.interval)
        if sampling == "random":
            draws = uniform(seed, epoch, [sample], purpose="window frames", count=stop - start)[0]
            chosen = start + np.sort(np.argsort(draws, kind="stable")[: len(chosen)])
    elif sampling == "linspace":
        chosen = np.ceil(np.linspace(start, stop - 1, shape.frames))
    else:
        draws = uniform(seed, epoch, [sample], purpose="window frames", count=shape.frames)[0]
        spread = np.ceil(np.linspace(start, stop, shape.frames)) + np.floor(draws * shape.interval)
        chosen = np.sort(np.minimum(spread, stop - 1))  # in short windows, the random shifts can change the order
    frames[: len(chosen)] = chosen
    return frames


def window_valid(shape: WindowShape, window: int, length: int) -> int:
    """Return how many of the T * R frames of a window are frames of the video; the others follow them."""
    return min(max(length - window * shape.stride, 0), shape.span)


def window_labels(
    shape: WindowShape,
    window: int,
    labels: npt.ArrayLike,
    *,
    frames: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Return the labels of one window at full frame rate.

    Args:
        shape: size and stride of the windows.
        window: number of the window, from 0.
        labels: (L,) class numbers of the whole video.
        frames: (T,) of `window_frames`: use the labels of these frames, each R times. None: the labels of all frames.

    Returns:
        int64 (T * R,), -100 after the end of the video.
    """
    known = np.asarray(labels, np.int64)
    result = np.full(shape.span, IGNORED_LABEL, np.int64)
    if frames is None:
        start = window * shape.stride
        part = known[start : start + shape.span]
    else:
        part = known[frames[frames >= 0]].repeat(shape.interval)
    result[: len(part)] = part
    return result


def window_ticks(length: int, stride: int) -> npt.NDArray[np.int64]:
    """Return the first frames of all windows of a video: 0, W, 2 W, ..., for the axis of a plot."""
    if stride < 1:
        raise ValueError(f"stride={stride} must be at least 1")
    return np.arange(0, length, stride, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class StreamItem:
    """Window k of each of B videos: one batch of a stream loader.

    Attributes:
        index: number of the item in the epoch, from 0.
        group: number of the group in the epoch, from 0; when it changes, the videos of the group before have ended.
        window: k, from 0.
        windows: number of windows of the group: that of its longest video over all ranks.
        videos: int64 (B,), indices of the videos.
        counts: int64 (B,), number of windows of each video.
        frames: int64 (B, T), frame numbers, -1 for a black frame.
        valid: int64 (B,), number of the T * R frames of the window that are frames of the video.
        counted: bool (B,), False for a repeated video that pads the group.
        interval: R.
    """

    index: int
    group: int
    window: int
    windows: int
    videos: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    interval: int

    @property
    def starts(self) -> bool:
        """Whether this is the first window of the group; the model's state must be reset before it."""
        return self.window == 0

    @property
    def ends(self) -> npt.NDArray[np.bool_]:
        """bool (B,), True at the last window of a video."""
        return np.equal(self.counts - 1, self.window)

    @property
    def last(self) -> bool:
        """Whether this is the last window of the group."""
        return self.window == self.windows - 1

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """bool (B, T), True for frames of the video, False for black frames."""
        return np.arange(self.frames.shape[1]) * self.interval < self.valid[:, None]

    @property
    def label_mask(self) -> npt.NDArray[np.bool_]:
        """bool (B, T * R), True for frames of the video at full frame rate."""
        return np.arange(self.frames.shape[1] * self.interval) < self.valid[:, None]


def _counts_of(counts: Sequence[int] | npt.NDArray[np.int64], name: str) -> npt.NDArray[np.int64]:
    """Return numbers of frames as int64 (V,).

    Raises:
        TypeError: a number is not an integer.
        ValueError: a number is larger than that of any video.
    """
    if not isinstance(counts, np.ndarray):
        counts = np.array([whole(count, name, most=_LONGEST) for count in counts], np.int64)
    if counts.size and counts.dtype.kind not in "iu":
        raise TypeError(f"{name} have the type {counts.dtype}, must be integers")
    return counts.astype(np.int64)


class StreamPlan:
    """All windows of all videos in one epoch, for one rank.

    A sequence whose items are computed on access, so that an epoch can be resumed at any item. The items are a function
    of the arguments.

    Args:
        lengths: (V,) number of labeled frames of each video, each at least 1.
        shape: size and stride of the windows.
        group: number of videos of one rank that are processed together.
        video_frames: (V,) number of frames that can be decoded. None: `lengths`. Missing frames are black.
        sampling: see `window_frames`.
        shuffle: whether to shuffle the videos anew in each epoch.
        seed: seed for order and sampling.
        epoch: from 0.
        rank: index of this process.
        ranks: number of processes. Video i of a group belongs to process i mod ranks; all have equally many items.
        incomplete: what to do with a last group of too few videos. "repeat": repeat its first videos, with `counted`
            False. "drop": leave the group out.

    Raises:
        ValueError: a length below 1, or an argument out of range.
    """

    def __init__(
        self,
        lengths: Sequence[int] | npt.NDArray[np.int64],
        shape: WindowShape,
        *,
        group: int = 1,
        video_frames: Sequence[int] | npt.NDArray[np.int64] | None = None,
        sampling: Sampling = "uniform",
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        ranks: int = 1,
        incomplete: Literal["repeat", "drop"] = "repeat",
    ) -> None:
        self.shape = shape
        self.lengths = _counts_of(lengths, "lengths")
        self.video_frames = self.lengths if video_frames is None else _counts_of(video_frames, "video_frames")
        if self.video_frames.shape != self.lengths.shape or self.lengths.ndim != 1:
            raise ValueError(f"lengths {self.lengths.shape} and video_frames {self.video_frames.shape} must be (V,)")
        for name, values in (("lengths", self.lengths), ("video_frames", self.video_frames)):
            if len(values) and values.min() < 1:
                raise ValueError(f"{name}: video {int(values.argmin())} has {int(values.min())} frames")
        whole(group, "group", least=1, most=MOST_CLIPS)
        whole(ranks, "ranks", least=1, most=MOST_CLIPS)
        if sampling not in get_args(Sampling):
            raise ValueError(f"sampling={sampling!r} is not one of {', '.join(get_args(Sampling))}")
        if not 0 <= whole(rank, "rank") < ranks:
            raise ValueError(f"rank={rank} is not one of {ranks}")
        if incomplete not in ("repeat", "drop"):
            raise ValueError(f"incomplete={incomplete!r} is not one of repeat, drop")
        self.sampling = sampling
        self.seed, self.epoch = whole(seed, "seed"), whole(epoch, "epoch")
        order = permutation(seed, epoch, len(self.lengths)) if shuffle else np.arange(len(self.lengths))
        together = group * ranks
        if len(order) and together > MOST_CLIPS:
            raise ValueError(f"group={group} with {ranks} ranks: more than {MOST_CLIPS} videos at a time")
        missing = -len(order) % together
        if missing and incomplete == "drop":
            order, missing = order[: len(order) - len(order) % together], 0
        if missing:
            first = len(order) - len(order) % together
            order = np.concatenate([order, np.resize(order[first:], missing)])
        groups = order.reshape(-1, together)
        counted = (np.arange(groups.size) < groups.size - missing).reshape(groups.shape)
        self._counts = -(-self.lengths // shape.stride)
        self._videos, self._counted = groups[:, rank::ranks], counted[:, rank::ranks]
        # The longest video over all ranks, so that all ranks have the same number of windows to reduce gradients for.
        self._windows = self._counts[groups].max(axis=1) if len(groups) else np.zeros(0, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._windows)])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def groups(self) -> int:
        """Number of groups of the epoch."""
        return len(self._windows)

    def __getitem__(self, index: int) -> StreamItem:
        if not 0 <= whole(index, "index") < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        window = index - int(self._first[number])
        videos = self._videos[number]
        lengths = self.lengths[videos]
        frames = [
            window_frames(
                self.shape,
                window,
                int(length),
                sampling=self.sampling,
                seed=self.seed,
                epoch=self.epoch,
                video=int(video),
            )
            for video, length in zip(videos, np.minimum(lengths, self.video_frames[videos]), strict=True)
        ]
        return StreamItem(
            index=index,
            group=number,
            window=window,
            windows=int(self._windows[number]),
            videos=videos,
            counts=self._counts[videos],
            frames=np.stack(frames),
            valid=np.array([window_valid(self.shape, window, int(length)) for length in lengths]),
            counted=self._counted[number],
            interval=self.shape.interval,
        )

    def __iter__(self) -> Iterator[StreamItem]:
        return (self[index] for index in range(len(self)))
