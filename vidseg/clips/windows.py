"""Windows of long videos: which frames a model sees that reads a video window by window, and how its answers join up.

A video of L labeled frames has ceil(L / W) windows, W frames apart; a window shows T frames, R frames apart, and is
answered for all of its T * R frames. Groups of videos travel together: item k of a group is window k of each of its
videos, and a video that has ended goes on with empty windows until the longest one has. (The protocol of ETESVS and of
"Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808.)

Shapes: B videos, N windows, T frames of a window, R frames between them, L labels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import permutation, uniform

__all__ = [
    "IGNORED_LABEL",
    "StreamItem",
    "StreamPlan",
    "WindowShape",
    "stitch",
    "window_frames",
    "window_labels",
    "window_ticks",
    "window_valid",
]

Sampling = Literal["uniform", "random", "linspace", "uniform_random"]

IGNORED_LABEL = -100

_MOST_WINDOWS = 1 << 24  # of one video, so that (video, window) gives one number to draw with


@dataclass(frozen=True, slots=True)
class WindowShape:
    """How a video is cut.

    Attributes:
        stride: W, frames from the start of a window to the start of the next.
        frames: T, frames that the model sees of a window.
        interval: R, frames from one of these to the next.
    """

    stride: int
    frames: int
    interval: int = 1

    def __post_init__(self) -> None:
        if min(self.stride, self.frames, self.interval) < 1:
            raise ValueError(f"{self}: stride, frames and interval must be at least 1")
        if self.span < self.stride:
            raise ValueError(
                f"{self}: windows of {self.frames} x {self.interval} frames, {self.stride} apart, leave gaps; "
                f"stride must be at most {self.span}"
            )

    @property
    def span(self) -> int:
        """T * R, frames that a window is answered for."""
        return self.frames * self.interval

    def count(self, length: int) -> int:
        """Windows of a video of `length` frames: ceil(length / W)."""
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
    """The frames that the model sees of one window.

    Args:
        shape: how videos are cut.
        window: its number, from 0; it may lie past the end of the video.
        length: frames of the video that have a picture and a label.
        sampling: "uniform" takes every R-th frame; "random" as many, drawn without replacement, in order; "linspace"
            T frames spread from the first to the last one of the window; "uniform_random" such a spread with up to
            R - 1 frames added to each. Always in order.
        seed: of the draws.
        epoch: of the draws.
        video: number of the video, for the draws.

    Returns:
        int64 (T,); -1 stands for a black frame.
    """
    if sampling not in ("uniform", "random", "linspace", "uniform_random"):
        raise ValueError(f"sampling={sampling!r} is not one of uniform, random, linspace, uniform_random")
    start = window * shape.stride
    stop = min(start + shape.span, length)
    frames = np.full(shape.frames, -1, np.int64)
    if stop <= start:
        return frames
    # Few windows of few videos share a number of 2 ** 63, so a window's draws are its own.
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
        chosen = np.sort(np.minimum(spread, stop - 1))  # where windows are short the moves may overtake each other
    frames[: len(chosen)] = chosen
    return frames


def window_valid(shape: WindowShape, window: int, length: int) -> int:
    """How many of the T * R frames of a window are frames of the video; they come first."""
    return min(max(length - window * shape.stride, 0), shape.span)


def window_labels(
    shape: WindowShape,
    window: int,
    labels: npt.ArrayLike,
    *,
    frames: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """The labels of one window at full frame rate.

    Args:
        shape: how videos are cut.
        window: its number, from 0.
        labels: (L,) class numbers of the whole video.
        frames: (T,) of `window_frames`: take the labels of these frames, each R times, rather than those of all frames.

    Returns:
        int64 (T * R,), -100 behind the end.
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


def stitch(
    windows: npt.ArrayLike, length: int, shape: WindowShape, *, rule: Literal["first", "last"] = "first"
) -> npt.NDArray:
    """Join the answers to the windows of one video.

    "first" keeps the first W frames of each window, as the later published code does; "last" writes the windows one
    over the other, as the earlier one does. Both give a frame to the last window that holds it, so that they agree for
    every shape without gaps; what differs is that "first" is done with a window as soon as it is there.

    Args:
        windows: (N, ..., T * R) scores or class numbers at full frame rate, in order; windows past the end are allowed.
        length: L, frames of the video.
        shape: how the video was cut.
        rule: see above.

    Returns:
        (..., L).

    Raises:
        ValueError: a window has another number of frames, or there are too few windows.
    """
    parts = np.asarray(windows)
    if parts.ndim < 2 or parts.shape[-1] != shape.span:
        raise ValueError(f"windows of shape {parts.shape}: expected (N, ..., {shape.span})")
    count = shape.count(length)
    if len(parts) < count:
        raise ValueError(f"{len(parts)} windows for a video of {length} frames, which has {count}")
    if rule == "first":
        kept = parts[:count, ..., : shape.stride]
        return np.moveaxis(kept, 0, -2).reshape(*parts.shape[1:-1], count * shape.stride)[..., :length]
    if rule != "last":
        raise ValueError(f"rule={rule!r} is not one of first, last")
    result = np.zeros((*parts.shape[1:-1], length), parts.dtype)
    for number in range(count):
        start = number * shape.stride
        stop = min(start + shape.span, length)
        result[..., start:stop] = parts[number, ..., : stop - start]
    return result


