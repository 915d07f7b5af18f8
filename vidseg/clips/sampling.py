"""Which frames a clip shows.

A sampling is a small frozen object with two methods: `views`, how many clips it makes of each video, and `frames`, the
numbers of their frames. Both are vectorized over videos and depend on (seed, epoch, sample number) alone.

A video that is too short for its clip either starts again ("loop") or stays at its last frame ("clamp").

Shapes: N videos, B clips, T frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from vidseg.clips.draws import uniform

__all__ = [
    "CenterClip",
    "DenseClips",
    "DenseFrames",
    "FrameSampling",
    "RandomStart",
    "SegmentSampling",
    "SequentialClips",
    "Short",
    "dense_frames",
    "named_sampling",
    "segment_starts",
    "uniform_clips",
]

Short = Literal["loop", "clamp"]
Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


class FrameSampling(Protocol):
    """Chooses frames."""

    def views(self, counts: Integers, length: int) -> Integers:
        """Number of clips of each video.

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
        """Frame numbers, from 0, of B clips.

        Args:
            counts: int64 (B,) numbers of frames of the clips' videos, at least 1.
            views: int64 (B,) which of its video's views each clip is.
            length: T.
            seed: of the run.
            epoch: from 0.
            samples: int64 (B,) sample numbers; with seed and epoch they decide what is drawn.

        Returns:
            int64 (B, T), each in 0 to counts - 1.
        """
        ...


class _OneView:
    def views(self, counts: Integers, length: int) -> Integers:
        """One clip of each video."""
        return np.ones(len(counts), np.int64)


@dataclass(frozen=True)
class RandomStart(_OneView):
    """Frames at an interval that each clip draws from a list, from a start that is drawn uniformly.

    The first and the last frame of a video are as likely as the clip allows (Stergiou and Poppe, arXiv 2006.08247, as
    trained; their code never shows the last frame).

    Attributes:
        intervals: from one frame of a clip to the next.
        short: what a video does that is too short.
        full_length: T of the longest clips. Shorter ones, as multigrid makes, stretch their interval at random by up to
            full_length / T, so that they can cover as long a time (as PySlowFast's multigrid). None: they do not.
    """

    intervals: tuple[int, ...] = (1, 2)
    short: Short = "loop"
    full_length: int | None = None

    def __post_init__(self) -> None:
        _check(self.intervals, self.short)
        if self.full_length is not None and self.full_length < 1:
            raise ValueError(f"full_length={self.full_length} must be at least 1")

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
        return _spaced((draws[:, 1] * starts).astype(np.int64), intervals, length, counts, self.short)


