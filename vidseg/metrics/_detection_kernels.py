"""Kernels of the detection scores, which `vidseg.metrics.detection_scores` and its neighbors define."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidseg.metrics._compiled import compiled

__all__ = ["average_precisions", "best_overlaps", "first_hits", "match_detections", "precisions_at", "repeated"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@compiled
def _overlap(start: float, stop: float, other_start: float, other_stop: float) -> float:
    """Return the IoU of two segments; 0 if their union has no length.

    The operations and their order are those of the ActivityNet evaluator, so that results agree to the last bit.
    """
    shared = max(min(stop, other_stop) - max(start, other_start), 0.0)
    union = (other_stop - other_start) + (stop - start) - shared
    return shared / union if union > 0 else 0.0


@compiled
def match_detections(
    segments: Floats, firsts: Integers, counts: Integers, truth: Floats, thresholds: Floats
) -> Integers:
    """Assign detections to instances, greedily in the order of the detections.

    Args:
        segments: (N, 2) detections, those of one class in order of falling score.
        firsts: (N,) index of the first instance of the class and video of each detection.
        counts: (N,) number of these instances, which are consecutive.
        truth: (G, 2) instances.
        thresholds: (T,) IoU thresholds.

    Returns:
        (T, N) index of the instance that the detection is assigned to, or -1.
    """
    matched = np.full((len(thresholds), len(segments)), -1, np.int64)
    taken = np.zeros((len(thresholds), len(truth)), np.bool_)
    overlaps = np.empty(counts.max() if len(counts) else 0, np.float64)
    for n in range(len(segments)):
        first, count, largest = firsts[n], counts[n], 0.0
        for g in range(count):
            overlaps[g] = _overlap(segments[n, 0], segments[n, 1], truth[first + g, 0], truth[first + g, 1])
            largest = max(largest, overlaps[g])
        for t in range(len(thresholds)):
            if not count or largest < thresholds[t]:
                continue
            best = -1
            for g in range(count):  # the first of equal ones
                free = overlaps[g] >= thresholds[t] and not taken[t, first + g]
                if free and (best < 0 or overlaps[g] > overlaps[best]):
                    best = g
            if best >= 0:
                taken[t, first + best] = True
                matched[t, n] = first + best
    return matched


@compiled
def average_precisions(
    correct: npt.NDArray[np.bool_],
    kept: npt.NDArray[np.bool_],
    bounds: Integers,
    instances: Integers,
    weight: float,
) -> Floats:
    """Compute the area under the precision-recall curve of each class and threshold, precision made monotone.

    Args:
        correct: (T, N) whether a detection is assigned to an instance; classes one after another, falling scores.
        kept: (T, N) detections that count.
        bounds: (K + 1,) first detection of each class, and N.
        instances: (K,) number of instances of each class.
        weight: number of instances in the precision, for the normalized precision; 0: the number of each class.

    Returns:
        (K, T) values from 0 to 1; 0 for a class without instances.
    """
    result = np.zeros((len(instances), len(correct)))
    for k in range(len(instances)):
        if not instances[k]:
            continue
        for t in range(len(correct)):
            hits, misses = 0, 0
            for n in range(bounds[k], bounds[k + 1]):
                if kept[t, n]:
                    if correct[t, n]:
                        hits += 1
                    else:
                        misses += 1
            area, highest = 0.0, 0.0
            for n in range(bounds[k + 1] - 1, bounds[k] - 1, -1):
                if not kept[t, n]:
                    continue
                if not correct[t, n]:
                    misses -= 1
                    continue
                weighted = hits / instances[k] * weight if weight > 0 else np.float64(hits)
                highest = max(highest, weighted / (weighted + misses))
                area += highest * (hits / instances[k] - (hits - 1) / instances[k])
                hits -= 1
            result[k, t] = area
    return result


@compiled
def precisions_at(correct: npt.NDArray[np.bool_], bounds: Integers, instances: Integers, recalls: Floats) -> Floats:
    """Compute the highest precision at each recall or beyond it, (K, T, R); 0 where the recall is not reached."""
    result = np.zeros((len(instances), len(correct), len(recalls)))
    for k in range(len(instances)):
        for t in range(len(correct)):
            hits = 0
            for n in range(bounds[k], bounds[k + 1]):
                hits += correct[t, n]
            if not hits:
                continue
            highest, seen = 0.0, bounds[k + 1] - bounds[k]
            point = len(recalls) - 1
            for n in range(bounds[k + 1] - 1, bounds[k] - 1, -1):
                if correct[t, n]:
                    while point >= 0 and recalls[point] * instances[k] > hits + 1e-9:
                        result[k, t, point] = highest
                        point -= 1
                    highest = max(highest, hits / seen)
                    hits -= 1
                seen -= 1
            while point >= 0:
                result[k, t, point] = highest
                point -= 1
    return result


@compiled
def best_overlaps(segments: Floats, firsts: Integers, counts: Integers, truth: Floats) -> tuple[Integers, Floats]:
    """Find the instance of the highest IoU of each detection, the first of equal ones; -1 and 0 without instances."""
    best, largest = np.full(len(segments), -1, np.int64), np.zeros(len(segments))
    for n in range(len(segments)):
        for g in range(firsts[n], firsts[n] + counts[n]):
            overlap = _overlap(segments[n, 0], segments[n, 1], truth[g, 0], truth[g, 1])
            if best[n] < 0 or overlap > largest[n]:
                best[n], largest[n] = g, overlap
    return best, largest


@compiled
def first_hits(segments: Floats, firsts: Integers, counts: Integers, truth: Floats, thresholds: Floats) -> Integers:
    """Find the first proposal that reaches each threshold on each instance.

    Args:
        segments: (N, 2) proposals, those of one group in order of falling score.
        firsts: (G,) first proposal of the group of each instance.
        counts: (G,) number of proposals of this group that are examined.
        truth: (G, 2) instances.
        thresholds: (T,) IoU thresholds.

    Returns:
        (T, G) position of the proposal in its group, or a number above any position.
    """
    result = np.full((len(thresholds), len(truth)), np.iinfo(np.int64).max, np.int64)
    for g in range(len(truth)):
        for rank in range(counts[g]):
            n = firsts[g] + rank
            overlap = _overlap(segments[n, 0], segments[n, 1], truth[g, 0], truth[g, 1])
            for t in range(len(thresholds)):
                if overlap >= thresholds[t] and rank < result[t, g]:
                    result[t, g] = rank
    return result


@compiled
def repeated(groups: Integers, segments: Floats, tolerance: float) -> npt.NDArray[np.bool_]:
    """Mark instances that repeat an earlier one of their group, start and stop within the tolerance.

    Args:
        groups: (G,) numbers in ascending order, equal for instances of one class and video.
        segments: (G, 2) instances.
        tolerance: largest difference in seconds.

    Returns:
        (G,) bool. An instance that repeats only marked ones is not marked, as in ActionFormer.
    """
    marked = np.zeros(len(groups), np.bool_)
    first = 0
    for g in range(len(groups)):
        if groups[g] != groups[first]:
            first = g
        for other in range(first, g):
            near = (
                abs(segments[g, 0] - segments[other, 0]) <= tolerance
                and abs(segments[g, 1] - segments[other, 1]) <= tolerance
            )
            if near and not marked[other]:
                marked[g] = True
                break
    return marked
