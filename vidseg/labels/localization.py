"""Conversion between localization labels (classes with times) and frame labels, and trimmed clips with negatives.

The JSON format is that of ActivityNet: `{"database": {video: {"subset", "duration", "annotations": [{"label",
"segment": [start, stop]}]}}}` with times in seconds and stop exclusive. Written files also contain the entries of the
published conversion of segmentation labels: `fps`, `frames`, and `start_frame` and `end_frame` (inclusive) of each
segment. If a file has these entries, they are used instead of the times, which avoids rounding twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidseg.frames.whole_file import write_text
from vidseg.labels.catalog_content import MOST_LABELS, MOST_RATE, MOST_SECONDS
from vidseg.labels.csv_labels import LabelRow, check_row
from vidseg.labels.dataset import Segment
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.json_files import json_number, json_text, read_json
from vidseg.labels.names import clean_name, split_name, strip_extension
from vidseg.labels.segmentation_labels import Labels, SegmentationLabels, labels_from_segments, segments_from_labels

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
    """Class between two times in seconds, stop exclusive."""

    label: str
    start: float
    stop: float


@dataclass
class LocalizedVideo:
    """Segments of one video.

    Attributes:
        segments: in the order of the file; they may overlap.
        seconds: duration in seconds, or None if unknown.
        split: split name such as `train`, or None.
        fps: frame rate, or None if unknown.
    """

    segments: list[TimedLabel]
    seconds: float | None = None
    split: str | None = None
    fps: float | None = None


def read_localization_json(path: str | Path, *, faults: SegmentFaults | None = None) -> dict[str, LocalizedVideo]:
    """Return the videos of a file in ActivityNet's format by name, without `.mp4`.

    Args:
        path: the file.
        faults: check of the segments against their videos; default: a segment that labels nothing is an error.

    Raises:
        ValueError: the file is not JSON, has another structure, or has invalid times; the message names the video.
    """
    faults = faults or SegmentFaults()
    content = read_json(path)
    database = content.get("database") if isinstance(content, dict) else None
    if not isinstance(database, dict):
        raise ValueError(f"{path}: expected an object with the entry 'database', as in ActivityNet's annotation file")
    try:
        rate = json_number(content["fps"], "fps") if content.get("fps") else None
        if rate is not None and not 0 < rate <= MOST_RATE:
            raise ValueError(f"fps is {rate}, must be above 0 and at most {MOST_RATE:g}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    videos: dict[str, LocalizedVideo] = {}
    for written, entry in database.items():
        try:
            annotations = entry.get("annotations")
            if annotations is None:  # some files have no annotations of the test videos
                annotations = [] if split_name(str(entry.get("subset"))) == "test" else entry["annotations"]
            found = [_timed_label(annotation, rate) for annotation in annotations]
            frames, seconds = entry.get("frames"), entry.get("duration")
            if rate and frames:
                seconds = json_number(frames, "frames") / rate
            elif seconds is not None:
                seconds = json_number(seconds, "duration")
            if seconds is not None and not 0 <= seconds <= MOST_SECONDS:
                raise ValueError(f"the duration is {seconds:g} seconds, must be 0 to {MOST_SECONDS:.0f}")
            subset = json_text(entry["subset"], "subset") if entry.get("subset") else None
            fps = entry.get("fps", rate)
            fps = None if fps is None else json_number(fps, "fps")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: video {written!r:.80}: {type(error).__name__}: {error}") from error
        name = strip_extension(clean_name(written))
        check_row(LabelRow(None, name), f"{path}: video {written!r:.80}")
        if name in videos:
            raise ValueError(f"{path}: video {written!r:.80} occurs twice; remove one entry")
        place = f"{path}: video {name!r:.80}"
        segments = []
        for one in found:
            times = faults.check(one.start, one.stop, place=place, label=one.label, seconds=seconds)
            if times is not None:
                segments.append(TimedLabel(one.label, *times))
        videos[name] = LocalizedVideo(segments, seconds, subset and clean_name(subset), fps)
    return videos


def _timed_label(annotation: Mapping[str, Any], rate: float | None) -> TimedLabel:
    if rate and "start_frame" in annotation and "end_frame" in annotation:
        start = json_number(annotation["start_frame"], "start_frame") / rate
        stop = (json_number(annotation["end_frame"], "end_frame") + 1) / rate
    else:
        start, stop = (json_number(time, "time of a segment") for time in annotation["segment"])
    label = clean_name(json_text(annotation["label"], "label"))
    if not label:
        raise ValueError("a segment has an empty label")
    return TimedLabel(label, start, stop)


def write_localization_json(path: str | Path, labels: SegmentationLabels, *, background: Iterable[str] = ()) -> None:
    """Write the segments of all videos, replacing an existing file atomically.

    Args:
        path: file to write.
        labels: frame labels; `subset` is the first split that contains the video.
        background: names of classes whose segments are omitted.
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
    content = {"fps": labels.rate, "database": database}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _numbers(classes: Sequence[str], names: Iterable[str]) -> set[int]:
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"background {unknown[0]!r} is not a class; expected one of {', '.join(classes)}")
    return {classes.index(name) for name in names}


