"""Several classes, or a number, for each video: CSV files and their tables in the catalog.

    id,labels,split                 id,value,split
    clip_1,run;jump,train           clip_1,0.75,train
    clip_2,,val                     clip_2,-1.5,val

The classes of a video are separated by `;` or `|`; an empty cell is a video without any of the classes. Tables:
`video_classes` has a row for each class of a video, `video_values` one for each video with a number or a set of
classes.
"""

from __future__ import annotations

import difflib
import math
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.labels.apply import LabelReport
from vidseg.labels.catalog import write_catalog
from vidseg.labels.catalog_videos import split_ids
from vidseg.labels.classes import add_classes, classes_in_use, drop_unused_classes, order_classes
from vidseg.labels.csv_labels import read_rows
from vidseg.labels.names import clean_name, split_name, video_name
from vidseg.labels.official_lists import read_class_list

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = ["VideoTarget", "apply_targets", "read_class_sets", "read_targets", "read_values", "write_class_set"]

TABLES = (
    """
CREATE TABLE IF NOT EXISTS video_classes (
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    class_id INTEGER NOT NULL REFERENCES classes (id),
    PRIMARY KEY (video_id, class_id)
) WITHOUT ROWID
""",
    """
CREATE TABLE IF NOT EXISTS video_values (
    video_id INTEGER PRIMARY KEY REFERENCES videos (id) ON DELETE CASCADE,
    value    REAL,                     -- number of a regression; NULL: none
    several  INTEGER NOT NULL          -- 1: video_classes has all classes of the video, which may be none
)
""",
)
_NAMES = ("youtube_id", "id", "path", "video")
_SEPARATOR = re.compile(r"[;|]")


@dataclass(frozen=True)
class VideoTarget:
    """One row: name of the video, its classes or its number, split or None, and file and line for messages."""

    name: str
    labels: tuple[str, ...] | None
    value: float | None
    split: str | None
    place: str


def read_targets(path: str | Path) -> list[VideoTarget]:
    """Read a CSV file with a column `labels` or `value`, in the order of its lines.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a column is missing, or a cell cannot be parsed.
    """
    lines = read_rows(path)
    if not lines:
        raise ValueError(f"{path}: the file is empty; expected a header such as id,labels,split or id,value,split")
    line, header = lines[0]
    columns = {cell.strip().lower(): place for place, cell in enumerate(header)}
    name_column = next((name for name in _NAMES if name in columns), None)
    if name_column is None or ("labels" in columns) == ("value" in columns):
        raise ValueError(
            f"{path}:{line}: the header {','.join(header)!r:.200} needs one of the columns {', '.join(_NAMES)}, and "
            "either labels or value"
        )
    rows = []
    for line, cells in lines[1:]:
        place = f"{path}:{line}"
        if len(cells) != len(header):
            raise ValueError(f"{place}: {len(cells)} cells, but the header has {len(header)} columns")
        name = video_name(cells[columns[name_column]])
        if not name:
            raise ValueError(f"{place}: column {name_column!r} is empty; write the name of the video")
        labels, value = None, None
        if "labels" in columns:
            parts = map(clean_name, _SEPARATOR.split(cells[columns["labels"]]))
            labels = tuple(dict.fromkeys(part for part in parts if part))
        else:
            text = cells[columns["value"]]
            try:
                value = float(text)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise ValueError(f"{place}: column 'value': {text!r} is not a number")
        split = clean_name(cells[columns["split"]]) if "split" in columns else ""
        rows.append(VideoTarget(name, labels, value, split_name(split) if split else None, place))
    return rows


def apply_targets(
    root: str | Path, files: Sequence[str | Path], *, classes: str | Path | None = None, split: str | None = None
) -> LabelReport:
    """Write the classes or numbers of videos to the catalog of `root`, and a report to `<root>/labels_report.json`.

    A row applies to the video whose folder has its name. With a column `labels` the videos keep no single class of
    their own. Splits named by the rows contain exactly their videos afterwards.

    Args:
        root: folder of the data set.
        files: CSV files of `read_targets`.
        classes: class list that sets the class numbers; other classes in the files are then an error. None: the
            official classes of the catalog, if it has any, else the names of the files, sorted, behind the classes that
            the catalog has already.
        split: split of all rows, replacing the column `split`.

    Raises:
        FileNotFoundError: a file or the data set does not exist.
        ValueError: a malformed file, an unknown class, or two rows of a video that differ; the catalog is unchanged.
    """
    rows = [row for path in files for row in read_targets(path)]
    listed = None if classes is None else read_class_list(classes)
    with write_catalog(root, create=False) as db:
        before = classes_in_use(db.conn)
        fixed = [name for (name,) in db.conn.execute("SELECT name FROM classes WHERE official ORDER BY number")]
        _check_classes(rows, listed or fixed or None, classes or f"{root}'s class list")
        report, found = _match(db, rows)
        for table in TABLES:
            db.conn.execute(table)
        _store(db, found, {video: split or row.split for video, row in found.items()})
        drop_unused_classes(db.conn, before)
        if listed is not None:
            order_classes(db.conn, listed)
    report.write(Path(root) / "labels_report.json")
    return report


