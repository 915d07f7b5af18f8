"""Frame sampling: selection of the frames of a clip.

A sampling is a frozen object with two methods: `views` returns the number of clips of each video, `frames` the frame
numbers of each clip. Both are vectorized over videos and depend on (seed, epoch, sample number) only.

A video that is too short for its clip is repeated from its first frame ("loop") or extended with its last frame
("clamp").

Shapes: N videos, B clips, T frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from vidseg.clips.arguments import MOST_FRAMES, whole
from vidseg.clips.draws import uniform
from vidseg.clips.frame_positions import (
    Integers,
    Short,
    dense_frames,
    evenly,
    fills_segments,
    segment_starts,
    spaced,
    uniform_clips,
)

__all__ = [
    "CenterClip",
    "DenseClips",
    "DenseFrames",
    "FrameSampling",
    "RandomStart",
    "SegmentSampling",
    "SequentialClips",
    "named_sampling",
]


class FrameSampling(Protocol):
    """Protocol of objects that select the frames of clips."""

    def views(self, counts: Integers, length: int) -> Integers:
        """Return the number of clips of each video.

        Args:
            counts: int64 (N,) numbers of frames of the videos.
            length: T.

        Returns:
            int64 (N,), each at least 1.
        """
        ...

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Return the frame numbers, counted from 0, of B clips.

        Args:
            counts: int64 (B,) numbers of frames of the clips' videos, at least 1.
            views: int64 (B,) view number of each clip in its video.
            length: T.
            seed: random seed of the run.
            epoch: epoch number from 0.
            samples: int64 (B,) sample numbers; random numbers depend on seed, epoch and sample number.

        Returns:
            int64 (B, T), each in 0 to counts - 1.
        """
        ...


class _OneView:
    def views(self, counts: Integers, length: int) -> Integers:
        """Return 1 for each video."""
        return np.ones(len(counts), np.int64)


@dataclass(frozen=True)
class RandomStart(_OneView):
    """Sample frames at a random interval of a list, from a uniformly drawn start.

    The first and last frames of a video have the highest probability that the clip length allows (as trained by
    Stergiou and Poppe, arXiv 2006.08247; their code never selects the last frame).

    Attributes:
        intervals: distances between the frames of a clip, of which each clip draws one.
        short: how short videos are extended.
        full_length: T of the longest clips. Shorter clips, as in multigrid training, increase their interval by a
            random factor of up to full_length / T to cover up to the same duration (as in PySlowFast's multigrid).
            None: no increase.
    """

    intervals: tuple[int, ...] = (1, 2)
    short: Short = "loop"
    full_length: int | None = None

    def __post_init__(self) -> None:
        _check(self.intervals, self.short)
        if self.full_length is not None:
            whole(self.full_length, "full_length", least=1, most=MOST_FRAMES)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        draws = uniform(seed, epoch, samples, purpose="frames", count=2)
        intervals = np.asarray(self.intervals)[(draws[:, 0] * len(self.intervals)).astype(np.int64)]
        if self.full_length is not None and length < self.full_length:
            stretch = uniform(seed, epoch, samples, purpose="stretch")[:, 0]
            most = intervals * self.full_length // length
            intervals = intervals + (stretch * (most - intervals + 1)).astype(np.int64)
        starts = np.maximum(counts - (length - 1) * intervals, 1)
        return spaced((draws[:, 1] * starts).astype(np.int64), intervals, length, counts, self.short)


