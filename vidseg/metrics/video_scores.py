"""Scores of every video in a file: written by a test, fused and scored without the network."""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vidseg.metrics import confusion_matrix, mean_class_accuracy, top_k_hits

__all__ = ["VideoScores", "check_suffix", "fuse_scores", "read_scores", "write_scores"]


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

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold scores; names the line of a CSV file.
    """
    path = Path(path)
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


def fuse_scores(parts: Sequence[VideoScores], weights: Sequence[float] | None = None) -> VideoScores:
    """Return the weighted mean of several networks' scores for the same videos.

    Args:
        parts: scores of the same videos, in any order.
        weights: of the parts; None: all equal.

    Raises:
        ValueError: the parts have other videos, labels or classes, or the weights do not fit.
    """
    weights = [1.0] * len(parts) if weights is None or not len(weights) else list(weights)
    if not parts or len(weights) != len(parts) or sum(weights) <= 0:
        raise ValueError(f"{len(parts)} files of scores and the weights {list(weights)}: give one weight for each file")
    first = parts[0]
    total = np.zeros_like(first.scores, dtype=np.float64)
    for part, weight in zip(parts, weights, strict=True):
        if part.classes != first.classes:
            raise ValueError(f"the files have different classes: {part.classes} and {first.classes}")
        places = {video: place for place, video in enumerate(part.videos)}
        if places.keys() != set(first.videos):
            other = sorted(places.keys() ^ set(first.videos))
            raise ValueError(f"the files have different videos: {other[0]!r} is in one of them only")
        order = [places[video] for video in first.videos]
        if not np.array_equal(part.labels[order], first.labels):
            raise ValueError("the files have different labels for the same videos")
        total += weight * part.scores[order]
    return VideoScores(first.videos, first.labels, (total / sum(weights)).astype(np.float32), first.classes)
