"""Readers of official JSON annotation files: Kinetics (2017 and later releases) and Diving-48."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidseg.labels.csv_labels import LabelRow, check_row
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.json_files import json_number, json_text, read_json
from vidseg.labels.names import clean_name, strip_extension

__all__ = ["read_diving48_json", "read_diving48_vocabulary", "read_kinetics_json"]


def _load(path: str | Path, kind: type, form: str) -> Any:
    content = read_json(path)
    if not isinstance(content, kind):
        raise ValueError(f"{path}: expected {form}")
    return content


def read_kinetics_json(path: str | Path, *, faults: SegmentFaults | None = None) -> list[LabelRow]:
    """Read Kinetics: `{"<id>": {"annotations": {"label": .., "segment": [start, stop]}, "subset": ..}}`.

    Test set entries have no label, and in some releases no annotations; their rows describe the whole video.

    Args:
        path: the file.
        faults: check of the times; default: a clip without length is an error.

    Raises:
        ValueError: an entry has another structure; the message names its id.
    """
    faults = faults or SegmentFaults()
    rows = []
    for video, entry in _load(path, dict, "an object of video ids").items():
        try:
            annotations = entry.get("annotations") or {}
            start, stop = _segment(annotations["segment"]) if "segment" in annotations else (None, None)
            label, subset = _optional_text(annotations, "label"), _optional_text(entry, "subset")
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: video {video!r:.80}: not a Kinetics entry ({error}); expected annotations and subset"
            ) from error
        if start is not None and stop is not None:
            times = faults.check(start, stop, place=f"{path}: video {video!r:.80}", label=label)
            if times is None:
                continue
            start, stop = times
        rows.append(LabelRow(label, strip_extension(clean_name(video)), start, stop, subset))
        check_row(rows[-1], f"{path}: video {video!r:.80}")
    return rows


def _segment(times: Any) -> tuple[float, float]:
    start, stop = times
    return json_number(start, "start of the segment"), json_number(stop, "end of the segment")


def _optional_text(entry: Any, name: str) -> str | None:
    value = entry.get(name)
    return json_text(value, name) if value else None


def read_diving48_vocabulary(path: str | Path) -> list[str]:
    """Read class names from `Diving48_vocab.json`: `["Back", "15som", "05Twis", "FREE"]` becomes
    Back_15som_05Twis_FREE."""
    names = []
    for position, parts in enumerate(_load(path, list, "a list of classes")):
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"{path}: class {position}: {parts!r:.200} is not a list of words")
        names.append("_".join(map(clean_name, parts)))
    return names


def read_diving48_json(path: str | Path, *, classes: list[str], split: str) -> list[LabelRow]:
    """Read Diving-48 (`Diving48_V2_train.json`): entries `{"vid_name": .., "label": 12, ..}`.

    The videos are trimmed; the entries start_frame and end_frame are ignored.

    Args:
        path: the file.
        classes: class names of the vocabulary.
        split: split of all rows.

    Raises:
        ValueError: an entry has another structure, or a label outside the vocabulary.
    """
    rows = []
    for position, entry in enumerate(_load(path, list, "a list of videos")):
        try:
            name, label = entry["vid_name"], entry["label"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: entry {position}: {entry!r:.200} has no vid_name or no label") from error
        if not isinstance(label, int) or not 0 <= label < len(classes):
            raise ValueError(
                f"{path}: {name!r:.80}: label {label!r:.60}, but the vocabulary has classes 0 to {len(classes) - 1}"
            )
        try:
            rows.append(LabelRow(classes[label], strip_extension(clean_name(json_text(name, "vid_name"))), split=split))
        except ValueError as error:
            raise ValueError(f"{path}: entry {position}: {error}") from error
        check_row(rows[-1], f"{path}: entry {position}")
    return rows
