"""Import of label files into the catalog, with a report of all rows that do not match a video."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.frames.whole_file import write_text
from vidseg.labels.catalog import write_catalog
from vidseg.labels.catalog_videos import UNLABELED, same_division, split_ids
from vidseg.labels.classes import (
    add_classes,
    check_case,
    class_names,
    classes_in_use,
    drop_unused_classes,
    order_classes,
    warn_of_moves,
)
from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import clean_name, split_name

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["LabelReport", "apply_labels"]

logger = logging.getLogger(__name__)


@dataclass
class LabelReport:
    """Result of an import of labels.

    Attributes:
        matched: number of videos with a row.
        missing_videos: `<label>/<folder>` of each row without a video.
        unlabeled_videos: path of each video without a row and without a split.
        conflicts: description of each row skipped because it contradicts another row or matches several videos.
        skipped: description of each segment skipped because it labels nothing.
    """

    matched: int
    missing_videos: list[str] = field(default_factory=list)
    unlabeled_videos: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{counted(self.matched, 'video')} labeled"]
        for noun, fault, items in (
            ("label", "without a video", self.missing_videos),
            ("video", "without a label", self.unlabeled_videos),
            ("row", "skipped", self.conflicts),
            *((("segment", "skipped", self.skipped),) if self.skipped else ()),
        ):
            lines.append(f"{counted(len(items), noun)} {fault}{':' if items else ''}")
            lines += [f"    {item}" for item in items[:5]]
            if len(items) > 5:
                lines.append(f"    ... and {len(items) - 5} more")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the whole report as JSON, replacing an existing file atomically."""
        write_text(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def apply_labels(
    root: str | Path,
    rows: Iterable[LabelRow],
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    faults: SegmentFaults | None = None,
) -> LabelReport:
    """Write label rows to the catalog of `root` and a report to `<root>/labels_report.json`.

    A row applies to the video `jpg/<label>/<folder name>`, or `jpg/<folder of its path>/<folder name>`. If there is
    none, it applies to the video of that folder name without a class, or in a class folder with another spelling of the
    label (`Long_Jump`); the video then gets the class of the row. A timed row without a clip, but with the whole video,
    becomes a segment of that video. Each split named by the rows contains exactly their videos afterwards, so pass all
    files of a split in one call.

    Args:
        root: folder of the data set.
        rows: rows of one or several label files.
        split: split of all rows, replacing the splits in the rows.
        classes: official class list that sets the class numbers (see `vidseg.labels.classes`); None: sorted names.
        faults: check of the segments against their videos; default: a segment that labels nothing is an error.

    Returns:
        A report of matched and unmatched rows and videos.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the class list contradicts the list used before, a label differs from another class only in upper
            and lower case, or a segment labels nothing; the catalog is unchanged.
        OSError: the catalog cannot be written; it is unchanged.
    """
    rows, faults = list(rows), faults or SegmentFaults()
    with write_catalog(root) as db:
        used_before, order_before = classes_in_use(db.conn), class_names(db.conn)
        official = [name for (name,) in db.conn.execute("SELECT name FROM classes WHERE official ORDER BY number")]
        check_case({row.label for row in rows if row.label}, order_before, official=[*official, *(classes or ())])
        found = db.conn.execute("SELECT path, id, seconds FROM videos ORDER BY path").fetchall()
        videos = {path: row_id for path, row_id, _ in found}
        matches = _match(videos, rows, split)
        _check_splits(db, matches)
        _check_segments(matches, {path: seconds for path, _, seconds in found}, faults)
        _store(db, matches, videos)
        if classes is None:
            drop_unused_classes(db.conn, used_before)
        else:
            order_classes(db.conn, classes)
        warn_of_moves(order_before, class_names(db.conn))
        named = matches.paths()
        unlabeled = [
            path
            for (path,) in db.conn.execute(
                "SELECT path FROM videos WHERE id NOT IN (SELECT video_id FROM split_videos)"
                " AND id NOT IN (SELECT video_id FROM segments) ORDER BY path"
            )
            if path not in named
        ]
    report = LabelReport(len(named), matches.missing, unlabeled, matches.conflicts, faults.skipped)
    report.write(Path(root) / "labels_report.json")
    return report


@dataclass
class _Matches:
    """Videos (by path) that the rows apply to, before anything is written."""

    labels: dict[str, str] = field(default_factory=dict)
    splits: dict[str, dict[str, None]] = field(default_factory=dict)  # split -> paths, in order
    segments: dict[str, dict[tuple[float, float, str], None]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def paths(self) -> set[str]:
        return {*self.labels, *self.segments, *(path for paths in self.splits.values() for path in paths)}


def _check_segments(matches: _Matches, seconds: dict[str, float], faults: SegmentFaults) -> None:
    """Cut the segments to their videos, and remove those that label nothing."""
    for path, segments in matches.segments.items():
        checked: dict[tuple[float, float, str], None] = {}
        for start, stop, label in segments:
            times = faults.check(start, stop, place=path, label=label, seconds=seconds[path] or None)
            if times is not None:
                key = (*times, label)
                checked[key] = None
        matches.segments[path] = checked


def _exclude(first: str, second: str) -> bool:
    """Return whether no video may be in both splits: training, and validation or test, of one division."""
    parts = {first.rpartition("/")[2], second.rpartition("/")[2]}
    return same_division(first, second) and parts in ({"train", "val"}, {"train", "test"})


def _check_splits(db: Database, matches: _Matches) -> None:
    """Leave videos out that a split which these label files do not name excludes."""
    known = db.conn.execute(
        "SELECT v.path, s.name FROM split_videos JOIN videos v ON v.id = video_id JOIN splits s ON s.id = split_id"
    )
    others = [(path, other) for path, other in known if other not in matches.splits]
    for name, paths in matches.splits.items():
        for path, other in others:
            if path in paths and _exclude(name, other):
                del paths[path]
                matches.conflicts.append(
                    f"{path}: split {name!r}, but the catalog has it in {other!r}; apply the label files of both "
                    "splits in one command, or remove the video from one of them"
                )


def _match(paths: Iterable[str], rows: Sequence[LabelRow], split: str | None) -> _Matches:
    by_name: dict[str, list[str]] = {}
    by_path: dict[str, str] = {}  # folder names on disk can be in another Unicode form
    for path in paths:
        by_name.setdefault(clean_name(path.rpartition("/")[2]), []).append(path)
        by_path[clean_name(path)] = path
    matches = _Matches()
    clips_of: dict[str, tuple[float | None, float | None]] = {}
    splits_of: dict[str, list[str]] = {}

    def place(row: LabelRow) -> str | None:
        name = split or (split_name(row.split) if row.split else None)
        if name is not None:
            matches.splits.setdefault(name, {})
        return name

    def assign(row: LabelRow, path: str) -> None:
        times = clips_of.setdefault(path, (row.start, row.stop))
        if None not in (*times, row.start) and times != (row.start, row.stop):
            matches.conflicts.append(
                f"{path}: the clip from {row.start} to {row.stop} seconds, but an earlier row has the clip from"
                f" {times[0]} to {times[1]}; convert both from one label file to give each its own folder"
            )
            return
        if row.label is not None:
            first = matches.labels.setdefault(path, row.label)
            if first != row.label:
                matches.conflicts.append(f"{path}: label {row.label!r}, but an earlier row has {first!r}")
                return
        put(row, path)

    def put(row: LabelRow, path: str) -> None:
        """Put a video into the split of its row."""
        if (name := place(row)) is None:
            return
        names = splits_of.setdefault(path, [])
        first = next((first for first in names if _exclude(first, name)), None)
        if first is None:
            names.append(name)
            matches.splits[name][path] = None
        else:
            matches.conflicts.append(
                f"{path}: split {name!r}, but an earlier row has {first!r}; remove the video from one of them"
            )

    # Rows that match a video and its class folder come first; the other rows can match the remaining videos.
    inexact = []
    for row in rows:
        folders = [folder for folder in (row.label, row.class_folder) if folder is not None]
        names = (row.exact_folder_name, row.folder_name)
        exact = (by_path.get(f"jpg/{folder}/{name}") for folder in folders for name in names)
        place_of_row = next(filter(None, exact), None)
        if place_of_row is not None:
            assign(row, place_of_row)
        else:
            inexact.append(row)
    taken, all_labels = set(matches.labels), {row.label for row in rows}
    for row in inexact:
        place(row)
        clips = [
            path
            for path in (by_name.get(row.exact_folder_name) or by_name.get(row.folder_name) or [])
            if _may_be_clip(row, path) and (row.label is None or path not in taken)
        ]
        videos = []
        if not clips and row.start is not None:
            # A folder named after another label contains clips of that label, not whole videos.
            others = all_labels - {row.label}
            videos = [path for path in by_name.get(row.name, ()) if path.split("/")[1] not in others]
        if len(clips or videos) == 1 and (clips or row.label is None):
            assign(row, (clips or videos)[0])
        elif len(videos) == 1 and row.label is not None and row.start is not None and row.stop is not None:
            matches.segments.setdefault(videos[0], {})[(row.start, row.stop, row.label)] = None
            put(row, videos[0])
        elif clips or videos:
            found = ", ".join(clips or videos)
            matches.conflicts.append(
                f"{row.folder_name}: label {row.label!r} matches {len(clips or videos)} videos: {found}"
            )
        else:
            matches.missing.append(f"{row.label}/{row.folder_name}" if row.label is not None else row.folder_name)
    return matches


def _may_be_clip(row: LabelRow, path: str) -> bool:
    """Return whether the video's class folder agrees with the row: no class, or another spelling of its label.

    `Long_Jump` agrees with `Long Jump`; `run/1` never agrees with a row of class `jump`, whose video may be missing.
    """
    folder = path.split("/")[1]
    return row.label is None or folder == UNLABELED or _letters(folder) == _letters(row.label)


def _letters(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


def _store(db: Database, matches: _Matches, video_ids: dict[str, int]) -> None:
    conn = db.conn
    names = {*matches.labels.values(), *(label for found in matches.segments.values() for *_, label in found)}
    class_ids = add_classes(conn, names)
    conn.executemany(
        "UPDATE videos SET class_id = ?1 WHERE id = ?2 AND class_id IS NOT ?1",
        [(class_ids[label], video_ids[path]) for path, label in matches.labels.items()],
    )
    for split_id, paths in zip(split_ids(db, matches.splits), matches.splits.values(), strict=True):
        conn.execute("DELETE FROM split_videos WHERE split_id = ?", (split_id,))
        members = sorted(video_ids[path] for path in paths)
        conn.executemany("INSERT INTO split_videos VALUES (?, ?)", [(split_id, video_id) for video_id in members])
    conn.executemany("DELETE FROM segments WHERE video_id = ?", [(video_ids[path],) for path in matches.segments])
    conn.executemany(
        "INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)",
        [
            (video_ids[path], start, stop, class_ids[label])
            for path, found in matches.segments.items()
            for start, stop, label in sorted(found)
        ],
    )
