"""Labels of a catalog as files, in forms that `vidseg labels` and other programs read."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vidseg.frames.whole_file import whole_file, write_text
from vidseg.labels.catalog import read_catalog
from vidseg.labels.classes import class_names
from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow, write_label_csv
from vidseg.labels.dataset import open_dataset
from vidseg.labels.names import clean_name
from vidseg.labels.segmentation_files import write_bundle, write_frame_labels, write_mapping
from vidseg.labels.segmentation_labels import FrameLabels, has_timelines

__all__ = ["ExportReport", "LabelForm", "export_labels"]

LabelForm = Literal["classes", "segments", "activitynet", "frames"]
"""A CSV file with the class of each video; a CSV file or a JSON file with segments; a folder with frame labels."""


@dataclass
class ExportReport:
    """Result of an export: what was written where, and the videos that have nothing of this form."""

    form: str
    out: str
    videos: int
    labels: int
    without_labels: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kind = {"classes": "class", "frames": "frame label"}.get(self.form, "segment")
        many = "classes" if kind == "class" else None
        lines = [f"{self.out}: {counted(self.videos, 'video')}, {counted(self.labels, kind, many)}"]
        if self.without_labels:
            more = ", ..." if len(self.without_labels) > 5 else ""
            lines.append(
                f"{counted(len(self.without_labels), 'video')} without them: {', '.join(self.without_labels[:5])}{more}"
            )
        return "\n".join(lines)


@dataclass
class _Video:
    path: str
    label: str | None
    seconds: float
    splits: list[str]
    segments: list[tuple[float, float, str]]

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def export_labels(
    root: str | Path, out: str | Path, *, form: LabelForm | None = None, division: str | None = None
) -> ExportReport:
    """Write the labels in the catalog of a data set to a file or, for frame labels, a folder.

    Args:
        root: folder of the data set.
        out: file or folder; replaced if it exists.
        form: `classes`: CSV file for `vidseg labels apply`; `segments`: CSV file, and `activitynet`: JSON file, for
            `vidseg labels segments`; `frames`: folder with mapping.txt, groundTruth/ and splits/ of MS-TCN. None:
            frames if videos are labeled frame by frame, else segments if there are any, else classes.
        division: the splits to write, where a data set has several divisions (`split1` of `split1/train`); frames are
            written with all of them.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: the data set has no catalog.
        ValueError: there are no labels of this form, the division does not exist or has to be chosen, or two videos of
            the same name would become one.
    """
    out = Path(out)
    with read_catalog(root, content=True) as connection:
        videos = _read(connection)
        dense = has_timelines(connection) and bool(connection.execute("SELECT 1 FROM timelines LIMIT 1").fetchone())
        names = class_names(connection)
    if form is None:
        form = "frames" if dense else "segments" if any(video.segments for video in videos) else "classes"
    if form not in get_args(LabelForm):
        raise ValueError(f"form is {form!r}, must be one of {', '.join(get_args(LabelForm))}")
    if form == "frames":
        return _write_frames(root, out, names)
    _check_names(root, videos)
    _choose_division(root, videos, division)
    if form == "classes":
        labeled = [video for video in videos if video.label is not None]
        rows = [
            LabelRow(video.label, video.name, split=split or None)
            for video in labeled
            for split in video.splits or [""]
        ]
        _require(rows, root, "no video has a class")
        write_label_csv(out, rows)
        count = len(labeled)
    else:
        labeled = [video for video in videos if video.segments]
        _require(labeled, root, "no video has segments")
        count = sum(len(video.segments) for video in labeled)
        listed = [video for video in videos if video.segments or video.label is None]
        (_write_csv if form == "segments" else _write_activitynet)(out, listed)
    missing = [video.path for video in videos if video not in labeled]
    return ExportReport(form, str(out), len(labeled), count, missing)


def _read(connection: sqlite3.Connection) -> list[_Video]:
    videos = {
        row: _Video(path, label, seconds, [], [])
        for row, path, label, seconds in connection.execute(
            "SELECT v.id, v.path, c.name, v.seconds FROM videos v LEFT JOIN classes c ON c.id = v.class_id"
            " ORDER BY v.path"
        )
    }
    for row, split in connection.execute(
        "SELECT video_id, name FROM split_videos JOIN splits ON splits.id = split_id ORDER BY name"
    ):
        videos[row].splits.append(split)
    for row, start, stop, label in connection.execute(
        "SELECT s.video_id, s.start, s.stop, c.name FROM segments s JOIN classes c ON c.id = s.class_id"
        " ORDER BY s.video_id, s.start, s.stop, s.id"
    ):
        videos[row].segments.append((start, stop, label))
    return list(videos.values())


def _require(found: object, root: str | Path, what: str) -> None:
    if not found:
        raise ValueError(f"{root}: {what}, so there is nothing to write; choose another --form")


def _check_names(root: str | Path, videos: Iterable[_Video]) -> None:
    """Raise ValueError if two videos would have the same name in a file, in which videos have no folders."""
    seen: dict[str, str] = {}
    for video in videos:
        other = seen.setdefault(clean_name(video.name), video.path)
        if other != video.path:
            raise ValueError(f"{root}: {other} and {video.path} have the same name, which files of labels cannot tell")


def _choose_division(root: str | Path, videos: Iterable[_Video], division: str | None) -> None:
    """Keep the splits of one division; their names lose it."""
    found = sorted({split.rpartition("/")[0] for video in videos for split in video.splits})
    if division is not None and division not in found:
        raise ValueError(
            f"{root}: no division {division!r}; expected one of {', '.join(filter(None, found)) or 'none'}"
        )
    if division is None and len(found) > 1:
        raise ValueError(f"{root}: several divisions; choose one with --division: {', '.join(filter(None, found))}")
    for video in videos:
        video.splits = [
            split.rpartition("/")[2]
            for split in video.splits
            if division is None or split.rpartition("/")[0] == division
        ]


def _write_csv(out: Path, videos: Iterable[_Video]) -> None:
    with whole_file(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "start", "end", "class", "split", "duration"])
        for video in videos:
            last = [video.splits[0] if video.splits else "", repr(video.seconds) if video.seconds > 0 else ""]
            for start, stop, label in video.segments:
                writer.writerow([video.name, repr(start), repr(stop), label, *last])
            if not video.segments and last[1]:  # a video without an action is an example, too
                writer.writerow([video.name, "", "", "", *last])


def _write_activitynet(out: Path, videos: Iterable[_Video]) -> None:
    database = {}
    for video in videos:
        annotations = [{"label": label, "segment": [start, stop]} for start, stop, label in video.segments]
        entry: dict[str, object] = {"subset": video.splits[0] if video.splits else None, "annotations": annotations}
        database[video.name] = entry | ({"duration": video.seconds} if video.seconds > 0 else {})
    write_text(out, json.dumps({"version": "vidseg", "database": database}, indent=1, ensure_ascii=False) + "\n")


def _write_frames(root: str | Path, out: Path, names: list[str]) -> ExportReport:
    whole = open_dataset(root)
    with read_catalog(root) as connection:
        dense: set[str] = set()
        if has_timelines(connection):
            dense = {path for (path,) in connection.execute("SELECT path FROM videos JOIN timelines ON id = video_id")}
        videos = _read(connection)
    _require(dense, root, "no video is labeled frame by frame (`vidseg labels frames` does it)")
    chosen = [video for video in videos if video.path in dense]
    _check_names(root, chosen)
    labels = FrameLabels(whole.subset([row for row in range(len(whole)) if whole.video_path(row) in dense]))
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: frame labels are written to a folder, but this is a file")
    (out / "groundTruth").mkdir(parents=True, exist_ok=True)
    write_mapping(out / "mapping.txt", names)
    splits: dict[str, list[str]] = {}
    for index, video in enumerate(chosen):
        write_frame_labels(out / "groundTruth" / f"{video.name}.txt", labels[index], names)
        for split in video.splits:
            splits.setdefault(split, []).append(video.name)
    for split, members in splits.items():
        division, _, part = split.rpartition("/")
        (out / "splits").mkdir(exist_ok=True)
        write_bundle(out / "splits" / (f"{part}.{division}.bundle" if division else f"{part}.bundle"), members)
    missing = [video.path for video in videos if video.path not in dense]
    return ExportReport("frames", str(out), len(chosen), int(labels.lengths.sum()), missing)
