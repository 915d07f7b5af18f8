"""Windows of long videos for streaming models: selection of the frames of a window, and stitching of predictions.

A video of L labeled frames has ceil(L / W) windows, W frames apart. A window has T input frames, R frames apart, and
the model labels all its T * R frames. Videos are processed in groups: item k of a group is window k of each of its
videos; a video that has ended has empty windows until the longest video ends. (Protocol of ETESVS and of "Streaming
Video Temporal Action Segmentation In Real Time", arXiv 2209.13808.)

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

_MOST_WINDOWS = 1 << 24  # per video, so that (video, window) maps to a unique sample number


@dataclass(frozen=True, slots=True)
class WindowShape:
    """Size and spacing of windows.

    Attributes:
        stride: W, frames from the start of a window to the start of the next.
        frames: T, input frames of a window.
        interval: R, frames between two input frames.
    """

    stride: int
    frames: int
    interval: int = 1

    def __post_init__(self) -> None:
        if min(self.stride, self.frames, self.interval) < 1:
            raise ValueError(f"{self}: stride, frames and interval must be at least 1")
        if self.span < self.stride:
            raise ValueError(
                f"{self}: windows of {self.frames} x {self.interval} frames at a stride of {self.stride} leave gaps; "
                f"stride must be at most {self.span}"
            )

    @property
    def span(self) -> int:
        """T * R, number of frames that the model labels per window."""
        return self.frames * self.interval

    def count(self, length: int) -> int:
        """Return the number of windows of a video of `length` frames, ceil(length / W)."""
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
    """Return the input frames of one window.

    Args:
        shape: size and spacing of windows.
        window: window number from 0; it may be past the end of the video.
        length: number of frames of the video with a picture and a label.
        sampling: "uniform": every R-th frame. "random": T frames drawn without replacement. "linspace": T frames spread
            from the first to the last frame of the window. "uniform_random": as "linspace", with up to R - 1 frames
            added to each. The frames are always in order.
        seed: random seed.
        epoch: epoch number from 0, part of the random key.
        video: video number, part of the random key.

    Returns:
        int64 (T,); -1 stands for a black frame.
    """
    if sampling not in ("uniform", "random", "linspace", "uniform_random"):
        raise ValueError(f"unknown sampling {sampling!r}; expected uniform, random, linspace or uniform_random")
    start = window * shape.stride
    stop = min(start + shape.span, length)
    frames = np.full(shape.frames, -1, np.int64)
    if stop <= start:
        return frames
    # A unique number per window gives independent random numbers.
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
        chosen = np.sort(np.minimum(spread, stop - 1))  # in short windows the offsets may change the order
    frames[: len(chosen)] = chosen
    return frames


def window_valid(shape: WindowShape, window: int, length: int) -> int:
    """Return how many of the T * R frames of a window belong to the video; these frames come first."""
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
        shape: size and spacing of windows.
        window: window number from 0.
        labels: (L,) class numbers of the whole video.
        frames: (T,) result of `window_frames`; use the labels of these frames, each repeated R times, instead of the
            labels of all frames.

    Returns:
        int64 (T * R,), -100 past the end.
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
    """Join the predictions for the windows of one video.

    "first" keeps the first W frames of each window, as in the later published code; "last" lets later windows overwrite
    earlier ones, as in the earlier code. Both use the last window that contains a frame, so the results are equal for
    every shape without gaps. With "first", the frames of a window are final as soon as it is predicted.

    Args:
        windows: (N, ..., T * R) scores or class numbers at full frame rate, in order; windows past the end are ignored.
        length: L, number of frames of the video.
        shape: size and spacing of windows.
        rule: "first" or "last".

    Returns:
        (..., L).

    Raises:
        ValueError: a window has another number of frames, or there are too few windows.
    """
    parts = np.asarray(windows)
    if parts.ndim < 2 or parts.shape[-1] != shape.span:
        raise ValueError(f"windows has shape {parts.shape}, expected (N, ..., {shape.span})")
    count = shape.count(length)
    if len(parts) < count:
        raise ValueError(f"number of windows is {len(parts)}, must be at least {count} for {length} frames")
    if rule == "first":
        kept = parts[:count, ..., : shape.stride]
        return np.moveaxis(kept, 0, -2).reshape(*parts.shape[1:-1], count * shape.stride)[..., :length]
    if rule != "last":
        raise ValueError(f"rule is {rule!r}, must be first or last")
    result = np.zeros((*parts.shape[1:-1], length), parts.dtype)
    for number in range(count):
        start = number * shape.stride
        stop = min(start + shape.span, length)
        result[..., start:stop] = parts[number, ..., : stop - start]
    return result


def window_ticks(length: int, stride: int) -> npt.NDArray[np.int64]:
    """Return the starts of the windows of a video of `length` frames, for the axis of a plot: 0, W, 2 W, ..."""
    if stride < 1:
        raise ValueError(f"stride is {stride}, must be at least 1")
    return np.arange(0, length, stride, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class StreamItem:
    """Window k of each of B videos, filled by the loader and processed by the model together.

    Attributes:
        index: number of the item in the epoch, from 0.
        group: number of the group; when it changes, the previous videos have ended.
        window: window number k.
        windows: number of windows of the group, that of its longest video over all ranks.
        videos: int64 (B,) video numbers.
        counts: int64 (B,) number of windows of each video.
        frames: int64 (B, T), -1 for a black frame.
        valid: int64 (B,), how many of the T * R frames of the window belong to the video.
        counted: bool (B,), False for a repeated video that fills up the group.
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
        """Whether the videos start with this item, so that the model's memory must be reset."""
        return self.window == 0

    @property
    def ends(self) -> npt.NDArray[np.bool_]:
        """bool (B,), True for the last window of a video."""
        return np.equal(self.counts - 1, self.window)

    @property
    def last(self) -> bool:
        """Whether this is the last item of the group."""
        return self.window == self.windows - 1

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """bool (B, T), True for frames of the video, False for black frames."""
        return np.arange(self.frames.shape[1]) * self.interval < self.valid[:, None]

    @property
    def label_mask(self) -> npt.NDArray[np.bool_]:
        """bool (B, T * R), True for frames of the video."""
        return np.arange(self.frames.shape[1] * self.interval) < self.valid[:, None]


