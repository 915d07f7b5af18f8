"""Scores of every video in a file: written by a test, fused and scored without the network."""

from __future__ import annotations

import csv
import itertools
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from vidseg.metrics import confusion_matrix, log_loss, mean_class_accuracy, top_k_hits

__all__ = [
    "VideoScores",
    "check_apart",
    "check_suffix",
    "find_weights",
    "fuse_scores",
    "read_scores",
    "write_scores",
]

_SMALLEST = 1e-12  # probability that stands for 0, whose logarithm is not finite


@dataclass(frozen=True)
class VideoScores:
    """Scores of N videos for K classes.

    Attributes:
        videos: path of each video within its data set.
        labels: int64 (N,), -1 without a class.
        scores: float32 (N, K), probabilities or fused scores.
        classes: class names by number.
    """

    videos: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    classes: tuple[str, ...]

    def summary(self) -> dict[str, float | int]:
        """Return top-1, top-5 and mean class accuracy over the videos that have a class.

        Raises:
            ValueError: no video has a class.
        """
        known = self.labels >= 0
        if not known.any():
            raise ValueError("no video has a class, so there is nothing to score")
        scores, labels = torch.from_numpy(self.scores[known]), torch.from_numpy(self.labels[known])
        confusion = confusion_matrix(labels, scores.argmax(dim=1), len(self.classes))
        return {
            "videos": int(known.sum()),
            "top1": top_k_hits(scores, labels, 1).double().mean().item(),
            "top5": top_k_hits(scores, labels, 5).double().mean().item(),
            "mean_class_accuracy": mean_class_accuracy(confusion),
        }


def check_suffix(path: str | Path) -> Path:
    """Return the path of a file of scores.

    Raises:
        ValueError: its suffix is neither .npz nor .csv.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".csv"):
        raise ValueError(f"{path}: scores are written as .npz or .csv")
    return path


def write_scores(path: str | Path, found: VideoScores) -> Path:
    """Write scores as .npz, or as .csv with a row for each video.

    Raises:
        ValueError: another suffix.
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    if path.suffix == ".npz":
        np.savez_compressed(
            temporary,
            videos=np.array(found.videos),
            labels=found.labels,
            scores=found.scores,
            classes=np.array(found.classes),
        )
    else:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["video", "label", *found.classes])
            for video, label, row in zip(found.videos, found.labels, found.scores, strict=True):
                writer.writerow([video, found.classes[label] if label >= 0 else "", *map(float, row)])
    temporary.replace(path)
    return path


