"""Kernels of the segmental scores, which `vidseg.metrics.segmental` defines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg.metrics._compiled import compiled

__all__ = ["match_peaks", "peaks", "score_video"]

Integers = npt.NDArray[np.int64]
_BLOCK = 32  # frames


@compiled
def _runs(labels: Integers) -> tuple[Integers, Integers]:
    """Return the label of each run of equal labels (N,), and the starts (N + 1,) with the video's length last."""
    names, starts = np.empty(64, np.int64), np.empty(65, np.int64)
    # Unsigned indices cannot be negative; only then does the compiler vectorize the blocks below, which have constant
    # length and no branch per frame.
    frame, one, block, stop = np.uintp(0), np.uintp(1), np.uintp(_BLOCK), np.uintp(len(labels))
    count = 0
    while frame < stop:
        if count == len(names):
            names, starts = np.append(names, np.empty_like(names)), np.append(starts, np.empty(count, np.int64))
        label = labels[frame]
        names[count], starts[count] = label, np.int64(frame)
        count, frame = count + 1, frame + one
        while frame + block <= stop:
            different = 0
            for offset in range(block):
                different |= labels[frame + offset] ^ label
            if different:
                break
            frame += block
        while frame < stop and labels[frame] == label:
            frame += one
    starts[count] = len(labels)
    return names[:count], starts[: count + 1]


@compiled
def _segments(
    names: Integers, starts: Integers, is_background: npt.NDArray[np.bool_]
) -> tuple[Integers, Integers, Integers]:
    """Return label, start and stop (exclusive) of the runs that are not background."""
    kept = 0
    labels, firsts, stops = np.empty_like(names), np.empty_like(names), np.empty_like(names)
    for run in range(len(names)):
        if not is_background[names[run]]:
            labels[kept], firsts[kept], stops[kept] = names[run], starts[run], starts[run + 1]
            kept += 1
    return labels[:kept], firsts[:kept], stops[:kept]


@compiled
def _distance(first: Integers, second: Integers) -> int:
    """Return the Levenshtein distance with unit costs, computed one row at a time."""
    row = np.arange(len(second) + 1)
    for i in range(len(first)):
        diagonal, row[0] = row[0], i + 1
        for j in range(len(second)):
            above = row[j + 1]
            row[j + 1] = min(diagonal + (first[i] != second[j]), min(above, row[j]) + 1)
            diagonal = above
    return row[-1]


@compiled
def score_video(
    truth: Integers,
    prediction: Integers,
    is_background: npt.NDArray[np.bool_],
    overlaps: npt.NDArray[np.float64],
    class_frames: Integers,
    class_counts: Integers,
    video_counts: Integers,
) -> tuple[int, float]:
    """Score one video and add its counts to the tables.

    Args:
        truth: (T,) labels, T at least 1.
        prediction: (T,) labels.
        is_background: (K,) bool.
        overlaps: (O,) IoU thresholds.
        class_frames: (K, 3) frames of the class in the truth, in the prediction, and in both; updated in place.
        class_counts: (K, O, 3) true positives, false positives and false negatives of its segments; updated in place.
        video_counts: (O, 3) the same counts of this video; zeros on entry.

    Returns:
        Number of correct frames and edit score in percent; (-1, 0) if a label is outside 0..K - 1, with unchanged
        tables.
    """
    true_names, true_frames = _runs(truth)
    names, frames = _runs(prediction)
    for name in true_names:
        if not 0 <= name < len(is_background):
            return -1, 0.0
    for name in names:
        if not 0 <= name < len(is_background):
            return -1, 0.0

    correct, p = 0, 0
    for run in range(len(names)):
        class_frames[names[run], 1] += frames[run + 1] - frames[run]
    for g in range(len(true_names)):
        class_frames[true_names[g], 0] += true_frames[g + 1] - true_frames[g]
        while p < len(names) and frames[p] < true_frames[g + 1]:
            if names[p] == true_names[g]:
                shared = min(frames[p + 1], true_frames[g + 1]) - max(frames[p], true_frames[g])
                class_frames[names[p], 2] += shared
                correct += shared
            if frames[p + 1] > true_frames[g + 1]:
                break
            p += 1

    true_labels, true_starts, true_stops = _segments(true_names, true_frames, is_background)
    labels, starts, stops = _segments(names, frames, is_background)
    longer = max(len(true_labels), len(labels))
    edit = (1 - _distance(labels, true_labels) / longer) * 100 if longer else 100.0

    hit = np.zeros((len(overlaps), len(true_labels)), np.bool_)
    first = 0
    for p in range(len(labels)):
        # Segments of a video are ordered and disjoint, so segments that end before this one starts can be skipped.
        while first < len(true_labels) and true_stops[first] <= starts[p]:
            first += 1
        best, best_iou = -1, 0.0
        g = first
        while g < len(true_labels) and true_starts[g] < stops[p]:
            if true_labels[g] == labels[p]:
                shared = min(stops[p], true_stops[g]) - max(starts[p], true_starts[g])
                hull = max(stops[p], true_stops[g]) - min(starts[p], true_starts[g])
                if shared / hull > best_iou:  # the first of equal ones
                    best, best_iou = g, shared / hull
            g += 1
        for o in range(len(overlaps)):
            right = best >= 0 and best_iou >= overlaps[o] and not hit[o, best]
            if right:
                hit[o, best] = True
            kind = 0 if right else 1
            video_counts[o, kind] += 1
            class_counts[labels[p], o, kind] += 1
    for o in range(len(overlaps)):
        for g in range(len(true_labels)):
            if not hit[o, g]:
                video_counts[o, 2] += 1
                class_counts[true_labels[g], o, 2] += 1
    return correct, edit


@compiled
def peaks(scores: npt.NDArray[np.float64], threshold: float) -> Integers:
    """Return the frames of strict maxima of the scores (T,) set to 0 below the threshold; frame 0 is always
    included."""
    found = np.empty(len(scores), np.int64)
    found[0], count = 0, 1
    for frame in range(1, len(scores) - 1):
        here = scores[frame]
        before = scores[frame - 1] if scores[frame - 1] >= threshold else 0.0
        after = scores[frame + 1] if scores[frame + 1] >= threshold else 0.0
        if here >= threshold and before < here > after:
            found[count] = frame
            count += 1
    return found[:count]


@compiled
def match_peaks(truth: Integers, prediction: Integers, tolerance: int) -> tuple[int, int, int]:
    """Return true positives, false positives and false negatives of predicted peaks, matched to the nearest true
    peak."""
    hit = np.zeros(len(truth), np.bool_)
    right = 0
    for peak in prediction:
        nearest = np.argmin(np.abs(truth - peak))
        if abs(truth[nearest] - peak) <= tolerance and not hit[nearest]:
            hit[nearest] = True
            right += 1
    return right, len(prediction) - right, len(truth) - right
