"""Labels of a catalog as files, in forms that `vidseg labels` and other programs read."""

from __future__ import annotations

import csv
import itertools
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vidseg.frames.whole_file import whole_file, write_text
from vidseg.labels.catalog import read_catalog
from vidseg.labels.catalog_videos import UNLABELED
from vidseg.labels.classes import class_names
from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow, write_label_csv
from vidseg.labels.dataset import open_dataset
from vidseg.labels.names import clean_name, division_of_file
from vidseg.labels.segmentation_files import write_bundle, write_frame_labels, write_mapping
from vidseg.labels.segmentation_labels import FrameLabels, has_timelines
from vidseg.labels.video_targets import read_class_sets, read_values

__all__ = ["FOLDER_FORMS", "ExportReport", "LabelForm", "divisions", "export_labels"]

LabelForm = Literal["classes", "lists", "targets", "values", "segments", "activitynet", "frames"]
"""CSV file with the class of each video; folder with lists and a class list; CSV files with several classes, or a
number, for each video; CSV file or JSON file with segments; folder with frame labels."""

FOLDER_FORMS = ("lists", "frames")
"""Forms of several files."""


@dataclass
class ExportReport:
    """Result of an export: what was written where, and the videos that have nothing of this form.

    Attributes:
        form: form of the files.
        out: file or folder.
        videos: number of videos with labels of this form.
        labels: number of their labels.
        without_labels: paths of the other videos.
        lost_boundaries: number of boundaries between two segments of one class, which frame labels cannot express.
    """

    form: str
    out: str
    videos: int
    labels: int
    without_labels: list[str] = field(default_factory=list)
    lost_boundaries: int = 0

    def __str__(self) -> str:
        kinds = {"frames": "frame label", "values": "number", "segments": "segment", "activitynet": "segment"}
        kind = kinds.get(self.form, "class")
        many = "classes" if kind == "class" else None
        lines = [f"{self.out}: {counted(self.videos, 'video')}, {counted(self.labels, kind, many)}"]
        if self.lost_boundaries:
            many = "boundaries"
            lines.append(
                f"{counted(self.lost_boundaries, 'boundary', many)} between segments of one class left out, which frame"
                " labels cannot express; export with --form segments too"
            )
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
    classes: tuple[str, ...] | None
    value: float | None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def place(self) -> str:
        """Class folder and name."""
        return self.path.removeprefix("jpg/")

    @property
    def in_class_folder(self) -> bool:
        """Whether a row of class and name finds the video again."""
        folder = clean_name(self.place.partition("/")[0])
        return self.label is None or folder in (UNLABELED, self.label)