def window_ticks(length: int, stride: int) -> npt.NDArray[np.int64]:
    """Where windows begin in a video of `length` frames, for the axis of a picture: 0, W, 2 W, ..."""
    if stride < 1:
        raise ValueError(f"stride={stride} must be at least 1")
    return np.arange(0, length, stride, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class StreamItem:
    """Window k of each of B videos: what a loader fills and a model sees at once.

    Attributes:
        index: number of the item in the epoch, from 0.
        group: number of the group in the epoch, from 0; when it changes, the videos of the group before have ended.
        window: k.
        windows: windows of the group, those of its longest video over all ranks.
        videos: int64 (B,) numbers of the videos.
        counts: int64 (B,) windows of each video.
        frames: int64 (B, T), -1 for a black frame.
        valid: int64 (B,), how many of the T * R frames of the window are frames of the video.
        counted: bool (B,), False where a video stands a second time, to fill up the group.
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
        """Whether the videos begin here: a model's memory of those before must be cleared."""
        return self.window == 0

    @property
    def ends(self) -> npt.NDArray[np.bool_]:
        """bool (B,), True at the last window of a video."""
        return np.equal(self.counts - 1, self.window)

    @property
    def last(self) -> bool:
        """Whether the group ends here."""
        return self.window == self.windows - 1

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """bool (B, T), True where the model sees a real frame."""
        return np.arange(self.frames.shape[1]) * self.interval < self.valid[:, None]

    @property
    def label_mask(self) -> npt.NDArray[np.bool_]:
        """bool (B, T * R), True where the video has a frame."""
        return np.arange(self.frames.shape[1] * self.interval) < self.valid[:, None]


class StreamPlan:
    """All windows of all videos in one epoch, for one rank.

    A sequence: item i is made when it is asked for, so that resuming in the middle is starting at another number. It is
    a function of its arguments alone.

    Args:
        lengths: (V,) labeled frames of each video; each at least 1.
        shape: how videos are cut.
        group: videos of one rank that travel together.
        video_frames: (V,) frames that can be decoded, where that is another number; frames past the shorter are black.
        sampling: see `window_frames`.
        shuffle: visit the videos in another order in each epoch.
        seed: of order and sampling.
        epoch: from 0.
        rank: of this process.
        ranks: number of processes; video i of a group goes to process i mod ranks, and all have equally many items.
        incomplete: what becomes of a last group with too few videos: "repeat" fills it up with its first videos, which
            then count once, "drop" leaves it out.

    Raises:
        ValueError: a length is below 1, or an argument is out of range.
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
        self.lengths = np.asarray(lengths, np.int64)
        self.video_frames = self.lengths if video_frames is None else np.asarray(video_frames, np.int64)
        if self.video_frames.shape != self.lengths.shape or self.lengths.ndim != 1:
            raise ValueError(f"lengths {self.lengths.shape} and video_frames {self.video_frames.shape} must be (V,)")
        for name, values in (("lengths", self.lengths), ("video_frames", self.video_frames)):
            if len(values) and values.min() < 1:
                raise ValueError(f"{name}: video {int(values.argmin())} has {int(values.min())} frames")
        if group < 1:
            raise ValueError(f"group={group} must be at least 1")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank={rank} is not one of {ranks}")
        if incomplete not in ("repeat", "drop"):
            raise ValueError(f"incomplete={incomplete!r} is not one of repeat, drop")
        self.sampling = sampling
        self.seed, self.epoch = seed, epoch
        order = permutation(seed, epoch, len(self.lengths)) if shuffle else np.arange(len(self.lengths))
        whole = group * ranks
        missing = -len(order) % whole
        if missing and incomplete == "drop":
            order, missing = order[: len(order) - len(order) % whole], 0
        if missing:
            first = len(order) - len(order) % whole
            order = np.concatenate([order, np.resize(order[first:], missing)])
        groups = order.reshape(-1, whole)
        counted = (np.arange(groups.size) < groups.size - missing).reshape(groups.shape)
        self._counts = -(-self.lengths // shape.stride)
        self._videos, self._counted = groups[:, rank::ranks], counted[:, rank::ranks]
        # The longest video of all ranks: they stay in step, also in the last window's reduction of gradients.
        self._windows = self._counts[groups].max(axis=1) if len(groups) else np.zeros(0, np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._windows)])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def groups(self) -> int:
        """Number of groups of the epoch."""
        return len(self._windows)

    def __getitem__(self, index: int) -> StreamItem:
        if not 0 <= index < len(self):
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