def _check_classes(rows: Sequence[VideoTarget], known: Sequence[str] | None, source: str | Path) -> None:
    if known is None:
        return
    for row in rows:
        for label in row.labels or ():
            if label not in known:
                close = difflib.get_close_matches(label, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"the classes are {', '.join(known[:20])}"
                raise ValueError(f"{row.place}: unknown class {label!r}, which is not in {source}; {hint}")


def _match(db: Database, rows: Sequence[VideoTarget]) -> tuple[LabelReport, dict[int, VideoTarget]]:
    """The report, and the row of each video by its id."""
    by_name: dict[str, list[tuple[str, int]]] = {}
    for path, video in db.conn.execute("SELECT path, id FROM videos ORDER BY path"):
        by_name.setdefault(clean_name(path.rpartition("/")[2]), []).append((path, video))
    report, found = LabelReport(0), dict[int, VideoTarget]()
    for row in rows:
        places = by_name.get(row.name, [])
        if len(places) > 1:
            report.conflicts.append(f"{row.place}: {row.name!r} matches {', '.join(path for path, _ in places)}")
        elif not places:
            report.missing_videos.append(row.name)
        else:
            first = found.setdefault(places[0][1], row)
            if (first.value, set(first.labels or ())) != (row.value, set(row.labels or ())):
                raise ValueError(f"{row.place}: {row.name!r} has other labels in {first.place}")
    report.matched = len(found)
    report.unlabeled_videos = [path for places in by_name.values() for path, video in places if video not in found]
    return report, found


def _store(db: Database, found: Mapping[int, VideoTarget], splits: Mapping[int, str | None]) -> None:
    conn = db.conn
    ids = add_classes(conn, {label for row in found.values() for label in row.labels or ()})
    several = [(video,) for video, row in found.items() if row.labels is not None]
    conn.executemany("DELETE FROM video_classes WHERE video_id = ?", several)
    conn.executemany("UPDATE videos SET class_id = NULL WHERE id = ?", several)
    conn.executemany(
        "INSERT INTO video_classes VALUES (?, ?)",
        [(video, ids[label]) for video, row in sorted(found.items()) for label in row.labels or ()],
    )
    conn.executemany(
        "INSERT INTO video_values VALUES (?1, ?2, ?3) ON CONFLICT (video_id) DO UPDATE SET"
        " value = ifnull(?2, value), several = max(several, ?3)",
        [(video, row.value, int(row.labels is not None)) for video, row in sorted(found.items())],
    )
    names: dict[str, list[int]] = {}
    for video, name in splits.items():
        if name is not None:
            names.setdefault(name, []).append(video)
    for split, videos in zip(split_ids(db, names), names.values(), strict=True):
        conn.execute("DELETE FROM split_videos WHERE split_id = ?", (split,))
        conn.executemany("INSERT INTO split_videos VALUES (?, ?)", [(split, video) for video in sorted(videos)])


def _has_targets(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('video_classes', 'video_values')")
    return bool(found.fetchone()[0] == len(TABLES))


def read_class_sets(connection: sqlite3.Connection, video: int | None = None) -> dict[int, tuple[str, ...]]:
    """Return the sorted classes of each video that has a set of them, by the id of the video.

    Args:
        connection: the catalog.
        video: id of one video; None: all videos.
    """
    if not _has_targets(connection):
        return {}
    found: dict[int, list[str]] = {}
    for row, name in connection.execute(
        "SELECT t.video_id, c.name FROM video_values t LEFT JOIN video_classes s ON s.video_id = t.video_id"
        " LEFT JOIN classes c ON c.id = s.class_id WHERE t.several AND (?1 IS NULL OR t.video_id = ?1)",
        (video,),
    ):
        names = found.setdefault(row, [])
        if name is not None:
            names.append(name)
    return {row: tuple(sorted(names)) for row, names in found.items()}


def read_values(connection: sqlite3.Connection) -> dict[int, float]:
    """Return the number of each video that has one, by the id of the video."""
    if not _has_targets(connection):
        return {}
    return dict(connection.execute("SELECT video_id, value FROM video_values WHERE value IS NOT NULL"))


def write_class_set(connection: sqlite3.Connection, video: int, class_ids: Iterable[int] | None) -> None:
    """Replace the set of classes of a video; None removes the set. The number of the video stays.

    Args:
        connection: the catalog, in a transaction.
        video: id of the video.
        class_ids: ids of the classes.
    """
    if class_ids is None and not _has_targets(connection):
        return
    for table in TABLES:
        connection.execute(table)
    connection.execute("DELETE FROM video_classes WHERE video_id = ?", (video,))
    if class_ids is None:
        connection.execute("UPDATE video_values SET several = 0 WHERE video_id = ?", (video,))
        connection.execute("DELETE FROM video_values WHERE video_id = ? AND value IS NULL", (video,))
        return
    connection.execute(
        "INSERT INTO video_values VALUES (?, NULL, 1) ON CONFLICT (video_id) DO UPDATE SET several = 1", (video,)
    )
    connection.executemany("INSERT INTO video_classes VALUES (?, ?)", [(video, row) for row in class_ids])