def read_scores(path: str | Path) -> VideoScores:
    """Read what `write_scores` wrote.

    Args:
        path: file, or the folder of a recognition run with scores.npz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold scores; names the line of a CSV file.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "scores.npz").is_file():
            raise FileNotFoundError(f"{path / 'scores.npz'}: not found; run `vidseg test {path}` first")
        path = path / "scores.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of scores")
    if path.suffix == ".npz":
        try:
            loaded = np.load(path, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not a file of scores: {error}") from error
        with loaded as content:
            missing = {"videos", "labels", "scores", "classes"} - set(content.files)
            if missing:
                raise ValueError(f"{path}: has no {', '.join(sorted(missing))}; `vidseg test --dump` writes scores")
            return VideoScores(
                tuple(content["videos"].tolist()),
                content["labels"].astype(np.int64),
                content["scores"].astype(np.float32),
                tuple(content["classes"].tolist()),
            )
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines or lines[0][:2] != ["video", "label"]:
        raise ValueError(f"{path}:1: expected the columns video, label and the classes")
    classes, scores = lines[0][2:], []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise ValueError(f"{path}:{number}: {len(line)} columns, expected {len(lines[0])}")
        if line[1] and line[1] not in classes:
            raise ValueError(f"{path}:{number}: unknown class {line[1]!r}")
        try:
            scores.append([float(value) for value in line[2:]])
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    return VideoScores(
        tuple(line[0] for line in lines[1:]),
        np.array([classes.index(line[1]) if line[1] else -1 for line in lines[1:]], np.int64),
        np.array(scores, np.float32).reshape(-1, len(classes)),
        tuple(classes),
    )


def fuse_scores(
    parts: Sequence[VideoScores],
    weights: Sequence[float] | None = None,
    *,
    how: Literal["softmax", "logits"] = "softmax",
) -> VideoScores:
    """Return the weighted mean of several networks' scores for the same videos.

    Args:
        parts: scores of the same videos, in any order.
        weights: of the parts, at least 0; None: all equal.
        how: "softmax" averages probabilities; "logits" averages their logarithms, which equal the logits up to a
            constant of each video, and normalizes the result.

    Raises:
        ValueError: the parts have other videos, labels or classes, or the weights do not fit.
    """
    weights = [1.0] * len(parts) if weights is None or not len(weights) else list(weights)
    if not parts or len(weights) != len(parts) or sum(weights) <= 0 or min(weights) < 0:
        raise ValueError(f"{len(parts)} files of scores and the weights {list(weights)}: give one weight for each file")
    first, values = parts[0], _aligned(parts)
    return VideoScores(first.videos, first.labels, _mean(values, weights, how), first.classes)


def find_weights(
    parts: Sequence[VideoScores], *, how: Literal["softmax", "logits"] = "softmax"
) -> tuple[tuple[float, ...], VideoScores]:
    """Return the weights with the highest top-1 accuracy; among equal ones those with the lowest log loss.

    All weights that are multiples of 1/20 (two parts) or 1/10 (three to five parts) and sum to 1 are tried.

    Args:
        parts: scores of two to five networks for the same videos of a validation split. Weights that are found on the
            test split make its scores too high.
        how: see `fuse_scores`.

    Returns:
        The weights, and the fused scores.

    Raises:
        ValueError: another number of parts, the parts do not fit together, or no video has a class.
    """
    if not 2 <= len(parts) <= 5:
        raise ValueError(f"{len(parts)} files of scores; weights can be found for 2 to 5")
    first, values = parts[0], _aligned(parts)
    first.summary()  # refuses scores without labels
    known = first.labels >= 0
    labels = torch.from_numpy(first.labels[known])
    best: tuple[float, float] | None = None
    chosen: tuple[float, ...] = ()
    steps = 20 if len(parts) == 2 else 10
    for counts in itertools.product(range(steps + 1), repeat=len(parts) - 1):
        if sum(counts) > steps:
            continue
        weights = tuple(count / steps for count in (*counts, steps - sum(counts)))
        fused = torch.from_numpy(_mean(values, weights, how)[known])
        quality = (float((fused.argmax(dim=1) == labels).double().mean()), -log_loss(fused, labels))
        if best is None or quality > best:
            best, chosen = quality, weights
    return chosen, VideoScores(first.videos, first.labels, _mean(values, chosen, how), first.classes)


def check_apart(tuned: VideoScores, tested: VideoScores, place: str) -> None:
    """Refuse values that are found on videos that are scored with them.

    Args:
        tuned: scores that weights or a temperature are found on.
        tested: scores that they are applied to.
        place: file of `tuned`, for the message.

    Raises:
        ValueError: a video is in both, or the classes differ.
    """
    if tuned.classes != tested.classes:
        raise ValueError(f"{place}: {_difference(tuned.classes, tested.classes)}")
    both = sorted(set(tuned.videos) & set(tested.videos))
    if both:
        raise ValueError(
            f"{place}: {len(both)} of its videos are scored too, such as {both[0]!r}; use the scores of a validation "
            "split, as `vidseg test RUN --split val` leaves them"
        )


def _aligned(parts: Sequence[VideoScores]) -> list[npt.NDArray[np.float64]]:
    """Return the scores of each part in the order of the first part's videos."""
    first, found = parts[0], []
    for number, part in enumerate(parts):
        if part.classes != first.classes:
            raise ValueError(f"file {number + 1} of the scores: {_difference(part.classes, first.classes)}")
        places = {video: place for place, video in enumerate(part.videos)}
        if places.keys() != set(first.videos):
            other = sorted(places.keys() ^ set(first.videos))
            raise ValueError(f"the files have different videos: {other[0]!r} is in one of them only")
        order = [places[video] for video in first.videos]
        if not np.array_equal(part.labels[order], first.labels):
            wrong = int(np.flatnonzero(part.labels[order] != first.labels)[0])
            raise ValueError(f"the files have different labels for {first.videos[wrong]!r}")
        found.append(part.scores[order].astype(np.float64))
    return found


def _difference(classes: Sequence[str], others: Sequence[str]) -> str:
    """Return the first difference of two lists of classes in words."""
    pairs = itertools.zip_longest(classes, others)
    number, (name, other) = next((number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1])
    return f"different classes: class {number} is {name!r} here and {other!r} in the other scores"


def _mean(
    values: Sequence[npt.NDArray[np.float64]], weights: Sequence[float], how: Literal["softmax", "logits"]
) -> npt.NDArray[np.float32]:
    shown = [np.log(np.maximum(part, _SMALLEST)) for part in values] if how == "logits" else values
    total = np.tensordot(np.array(weights) / sum(weights), np.stack(list(shown)), axes=1)
    if how == "logits":
        total = np.exp(total - total.max(axis=1, keepdims=True))
        total /= total.sum(axis=1, keepdims=True)
    return np.asarray(total, np.float32)
