"""Scores of temporal action segmentation: frame accuracy, edit, F1 at overlaps; boundary precision and recall.

Definitions are those of the MS-TCN evaluation (Farha and Gall, CVPR 2019; after Lea et al., CVPR 2017), which most
tables of the field use. A segment is a run of equal labels, its end exclusive; runs of background classes are dropped
and not bridged. Boundary scores are ASRF's (Ishikawa et al., WACV 2021). All scores are in per cent.

What the published evaluation leaves undefined has an answer here: two videos without segments have an edit score of
100 and no counts; where only one side has segments, edit is 0 and they count as false positives or negatives; a ratio
with nothing below the line is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__all__ = [
    "BoundaryScores",
    "ClassTable",
    "SegmentalMeter",
    "SegmentalScores",
    "VideoTable",
    "boundary_scores",
    "label_boundaries",
    "segmental_scores",
]

_LARGEST = 65_535
"""Tables have a row for each class number up to the largest one seen; a larger number is a mistake."""


class VideoTable(TypedDict):
    """Scores of each video alone, by columns; the position is the order in which the videos came."""

    name: list[str]
    frames: list[int]
    correct: list[int]
    acc: list[float]
    edit: list[float]
    f1: dict[float, list[float]]
    """A column for each overlap."""
    counts: dict[float, list[list[int]]]
    """A column for each overlap: true positives, false positives, false negatives."""


class ClassTable(TypedDict):
    """Scores of each class over all videos, by columns; for the classes that the truth or the prediction has."""

    number: list[int]
    background: list[bool]
    """A background class has no segments: its counts and F1 are 0."""
    frames: list[int]
    """Frames of the class in the truth."""
    predicted: list[int]
    """Frames that were taken for it."""
    correct: list[int]
    acc: list[float]
    """Share of its frames that are right: the class's recall."""
    precision: list[float]
    """Share of right ones among the frames that were taken for it."""
    iou: list[float]
    """Right frames over the frames that either side gives it."""
    f1: dict[float, list[float]]
    counts: dict[float, list[list[int]]]


class SegmentalScores(TypedDict):
    """Scores of all videos together, and the two tables behind them."""

    acc: float
    edit: float
    f1: dict[float, float]
    counts: dict[float, list[int]]
    """True positives, false positives and false negatives at each overlap."""
    frames: int
    correct: int
    classes: ClassTable
    videos: VideoTable


