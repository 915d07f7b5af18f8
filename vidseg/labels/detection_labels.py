"""Segments of untrimmed videos for temporal action detection: annotation files joined, checked, and written to the
catalog.

The segments are stored in the catalog's table `segments`. Videos of the annotation that are not in the catalog are
added without frames, so that a data set may have features only; their number of frames is 0 if it is unknown.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidseg.labels.catalog import write_catalog
from vidseg.labels.catalog_videos import find_or_add_videos, split_ids
from vidseg.labels.classes import add_classes, check_case, class_names, order_classes, warn_of_moves
from vidseg.labels.counting import counted
from vidseg.labels.detection_files import DetectionFile, DetectionRow, Level, read_detection_file
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.localization import LocalizedVideo, TimedLabel
from vidseg.labels.names import find_name
from vidseg.labels.official_lists import read_id_list, read_numbered_classes
from vidseg.labels.thumos import thumos_split

__all__ = ["DetectionLabels", "DetectionReport", "apply_detection", "read_detection_labels"]

logger = logging.getLogger(__name__)

_EQUAL = 1e-3  # seconds between the ends of two segments that are the same, as in ActionFormer and OpenTAD
_IDENTIFIER = re.compile(r"id_(\d+)")


@dataclass
class DetectionLabels:
    """Segments of one data set, as read from its files.

    Attributes:
        videos: videos by name, with segments, duration, split and rate.
        classes: class names by number if a class list sets them, else None.
        duplicates: `<file>: video <name>: <segment>` of each segment that repeats another one of its video and class.
        ambiguous: number of segments without a class, which are left out.
        blocked: names that are left out of the splits for evaluation.
    """

    videos: dict[str, LocalizedVideo]
    classes: list[str] | None = None
    duplicates: list[str] = field(default_factory=list)
    ambiguous: int = 0
    blocked: list[str] = field(default_factory=list)


@dataclass
class DetectionReport:
    """Result of an import of segments.

    Attributes:
        videos: number of videos written.
        segments: number of their segments.
        classes: number of classes of the data set.
        splits: number of videos of each split.
        without_frames: number of these videos without a frame database, for features only.
        without_segments: number of videos without segments.
        without_duration: names of videos whose duration is unknown.
        without_labels: paths of videos of the catalog that the annotation does not have.
        duplicates: segments that repeat another one; they are kept.
        ambiguous: number of segments without a class, which are left out.
        blocked: number of videos left out of the splits for evaluation.
        skipped: description of each segment or video that is left out.
        cut: description of each segment that is cut to its video.
    """

    videos: int = 0
    segments: int = 0
    classes: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    without_frames: int = 0
    without_segments: int = 0
    without_duration: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    ambiguous: int = 0
    blocked: int = 0
    skipped: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.splits.items()) or "none"
        lines = [
            f"{counted(self.videos, 'video')}, {counted(self.segments, 'segment')},"
            f" {counted(self.classes, 'class', 'classes')}; splits: {counts}"
        ]
        for count, text in (
            (self.without_frames, "without a frame database (features only)"),
            (self.without_segments, "without segments"),
            (self.blocked, "blocked: in no split for evaluation"),
        ):
            if count:
                lines.append(f"{counted(count, 'video')} {text}")
        if self.ambiguous:
            lines.append(f"{counted(self.ambiguous, 'ambiguous segment')} left out")
        for noun, text, items in (
            ("video", "of unknown duration", self.without_duration),
            ("video", "in the catalog, but not in the annotation", self.without_labels),
            ("segment", "repeated; kept", self.duplicates),
        ):
            if items:
                lines.append(f"{counted(len(items), noun)} {text}, such as {items[0]}")
        return "\n".join(lines)


def read_detection_labels(
    paths: Sequence[str | Path],
    *,
    classes: str | Path | None = None,
    blocked: str | Path | None = None,
    level: Level = "verb",
    first_number: int | None = None,
    split: str | None = None,
    faults: SegmentFaults | None = None,
) -> DetectionLabels:
    """Read annotation files and join them; pass all files of a data set in one call.

    Files may complete each other: durations and splits in one, segments in another.

    Args:
        paths: annotation files in any form of `read_detection_file`; a folder stands for its files `<Class>*.txt`.
        classes: class list that sets the numbers of the classes; None: names sorted.
        blocked: list of videos that no split for evaluation contains, one name per line or a JSON list.
        level: classes of EPIC-Kitchens.
        first_number: number of the first class in files of numbered actions; None: as the numbers show.
        split: split of the videos whose files have none.
        faults: check of the segments; default: a segment that labels nothing is an error.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is malformed, or two files contradict each other; the message names file and line or video.
    """
    faults = faults or SegmentFaults()
    names = None if classes is None else read_numbered_classes(classes)[0]
    files = [read_detection_file(path, level=level, faults=faults) for path in _expand(paths)]
    videos, home = _joined(files)
    result = DetectionLabels(videos, names, ambiguous=sum(file.ambiguous for file in files))
    for file in files:
        first = _first_number(file, names, first_number)
        for row in file.rows:
            _add(result, home[row.video], _name(row, file, names, first), row, faults)
    for name, video in videos.items():
        video.split = thumos_split(name) or video.split or split
    if blocked is not None:
        listed = {found for name in read_id_list(blocked) if (found := find_name(name, videos))}
        result.blocked = sorted(name for name in listed if videos[name].split != "train")
        for name in result.blocked:
            videos[name].split = None
    return result


def _expand(paths: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        found = (
            sorted(one for one in path.glob("*.txt") if "class" not in one.name.lower()) if path.is_dir() else [path]
        )
        if not found:
            raise FileNotFoundError(f"{path}: no <Class>.txt in this folder; pass the annotation files themselves")
        files += found
    if not files:
        raise ValueError("no annotation file; pass at least one")
    return files


def _joined(files: Iterable[DetectionFile]) -> tuple[dict[str, LocalizedVideo], dict[str, str]]:
    """Join what the files say about videos; the second value is the joined name of each written name."""
    videos: dict[str, LocalizedVideo] = {}
    home: dict[str, str] = {}
    sources: dict[str, tuple[Path, DetectionFile]] = {}
    for file in files:
        with_rows = {row.video for row in file.rows}
        for written, video in file.videos.items():
            name = home[written] = find_name(written, videos) or written
            known = videos.setdefault(name, LocalizedVideo([]))
            if written in with_rows and name in sources and (file.listed or sources[name][1].listed):
                raise ValueError(
                    f"{file.path}: video {written!r} also has segments in {sources[name][0]}; pass only one of them"
                )
            if written in with_rows:
                sources.setdefault(name, (file.path, file))
            for what in ("seconds", "split", "fps"):
                value, before = getattr(video, what), getattr(known, what)
                if what == "split" and None not in (value, before) and value != before:
                    raise ValueError(
                        f"{file.path}: video {written!r} is in split {value!r}, but an earlier file has {before!r}"
                    )
                if before is None and value is not None:
                    setattr(known, what, value)
    return videos, home


def _first_number(file: DetectionFile, names: list[str] | None, chosen: int | None) -> int:
    """Return the number of the first class in a file of numbered actions."""
    if file.first_number is not None:
        return file.first_number
    numbers = {row.label for row in file.rows if isinstance(row.label, int)}
    if chosen is not None or not numbers or 0 in numbers or names is None:
        return chosen or 0
    if max(numbers) == len(names):
        return 1
    raise ValueError(
        f"{file.path}: its class numbers {min(numbers)} to {max(numbers)} do not show whether the first class is 0 or"
        " 1; set --first-number (MultiTHUMOS 1, Charades 0)"
    )


def _name(row: DetectionRow, file: DetectionFile, names: list[str] | None, first: int) -> str:
    """Return the class name of a row; a number outside the class list is returned as text, which is not in the list."""
    label = row.label
    if isinstance(label, str) and names is not None and label not in names and (match := _IDENTIFIER.fullmatch(label)):
        label = int(match[1])  # EPIC-Kitchens as OpenTAD writes it: id_003
    if isinstance(label, str):
        return label
    if names is not None and 0 <= label - first < len(names):
        return names[label - first]
    return file.number_form.format(label)


def _add(labels: DetectionLabels, name: str, label: str, row: DetectionRow, faults: SegmentFaults) -> None:
    video = labels.videos[name]
    what = f"segment {label!r} from {row.start:g} to {row.stop:g} seconds"
    if labels.classes is not None and label not in labels.classes:
        faults.leave_out(f"{row.place}: {what}: class {label!r} is not in the class list")
        return
    times = faults.check(row.start, row.stop, place=row.place, label=label, seconds=video.seconds)
    if times is None:
        return
    if any(
        one.label == label and abs(one.start - times[0]) <= _EQUAL and abs(one.stop - times[1]) <= _EQUAL
        for one in video.segments
    ):
        labels.duplicates.append(f"{row.place}: {what}")
    video.segments.append(TimedLabel(label, *times))


def apply_detection(
    root: str | Path,
    labels: DetectionLabels,
    *,
    without_durations: bool = False,
    faults: SegmentFaults | None = None,
) -> DetectionReport:
    """Write segments, splits and classes to the catalog of `root`, which is created if missing, in one transaction.

    Segments of the annotated videos are replaced, and each split contains exactly the videos listed. A video matches
    the one of its name in any class folder, also with the prefix `v_` on one side only. The duration of a video with
    frames is that of the frames.

    Args:
        root: folder of the data set.
        labels: segments to write.
        without_durations: accept videos without frames whose duration is unknown.
        faults: check of the segments; default: a segment that labels nothing is an error.

    Raises:
        ValueError: a duration is unknown, a segment labels nothing, the classes contradict the catalog, or two videos
            have the same name; the catalog is unchanged.
        OSError: the catalog cannot be written; it is unchanged.
    """
    faults = faults or SegmentFaults()
    report = DetectionReport(duplicates=labels.duplicates, ambiguous=labels.ambiguous, blocked=len(labels.blocked))
    Path(root).mkdir(parents=True, exist_ok=True)
    with write_catalog(root) as db:
        connection = db.conn
        before = class_names(connection)
        official = [name for (name,) in connection.execute("SELECT name FROM classes WHERE official ORDER BY number")]
        used = {segment.label for video in labels.videos.values() for segment in video.segments}
        check_case(used, before, official=[*official, *(labels.classes or ())])
        known = {
            path.rpartition("/")[2]: seconds
            for path, seconds in connection.execute("SELECT path, seconds FROM videos WHERE size_bytes > 0")
        }
        videos: dict[str, LocalizedVideo] = {}
        for name, video in labels.videos.items():
            found = find_name(name, known)
            seconds = (known[found] if found else 0.0) or video.seconds
            if seconds is None and not without_durations:
                text = "pass a table of durations (video,duration) too, convert the videos first, or accept this with"
                faults.leave_out(f"{root}: video {name!r}: its duration is unknown: {text} --without-durations")
                continue
            if seconds is None:
                report.without_duration.append(name)
            place = f"{root}: video {name!r}"
            checked = [
                TimedLabel(one.label, *times)
                for one in video.segments
                if (times := faults.check(one.start, one.stop, place=place, label=one.label, seconds=seconds))
            ]
            videos[found or name] = LocalizedVideo(checked, seconds, video.split, video.fps)
        if labels.classes is not None:
            order_classes(connection, labels.classes)
            warn_of_moves(before, class_names(connection))
        class_ids = add_classes(connection, {one.label for video in videos.values() for one in video.segments})
        ids = find_or_add_videos(
            connection,
            root,
            {name: (round((v.seconds or 0) * (v.fps or 0)), v.fps or 0, v.seconds or 0) for name, v in videos.items()},
        )
        connection.executemany("DELETE FROM segments WHERE video_id = ?", [(row,) for row in ids.values()])
        connection.executemany(
            "INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)",
            [
                (ids[name], one.start, one.stop, class_ids[one.label])
                for name, video in videos.items()
                for one in sorted(video.segments, key=lambda one: (one.start, one.stop))
            ],
        )
        splits: dict[str, list[int]] = {}
        for name, video in videos.items():
            if video.split is not None:
                splits.setdefault(video.split, []).append(ids[name])
        for split_id, members in zip(split_ids(db, splits), splits.values(), strict=True):
            connection.execute("DELETE FROM split_videos WHERE split_id = ?", (split_id,))
            connection.executemany(
                "INSERT INTO split_videos VALUES (?, ?)", [(split_id, row) for row in sorted(members)]
            )
        written = set(ids.values())
        for row, path, size in connection.execute("SELECT id, path, size_bytes FROM videos ORDER BY path"):
            if row not in written:
                report.without_labels.append(path)
            elif not size:
                report.without_frames += 1
        report.classes = len(class_names(connection))
    report.videos = len(videos)
    report.segments = sum(len(video.segments) for video in videos.values())
    report.without_segments = sum(not video.segments for video in videos.values())
    report.splits = {split: len(members) for split, members in sorted(splits.items())}
    report.skipped, report.cut = faults.skipped, faults.cut
    return report
