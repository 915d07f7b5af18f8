"""Motion vectors of a video's codec as dense fields, one for each frame that a conversion stores, without optical flow.

The decoder exports the vectors while it decodes, so reading them costs little more than decoding. See docs/motion.md.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.videos.block_motion import BlockMotion, Field, chain_motion
from vidseg.videos.clock import TimedFrame
from vidseg.videos.coded_order import CodedFrame, MotionTap, References
from vidseg.videos.decoding import VideoSource, at_rate
from vidseg.videos.frame_size import MAX_PIXELS
from vidseg.videos.opening import VideoError
from vidseg.videos.residuals import Picture, Residual, displayed_picture, residual_of
from vidseg.videos.upright import UprightFrames

__all__ = ["CodecMotion", "MotionSource", "read_motion"]

_HELD = 32  # most frames that wait for a frame displayed later; H.264 reorders at most 16
_ACCUMULATED = 4  # reference frames whose accumulated fields are kept


@dataclass(frozen=True, eq=False)
class CodecMotion:
    """Motion of one frame.

    Attributes:
        index: number of the frame, from 0; row `index` of a database converted with the same options.
        time: presentation time in seconds.
        duration: duration in seconds.
        picture_type: "I", "P" or "B"; "?" if the decoder does not know it.
        field: float32 (2, H, W), displacement (x, y) in pixels from each pixel to its place in the reference: the frame
            before it, or the last I-frame if motion is accumulated. Zero where there is no motion vector.
        picture: the frame, uint8 RGB (H, W, 3); None if not requested.
        residual: frame minus motion-compensated reference, int16 (H, W, 3), zero for frames without motion vectors;
            None if not requested.
    """

    index: int
    time: float
    duration: float
    picture_type: str
    field: Field
    picture: Picture | None = None
    residual: Residual | None = None


@dataclass(eq=False)
class _Moved:
    """Frame with its field, and the frame that an accumulated field leads to."""

    coded: CodedFrame
    field: Field
    has_vectors: bool
    base: Any = None  # av.VideoFrame


@dataclass
class MotionSource:
    """Video file opened for one pass over the motion of its frames; frames are those of `VideoSource`.

    Args:
        path: the video file.
        start: time of the first frame, in seconds from the start of the video; None: the first frame. The first frame
            has no motion.
        stop: end time, exclusive; None: the end of the video.
        fps: resample to this constant rate, as a conversion does: fields lead to the frame shown before; None: every
            frame once.
        size: frame size as for a conversion: maximum short side in pixels, WIDTHxHEIGHT, or "none". Vectors are scaled,
            too.
        accumulate: fields lead to the last I-frame (or the first frame) instead of the frame before.
        pictures: also return the frames.
        residuals: also return the residuals.
        max_pixels: largest number of pixels of a frame; a video with larger frames raises a VideoError.
    """

    path: Path
    start: float | None = None
    stop: float | None = None
    fps: float | None = None
    size: str | int = "none"
    accumulate: bool = False
    pictures: bool = False
    residuals: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps is {self.fps}, must be greater than 0")
        self._upright = UprightFrames(size=str(self.size))
        self._tap = MotionTap()
        self._source = VideoSource(self.path, self.start, self.stop, max_pixels=self.max_pixels, tap=self._tap)

    @property
    def damage(self) -> list[str]:
        """Faults found while decoding, one sentence each; complete after the pass."""
        return self._source.damage

    @property
    def properties(self) -> dict[str, str | int | float | None]:
        """Properties of the stream, see `VideoSource`; known once iteration has begun."""
        return self._source.properties

    def __iter__(self) -> Iterator[CodecMotion]:
        """Yield the motion of the frames in presentation order.

        Raises:
            VideoError: the codec's decoder exports no motion vectors, or as for `VideoSource`.
        """
        moved = self._moved()
        pictures = _Pictures(self._upright)
        for index, item in enumerate(moved if self.fps is None else self._resampled(moved, self.fps)):
            motion: _Moved = item.frame
            picture = residual = None
            if self.pictures or self.residuals:
                picture = pictures.show(motion.coded.frame)
            if self.residuals and picture is not None:
                reference = pictures.base(motion.base) if self.accumulate else pictures.before
                if reference is None or not motion.has_vectors:
                    residual = np.zeros_like(picture, np.int16)
                else:
                    residual = residual_of(picture, reference, motion.field)
            yield CodecMotion(
                index,
                item.time,
                item.duration,
                motion.coded.picture_type,
                motion.field,
                picture if self.pictures else None,
                residual,
            )

    def _moved(self) -> Iterator[TimedFrame]:
        """Yield each frame as `_Moved`, once the frames that it refers to are known."""
        fields = _Fields(self._upright, accumulate=self.accumulate)
        waiting: deque[tuple[TimedFrame, int | None]] = deque()  # with the reference in the past
        for item in self._source:
            waiting.append((item, self._tap.references.past(item.frame)))
            while waiting:
                first, past = waiting[0]
                future = None
                if first.frame.needs_future:
                    future = References.future(first.frame, (other.frame for other, _ in list(waiting)[1:]))
                    if future is None and len(waiting) <= _HELD:
                        break
                waiting.popleft()
                first.frame = fields.add(first.frame, past, future)
                yield first
        while waiting:
            first, past = waiting.popleft()
            future = References.future(first.frame, (other.frame for other, _ in waiting))
            first.frame = fields.add(first.frame, past, future)
            yield first

    def _resampled(self, frames: Iterator[TimedFrame], fps: float) -> Iterator[TimedFrame]:
        """Yield frames at a constant rate; a field leads over all frames since the one shown before."""
        passed: deque[_Moved] = deque()  # frames since the one shown last

        def noted(items: Iterable[TimedFrame]) -> Iterator[TimedFrame]:
            for item in items:
                passed.append(item.frame)
                yield item

        first = next(frames)  # the origin of the times is known from here on
        origin = self._source.origin + (self.start or 0.0)
        for index, item in enumerate(at_rate(noted(itertools.chain([first], frames)), fps, origin=origin)):
            motion: _Moved = item.frame
            steps = []
            while passed and passed[0].coded.number <= motion.coded.number:
                steps.append(passed.popleft())
            if not self.accumulate:
                total = np.zeros_like(motion.field)
                for step in reversed(steps if index else []):
                    total = chain_motion(total, step.field)
                motion = _Moved(motion.coded, total, any(step.has_vectors for step in steps))
            yield TimedFrame(motion, item.time, item.duration)


class _Pictures:
    """Frames of one video as RGB: the one that is shown, the one before it, and the one that motion leads to."""

    def __init__(self, upright: UprightFrames) -> None:
        self._upright = upright
        self._shown: Picture | None = None
        self._base: tuple[Any, Picture] | None = None
        self.before: Picture | None = None

    def show(self, frame: Any) -> Picture:
        """Return the next frame."""
        self.before, self._shown = self._shown, displayed_picture(self._upright, frame)
        return self._shown

    def base(self, frame: Any) -> Picture:
        """Return the frame that accumulated fields lead to."""
        if self._base is None or self._base[0] is not frame:
            self._base = frame, displayed_picture(self._upright, frame)
        return self._base[1]


@dataclass(frozen=True)
class _Steps:
    """Factors that make the vectors of a frame displacements to other frames; None: not known.

    Attributes:
        past: of vectors to the past, for the frame before.
        future: of vectors to the future, for the frame before.
        reference: of vectors to the past, for the frame that they refer to.
    """

    past: float | None
    future: float | None
    reference: float | None


class _Fields:
    """Makes the field of each frame of one video, in presentation order."""

    def __init__(self, upright: UprightFrames, *, accumulate: bool) -> None:
        self._upright, self._accumulate = upright, accumulate
        self._before: Field | None = None  # accumulated field of the frame before
        self._kept: dict[int, Field] = {}  # accumulated fields of reference frames, by number
        self._base: Any = None  # frame that accumulated fields lead to
        self._started = False

    def add(self, coded: CodedFrame, past: int | None, future: CodedFrame | None) -> _Moved:
        """Return a frame with its field.

        Args:
            coded: the frame.
            past: number of the frame that vectors to the past refer to, or None if unknown.
            future: the frame that vectors to the future refer to, likewise.
        """
        orientation, size = self._upright.measure(coded.frame)
        first, self._started = not self._started, True
        reach, source = coded.number - (past or 0), coded  # frames that vectors to the past reach over
        if coded.lost and future is not None:
            reach, source = future.number - (past or 0), future
        blocks = BlockMotion(source, orientation, size)
        steps = _Steps(
            past=None if past is None or first else 1 / reach,
            future=None if future is None or first else -1 / max(1, future.number - coded.number),
            reference=None if past is None or first else (coded.number - past) / reach,
        )
        has_vectors = len(source.vectors) > 0 and not first
        if not self._accumulate:
            return _Moved(coded, blocks.field(past=steps.past, future=steps.future), has_vectors)
        if first or coded.picture_type == "I":
            self._base, moved = coded.frame, np.zeros((2, size[1], size[0]), np.float32)
        else:
            moved, has_vectors = self._accumulated(blocks, past, steps), True
        self._before = moved
        if coded.reference:
            self._kept[coded.number] = moved
            while len(self._kept) > _ACCUMULATED:
                del self._kept[min(self._kept)]
        return _Moved(coded, moved, has_vectors, self._base)

    def _accumulated(self, blocks: BlockMotion, past: int | None, steps: _Steps) -> Field:
        """Follow the vectors to the past to the frame that they refer to, and those to the future, which is not
        accumulated yet, by the frame before."""
        reference = None if past is None else self._kept.get(past)
        if reference is None or self._before is None:
            neighbors = blocks.field(past=steps.past, future=steps.future)
            return neighbors if self._before is None else chain_motion(neighbors, self._before)
        moved = chain_motion(blocks.field(past=steps.reference, future=None), reference)
        if blocks.coded.has_future:
            step = chain_motion(blocks.field(past=None, future=steps.future), self._before)
            moved = np.where(blocks.only_future(), step, moved)
        return moved


def read_motion(
    path: str | Path,
    *,
    accumulate: bool = False,
    residuals: bool = False,
    pictures: bool = False,
    size: str | int = "none",
    fps: float | None = None,
) -> Iterator[CodecMotion]:
    """Read the motion of each frame of a video file from its codec.

    Frames, their order and their orientation are those of a conversion with the same size and rate. `MotionSource` also
    reads parts of a video and reports damage.

    Args:
        path: the video file.
        accumulate: fields lead to the last I-frame (CoViAR, Wu et al., CVPR 2018) instead of the frame before.
        residuals: also return the residuals.
        pictures: also return the frames.
        size: maximum short side in pixels, WIDTHxHEIGHT, or "none".
        fps: resample to this constant rate; None: every frame once.

    Yields:
        The motion of each frame, in presentation order.

    Raises:
        VideoError: the file is not a video, no frame can be decoded, or its codec exports no motion vectors. The
            message names the file.
    """
    source = MotionSource(Path(path), fps=fps, size=size, accumulate=accumulate, pictures=pictures, residuals=residuals)
    try:
        yield from source
    except VideoError as error:
        raise VideoError(f"{path}: {error}") from error