def export_labels(
    root: str | Path, out: str | Path, *, form: LabelForm | None = None, division: str | None = None
) -> ExportReport:
    """Write the labels in the catalog of a data set to a file or, for frame labels, a folder.

    Args:
        root: folder of the data set.
        out: file or folder; replaced if it exists.
        form: `classes`: CSV file, and `lists`: folder with class_list.txt and a list for each split, for `vidseg labels
            apply`; `targets` and `values`: CSV files with several classes, or a number, for each video, for `vidseg
            labels targets`; `segments`: CSV file, and `activitynet`: JSON file, for `vidseg labels segments`; `frames`:
            folder with mapping.txt, groundTruth/ and splits/ of MS-TCN. None: frames if videos are labeled frame by
            frame, else segments if there are any, else targets or classes.
        division: the splits to write, where a data set has several divisions (`split1` of `split1/train`); lists and
            frames are written with all of them.

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
        form = _form_of(videos, dense=dense)
    if form not in get_args(LabelForm):
        raise ValueError(f"form is {form!r}, must be one of {', '.join(get_args(LabelForm))}")
    if form == "frames":
        return _write_frames(root, out, names)
    _check_names(root, videos)
    if form == "lists":
        return _write_lists(root, out, videos, names)
    _choose_division(root, videos, division)
    if form in ("targets", "values"):
        labeled = [video for video in videos if (video.classes if form == "targets" else video.value) is not None]
        what = "set of classes" if form == "targets" else "number"
        _require(labeled, root, f"no video has a {what}")
        count = sum(len(video.classes or ()) for video in labeled) if form == "targets" else len(labeled)
        _write_targets(root, out, labeled, of_classes=form == "targets")
    elif form == "classes":
        labeled = [video for video in videos if video.label is not None]
        rows = [
            LabelRow(video.label, video.name, split=split or None, path=None if video.in_class_folder else video.place)
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


def divisions(root: str | Path) -> list[str]:
    """Return the divisions that the splits of a data set have, such as split1 of `split1/train`; "" for none."""
    with read_catalog(root) as connection:
        splits = connection.execute(
            "SELECT DISTINCT name FROM splits JOIN split_videos ON split_id = splits.id"
        ).fetchall()
    return sorted({split.rpartition("/")[0] for (split,) in splits})


def _form_of(videos: Iterable[_Video], *, dense: bool) -> LabelForm:
    if dense:
        return "frames"
    if any(video.segments for video in videos):
        return "segments"
    if any(video.label is not None for video in videos):
        return "classes"
    return "targets" if any(video.classes is not None for video in videos) else "classes"


def _read(connection: sqlite3.Connection) -> list[_Video]:
    sets, values = read_class_sets(connection), read_values(connection)
    videos = {
        row: _Video(path, label, seconds, [], [], sets.get(row), values.get(row))
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


def _write_lists(root: str | Path, out: Path, videos: Iterable[_Video], names: list[str]) -> ExportReport:
    """Write `<video> <class number>` for each video, one file for each split, and the class list."""
    videos, numbers = list(videos), {name: number for number, name in enumerate(names)}
    labeled = [video for video in videos if video.label is not None]
    _require(labeled, root, "no video has a class")
    elsewhere = [video for video in labeled if not video.in_class_folder]
    if elsewhere:
        raise ValueError(
            f"{root}: {elsewhere[0].path} has the class {elsewhere[0].label!r}, but lists are read by the names of the"
            " class folders; write the form classes instead"
        )
    _make_folder(out)
    write_mapping(out / "class_list.txt", names)
    lists: dict[str, list[str]] = {}
    for video in labeled:
        name = f'"{video.name}"' if any(character in video.name for character in " \t,") else video.name
        for split in video.splits or [""]:
            lists.setdefault(split, []).append(f"{name} {numbers[video.label or '']}\n")
    for split, lines in lists.items():
        division, _, part = split.rpartition("/")
        file = f"{part or 'videos'}_{division}.txt" if division else f"{part or 'videos'}.txt"
        if split and division_of_file(file) != split:
            raise ValueError(
                f"{root}: the split {split!r} cannot be the name of a list, from which it is read; write the form"
                " classes instead"
            )
        write_text(out / file, "".join(lines))
    missing = [video.path for video in videos if video.label is None]
    return ExportReport("lists", str(out), len(labeled), len(labeled), missing)


def _write_targets(root: str | Path, out: Path, videos: Iterable[_Video], *, of_classes: bool) -> None:
    with whole_file(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "labels" if of_classes else "value", "split"])
        for video in videos:
            wrong = [name for name in video.classes or () if of_classes and (";" in name or "|" in name)]
            if wrong:
                raise ValueError(
                    f"{root}: class {wrong[0]!r} has ; or |, which separate classes in this form; rename it"
                )
            cell = ";".join(video.classes or ()) if of_classes else repr(video.value)
            if len(video.splits) > 1:
                raise ValueError(
                    f"{root}: {video.path} is in the splits {', '.join(video.splits)}; this form has one for each video"
                )
            writer.writerow([video.name, cell, video.splits[0] if video.splits else ""])


def _make_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: this form is a folder of files, but this is a file")
    out.mkdir(parents=True, exist_ok=True)


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
    _make_folder(out)
    (out / "groundTruth").mkdir(exist_ok=True)
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
    lost = sum(
        one[2] == other[2] and one[1] >= other[0]
        for video in chosen
        for one, other in itertools.pairwise(video.segments)
    )
    return ExportReport("frames", str(out), len(chosen), int(labels.lengths.sum()), missing, lost)
