"""What a folder of videos and a label file hold: videos, classes, rates, and the task that they are labels for."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidseg.labels.counting import counted
from vidseg.labels.label_files import LABEL_FILE_SUFFIXES
from vidseg.videos.listing import Listing, find_jobs
from vidseg.videos.opening import VideoError, open_video

__all__ = ["Inspection", "inspect_videos", "task_of_labels"]

_PROBED = 300  # files whose rate is read
_DIFFERENT = 1.25  # ratio of the largest to the smallest rate that counts as different
_STARTS, _STOPS = {"start", "time_start"}, {"end", "stop", "time_end"}


@dataclass(frozen=True)
class Inspection:
    """Facts about the source, before anything is converted.

    Attributes:
        videos: folder of the videos.
        labels: label file or folder of frame labels; None: the class folders are the labels.
        task: recognition, detection or segmentation.
        listing: the jobs of the conversion.
        sources: (path, bytes, time of modification in ns) of every file, by which changes are noticed.
        classes: videos of each class, for recognition.
        rates: frames per second of the videos that were probed.
    """

    videos: Path
    labels: Path | None
    task: str
    listing: Listing
    sources: list[tuple[str, int, int]]
    classes: dict[str, int]
    rates: list[float]

    @property
    def common_rate(self) -> float | None:
        """Rate that all videos are converted to; None where they have nearly one rate already."""
        if not self.rates or max(self.rates) <= _DIFFERENT * min(self.rates):
            return None
        return float(round(statistics.median(self.rates)))

    def __str__(self) -> str:
        kinds = Counter(Path(job.source).suffix.lower().removeprefix(".") or "folder" for job in self.listing.jobs)
        text = f"{counted(len(self.listing.jobs), 'video')} ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
        if self.rates:
            text += f", {min(self.rates):g} to {max(self.rates):g} frames per second"
        if self.classes:
            text += f", {counted(len(self.classes), 'class', 'classes')} of {_span(list(self.classes.values()))} videos"
        return text


def inspect_videos(videos: Path, labels: Path | None, *, task: str | None, skip: Path) -> Inspection:
    """Look at the source of `vidseg learn`.

    Args:
        videos: folder of videos.
        labels: label file, or folder of frame labels; None: class folders, or the only label file in `videos`.
        task: task that the user chose; None: as the labels show.
        skip: folder to leave out, such as results inside `videos`.

    Raises:
        FileNotFoundError: the folder or the labels do not exist.
        ValueError: there are no videos, no labels, or a single class.
    """
    if not videos.is_dir():
        raise FileNotFoundError(f"{videos}: no such folder of videos")
    if labels is not None and not labels.exists():
        raise FileNotFoundError(f"{labels}: no such label file")
    if labels is None:
        found = sorted(path for path in videos.iterdir() if _is_label_file(path))
        labels = found[0] if len(found) == 1 else None
    task = task or ("recognition" if labels is None else task_of_labels(labels))
    listing = find_jobs(videos, skip=skip)
    if labels is not None and task == "recognition":
        listing = find_jobs(labels, videos=videos)
    if not listing.jobs:
        reasons = "".join(f"\n{one.source}: {one.reason}" for one in listing.problems[:5])
        raise ValueError(f"{videos}: no videos found{reasons}")
    classes: Counter[str] = Counter()
    if task == "recognition":
        classes.update(job.label for job in listing.jobs if job.label is not None)
        if len(classes) < 2:
            raise ValueError(
                f"{labels or videos}: {'one class' if classes else 'no classes'} found, at least two are needed; put "
                "the videos of each class into a folder of their own, or give a CSV with the columns video and class "
                "with --labels"
            )
    elif labels is None:
        raise ValueError(f"task={task}: needs labels of times; give them with --labels")
    sources = []
    for path in sorted({job.source for job in listing.jobs}):
        state = Path(path).stat()
        sources.append((path, state.st_size, state.st_mtime_ns))
    return Inspection(videos, labels, task, listing, sources, dict(sorted(classes.items())), _rates(listing))


def task_of_labels(path: Path) -> str:
    """Return the task that labels are for, by the form of the file.

    Args:
        path: a folder of frame labels (segmentation), a JSON file or a table with start and end columns (detection), or
            any other label file (recognition).

    Raises:
        ValueError: the file is none of these.
    """
    if path.is_dir():
        return "segmentation"
    if path.suffix.lower() == ".json":
        return "detection"
    if path.suffix.lower() not in LABEL_FILE_SUFFIXES:
        expected = ", ".join(sorted((*LABEL_FILE_SUFFIXES, ".json")))
        raise ValueError(f"{path}: not a label file; expected one that ends in {expected}, or a folder of frame labels")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = next((line for line in file if line.strip()), "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    for delimiter in ",\t;":
        header = {cell.strip().lower() for row in csv.reader([line], delimiter=delimiter) for cell in row}
        if header & _STARTS and header & _STOPS:
            return "detection"
    return "recognition"


def _is_label_file(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in {".csv", ".tsv", ".json"} and not path.name.startswith(".")


def _rates(listing: Listing) -> list[float]:
    """Read the frame rates of videos, spread over the list; files that cannot be opened are left to the conversion."""
    jobs = [job for job in listing.jobs if job.kind == "video"]
    rates = []
    for number in np.unique(np.linspace(0, len(jobs) - 1, min(len(jobs), _PROBED)).round().astype(int)).tolist():
        try:
            with open_video(Path(jobs[number].source)) as (_, stream):
                rate = stream.average_rate or stream.guessed_rate
        except (VideoError, OSError, ValueError):  # the conversion names the problem
            continue
        if rate:
            rates.append(float(rate))
    return rates


def _span(counts: list[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