class StreamPlan:
    """All windows of all videos of one epoch, for one rank.

    A sequence whose items are created on access, so a run can resume at any item. The items depend on the arguments
    only.

    Args:
        lengths: (V,) number of labeled frames of each video, at least 1.
        shape: size and spacing of windows.
        group: number of videos per group on each rank.
        video_frames: (V,) number of decodable frames if it differs; frames past the smaller number are black.
        sampling: see `window_frames`.
        shuffle: shuffle the videos in each epoch.
        seed: random seed of order and sampling.
        epoch: epoch number from 0.
        rank: number of this process.
        ranks: number of processes; video i of a group goes to process i mod ranks, and all have the same number of
            items.
        incomplete: how a last group with too few videos is handled: "repeat" fills it with its first videos, which are
            counted once; "drop" skips it.

    Raises:
        ValueError: a length is less than 1, or an argument is out of range.
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
                raise ValueError(f"{name}[{int(values.argmin())}] is {int(values.min())}, must be at least 1")
        if group < 1:
            raise ValueError(f"group is {group}, must be at least 1")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank}, must be 0 to {ranks - 1}")
        if incomplete not in ("repeat", "drop"):
            raise ValueError(f"incomplete is {incomplete!r}, must be repeat or drop")
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
        # Longest video over all ranks, so that all ranks exchange gradients equally often.
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
            raise IndexError(f"item {index} is out of range; the number of items is {len(self)}")
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
