"""Metrics of temporal action segmentation: frame accuracy, edit score, F1 at IoU thresholds, boundary precision and
recall.

The definitions are those of the MS-TCN evaluation (Farha and Gall, CVPR 2019; after Lea et al., CVPR 2017), which most
published tables use. A segment is a run of equal labels with exclusive end. Runs of background classes are dropped and
their neighbors are not joined. Boundary scores are those of ASRF (Ishikawa et al., WACV 2021). All scores are in
percent.

Cases that the published evaluation leaves undefined: if neither side has segments, the edit score is 100 and there are
no counts; if only one side has segments, the edit score is 0 and they count as false positives or false negatives; a
ratio with denominator 0 is 0.
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
"""Largest class number accepted; tables have a row for each class number up to the largest one seen."""


class VideoTable(TypedDict):
    """Scores of each video by column, in the order of `update`."""

    name: list[str]
    frames: list[int]
    correct: list[int]
    acc: list[float]
    edit: list[float]
    f1: dict[float, list[float]]
    """One column per IoU threshold."""
    counts: dict[float, list[list[int]]]
    """One column per IoU threshold: true positives, false positives, false negatives."""


class ClassTable(TypedDict):
    """Scores of each class over all videos by column, for the classes in truth or prediction."""

    number: list[int]
    background: list[bool]
    """F1 of each class; 0 for background classes, which have no segments."""
    frames: list[int]
    """Number of frames of the class in the truth."""
    predicted: list[int]
    """Number of frames predicted as the class."""
    correct: list[int]
    acc: list[float]
    """Recall: percentage of the frames of the class predicted as the class."""
    precision: list[float]
    """Precision: percentage of correct frames among those predicted as the class."""
    iou: list[float]
    """Intersection over union of the frames of the class in truth and prediction."""
    f1: dict[float, list[float]]
    counts: dict[float, list[list[int]]]


class SegmentalScores(TypedDict):
    """Scores over all videos, with the tables of classes and videos."""

    acc: float
    edit: float
    f1: dict[float, float]
    counts: dict[float, list[int]]
    """True positives, false positives and false negatives at each IoU threshold."""
    frames: int
    correct: int
    classes: ClassTable
    videos: VideoTable


class BoundaryScores(TypedDict):
    """Boundary scores over all videos."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    tp: int
    fp: int
    fn: int


