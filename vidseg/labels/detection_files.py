"""Readers of annotation files of temporal action detection, each recognized by its content.

JSON: ActivityNet's form (also HACS segments, FineAction, THUMOS-14 of G-TAD, ActionFormer and OpenTAD, EPIC-Kitchens
of OpenTAD), the derivative of BSN and BMN, and the numbered actions of MultiTHUMOS and Charades. CSV: THUMOS-14 of
G-TAD in two forms, EPIC-Kitchens-100, Charades, tables of durations, and rows `video,start,end,class`. Text: one file
per class, as THUMOS-14 and MultiTHUMOS are published.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import read_rows
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.json_files import read_json
from vidseg.labels.localization import LocalizedVideo, read_localization_json
from vidseg.labels.names import clean_name, split_name, strip_extension, video_name
from vidseg.labels.thumos import AMBIGUOUS, THUMOS_CLASSES, read_thumos_text

__all__ = ["DetectionFile", "DetectionRow", "Level", "read_detection_file"]

Level = Literal["verb", "noun", "action"]

_OWN_COLUMNS = {
    "video": ("video", "youtube_id", "video_id", "id", "path"),
    "start": ("start", "time_start"),
    "stop": ("end", "stop", "time_end"),
    "label": ("class", "label"),
    "split": ("split", "subset"),
    "seconds": ("duration", "seconds"),
}
_ACTION = re.compile(r"c(\d{3}) (\S+) (\S+)")


@dataclass(frozen=True)
class DetectionRow:
    """One segment as a file has it.

    Attributes:
        place: file and line, or file and video, for messages.
        video: name of the video.
        label: class name, or the number of the class in the file.
        start: start in seconds.
        stop: end in seconds.
    """

    place: str
    video: str
    label: str | int
    start: float
    stop: float


@dataclass
class DetectionFile:
    """Content of one annotation file.

    Attributes:
        path: the file.
        rows: segments in the order of the file.
        videos: every video of the file with duration, split and rate as far as known; `segments` is empty.
        listed: whether each video has one entry, so that no other file may have segments of it.
        number_form: class name for a number without a class list, such as `c{:03d}`.
        first_number: number of the first class in the file; None: 0 or 1, as the class list shows.
        ambiguous: number of segments without a class, which are left out.
    """

    path: Path
    rows: list[DetectionRow] = field(default_factory=list)
    videos: dict[str, LocalizedVideo] = field(default_factory=dict)
    listed: bool = False
    number_form: str = "{}"
    first_number: int | None = 0
    ambiguous: int = 0

    def video(self, name: str, *, place: str, seconds: float | None = None, split: str | None = None) -> str:
        """Add a video, or what is known about it.

        Returns:
            Its name.

        Raises:
            ValueError: the name is empty, or the file contradicts itself about duration or split.
        """
        name = strip_extension(clean_name(name))
        if not name:
            raise ValueError(f"{place}: the name of the video is empty")
        known = self.videos.setdefault(name, LocalizedVideo([]))
        for what, value in (("seconds", seconds), ("split", split)):
            before = getattr(known, what)
            if value is not None and before is not None and before != value:
                raise ValueError(f"{place}: video {name!r} has {what} {value}, but an earlier line has {before}")
            if value is not None:
                setattr(known, what, value)
        return name

    def add(self, place: str, video: str, label: str | int, start: Any, stop: Any) -> None:
        """Add a segment.

        Raises:
            ValueError: a time is not a number, or the label is empty.
        """
        label = clean_name(label) if isinstance(label, str) else label
        if label == "":
            raise ValueError(f"{place}: the class is empty")
        try:
            self.rows.append(DetectionRow(place, video, label, float(start), float(stop)))
        except (TypeError, ValueError):
            raise ValueError(f"{place}: times {start!r} and {stop!r} are not numbers of seconds") from None


def read_detection_file(
    path: str | Path, *, level: Level = "verb", faults: SegmentFaults | None = None
) -> DetectionFile:
    """Read an annotation file of any supported form.

    Args:
        path: the file.
        level: classes of EPIC-Kitchens: the verb, the noun, or both (`3,12`, as in the challenge).
        faults: check of the segments in ActivityNet's form; default: a segment that labels nothing is an error.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the form is unknown, or a line is malformed; the message names file and line or video.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: annotation file not found")
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _read_json(path, faults)
    if suffix in (".csv", ".tsv"):
        return _read_csv(path, level)
    if suffix == ".txt":
        return _read_class_text(path)
    raise ValueError(f"{path}: annotation files are .json, .csv, .tsv or .txt")


# JSON


