"""Where predicted frame labels go wrong: which class is taken for which, and how far boundaries are off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["boundary_offsets", "frame_confusion", "segment_confusion"]

Labels = npt.NDArray[np.int64]


def frame_confusion(truth: Sequence[Labels], prediction: Sequence[Labels], num_classes: int) -> Labels:
    """How many frames of each class were taken for each, (K, K); rows are true classes.

    Args:
        truth: for each video (T,) class numbers.
        prediction: for each video (T,) class numbers.
        num_classes: K.

    Raises:
        ValueError: other numbers of videos or frames, or a label outside 0..K - 1.
    """
    _check(truth, prediction, num_classes)
    counts = np.zeros(num_classes**2, np.int64)
    for true, predicted in zip(truth, prediction, strict=True):
        counts += np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def segment_confusion(truth: Sequence[Labels], prediction: Sequence[Labels], num_classes: int) -> Labels:
    """How many true segments of each class were taken for each, (K, K); rows are true classes.

    A segment is taken for the class that most of its frames have in the prediction, of equal ones the lowest.

    Raises:
        ValueError: as `frame_confusion`.
    """
    _check(truth, prediction, num_classes)
    counts = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted in zip(truth, prediction, strict=True):
        starts = np.concatenate([[0], np.flatnonzero(np.diff(true)) + 1])
        segment = np.zeros(len(true), np.int64)
        segment[starts[1:]] = 1
        cells = np.bincount(segment.cumsum() * num_classes + predicted, minlength=len(starts) * num_classes)
        taken = cells.reshape(len(starts), num_classes).argmax(axis=1)
        np.add.at(counts, (true[starts], taken), 1)
    return counts


def boundary_offsets(truth: Sequence[Labels], prediction: Sequence[Labels]) -> Labels:
    """Frames from each true boundary between two segments to the nearest predicted one, of all videos; late is above 0.

    Of two that are equally near the earlier one counts. A video whose prediction has no boundary adds nothing.

    Raises:
        ValueError: other numbers of videos or frames.
    """
    _check(truth, prediction, None)
    offsets = [np.zeros(0, np.int64)]
    for true, predicted in zip(truth, prediction, strict=True):
        wanted, found = (np.flatnonzero(np.diff(labels)) + 1 for labels in (true, predicted))
        if len(found):
            nearest = np.abs(found[None] - wanted[:, None]).argmin(axis=1)
            offsets.append(found[nearest] - wanted)
    return np.concatenate(offsets)


def _check(truth: Sequence[Labels], prediction: Sequence[Labels], num_classes: int | None) -> None:
    if len(truth) != len(prediction):
        raise ValueError(f"{len(truth)} videos in the truth and {len(prediction)} in the prediction")
    for video, (true, predicted) in enumerate(zip(truth, prediction, strict=True)):
        if len(true) != len(predicted) or not len(true):
            raise ValueError(f"video {video}: {len(true)} true labels and {len(predicted)} predicted ones")
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        if num_classes is not None and (low < 0 or high >= num_classes):
            raise ValueError(f"video {video}: labels {low} to {high}, but there are {num_classes} classes")
