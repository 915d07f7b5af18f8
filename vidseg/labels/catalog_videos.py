"""Rows of the catalog that describe videos: converted ones are added or replaced, with their classes and splits."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vidseg.frames.schema import MAX_SIDE
from vidseg.labels.catalog import write_catalog
from vidseg.labels.catalog_content import MOST_FRAMES, MOST_RATE, MOST_SECONDS
from vidseg.labels.classes import add_classes
from vidseg.labels.counting import counted
from vidseg.labels.names import clean_name

if TYPE_CHECKING:
    from sqlite_utils import Database

__all__ = [
    "UNLABELED",
    "VideoRecord",
    "find_or_add_videos",
    "merge_staged",
    "same_division",
    "split_ids",
    "stage_records",
    "update_catalog",
]

logger = logging.getLogger(__name__)

UNLABELED = "unlabeled"
"""Folder under jpg/ that holds the videos without a class."""

_MOST = {"frames": MOST_FRAMES, "height": MAX_SIDE, "width": MAX_SIDE, "fps": MOST_RATE, "seconds": MOST_SECONDS}


@dataclass(frozen=True)
class VideoRecord:
    """Row of the catalog for one converted video.

    Attributes:
        path: folder of its frames.db relative to the data set, with forward slashes: `jpg/run/clip_1`.
        label: class name, or None.
        frames: number of frames.
        height: frame height in pixels.
        width: frame width in pixels.
        fps: mean frame rate, 0 if unknown.
        seconds: duration in seconds, 0 if unknown.
        size_bytes: size of frames.db.
        split: split of the video, or None to keep its splits.
    """

    path: str
    label: str | None
    frames: int
    height: int
    width: int
    fps: float
    seconds: float
    size_bytes: int
    split: str | None = None


def update_catalog(root: str | Path, records: Iterable[VideoRecord]) -> None:
    """Add videos to the catalog of `root`, or replace their rows, in one transaction.

    A label equal to the name of the class folder, or None, does not replace an existing label, which came from a label
    file. A split replaces the video's other splits of the same division (`split1/train` replaces `split1/test`, `train`
    replaces `val`). New classes are numbered after existing ones, in sorted order.

    Args:
        root: folder of the data set.
        records: rows of the videos.

    Raises:
        ValueError: a path is not of the form `jpg/<class>/<video>`, or a name cannot be stored.
        OSError: the catalog cannot be written; it is unchanged.
    """
    with write_catalog(root) as db:
        stage_records(db, records)
        merge_staged(db)


def stage_records(db: Database, records: Iterable[VideoRecord]) -> None:
    """Insert records into the temporary table `staged`; a later record replaces an earlier one of the same path."""
    db.conn.execute(
        "CREATE TEMP TABLE staged (path TEXT PRIMARY KEY, label TEXT, from_folder INTEGER, frames INTEGER,"
        " height INTEGER, width INTEGER, fps REAL, seconds REAL, size_bytes INTEGER, split TEXT) WITHOUT ROWID"
    )
    db.conn.executemany("INSERT OR REPLACE INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, records))


def _row(record: VideoRecord) -> tuple[str, str | None, bool, int, int, int, float, float, int, str | None]:
    parts = record.path.split("/")
    if len(parts) != 3 or parts[0] != "jpg" or not all(parts) or {".", ".."} & set(parts):
        raise ValueError(f"video path {record.path!r}: expected jpg/<class>/<video> relative to the data set")
    if any(value is not None and not clean_name(value) for value in (record.label, record.split)):
        raise ValueError(f"{record.path}: the label or split is empty; use None")
    for name, most in _MOST.items():
        value = getattr(record, name)
        if not 0 <= value <= most:
            raise ValueError(f"{record.path}: {name} is {value}, must be 0 to {most:g}")
    try:
        "".join((record.path, record.label or "", record.split or "")).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{record.path!r}: the name is not valid UTF-8; rename the video") from error
    return (
        record.path,
        record.label and clean_name(record.label),
        record.label is not None and clean_name(record.label) == clean_name(parts[1]),
        record.frames,
        record.height,
        record.width,
        record.fps,
        record.seconds,
        record.size_bytes,
        record.split and clean_name(record.split),
    )


def merge_staged(db: Database) -> None:
    """Insert or replace the videos, classes and splits of the table `staged`."""
    conn = db.conn
    add_classes(
        conn,
        [
            name
            for (name,) in conn.execute(
                "SELECT DISTINCT s.label FROM staged s LEFT JOIN videos v USING (path)"
                " WHERE s.label IS NOT NULL AND NOT (s.from_folder AND v.class_id IS NOT NULL)"
            )
        ],
    )
    # Rows are inserted in path order (the order of `staged`), so that reading videos by path reads the file
    # sequentially.
    conn.execute(
        "INSERT INTO videos (path, class_id, frames, height, width, fps, seconds, size_bytes)"
        " SELECT s.path,"
        "   CASE WHEN s.label IS NULL OR (s.from_folder AND v.class_id IS NOT NULL) THEN v.class_id ELSE c.id END,"
        "   s.frames, s.height, s.width, s.fps, s.seconds, s.size_bytes"
        " FROM staged s LEFT JOIN videos v USING (path) LEFT JOIN classes c ON c.name = s.label"
        " WHERE true ORDER BY s.path"
        " ON CONFLICT (path) DO UPDATE SET class_id = excluded.class_id, frames = excluded.frames,"
        "   height = excluded.height, width = excluded.width, fps = excluded.fps, seconds = excluded.seconds,"
        "   size_bytes = excluded.size_bytes"
    )
    names = [name for (name,) in conn.execute("SELECT DISTINCT split FROM staged WHERE split IS NOT NULL")]
    for split_id, name in zip(split_ids(db, names), names, strict=True):
        others = dict(conn.execute("SELECT id, name FROM splits").fetchall())
        division = [row_id for row_id, other in others.items() if same_division(name, other)]
        moved = conn.execute(
            "SELECT path, split_id FROM staged JOIN videos v USING (path) JOIN split_videos ON video_id = v.id"
            f" WHERE split = ? AND split_id != ? AND split_id IN ({','.join('?' * len(division))})",
            (name, split_id, *division),
        ).fetchall()
        if moved:
            logger.warning(
                "%s moved to the split %s, such as %s, which was in %s",
                counted(len(moved), "video"), name, moved[0][0], others[moved[0][1]],
            )  # fmt: skip
        conn.execute(
            f"DELETE FROM split_videos WHERE split_id IN ({','.join('?' * len(division))}) AND video_id IN"
            " (SELECT v.id FROM staged s JOIN videos v USING (path) WHERE s.split = ?)",
            (*division, name),
        )
        conn.execute(
            "INSERT INTO split_videos SELECT ?, v.id FROM staged s JOIN videos v USING (path) WHERE s.split = ?",
            (split_id, name),
        )
    conn.execute("DROP TABLE staged")
    logger.debug("catalog: %d videos", db["videos"].count)


def same_division(split: str, other: str) -> bool:
    """Return whether two splits belong to one division, in which a video has only one split."""
    return split.rpartition("/")[0] == other.rpartition("/")[0]


def split_ids(db: Database, names: Iterable[str]) -> list[int]:
    """Return the row ids of the named splits, which are created if missing."""
    ids = []
    for name in names:
        db.conn.execute("INSERT OR IGNORE INTO splits (name) VALUES (?)", (name,))
        ids.append(db.conn.execute("SELECT id FROM splits WHERE name = ?", (name,)).fetchone()[0])
    return ids


def find_or_add_videos(
    connection: sqlite3.Connection, root: str | Path, videos: Mapping[str, tuple[int, float, float]]
) -> dict[str, int]:
    """Return the row id of each video by the name of its folder; missing videos are added without frames.

    Args:
        connection: catalog, in a transaction.
        root: folder of the data set, for messages.
        videos: number of frames, frame rate and duration in seconds by name, for videos that are added; 0: unknown.

    Raises:
        ValueError: two videos have the same name, or a name is not a valid folder name.
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for path, row in connection.execute("SELECT path, id FROM videos ORDER BY path"):
        found.setdefault(clean_name(path.rpartition("/")[2]), []).append((path, row))
    ids = {}
    for name, (frames, fps, seconds) in sorted(videos.items()):
        places = found.get(clean_name(name), [])
        if len(places) > 1:
            raise ValueError(
                f"{root}: several videos have the name {name!r}: {', '.join(path for path, _ in places)};"
                " labels of frames and segments need unique names; rename all but one"
            )
        if "/" in name or name in {"", ".", ".."}:
            raise ValueError(f"video {name!r}: not a valid folder name")
        if places:
            ids[name] = places[0][1]
            continue
        connection.execute(
            "INSERT INTO videos (path, frames, height, width, fps, seconds, size_bytes) VALUES (?, ?, 0, 0, ?, ?, 0)",
            (f"jpg/{UNLABELED}/{name}", frames, fps, seconds),
        )
        ids[name] = connection.execute("SELECT last_insert_rowid()").fetchone()[0]
    return ids
