"""Speed of the segmental scores for a data set of Breakfast's size, compared with a plain Python implementation.

    python benchmarks/segmental_speed.py [--videos 1712] [--json]

The plain implementation works like the published script: it compares class names frame by frame and computes the
segments of both sides again for every overlap and for the edit score. Reading the files is excluded; vidseg gets class
numbers in arrays or lists. Each variant runs several times in this process, and the shortest time is reported;
compiling the kernels (or loading them from the cache) is measured separately. Limit: 100 times the speed of the plain
implementation; exit status 1 if it is missed or the scores differ.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import tyro
from machine import hardware

import vidseg
from vidseg.metrics import segmental_scores

OVERLAPS = (0.1, 0.25, 0.5)
TIMES = 100.0


@dataclass
class Options:
    """Measure the speed of segmental scores."""

    videos: int = 1712
    """Number of videos; Breakfast has 1712."""
    repeat: int = 20
    """Number of runs of the compiled implementation; the plain one runs a fifth as often."""
    json: bool = False
    """Print one JSON object instead of a table."""


def made_videos(count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return truth and prediction of the size of Breakfast: 48 classes, on average 6 segments and 2100 frames per
    video."""
    rng = np.random.default_rng(0)
    truth, prediction = [], []
    for _ in range(count):
        lengths = rng.geometric(1 / 300, size=1 + rng.poisson(6))
        labels = np.repeat(rng.integers(1, 48, size=len(lengths)), lengths)
        shifted = np.roll(labels, int(rng.integers(-40, 40)))
        for start in rng.integers(0, len(labels), size=3):
            shifted[start : start + int(rng.integers(1, 90))] = rng.integers(0, 48)
        truth.append(labels.astype(np.int64))
        prediction.append(shifted.astype(np.int64))
    return truth, prediction


def named(videos: list[np.ndarray]) -> list[list[str]]:
    """Return the same labels as lists of names, as read from label files."""
    names = [f"take_thing_{number}" for number in range(48)]
    return ["\n".join(names[number] for number in video.tolist()).split("\n") for video in videos]


def runs(labels: list[str]) -> tuple[list[str], list[int], list[int]]:
    """Return labels, starts and ends of the segments, found frame by frame."""
    names, starts, ends = [labels[0]], [0], []
    last = labels[0]
    for frame in range(len(labels)):
        if labels[frame] != last:
            names.append(labels[frame])
            starts.append(frame)
            ends.append(frame)
            last = labels[frame]
    ends.append(len(labels))
    return names, starts, ends


def plain_edit(prediction: list[str], truth: list[str]) -> float:
    """Return the edit score of two label lists, with a distance table filled cell by cell."""
    ours, _, _ = runs(prediction)
    theirs, _, _ = runs(truth)
    table = np.zeros((len(ours) + 1, len(theirs) + 1), np.float64)
    table[:, 0], table[0, :] = np.arange(len(ours) + 1), np.arange(len(theirs) + 1)
    for j in range(1, len(theirs) + 1):
        for i in range(1, len(ours) + 1):
            if ours[i - 1] == theirs[j - 1]:
                table[i, j] = table[i - 1, j - 1]
            else:
                table[i, j] = min(table[i - 1, j], table[i, j - 1], table[i - 1, j - 1]) + 1
    return (1 - float(table[-1, -1]) / max(len(ours), len(theirs))) * 100


def plain_counts(prediction: list[str], truth: list[str], overlap: float) -> tuple[int, int, int]:
    """Return true positives, false positives and false negatives at one overlap."""
    names, starts, ends = runs(prediction)
    true_names, true_starts, true_ends = runs(truth)
    right, hits = 0, np.zeros(len(true_names))
    for p in range(len(names)):
        shared = np.minimum(ends[p], true_ends) - np.maximum(starts[p], true_starts)
        hull = np.maximum(ends[p], true_ends) - np.minimum(starts[p], true_starts)
        iou = shared / hull * [names[p] == name for name in true_names]
        best = int(iou.argmax())
        if iou[best] >= overlap and not hits[best]:
            right, hits[best] = right + 1, 1
    return right, len(names) - right, len(true_names) - int(hits.sum())


def plain_scores(truth: list[list[str]], prediction: list[list[str]]) -> list[float]:
    """Return accuracy, edit score and F1 over all videos."""
    correct = frames = 0
    edit = 0.0
    counts = np.zeros((len(OVERLAPS), 3))
    for true, predicted in zip(truth, prediction, strict=True):
        for frame in range(len(true)):
            frames += 1
            if true[frame] == predicted[frame]:
                correct += 1
        edit += plain_edit(predicted, true)
        for index, overlap in enumerate(OVERLAPS):
            counts[index] += plain_counts(predicted, true, overlap)
    scores = [100 * float(correct) / frames, edit / len(truth)]
    for tp, fp, fn in counts:
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        scores.append(float(2 * (precision * recall) / (precision + recall) * 100))
    return scores


def compiled_scores(truth: list, prediction: list) -> list[float]:
    scores = segmental_scores(truth, prediction, overlaps=OVERLAPS)
    return [scores["acc"], scores["edit"], *scores["f1"].values()]


def best_time(function: Callable[[], list[float]], repeat: int) -> tuple[float, list[float]]:
    """Return the shortest time of several runs in seconds, and the result of the last run."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def main(options: Options) -> int:
    truth, prediction = made_videos(options.videos)
    lists = [video.tolist() for video in truth], [video.tolist() for video in prediction]
    start = time.perf_counter()
    compiled_scores(truth[:1], prediction[:1])
    first = time.perf_counter() - start
    arrays_s, scores = best_time(lambda: compiled_scores(truth, prediction), options.repeat)
    lists_s, _ = best_time(lambda: compiled_scores(*lists), options.repeat)
    names = named(truth), named(prediction)
    plain_s, expected = best_time(lambda: plain_scores(*names), max(1, options.repeat // 5))
    equal = scores == expected
    met = equal and plain_s / arrays_s >= TIMES
    frames = sum(map(len, truth))
    machine = {
        "machine": hardware(),
        "versions": f"vidseg {vidseg.__version__}, Python {platform.python_version()}, NumPy {np.__version__},"
        f" numba {numba.__version__}",
    }
    if options.json:
        row = {"videos": options.videos, "frames": frames, "first_call_s": first, "arrays_s": arrays_s}
        row |= {"lists_s": lists_s, "plain_s": plain_s, "equal": equal, "limit_met": met}
        print(json.dumps({**machine, **row}))
    else:
        print(machine["machine"], machine["versions"], sep="\n")
        print(f"{options.videos} videos, {frames} frames; the first call took {first:.2f} s (kernels)\n")
        print("                          seconds   speed / plain")
        for name, seconds in (("plain Python", plain_s), ("vidseg, lists", lists_s), ("vidseg, arrays", arrays_s)):
            print(f"{name:22}{seconds:11.4f}{plain_s / seconds:17.1f}")
        print(f"scores equal: {equal}; limit {TIMES:g} times (arrays): {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