def _read_json(path: Path, faults: SegmentFaults | None) -> DetectionFile:
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        return _activitynet(path, faults)
    entries = list(content.values()) if isinstance(content, dict) else []
    if entries and all(isinstance(entry, dict) for entry in entries):
        if any("duration_second" in entry for entry in entries):
            return _each_video(path, content, _derivative)
        if all("actions" in entry for entry in entries):
            found = _each_video(path, content, _numbered)
            found.number_form, found.first_number = "{}", None
            return found
    raise ValueError(
        f"{path}: not an annotation file; expected 'database' as ActivityNet has it, videos with 'duration_second' and"
        " 'annotations' as BMN has them, or videos with 'actions' as MultiTHUMOS and Charades have them"
    )


def _activitynet(path: Path, faults: SegmentFaults | None) -> DetectionFile:
    found = DetectionFile(path, listed=True)
    for name, video in read_localization_json(path, faults=faults).items():
        place = f"{path}: video {name!r}"
        kept = [segment for segment in video.segments if segment.label != AMBIGUOUS]
        found.ambiguous += len(video.segments) - len(kept)
        found.videos[name] = LocalizedVideo([], video.seconds, video.split and split_name(video.split), video.fps)
        found.rows += [DetectionRow(place, name, one.label, one.start, one.stop) for one in kept]
    return found


def _each_video(
    path: Path, content: Mapping[str, Any], read: Callable[[DetectionFile, str, str, Mapping[str, Any]], None]
) -> DetectionFile:
    found = DetectionFile(path, listed=True)
    for written, entry in content.items():
        place = f"{path}: video {written!r}"
        try:
            name = found.video(written, place=place)
            read(found, place, name, entry)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place}: {type(error).__name__}: {error}") from error
    return found


def _derivative(found: DetectionFile, place: str, name: str, entry: Mapping[str, Any]) -> None:
    """Read a video of BSN's and BMN's derivative of ActivityNet; its split is in the CSV file beside it."""
    seconds = float(entry["duration_second"]) if entry.get("duration_second") is not None else None
    frames = entry.get("duration_frame")
    found.videos[name] = LocalizedVideo([], seconds, fps=float(frames) / seconds if frames and seconds else None)
    for annotation in entry["annotations"]:
        start, stop = annotation["segment"]
        found.add(place, name, annotation["label"], start, stop)


def _numbered(found: DetectionFile, place: str, name: str, entry: Mapping[str, Any]) -> None:
    """Read a video of MultiTHUMOS or Charades: `"actions": [[class number, start, stop], ...]`."""
    duration = entry.get("duration")
    found.videos[name] = LocalizedVideo(
        [], None if duration is None else float(duration), split_name(clean_name(str(entry["subset"])))
    )
    for number, start, stop in entry["actions"]:
        if int(number) != number:
            raise ValueError(f"{place}: class number {number!r} is not a whole number")
        found.add(place, name, int(number), start, stop)


# CSV and text


def _read_csv(path: Path, level: Level) -> DetectionFile:
    lines = read_rows(path, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    if not lines:
        raise ValueError(f"{path}: the file is empty")
    header_line, header = lines[0]
    names = [cell.strip().lower() for cell in header]
    found, columns = DetectionFile(path), set(names)
    if len(columns) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}:{header_line}: the header has column {twice!r} twice; remove one")
    read: Callable[[DetectionFile, str, dict[str, str]], None]
    if {"video", "type", "type_idx", "start", "end"} <= columns:
        read = _thumos
    elif {"video-name", "t-init", "t-end", "label-idx"} <= columns:
        read = _thumos_truth
    elif {"video_id", "start_timestamp", "stop_timestamp"} <= columns:
        found.first_number = 0
        read = _epic(level, path.stem, timed="verb_class" in columns)
    elif {"id", "actions", "length"} <= columns:
        found.number_form, found.listed = "c{:03d}", True
        read = _charades(path.stem)
    else:
        own = {key: next((name for name in known if name in columns), None) for key, known in _OWN_COLUMNS.items()}
        times = own["start"], own["stop"], own["label"]
        if own["video"] is None or (None in times and (own["seconds"] is None or set(times) != {None})):
            raise ValueError(
                f"{path}:{header_line}: header {','.join(names)!r:.200}: expected the columns video, start, end and"
                " class, a table of durations with video and duration, or those of THUMOS-14, EPIC-Kitchens or Charades"
            )
        read = _own(own)
    for line, cells in lines[1:]:
        place = f"{path}:{line}"
        if len(cells) != len(names):
            raise ValueError(
                f"{place}: {counted(len(cells), 'cell')}, but the header has {counted(len(names), 'column')}"
            )
        read(found, place, {name: cell.strip() for name, cell in zip(names, cells, strict=True)})
    return found


