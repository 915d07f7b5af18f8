"""Positions of the frames of clips, with the rounding of the published programs.

Shapes: B clips, S segments, T frames of a clip.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Short", "dense_frames", "evenly", "fills_segments", "segment_starts", "spaced", "uniform_clips"]

Short = Literal["loop", "clamp"]
"""How a short video is extended, see `vidseg.clips.sampling`."""
Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


def segment_starts(
    counts: Integers,
    segments: int,
    *,
    consecutive: int = 1,
    kind: Literal["train", "val", "test", "first"] = "test",
    draws: Reals | None = None,
) -> Integers:
    """Return the first frames of TSN's snippets in the four published variants.

    "train" draws a position in each segment, and returns frame 0 for videos with too few frames. "val" returns the
    middles of the segments, and frame 0 for videos with too few frames. "test" returns the middles, "first" the first
    frames of the segments.

    Args:
        counts: int64 (B,) numbers of frames.
        segments: number of segments S.
        consecutive: frames of a snippet.
        kind: variant.
        draws: (B, S) numbers in [0, 1), for "train".

    Returns:
        int64 (B, S), counted from 0.

    Raises:
        ValueError: `kind` is "train" and `draws` is None.
    """
    counts = np.asarray(counts, np.int64)
    places = counts - consecutive + 1
    order = np.arange(segments)
    if kind == "train":
        if draws is None:
            raise ValueError('kind="train" requires draws, numbers in [0, 1) of shape (B, S)')
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
    """Return evenly spaced frames of one window of each video; a shorter video starts again.

    Args:
        counts: int64 (B,) numbers of frames.
        starts: (B,) starts of the windows in frames, truncated to integers; between 0 and max(0, counts - window).
        length: T.
        window: number of frames that a clip spans.

    Returns:
        int64 (B, T), counted from 0.
    """
    counts = np.asarray(counts, np.int64)
    step = np.full_like(counts, max(1, window // length))
    return spaced(np.asarray(starts).astype(np.int64), step, length, counts, "loop")


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
    """Return the frames of evenly spaced clips over each video, see `DenseClips`.

    Args:
        counts: int64 (B,) numbers of frames.
        views: int64 (B,) clip number in the video, from 0.
        length: T.
        interval: distance between the frames of a clip.
        clips: number of clips of a video.
        rule: positions and rounding, see `DenseClips`.
        short: how short videos are extended; None: as the rule does.

    Returns:
        int64 (B, T), counted from 0.
    """
    counts, views = np.asarray(counts, np.int64), np.asarray(views, np.int64)
    if rule == "pyslowfast":
        span = length * interval
        first = np.maximum(counts - span, 0) * views / clips
        places = _linspace_single(first, first + span - 1, length).astype(np.int64)
        return _stay_inside(places, counts, short or "clamp")
    spare = np.maximum(counts - (length - 1) * interval - 1, 0)
    starts = spare // 2 if clips == 1 else np.rint(views * spare / (clips - 1)).astype(np.int64)
    return spaced(starts, np.full_like(counts, interval), length, counts, short or "loop")


def fills_segments(counts: Integers, segments: int, consecutive: int) -> npt.NDArray[np.bool_]:
    """Return which videos have enough frames for a separate snippet in each segment."""
    return counts - consecutive + 1 >= segments


def spaced(starts: Integers, intervals: Integers, length: int, counts: Integers, short: Short) -> Integers:
    """Return frames (B, T) from the starts (B,) at the intervals (B,)."""
    # An interval equal to the video's length would repeat a single frame.
    intervals = np.where(intervals % counts == 0, 1, intervals) if short == "loop" else intervals
    return _stay_inside(starts[:, None] + intervals[:, None] * np.arange(length), counts, short)


def _stay_inside(frames: Integers, counts: Integers, short: Short) -> Integers:
    return frames % counts[:, None] if short == "loop" else np.minimum(frames, counts[:, None] - 1)


def evenly(views: Integers, last: Integers, count: int) -> Reals:
    """Return the position (B,) of each of `count` views spread from 0 to `last`."""
    return np.where(views == count - 1, last, views * (last / (count - 1)))


def _linspace_single(first: Reals, last: Reals, count: int) -> npt.NDArray[np.float32]:
    """Return (B, count) evenly spaced float32 numbers, computed from both ends to the middle as in torch.linspace."""
    begin, end = first.astype(np.float32)[:, None], last.astype(np.float32)[:, None]
    if count == 1:
        return begin
    step = ((end - begin) / np.float32(count - 1)).astype(np.float64)
    order = np.arange(count)
    # Rounded once, as with fused multiply-add: the product is exact in double precision.
    upward, downward = begin + step * order, end - step * (count - 1 - order)
    return np.where(order < count // 2, upward, downward).astype(np.float32)
