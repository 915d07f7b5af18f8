"""Localization labels (classes with times) to frame labels and back, and trimmed clips with negative samples.

The JSON form is ActivityNet's: `{"database": {video: {"subset", "duration", "annotations": [{"label", "segment":
[start, stop]}]}}}` with times in seconds, stop exclusive. What is written also has what the published conversion of
segmentation labels writes: `fps`, `frames`, and `start_frame` and `end_frame` (inclusive) for each segment; where a
file has them, they are taken instead of the times, so that nothing is rounded twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.labels.csv_labels import LabelRow
from vidseg.labels.dataset import Segment
from vidseg.labels.segmentation import Labels, SegmentationLabels, labels_from_segments, segments_from_labels

__all__ = [
    "LocalizedVideo",
    "TimedLabel",
    "clip_rows",
    "frame_labels_of",
    "read_localization_json",
    "write_localization_json",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimedLabel:
    """A class between two times in seconds, the second one exclusive."""

    label: str
    start: float
    stop: float


@dataclass
class LocalizedVideo:
    """The segments of one video.

    Attributes:
        segments: in the order of the file; they may overlap.
        seconds: duration, or None where it is not known.
        split: such as `train`, or None.
    """

    segments: list[TimedLabel]
    seconds: float | None = None
    split: str | None = None


def read_localization_json(path: str | Path) -> dict[str, LocalizedVideo]:
    """Videos of an ActivityNet-like file, names without `.mp4`.

    Raises:
        ValueError: not JSON, not of this form, or times that make no sense; names the video.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise ValueError(f"{path}: expected an object with the entry 'database', as in ActivityNet's annotation")
    rate = content.get("fps")
    videos = {}
    for name, entry in database.items():
        try:
            segments = [_timed_label(annotation, rate) for annotation in entry["annotations"]]
            frames, seconds = entry.get("frames"), entry.get("duration")
            if rate and frames:
                seconds = frames / rate
            videos[name.removesuffix(".mp4")] = LocalizedVideo(segments, seconds, entry.get("subset"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: video {name!r}: {type(error).__name__}: {error}") from error
    return videos


def _timed_label(annotation: Mapping[str, Any], rate: float | None) -> TimedLabel:
    if rate and "start_frame" in annotation and "end_frame" in annotation:
        start, stop = annotation["start_frame"] / rate, (annotation["end_frame"] + 1) / rate
    else:
        start, stop = map(float, annotation["segment"])
    if not (math.isfinite(start) and 0 <= start < stop < math.inf):
        raise ValueError(f"{annotation['label']!r} from {start} to {stop} seconds")
    return TimedLabel(annotation["label"], start, stop)


def write_localization_json(path: str | Path, labels: SegmentationLabels, *, background: Iterable[str] = ()) -> None:
    """Writes the segments of all videos; the file is there whole or not at all.

    Args:
        path: file to write.
        labels: frame labels; of several divisions into splits the first one a video is in gives its `subset`.
        background: classes that are no action and left out.
    """
    left_out = _numbers(labels.classes, background)
    subsets: dict[str, str] = {}
    for split, names in labels.splits.items():
        for name in names:
            subsets.setdefault(name, split)
    database = {}
    for name, values in labels.labels.items():
        database[name] = {
            "subset": subsets.get(name),
            "duration": len(values) / labels.rate,
            "frames": len(values),
            "annotations": [
                {
                    "label": labels.classes[segment.label],
                    "segment": [segment.start, segment.stop],
                    "start_frame": round(segment.start * labels.rate),
                    "end_frame": round(segment.stop * labels.rate) - 1,
                    "label_ids": segment.label,
                }
                for segment in segments_from_labels(values, labels.rate, background=left_out)
            ],
        }
    temporary = Path(f"{path}.tmp{os.getpid()}")
    try:
        content = {"fps": labels.rate, "database": database}
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _numbers(classes: Sequence[str], names: Iterable[str]) -> set[int]:
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"background {unknown[0]!r} is not a class; there are {', '.join(classes)}")
    return {classes.index(name) for name in names}


def frame_labels_of(
    videos: Mapping[str, LocalizedVideo],
    *,
    rate: float,
    background: str,
    classes: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
) -> SegmentationLabels:
    """Frame labels of localized videos (see `labels_from_segments` for overlaps and rounding).

    Args:
        videos: by name.
        rate: labels a second to make.
        background: class of the frames outside all segments; it is the last class where `classes` does not name it.
        classes: names by number; empty: sorted names.
        seconds: durations, where they are known better than `videos` has them. A video without any ends with its last
            segment, and a warning says so.

    Raises:
        ValueError: a label that is not in `classes`, or a video without segments and duration; names the video.
    """
    known = list(classes) or sorted({segment.label for video in videos.values() for segment in video.segments})
    if background not in known:
        known.append(background)
    numbers = {name: number for number, name in enumerate(known)}
    labels: dict[str, Labels] = {}
    splits: dict[str, list[str]] = {}
    guessed = []
    for name, video in videos.items():
        duration = (seconds or {}).get(name, video.seconds)
        if duration is None:
            if not video.segments:
                raise ValueError(f"video {name!r}: neither a segment nor a duration; how long is it?")
            duration = max(segment.stop for segment in video.segments)
            guessed.append(name)
        unknown = [segment.label for segment in video.segments if segment.label not in numbers]
        if unknown:
            raise ValueError(f"video {name!r}: class {unknown[0]!r} is not in the list of classes")
        segments = [Segment(segment.start, segment.stop, numbers[segment.label]) for segment in video.segments]
        count = max(1, round(duration * rate))
        labels[name] = labels_from_segments(segments, count, rate, background=numbers[background])
        if video.split is not None:
            splits.setdefault(video.split, []).append(name)
    if guessed:
        logger.warning(
            "%d videos of unknown duration, such as %r, end with their last segment; convert the videos first and give"
            " the data set, so that what follows is labeled too",
            len(guessed),
            guessed[0],
        )
    return SegmentationLabels(known, labels, splits, rate)


def clip_rows(
    labels: SegmentationLabels, *, background: Iterable[str], negatives: int = 0, seed: int = 0
) -> list[LabelRow]:
    """Rows of trimmed clips for recognition: every segment of an action, and some of none (negative samples).

    Negative samples are background segments, drawn evenly over the videos: one of each video that has any in random
    order, then a second one, and so on. Which ones follows from the seed and the names of the videos alone.

    A clip's folder has its times in whole seconds, so two short segments of a class within one second would share it;
    the first one stays, and a warning counts the others.

    Args:
        labels: frame labels.
        background: names of the classes that are no action.
        negatives: how many negative samples; fewer where there are not so many.
        seed: another seed, other negative samples.

    Returns:
        Rows without splits, by video and start.

    Raises:
        ValueError: a background that is no class, or a negative number of samples.
    """
    if negatives < 0:
        raise ValueError(f"negatives={negatives}: at least 0")
    left_out = _numbers(labels.classes, background)
    rows, gaps = [], []
    for name, values in sorted(labels.labels.items()):
        segments = segments_from_labels(values, labels.rate)
        rows += [_row(labels, name, segment) for segment in segments if segment.label not in left_out]
        found = [_row(labels, name, segment) for segment in segments if segment.label in left_out]
        rng = np.random.default_rng([seed, *name.encode()])
        gaps += [(turn, rng.random(), found[place]) for turn, place in enumerate(rng.permutation(len(found)))]
    gaps.sort(key=lambda gap: gap[:2])
    rows += [row for _, _, row in gaps[:negatives]]
    rows.sort(key=lambda row: (row.name, row.start))
    unique = {(row.label, row.folder_name): row for row in reversed(rows)}
    if len(unique) < len(rows):
        logger.warning(
            "%d of %d clips share their second with another clip of their class and are left out",
            len(rows) - len(unique),
            len(rows),
        )
    return [row for row in rows if unique[row.label, row.folder_name] is row]


def _row(labels: SegmentationLabels, name: str, segment: Segment) -> LabelRow:
    return LabelRow(labels.classes[segment.label], name, segment.start, segment.stop)