def frame_labels_of(
    videos: Mapping[str, LocalizedVideo],
    *,
    rate: float,
    background: str,
    classes: Sequence[str] = (),
    seconds: Mapping[str, float] | None = None,
    faults: SegmentFaults | None = None,
) -> SegmentationLabels:
    """Convert localized videos to frame labels (see `labels_from_segments` for overlaps and rounding).

    Args:
        videos: videos by name.
        rate: labels per second of the result.
        background: class of the frames outside all segments; appended to `classes` if missing.
        classes: class names by number; empty: sorted names.
        seconds: durations in seconds by video name, replacing those of `videos`. A video without any duration ends with
            its last segment, with a warning.
        faults: check of the segments against their videos; default: a segment that labels nothing is an error.

    Returns:
        The frame labels.

    Raises:
        ValueError: a label is not in `classes`, or a video has neither segments nor duration; the message names the
            video.
    """
    faults = faults or SegmentFaults()
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
                raise ValueError(f"video {name!r}: neither a segment nor a duration; add its duration to the file")
            duration = max(segment.stop for segment in video.segments)
            guessed.append(name)
        unknown = [segment.label for segment in video.segments if segment.label not in numbers]
        if unknown:
            raise ValueError(f"video {name!r}: class {unknown[0]!r} is not in the class list")
        segments = []
        for one in video.segments:
            times = faults.check(
                one.start, one.stop, place=f"video {name!r}", label=one.label, seconds=duration, rate=rate
            )
            if times is not None:
                segments.append(Segment(*times, numbers[one.label]))
        count = max(1, round(duration * rate))
        if count > MOST_LABELS:
            raise ValueError(
                f"video {name!r:.80}: {duration:g} seconds have {count} labels at {rate:g} per second, more than"
                f" {MOST_LABELS}; correct its duration"
            )
        labels[name] = labels_from_segments(segments, count, rate, background=numbers[background])
        if video.split is not None:
            splits.setdefault(video.split, []).append(name)
    if guessed:
        logger.warning(
            "videos of unknown duration, which end with their last segment: %d, such as %r; to label the frames after"
            " it, convert the videos and pass the data set",
            len(guessed),
            guessed[0],
        )
    return SegmentationLabels(known, labels, splits, rate)


def clip_rows(
    labels: SegmentationLabels, *, background: Iterable[str], negatives: int = 0, seed: int = 0
) -> list[LabelRow]:
    """Return rows of trimmed clips for recognition: every action segment, and negative samples of background.

    Negative samples are background segments, distributed evenly over the videos: one of each video that has any, in
    random order, then a second one, and so on. The choice depends only on the seed and the video names.

    The folder name of a clip contains its times in whole seconds, or in milliseconds if several clips of a class start
    and end in the same seconds (`folder_names`).

    Args:
        labels: frame labels.
        background: names of the background classes.
        negatives: number of negative samples; fewer if the videos have fewer background segments.
        seed: random seed of the negative samples.

    Returns:
        Rows without splits, ordered by video and start.

    Raises:
        ValueError: a background name is not a class, or `negatives` is negative.
    """
    if negatives < 0:
        raise ValueError(f"negatives is {negatives}, must be at least 0")
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
    return rows


def _row(labels: SegmentationLabels, name: str, segment: Segment) -> LabelRow:
    return LabelRow(labels.classes[segment.label], name, segment.start, segment.stop)