class SegmentalMeter:
    """Accumulate segmental scores video by video; `scores` can be called at any time.

    Accuracy is computed over all frames and F1 from summed counts, so longer videos have more weight; the edit score is
    the mean over videos.

    Args:
        background: class numbers whose runs are not segments; their frames still count in `acc`.
        overlaps: IoU thresholds of F1, inclusive, in (0, 1].

    Raises:
        ValueError: `overlaps` is empty, has a value twice, or has a value outside (0, 1].
    """

    def __init__(self, background: Iterable[int] = (), overlaps: Sequence[float] = (0.1, 0.25, 0.5)) -> None:
        self.background = frozenset(int(number) for number in background)
        self.overlaps = tuple(float(overlap) for overlap in overlaps)
        if not self.overlaps or len(set(self.overlaps)) < len(self.overlaps):
            raise ValueError(f"overlaps is {overlaps}, must have at least one value and no value twice")
        if not all(0 < overlap <= 1 for overlap in self.overlaps):
            raise ValueError(f"overlaps is {overlaps}, every value must be in (0, 1], such as 0.25")
        self._thresholds = np.array(self.overlaps)
        self.reset()

    def reset(self) -> None:
        """Remove all videos."""
        self._class_frames = np.zeros((0, 3), np.int64)
        self._class_counts = np.zeros((0, len(self.overlaps), 3), np.int64)
        self._is_background = np.zeros(0, bool)
        self._names: list[str] = []
        self._frames: list[int] = []
        self._correct: list[int] = []
        self._edit: list[float] = []
        self._counts = np.zeros(
            (64, len(self.overlaps), 3), np.int64
        )  # counts of each video; capacity doubles when full

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._names)

    def update(self, truth: Any, prediction: Any, *, name: str | None = None) -> None:
        """Add one video.

        Args:
            truth: (T,) class numbers from 0; a list, array or CPU tensor.
            prediction: (T,) class numbers.
            name: name of the video in tables and error messages; default: its position.

        Raises:
            ValueError: lengths differ, there are no frames, or a label is not a class number; the message names the
                video, which is not counted.
        """
        from vidseg.metrics import _segmental_kernels as kernels

        number = len(self._names)
        name = str(number) if name is None else name
        true, predicted = _labels(truth, "truth", name), _labels(prediction, "prediction", name)
        if len(true) != len(predicted):
            raise ValueError(
                f"video {name!r}: {len(true)} true, but {len(predicted)} predicted labels; truncate or resample one"
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
            if correct < 0:  # a label without a row in the tables
                self._grow(max(_largest(true, "truth", name), _largest(predicted, "prediction", name)) + 1)
        self._names.append(name)
        self._frames.append(len(true))
        self._correct.append(correct)
        self._edit.append(edit)

    def merge(self, other: SegmentalMeter) -> None:
        """Add the videos of another meter, for example of another process; meters can be pickled.

        Raises:
            ValueError: background or overlaps differ.
        """
        if (self.background, self.overlaps) != (other.background, other.overlaps):
            raise ValueError(
                f"cannot merge a meter of background {sorted(other.background)} and overlaps {other.overlaps} into one"
                f" of background {sorted(self.background)} and overlaps {self.overlaps}"
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
        """Return the scores of all videos so far.

        Raises:
            ValueError: no video has been added.
        """
        if not self._names:
            raise ValueError("no video has been added; call update first")
        edit = 0.0
        for value in self._edit:  # sequential sum, as in the published evaluation
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
        """Return the columns of an array (N, O, ...) by IoU threshold."""
        return {overlap: values[:, column].tolist() for column, overlap in enumerate(self.overlaps)}

    def _grow(self, classes: int) -> None:
        """Extend the tables to `classes` rows."""
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
    """Compute frame accuracy, edit score and F1 of predicted frame labels in percent, with tables by class and by
    video.

    Args:
        truth: (T,) class numbers of each video; lists, arrays or CPU tensors.
        prediction: (T,) class numbers of each video, in the same order.
        background: class numbers whose runs are not segments; their frames still count in `acc`.
        overlaps: IoU thresholds of F1, inclusive, in (0, 1].

    Returns:
        A mapping with `acc`, `edit`, `f1` (threshold to score), `counts`, `frames`, `correct`, `classes` and `videos`.

    Raises:
        ValueError: numbers of videos or frames differ, there is no video or a video without frames, or a label is not a
            class number; the message names video and frame.
    """
    if len(truth) != len(prediction):
        raise ValueError(f"numbers of videos differ: truth {len(truth)}, prediction {len(prediction)}")
    meter = SegmentalMeter(background, overlaps)
    for true, predicted in zip(truth, prediction, strict=True):
        meter.update(true, predicted)
    return meter.scores()


def label_boundaries(labels: Any) -> npt.NDArray[np.float64]:
    """Return float64 (T,) with 1 at frame 0 and at every label change, else 0 (boundary target of ASRF)."""
    values = _labels(labels, "labels", "given")
    return np.concatenate([[1.0], np.diff(values) != 0])


def boundary_scores(
    truth: Sequence[Any], probabilities: Sequence[Any], *, threshold: float = 0.5, tolerance: int = 5
) -> BoundaryScores:
    """Compute precision and recall of predicted segment boundaries in percent, from counts summed over the videos.

    A boundary is a strict peak of the probabilities at or above the threshold; frame 0 is always a boundary, the last
    frame never. Each predicted boundary is matched to the nearest true boundary (the first of two) and is correct if
    that is at most `tolerance` frames away and not yet matched. True boundaries are peaks of `label_boundaries` by the
    same rule; as in the published code, the two boundaries of a one-frame segment cancel. `accuracy` counts frames
    without a boundary on either side as correct.

    Args:
        truth: (T,) class numbers of each video.
        probabilities: (T,) boundary probabilities of each video (after the sigmoid), or `label_boundaries` of predicted
            labels.
        threshold: minimum probability of a boundary, in (0, 1].
        tolerance: maximum distance in frames, at least 0.

    Raises:
        ValueError: numbers of videos or frames differ, there is no video or frame, or a value is outside [0, 1].
    """
    from vidseg.metrics import _segmental_kernels as kernels

    if len(truth) != len(probabilities) or not len(truth):
        raise ValueError(f"numbers of videos differ: truth {len(truth)}, probabilities {len(probabilities)}")
    if tolerance < 0 or not 0 < threshold <= 1:
        raise ValueError(f"tolerance is {tolerance}, must be at least 0; threshold is {threshold}, must be in (0, 1]")
    tp = fp = fn = frames = 0
    for index, (true, predicted) in enumerate(zip(truth, probabilities, strict=True)):
        target = np.concatenate([[1.0], np.diff(_labels(true, "truth", str(index))) != 0])
        curve = np.ascontiguousarray(predicted, dtype=np.float64)
        if curve.shape != target.shape:
            raise ValueError(f"video {index}: probabilities have shape {curve.shape}, expected ({len(target)},)")
        inside = (curve >= 0) & (curve <= 1)
        if not inside.all():
            frame = int(np.flatnonzero(~inside)[0])
            raise ValueError(
                f"video {index}: {curve[frame]} at frame {frame} is not a probability; apply a sigmoid to logits"
            )
        found = kernels.match_peaks(kernels.peaks(target, threshold), kernels.peaks(curve, threshold), tolerance)
        tp, fp, fn, frames = tp + found[0], fp + found[1], fn + found[2], frames + len(target)
    precision, recall = (
        tp / (tp + fp),
        tp / (tp + fn),
    )  # frame 0 is a boundary on both sides, so the denominators are positive
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
        raise ValueError(f"video {name!r}: {side} has shape {labels.shape}, expected (T,)")
    if not len(labels):
        raise ValueError(f"video {name!r}: {side} has no frames")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"video {name!r}: {side} has type {labels.dtype}, expected integer class numbers")
    return np.ascontiguousarray(labels, np.int64)


def _largest(labels: npt.NDArray[np.int64], side: str, name: str) -> int:
    wrong = np.flatnonzero((labels < 0) | (labels > _LARGEST))
    if len(wrong):
        raise ValueError(
            f"video {name!r}: {side} has label {labels[wrong[0]]} at frame {wrong[0]}; expected class numbers"
            f" from 0 to {_LARGEST}; remove padding before scoring"
        )
    return int(labels.max())


def _percent(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> list[float]:
    return (100 * part / np.maximum(whole, 1)).tolist()


def _f1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return F1 (...,) of counts (..., 3), 0 without true positives."""
    right, wrong, missed = np.moveaxis(counts, -1, 0)
    some = right > 0
    precision, recall = right / np.where(some, right + wrong, 1), right / np.where(some, right + missed, 1)
    return np.where(some, 2 * (precision * recall) / np.where(some, precision + recall, 1) * 100, 0.0)