@dataclass(frozen=True)
class CenterClip(_OneView):
    """Frames at a fixed interval from the middle of the video.

    Attributes:
        interval: from one frame to the next.
        short: what a video does that is too short.
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
        return _spaced(spare // 2, np.full_like(counts, self.interval), length, counts, self.short)


@dataclass(frozen=True)
class SegmentSampling:
    """One snippet from each of equal segments of the video (TSN: Wang et al., ECCV 2016).

    A clip of T frames has T / consecutive segments. In training the place in each segment is drawn; otherwise it is its
    middle. A video with fewer frames than segments shows frames again, in order ("clamp"), or starts again ("loop").

    Attributes:
        train: draw the places.
        consecutive: frames of a snippet.
        twice: two views, the second with the segments' first frames (the TSM repository's test of two clips).
        clips: views in testing; view v takes the frame at (v + 1/2) / clips of each segment, so one view takes the
            middles.
        short: what a video does that is too short.
    """

    train: bool = False
    consecutive: int = 1
    twice: bool = False
    clips: int = 1
    short: Short = "clamp"

    def __post_init__(self) -> None:
        _check((self.consecutive, self.clips), self.short)
        if (self.train and (self.twice or self.clips > 1)) or (self.twice and self.clips > 1):
            raise ValueError(f"train={self.train}, twice={self.twice} and clips={self.clips}: choose one of them")

    def views(self, counts: Integers, length: int) -> Integers:
        """The same number of clips for each video."""
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
            raise ValueError(f"clips of {length} frames are not made of snippets of {self.consecutive}")
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
            starts = np.where(_fills(counts, segments, self.consecutive)[:, None], drawn, starts)
        if self.short == "loop":
            again = np.arange(segments) % np.maximum(counts - self.consecutive + 1, 1)[:, None]
            starts = np.where(_fills(counts, segments, self.consecutive)[:, None], starts, again)
        frames = (starts[:, :, None] + np.arange(self.consecutive)).reshape(len(counts), length)
        return np.minimum(frames, counts[:, None] - 1) if self.short == "clamp" else frames % counts[:, None]


@dataclass(frozen=True)
class DenseFrames:
    """Frames spread over windows of 64 frames, for networks of single frames (TSM: Lin et al., ICCV 2019).

    Attributes:
        clips: views of each video, from its first window to its last; one is the middle window.
        train: draw the window instead; for one view.
        window: frames that a clip covers.
    """

    clips: int = 10
    train: bool = False
    window: int = 64

    def __post_init__(self) -> None:
        _check((self.clips, self.window), "loop")
        if self.train and self.clips != 1:
            raise ValueError(f"dense frames draw one window of a video in training, not {self.clips}: set clips=1")

    def views(self, counts: Integers, length: int) -> Integers:
        """The same number of clips for each video."""
        return np.full(len(counts), self.clips, np.int64)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        last = np.maximum(counts - self.window, 0)
        if self.train:
            starts = uniform(seed, epoch, samples, purpose="frames")[:, 0] * last
        else:
            starts = _evenly(views, last, self.clips) if self.clips > 1 else last / 2
        return dense_frames(counts, starts, length=length, window=self.window)


@dataclass(frozen=True)
class DenseClips:
    """Clips at equal distances over the whole video, to average their scores (10 for 3-D networks).

    Attributes:
        clips: views of each video.
        interval: from one frame of a clip to the next.
        rule: "mmaction2" puts the last clip at the end of the video, "pyslowfast" one distance before it; they also
            round in their own ways.
        short: what a video does that is too short; None is the rule's own way ("loop" and "clamp").
    """

    clips: int = 10
    interval: int = 2
    rule: Literal["mmaction2", "pyslowfast"] = "mmaction2"
    short: Short | None = None

    def __post_init__(self) -> None:
        _check((self.clips, self.interval), self.short or "loop")
        if self.rule not in ("mmaction2", "pyslowfast"):
            raise ValueError(f'rule={self.rule!r} of dense clips is neither "mmaction2" nor "pyslowfast"')

    def views(self, counts: Integers, length: int) -> Integers:
        """The same number of clips for each video."""
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
    """The whole video, clip after clip without a gap; its number of views depends on its length.

    Attributes:
        interval: from one frame of a clip to the next.
        short: the last clip of a video goes on with its first frames ("loop"), or begins earlier, so that it ends with
            the last frame ("clamp"); a video shorter than a clip stays at its last frame then.
    """

    interval: int = 1
    short: Short = "clamp"

    def __post_init__(self) -> None:
        _check((self.interval,), self.short)

    def views(self, counts: Integers, length: int) -> Integers:
        """As many clips as reach the last frame."""
        return np.maximum(-(-counts // (length * self.interval)), 1)

    def frames(
        self, counts: Integers, views: Integers, *, length: int, seed: int, epoch: int, samples: Integers
    ) -> Integers:
        """Frame numbers (B, T), see `FrameSampling.frames`."""
        starts = views * (length * self.interval)
        if self.short == "clamp":
            starts = np.minimum(starts, np.maximum(counts - (length - 1) * self.interval - 1, 0))
        return _spaced(starts, np.full_like(counts, self.interval), length, counts, self.short)


def segment_starts(
    counts: Integers,
    segments: int,
    *,
    consecutive: int = 1,
    kind: Literal["train", "val", "test", "first"] = "test",
    draws: Reals | None = None,
) -> Integers:
    """First frames of the snippets of TSN, as published for all its four ways.

    "train" draws a place in each segment; it gives frame 0 throughout for a video with too few frames, and so does
    "val", which is otherwise equal to "test", the segments' middles. "first" are the segments' first frames.

    Args:
        counts: int64 (B,) numbers of frames.
        segments: S, number of segments.
        consecutive: frames of a snippet.
        kind: see above.
        draws: (B, S) numbers in [0, 1), for "train".

    Returns:
        int64 (B, S), from 0.

    Raises:
        ValueError: "train" without draws.
    """
    counts = np.asarray(counts, np.int64)
    places = counts - consecutive + 1
    order = np.arange(segments)
    if kind == "train":
        if draws is None:
            raise ValueError('segment_starts(kind="train") needs draws, numbers in [0, 1) of shape (B, S)')
        width = places // segments
        inside = order * width[:, None] + np.floor(draws * width[:, None])
        anywhere = np.sort(np.floor(draws * places[:, None]), axis=1)
        chosen = np.where((width > 0)[:, None], inside, np.where((counts > segments)[:, None], anywhere, 0))
        return np.maximum(chosen, 0).astype(np.int64)
    tick = (places / segments)[:, None]
    starts = tick * order if kind == "first" else tick / 2 + tick * order
    if kind == "val":
        starts = np.where((counts > segments + consecutive - 1)[:, None], starts, 0)
    return np.maximum(starts, 0).astype(np.int64)


def dense_frames(counts: Integers, starts: Reals, *, length: int, window: int = 64) -> Integers:
    """Frames spread over one window of each video, which starts again where it is too short.

    Args:
        counts: int64 (B,) numbers of frames.
        starts: (B,) of the windows in frames, cut to whole ones; between 0 and max(0, counts - window).
        length: T.
        window: frames that a clip covers.

    Returns:
        int64 (B, T), from 0.
    """
    counts = np.asarray(counts, np.int64)
    step = np.full_like(counts, max(1, window // length))
    return _spaced(np.asarray(starts).astype(np.int64), step, length, counts, "loop")


def uniform_clips(
    counts: Integers,
    views: Integers,
    *,
    length: int,
    interval: int,
    clips: int,
    rule: Literal["mmaction2", "pyslowfast"] = "mmaction2",
    short: Short | None = None,
) -> Integers:
    """Frames of clips at equal distances over each video; the arguments are those of `DenseClips`.

    Args:
        counts: int64 (B,) numbers of frames.
        views: int64 (B,) which of the video's clips, from 0.
        length: T.
        interval: from one frame of a clip to the next.
        clips: number of clips of a video.
        rule: whose rounding.
        short: None is the rule's own way.

    Returns:
        int64 (B, T), from 0.
    """
    counts, views = np.asarray(counts, np.int64), np.asarray(views, np.int64)
    if rule == "pyslowfast":
        span = length * interval
        first = np.maximum(counts - span, 0) * views / clips
        places = _linspace_single(first, first + span - 1, length).astype(np.int64)
        return _stay_inside(places, counts, short or "clamp")
    spare = np.maximum(counts - (length - 1) * interval - 1, 0)
    starts = spare // 2 if clips == 1 else np.rint(views * spare / (clips - 1)).astype(np.int64)
    return _spaced(starts, np.full_like(counts, interval), length, counts, short or "loop")


def named_sampling(name: str | None, *, intervals: tuple[int, ...], train: bool, short: Short) -> FrameSampling:
    """The sampling of a name.

    Args:
        name: "random", "center", "segments", "dense" (frames of a window), "clips" (10 views of a video when testing),
            "sequential"; None is "random" in training and else "center".
        intervals: "random" draws from them; the others take the middle one.
        train: draw what can be drawn.
        short: what a video does that is too short.

    Raises:
        ValueError: an unknown name, an interval below 1, or a way of testing in training.
    """
    _check(intervals, short)
    middle = sorted(intervals)[len(intervals) // 2]
    name = name or ("random" if train else "center")
    if name == "random":
        return RandomStart(intervals, short)
    if name == "center":
        return CenterClip(middle, short)
    if name == "segments":
        return SegmentSampling(train=train, short=short)
    if name == "dense":
        return DenseFrames(clips=1 if train else 10, train=train)
    if name == "clips":
        return RandomStart((middle,), short) if train else DenseClips(interval=middle, short=short)
    if name == "sequential":
        return SequentialClips(middle, short)
    raise ValueError(
        f"sampling={name!r} is not one of 'random', 'center', 'segments', 'dense', 'clips', 'sequential';"
        " vidseg.clips.sampling has them as objects, with all their options"
    )


def _check(numbers: tuple[int, ...], short: str) -> None:
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{numbers}: intervals and numbers of frames or clips must be at least 1")
    if short not in ("loop", "clamp"):
        raise ValueError(f'short={short!r} is neither "loop" nor "clamp"')


def _fills(counts: Integers, segments: int, consecutive: int) -> npt.NDArray[np.bool_]:
    """Which videos have a place for a snippet of their own in each segment."""
    return counts - consecutive + 1 >= segments


def _spaced(starts: Integers, intervals: Integers, length: int, counts: Integers, short: Short) -> Integers:
    """Frames (B, T) from the starts (B,) at the intervals (B,)."""
    # Looping over a video in steps of its own length would show a single frame.
    intervals = np.where(intervals % counts == 0, 1, intervals) if short == "loop" else intervals
    return _stay_inside(starts[:, None] + intervals[:, None] * np.arange(length), counts, short)


def _stay_inside(frames: Integers, counts: Integers, short: Short) -> Integers:
    return frames % counts[:, None] if short == "loop" else np.minimum(frames, counts[:, None] - 1)


def _evenly(views: Integers, last: Integers, count: int) -> Reals:
    """Place (B,) of each view, of `count` that reach from 0 to `last`."""
    return np.where(views == count - 1, last, views * (last / (count - 1)))


def _linspace_single(first: Reals, last: Reals, count: int) -> npt.NDArray[np.float32]:
    """(B, count) evenly spaced numbers in single precision, from both ends to the middle, as torch.linspace does."""
    begin, end = first.astype(np.float32)[:, None], last.astype(np.float32)[:, None]
    if count == 1:
        return begin
    step = ((end - begin) / np.float32(count - 1)).astype(np.float64)
    order = np.arange(count)
    # Rounded once, as processors with a fused multiplication and addition do: the product is exact in double precision.
    upward, downward = begin + step * order, end - step * (count - 1 - order)
    return np.where(order < count // 2, upward, downward).astype(np.float32)