class BoundaryScores(TypedDict):
    """Boundary scores of all videos together."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int


class SegmentalMeter:
    """Takes videos one after the other and keeps counts; `scores` may be asked for at any time.

    Accuracy is of all frames together and F1 of the summed counts, so long videos weigh more; edit is the mean over
    the videos.

    Args:
        background: class numbers whose frames are no segments. They still count in `acc`.
        overlaps: thresholds of IoU for F1, inclusive, in (0, 1].

    Raises:
        ValueError: an overlap outside (0, 1], twice, or none.
    """

    def __init__(self, background: Iterable[int] = (), overlaps: Sequence[float] = (0.1, 0.25, 0.5)) -> None:
        self.background = frozenset(int(number) for number in background)
        self.overlaps = tuple(float(overlap) for overlap in overlaps)
        if not self.overlaps or len(set(self.overlaps)) < len(self.overlaps):
            raise ValueError(f"overlaps {overlaps}: at least one is needed, each once")
        if not all(0 < overlap <= 1 for overlap in self.overlaps):
            raise ValueError(f"overlaps {overlaps}: an overlap is a share above 0 and at most 1, such as 0.25")
        self._thresholds = np.array(self.overlaps)
        self.reset()

    def reset(self) -> None:
        """Forget all videos."""
        self._class_frames = np.zeros((0, 3), np.int64)
        self._class_counts = np.zeros((0, len(self.overlaps), 3), np.int64)
        self._is_background = np.zeros(0, bool)
        self._names: list[str] = []
        self._frames: list[int] = []
        self._correct: list[int] = []
        self._edit: list[float] = []
        self._counts = np.zeros((64, len(self.overlaps), 3), np.int64)  # of each video; twice as many when full

    def __len__(self) -> int:
        """Number of videos so far."""
        return len(self._names)

    def update(self, truth: Any, prediction: Any, *, name: str | None = None) -> None:
        """Add one video.

        Args:
            truth: (T,) class numbers from 0; a list, an array or a CPU tensor.
            prediction: (T,) class numbers.
            name: the video's name in the table and in errors; default: its position.

        Raises:
            ValueError: lengths that differ, no frames, labels that are not class numbers; names the video. Nothing of
                it is counted then.
        """
        from vidseg.metrics import _segmental_kernels as kernels

        number = len(self._names)
        name = str(number) if name is None else name
        true, predicted = _labels(truth, "truth", name), _labels(prediction, "prediction", name)
        if len(true) != len(predicted):
            raise ValueError(
                f"video {name!r}: {len(true)} true labels and {len(predicted)} predicted ones; cut or resample one side"
            )
        if number == len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])

        correct = -1
        while correct < 0:
            correct, edit = kernels.score_video(
                true,
                predicted,
                self._is_background,
                self._thresholds,
                self._class_frames,
                self._class_counts,
                self._counts[number],
            )
            if correct < 0:  # a label that the tables have no row for
                self._grow(max(_largest(true, "truth", name), _largest(predicted, "prediction", name)) + 1)
        self._names.append(name)
        self._frames.append(len(true))
        self._correct.append(correct)
        self._edit.append(edit)

    def merge(self, other: SegmentalMeter) -> None:
        """Add the videos of another meter, such as that of another process; it pickles.

        Raises:
            ValueError: its background or overlaps differ.
        """
        if (self.background, self.overlaps) != (other.background, other.overlaps):
            raise ValueError(
                f"background {sorted(other.background)} at {other.overlaps} cannot be added to"
                f" {sorted(self.background)} at {self.overlaps}"
            )
        self._grow(len(other._class_frames))
        self._class_frames[: len(other._class_frames)] += other._class_frames
        self._class_counts[: len(other._class_counts)] += other._class_counts
        self._counts = np.concatenate([self._counts[: len(self)], other._counts])
        self._names += other._names
        self._frames += other._frames
        self._correct += other._correct
        self._edit += other._edit

    def scores(self) -> SegmentalScores:
        """Scores of all videos so far.

        Raises:
            ValueError: there is none.
        """
        if not self._names:
            raise ValueError("no video has been scored; scores of nothing are not defined")
        edit = 0.0
        for value in self._edit:  # in order, as the published evaluation adds them up
            edit += value
        frames, correct = np.array(self._frames), np.array(self._correct)
        counts = self._class_counts.sum(axis=0)
        by_video = self._counts[: len(self)]
        return SegmentalScores(
            acc=100 * int(correct.sum()) / int(frames.sum()),
            edit=edit / len(self),
            f1=dict(zip(self.overlaps, _f1(counts).tolist(), strict=True)),
            counts=dict(zip(self.overlaps, counts.tolist(), strict=True)),
            frames=int(frames.sum()),
            correct=int(correct.sum()),
            classes=self._class_table(),
            videos=VideoTable(
                name=list(self._names),
                frames=list(self._frames),
                correct=list(self._correct),
                acc=_percent(correct, frames),
                edit=list(self._edit),
                f1=self._columns(_f1(by_video)),
                counts=self._columns(by_video),
            ),
        )

    def _class_table(self) -> ClassTable:
        numbers = np.flatnonzero(self._class_frames.any(axis=1))
        frames, predicted, correct = self._class_frames[numbers].T
        counts = self._class_counts[numbers]
        return ClassTable(
            number=numbers.tolist(),
            background=self._is_background[numbers].tolist(),
            frames=frames.tolist(),
            predicted=predicted.tolist(),
            correct=correct.tolist(),
            acc=_percent(correct, frames),
            precision=_percent(correct, predicted),
            iou=_percent(correct, frames + predicted - correct),
            f1=self._columns(_f1(counts)),
            counts=self._columns(counts),
        )

    def _columns(self, values: npt.NDArray) -> dict[float, list]:
        """Columns (N, O, ...) by overlap."""
        return {overlap: values[:, column].tolist() for column, overlap in enumerate(self.overlaps)}

    def _grow(self, classes: int) -> None:
        """Let the tables have a row for each of `classes` classes."""
        more = classes - len(self._class_frames)
        if more > 0:
            self._class_frames = np.pad(self._class_frames, ((0, more), (0, 0)))
            self._class_counts = np.pad(self._class_counts, ((0, more), (0, 0), (0, 0)))
            self._is_background = np.isin(np.arange(classes), list(self.background))


def segmental_scores(
    truth: Sequence[Any],
    prediction: Sequence[Any],
    *,
    background: Iterable[int] = (),
    overlaps: Sequence[float] = (0.1, 0.25, 0.5),
) -> SegmentalScores:
    """Frame accuracy, edit score and F1 of predicted frame labels, in per cent, with tables by class and by video.

    Args:
        truth: for each video (T,) class numbers; lists, arrays or CPU tensors.
        prediction: for each video (T,) class numbers, in the same order.
        background: class numbers whose frames are no segments; they still count in `acc`.
        overlaps: thresholds of IoU for F1, inclusive, in (0, 1].

    Returns:
        A mapping: `acc`, `edit`, `f1` (overlap to score), and behind them `counts`, `frames`, `correct`, `classes`
        and `videos`.

    Raises:
        ValueError: other numbers of videos or frames on the two sides, no video, a video without frames, or a label
            that is not a class number; names video and frame.
    """
    if len(truth) != len(prediction):
        raise ValueError(f"{len(truth)} videos in the truth and {len(prediction)} in the prediction")
    meter = SegmentalMeter(background, overlaps)
    for true, predicted in zip(truth, prediction, strict=True):
        meter.update(true, predicted)
    return meter.scores()


def label_boundaries(labels: Any) -> npt.NDArray[np.float64]:
    """(T,) with 1 at frame 0 and where the label differs from the one before, else 0 (ASRF's boundary target)."""
    values = _labels(labels, "labels", "given")
    return np.concatenate([[1.0], np.diff(values) != 0])


def boundary_scores(
    truth: Sequence[Any], probabilities: Sequence[Any], *, threshold: float = 0.5, tolerance: int = 5
) -> BoundaryScores:
    """Precision and recall of predicted boundaries between segments, counts summed over the videos, in per cent.

    A boundary is a strict peak of the probabilities at or above the threshold; frame 0 always is one, the last frame
    never. Each predicted boundary goes to the nearest true one (the first of two) and is right where that is at most
    `tolerance` frames away and not taken. True boundaries are peaks of `label_boundaries` by the same rule, as
    published: the two ends of a segment of one frame cancel each other. `accuracy` counts frames without a boundary
    on either side as right.

    Args:
        truth: for each video (T,) class numbers.
        probabilities: for each video (T,) probabilities of a boundary (after the sigmoid), or `label_boundaries` of
            predicted labels.
        threshold: probabilities below it are no boundary.
        tolerance: frames.

    Raises:
        ValueError: other numbers of videos or frames on the two sides, no video or frame, values outside [0, 1].
    """
    from vidseg.metrics import _segmental_kernels as kernels

    if len(truth) != len(probabilities) or not len(truth):
        raise ValueError(f"{len(truth)} videos in the truth and {len(probabilities)} in the prediction")
    if tolerance < 0 or not 0 < threshold <= 1:
        raise ValueError(f"tolerance={tolerance} must not be negative, threshold={threshold} in (0, 1]")
    tp = fp = fn = frames = 0
    for index, (true, predicted) in enumerate(zip(truth, probabilities, strict=True)):
        target = np.concatenate([[1.0], np.diff(_labels(true, "truth", str(index))) != 0])
        curve = np.ascontiguousarray(predicted, dtype=np.float64)
        if curve.shape != target.shape:
            raise ValueError(f"video {index}: {len(target)} true labels and probabilities of shape {curve.shape}")
        inside = (curve >= 0) & (curve <= 1)
        if not inside.all():
            frame = int(np.flatnonzero(~inside)[0])
            raise ValueError(
                f"video {index}: {curve[frame]} at frame {frame} is not a probability; logits need a sigmoid first"
            )
        found = kernels.match_peaks(kernels.peaks(target, threshold), kernels.peaks(curve, threshold), tolerance)
        tp, fp, fn, frames = tp + found[0], fp + found[1], fn + found[2], frames + len(target)
    precision, recall = tp / (tp + fp), tp / (tp + fn)  # frame 0 is a boundary on both sides: never 0 / 0
    return BoundaryScores(
        accuracy=100 * (frames - fp - fn) / frames,
        precision=100 * precision,
        recall=100 * recall,
        f1=2 * precision * recall / (precision + recall + 1e-7) * 100,
        tp=tp,
        fp=fp,
        fn=fn,
    )


def _labels(values: Any, side: str, name: str) -> npt.NDArray[np.int64]:
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise ValueError(f"video {name!r}: {side} of shape {labels.shape}; a video has one label a frame, (T,)")
    if not len(labels):
        raise ValueError(f"video {name!r}: {side} has no frames")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"video {name!r}: {side} holds {labels.dtype}, not class numbers")
    return np.ascontiguousarray(labels, np.int64)


def _largest(labels: npt.NDArray[np.int64], side: str, name: str) -> int:
    wrong = np.flatnonzero((labels < 0) | (labels > _LARGEST))
    if len(wrong):
        raise ValueError(
            f"video {name!r}: {side} has the label {labels[wrong[0]]} at frame {wrong[0]}; labels are class numbers"
            f" from 0 to {_LARGEST}: cut padding off before scoring"
        )
    return int(labels.max())


def _percent(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> list[float]:
    return (100 * part / np.maximum(whole, 1)).tolist()


def _f1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """F1 (...,) of counts (..., 3), 0 where nothing is right."""
    right, wrong, missed = np.moveaxis(counts, -1, 0)
    some = right > 0
    precision, recall = right / np.where(some, right + wrong, 1), right / np.where(some, right + missed, 1)
    return np.where(some, 2 * (precision * recall) / np.where(some, precision + recall, 1) * 100, 0.0)
