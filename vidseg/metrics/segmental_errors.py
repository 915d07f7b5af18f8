"""Error analysis of predicted frame labels: confusion matrices and boundary offsets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["boundary_offsets", "frame_confusion", "segment_confusion"]

Labels = npt.NDArray[np.int64]


def frame_confusion(truth: Sequence[Labels], prediction: Sequence[Labels], num_classes: int) -> Labels:
    """Count the frames of each true class predicted as each class, (K, K); rows are true classes.

    Args:
        truth: (T,) class numbers of each video.
        prediction: (T,) class numbers of each video.
        num_classes: K.

    Raises:
        ValueError: numbers of videos or frames differ, or a label is outside 0..K - 1.
    """
    _check(truth, prediction, num_classes)
    counts = np.zeros(num_classes**2, np.int64)
    for true, predicted in zip(truth, prediction, strict=True):
        counts += np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def segment_confusion(truth: Sequence[Labels], prediction: Sequence[Labels], num_classes: int) -> Labels:
    """Count the true segments of each class predicted as each class, (K, K); rows are true classes.

    The predicted class of a segment is the most frequent one among its frames, and the lowest number for ties.

    Args:
        truth: (T,) class numbers of each video.
        prediction: (T,) class numbers of each video.
        num_classes: K.

    Raises:
        ValueError: numbers of videos or frames differ, or a label is outside 0..K - 1.
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
    """Return the signed distance in frames from each true segment boundary to the nearest predicted one, positive for
    late.

    For ties the earlier boundary is used. A video without predicted boundaries is skipped.

    Args:
        truth: (T,) class numbers of each video.
        prediction: (T,) class numbers of each video.

    Returns:
        (N,) offsets of all boundaries of all videos.

    Raises:
        ValueError: numbers of videos or frames differ.
    """
    _check(truth, prediction, None)
    offsets = [np.zeros(0, np.int64)]
    for true, predicted in zip(truth, prediction, strict=True):
        expected, found = (np.flatnonzero(np.diff(labels)) + 1 for labels in (true, predicted))
        if len(found):
            nearest = np.abs(found[None] - expected[:, None]).argmin(axis=1)
            offsets.append(found[nearest] - expected)
    return np.concatenate(offsets)


def _check(truth: Sequence[Labels], prediction: Sequence[Labels], num_classes: int | None) -> None:
    if len(truth) != len(prediction):
        raise ValueError(f"numbers of videos differ: truth {len(truth)}, prediction {len(prediction)}")
    for video, (true, predicted) in enumerate(zip(truth, prediction, strict=True)):
        if len(true) != len(predicted) or not len(true):
            raise ValueError(f"video {video}: {len(true)} true labels, but {len(predicted)} predicted labels")
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        if num_classes is not None and (low < 0 or high >= num_classes):
            raise ValueError(f"video {video}: labels {low} to {high}, expected 0 to {num_classes - 1}")