@dataclass(frozen=True)
class CenterClip(_OneView):
    """Sample frames at a fixed interval from the middle of the video.

    Attributes:
        interval: distance between the frames.
        short: how short videos are extended.
    """

    interval: int = 1
    short: Short = "loop"

    def __post_init__(self) -> None:
        _check((self.interval,), self.short)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        spare = np.maximum(counts - (length - 1) * self.interval - 1, 0)
        return spaced(spare // 2, np.full_like(counts, self.interval), length, counts, self.short)


@dataclass(frozen=True)
class SegmentSampling:
    """Sample one snippet from each of several equal segments of the video (TSN: Wang et al., ECCV 2016).

    A clip of T frames has T / consecutive segments. The position within a segment is random in training and the middle
    otherwise. A video with fewer frames than segments repeats frames in order ("clamp") or starts again ("loop").

    Attributes:
        train: draw the positions.
        consecutive: frames of a snippet.
        twice: two views, the second with the segments' first frames (test of the TSM repository with two clips).
        clips: number of views in testing; view v uses the frame at (v + 1/2) / clips of each segment, so a single view
            uses the middle.
        short: how short videos are extended.
    """

    train: bool = False
    consecutive: int = 1
    twice: bool = False
    clips: int = 1
    short: Short = "clamp"

    def __post_init__(self) -> None:
        _check((self.consecutive, self.clips), self.short)
        if (self.train and (self.twice or self.clips > 1)) or (self.twice and self.clips > 1):
            raise ValueError(
                f"train={self.train}, twice={self.twice} and clips={self.clips} exclude each other; set only one"
            )

    def views(self, counts: Integers, length: int) -> Integers:
        """Return the number of clips, equal for all videos."""
        return np.full(len(counts), 2 if self.twice else self.clips, np.int64)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`.

        Raises:
            ValueError: T is not a multiple of `consecutive`.
        """
        segments = length // self.consecutive
        if segments * self.consecutive != length:
            raise ValueError(f"a clip of {length} frames cannot be divided into snippets of {self.consecutive} frames")
        starts = segment_starts(counts, segments, consecutive=self.consecutive, kind="test")
        if self.clips > 1:
            tick = np.maximum(counts - self.consecutive + 1, 1)[:, None] / segments
            starts = (tick * (np.arange(segments) + (views[:, None] + 0.5) / self.clips)).astype(np.int64)
        if self.twice:
            first = segment_starts(counts, segments, consecutive=self.consecutive, kind="first")
            starts = np.where(views[:, None] == 1, first, starts)
        if self.train:
            draws = uniform(seed, epoch, samples, purpose="frames", count=segments)
            drawn = segment_starts(counts, segments, consecutive=self.consecutive, kind="train", draws=draws)
            starts = np.where(fills_segments(counts, segments, self.consecutive)[:, None], drawn, starts)
        if self.short == "loop":
            again = np.arange(segments) % np.maximum(counts - self.consecutive + 1, 1)[:, None]
            starts = np.where(fills_segments(counts, segments, self.consecutive)[:, None], starts, again)
        frames = (starts[:, :, None] + np.arange(self.consecutive)).reshape(len(counts), length)
        return np.minimum(frames, counts[:, None] - 1) if self.short == "clamp" else frames % counts[:, None]


@dataclass(frozen=True)
class DenseFrames:
    """Sample frames evenly from windows of 64 frames, for networks on single frames (TSM: Lin et al., ICCV 2019).

    Attributes:
        clips: views of each video, from its first to its last window; a single view uses the middle window.
        train: draw the window at random; requires one view.
        window: number of frames that a clip spans.
    """

    clips: int = 10
    train: bool = False
    window: int = 64

    def __post_init__(self) -> None:
        _check((self.clips, self.window), "loop")
        if self.train and self.clips != 1:
            raise ValueError(f"clips is {self.clips}, must be 1 for dense frames in training")

    def views(self, counts: Integers, length: int) -> Integers:
        """Return the number of clips, equal for all videos."""
        return np.full(len(counts), self.clips, np.int64)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        last = np.maximum(counts - self.window, 0)
        if self.train:
            starts = uniform(seed, epoch, samples, purpose="frames")[:, 0] * last
        else:
            starts = evenly(views, last, self.clips) if self.clips > 1 else last / 2
        return dense_frames(counts, starts, length=length, window=self.window)


@dataclass(frozen=True)
class DenseClips:
    """Sample evenly spaced clips over the whole video, for averaged scores (10 clips for 3-D networks).

    Attributes:
        clips: views of each video.
        interval: distance between the frames of a clip.
        rule: "mmaction2" puts the last clip at the end of the video, "pyslowfast" one step before it; the rounding
            differs too.
        short: how short videos are extended; None: as the rule does ("loop" and "clamp").
    """

    clips: int = 10
    interval: int = 2
    rule: Literal["mmaction2", "pyslowfast"] = "mmaction2"
    short: Short | None = None

    def __post_init__(self) -> None:
        _check((self.clips, self.interval), self.short or "loop")
        if self.rule not in ("mmaction2", "pyslowfast"):
            raise ValueError(f'rule is {self.rule!r}, must be "mmaction2" or "pyslowfast"')

    def views(self, counts: Integers, length: int) -> Integers:
        """Return the number of clips, equal for all videos."""
        return np.full(len(counts), self.clips, np.int64)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        return uniform_clips(
            counts, views, length=length, interval=self.interval, clips=self.clips, rule=self.rule, short=self.short
        )


@dataclass(frozen=True)
class SequentialClips:
    """Cover the whole video with consecutive clips; the number of views depends on its length.

    Attributes:
        interval: distance between the frames of a clip.
        short: "loop": the last clip continues with the first frames of the video. "clamp": the last clip starts earlier
            and ends with the last frame; a video shorter than a clip is extended with its last frame.
    """

    interval: int = 1
    short: Short = "clamp"

    def __post_init__(self) -> None:
        _check((self.interval,), self.short)

    def views(self, counts: Integers, length: int) -> Integers:
        """Return the number of clips needed to reach the last frame."""
        return np.maximum(-(-counts // (length * self.interval)), 1)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        starts = views * (length * self.interval)
        if self.short == "clamp":
            starts = np.minimum(starts, np.maximum(counts - (length - 1) * self.interval - 1, 0))
        return spaced(starts, np.full_like(counts, self.interval), length, counts, self.short)


def named_sampling(
    name: str | None, *, intervals: tuple[int, ...], train: bool, short: Short, consecutive: int = 1
) -> FrameSampling:
    """Create the sampling of a name.

    Args:
        name: "random", "center", "segments", "dense" (frames of a window), "clips" (10 views of a video in testing),
            "sequential"; None: "random" for training, else "center".
        intervals: distances between frames; "random" draws from them, the others use the middle one.
        train: use random parameters.
        short: how short videos are extended.
        consecutive: frames of a snippet of "segments"; no effect on the others.

    Raises:
        ValueError: the name is unknown, an interval is less than 1, or the sampling is for testing only.
    """
    _check(intervals, short)
    middle = sorted(intervals)[len(intervals) // 2]
    name = name or ("random" if train else "center")
    if name == "random":
        return RandomStart(intervals, short)
    if name == "center":
        return CenterClip(middle, short)
    if name == "segments":
        return SegmentSampling(train=train, consecutive=consecutive, short=short)
    if name == "dense":
        return DenseFrames(clips=1 if train else 10, train=train)
    if name == "clips":
        return RandomStart((middle,), short) if train else DenseClips(interval=middle, short=short)
    if name == "sequential":
        return SequentialClips(middle, short)
    raise ValueError(
        f"unknown sampling {name!r}; expected random, center, segments, dense, clips or sequential, or an object of"
        " vidseg.clips.sampling"
    )


def _check(numbers: tuple[int, ...], short: str) -> None:
    if not numbers:
        raise ValueError("intervals: there must be at least one")
    for number in numbers:
        whole(number, "interval, or number of frames or clips,", least=1, most=MOST_FRAMES)
    if short not in ("loop", "clamp"):
        raise ValueError(f'short is {short!r}, must be "loop" or "clamp"')