def _thumos(found: DetectionFile, place: str, cell: dict[str, str]) -> None:
    name = found.video(cell["video"], place=place)
    if cell["type"] == AMBIGUOUS:
        found.ambiguous += 1
    else:
        found.add(place, name, cell["type"], cell["start"], cell["end"])


def _thumos_truth(found: DetectionFile, place: str, cell: dict[str, str]) -> None:
    seconds = _number(cell["video-duration"], "video-duration", place) if "video-duration" in cell else None
    name = found.video(cell["video-name"], place=place, seconds=seconds)
    if "frame-rate" in cell:
        found.videos[name].fps = _number(cell["frame-rate"], "frame-rate", place)
    number = cell["label-idx"]
    if number == "-1":
        found.ambiguous += 1
    elif number.isdecimal() and int(number) < len(THUMOS_CLASSES):
        found.add(place, name, list(THUMOS_CLASSES)[int(number)], cell["t-init"], cell["t-end"])
    else:
        raise ValueError(f"{place}: label-idx {number!r} is not one of -1 to {len(THUMOS_CLASSES) - 1}")


def _epic(level: Level, stem: str, *, timed: bool) -> Callable[[DetectionFile, str, dict[str, str]], None]:
    split = next((part for part in ("train", "validation", "test") if part in stem.lower()), None)

    def read(found: DetectionFile, place: str, cell: dict[str, str]) -> None:
        name = found.video(cell["video_id"], place=place, split=split and split_name(split))
        if not timed:  # EPIC_100_test_timestamps.csv has no classes
            return
        wanted = ("verb", "noun") if level == "action" else (level,)
        numbers = [cell.get(f"{one}_class", "") for one in wanted]
        if not all(number.isdecimal() for number in numbers):
            raise ValueError(f"{place}: {level} class {','.join(numbers)!r} is not a number")
        label = ",".join(numbers) if level == "action" else int(numbers[0])
        start, stop = (_clock(cell[f"{side}_timestamp"], place) for side in ("start", "stop"))
        found.add(place, name, label, start, stop)

    return read


def _charades(stem: str) -> Callable[[DetectionFile, str, dict[str, str]], None]:
    split = next((part for part in ("train", "test") if part in stem.lower()), None)

    def read(found: DetectionFile, place: str, cell: dict[str, str]) -> None:
        name = cell["id"]
        if name in found.videos:
            raise ValueError(f"{place}: video {name!r} occurs twice; remove one line")
        name = found.video(name, place=place, seconds=_number(cell["length"], "length", place), split=split)
        for action in filter(None, cell["actions"].split(";")):
            match = _ACTION.fullmatch(action.strip())
            if not match:
                raise ValueError(f"{place}: action {action!r} is not of the form c092 11.90 21.20")
            found.add(place, name, int(match[1]), match[2], match[3])

    return read


def _own(columns: Mapping[str, str | None]) -> Callable[[DetectionFile, str, dict[str, str]], None]:
    """Read rows with a segment each; lines without start, end and class describe a video without segments."""

    def read(found: DetectionFile, place: str, cell: dict[str, str]) -> None:
        value = {key: cell[name] if name is not None else "" for key, name in columns.items()}
        name = video_name(value["video"]) if columns["video"] == "path" else value["video"]
        seconds = _number(value["seconds"], str(columns["seconds"]), place) if value["seconds"] else None
        split = split_name(clean_name(value["split"])) or None
        name = found.video(name, place=place, seconds=seconds, split=split)
        if cell.get("fps"):
            found.videos[name].fps = _number(cell["fps"], "fps", place)
        given = [bool(value[key]) for key in ("start", "stop", "label")]
        if any(given) and not all(given):
            raise ValueError(f"{place}: one of start, end and class is empty; set all three, or none of them")
        if all(given):
            found.add(place, name, value["label"], value["start"], value["stop"])

    return read


def _read_class_text(path: Path) -> DetectionFile:
    """Read the segments of one class, which the file is named after: `Diving_val.txt`, `Diving_test.txt`, `Run.txt`."""
    found = DetectionFile(path)
    label = re.sub(r"_(val|test)$", "", clean_name(path.stem))
    for line, name, start, stop in read_thumos_text(path):
        place = f"{path}:{line}"
        video = found.video(name, place=place)
        if label == AMBIGUOUS:
            found.ambiguous += 1
        else:
            found.add(place, video, label, start, stop)
    return found


def _number(text: str, column: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ValueError(f"{place}: column {column!r}: {text!r} is not a number above 0")
    return value


def _clock(text: str, place: str) -> float:
    """Return the seconds of a time such as 00:01:02.50."""
    match = re.fullmatch(r"(\d+):(\d{1,2}):(\d{1,2}(?:\.\d+)?)", text)
    if not match:
        raise ValueError(f"{place}: {text!r} is not a time of the form 00:01:02.50")
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
