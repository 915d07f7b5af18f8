"""Labels that people edit: each change of a video is written at once, with author and time, and can be taken back.

A change replaces the labels of one video, its class or classes and its segments, in one transaction. It names the
version of the labels that its author saw, and is refused if they have changed since: neither a second person nor an
import is overwritten. The table `label_changes` keeps the labels before and after every change.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vidseg.labels.catalog import read_catalog, write_catalog
from vidseg.labels.catalog_content import MOST_SECONDS, MOST_SEGMENTS
from vidseg.labels.classes import add_classes, check_case, class_names
from vidseg.labels.dataset import Segment
from vidseg.labels.label_changes import (
    LABEL_CHANGES,
    LABEL_CHANGES_BY_VIDEO,
    LabelChange,
    NamedSegment,
    VideoLabels,
    last_change,
)
from vidseg.labels.names import LONGEST_NAME, clean_name
from vidseg.labels.segmentation_labels import has_timelines, labels_from_segments, segments_from_labels
from vidseg.labels.video_targets import read_class_sets, write_class_set

__all__ = [
    "AnnotatedVideo",
    "Annotations",
    "ChangedMeanwhileError",
]


class ChangedMeanwhileError(Exception):
    """Raised when the labels of a video are not those that the author of a change saw; nothing was written."""


@dataclass(frozen=True)
class AnnotatedVideo:
    """One video in the list of the videos to label.

    Attributes:
        path: folder of its frames.db relative to the data set.
        frames: number of frames.
        fps: frames per second, 0 if unknown.
        seconds: duration.
        label: class of the whole video, or None.
        classes: set of classes of the whole video, sorted, or None.
        segments: number of segments.
        dense: whether every frame has a label, so that no gaps are allowed.
        changed: time of the last change, or None.
    """

    path: str
    frames: int
    fps: float
    seconds: float
    label: str | None
    classes: tuple[str, ...] | None
    segments: int
    dense: bool
    changed: str | None

    @property
    def labeled(self) -> bool:
        """Whether the video has any labels; an empty set of classes is a label."""
        return self.label is not None or self.classes is not None or self.segments > 0


class Annotations:
    """The labels of a data set, for editing.

    Args:
        root: folder of the data set.
        background: class of the parts outside all segments in videos that are labeled frame by frame; None: such parts
            are refused.

    Raises:
        FileNotFoundError: the folder or its catalog does not exist.
        ValueError: `background` is not a class of the data set, or the catalog is damaged.
        OSError: the catalog cannot be written.
    """

    def __init__(self, root: str | Path, *, background: str | None = None) -> None:
        self.root = Path(root)
        self.background = background and clean_name(background)
        with write_catalog(root, create=False) as db:
            db.conn.execute(LABEL_CHANGES)
            db.conn.execute(LABEL_CHANGES_BY_VIDEO)
            known = class_names(db.conn)
        if self.background is not None and self.background not in known:
            raise ValueError(f"background {background!r} is not a class of {root}; expected one of {', '.join(known)}")

    def classes(self) -> list[str]:
        """Return the class names by number."""
        with read_catalog(self.root) as connection:
            return class_names(connection)

    def add_class(self, name: str) -> list[str]:
        """Append a class; returns all names by number.

        Raises:
            ValueError: the name is empty, too long, or differs from another class only in upper and lower case.
        """
        name = _class_name(name)
        with write_catalog(self.root, create=False) as db:
            check_case({name}, class_names(db.conn))
            add_classes(db.conn, [name])
            return class_names(db.conn)

    def videos(self) -> list[AnnotatedVideo]:
        """Return all videos: those without labels first, then by path."""
        with read_catalog(self.root) as connection:
            videos = _read_videos(connection)
        return sorted(videos, key=lambda video: (video.labeled, video.path))

    def video(self, path: str) -> AnnotatedVideo | None:
        """Return a video, or None if the data set has no such video."""
        with read_catalog(self.root) as connection:
            return next(iter(_read_videos(connection, path)), None)

    def labels(self, path: str) -> VideoLabels:
        """Return the labels of a video.

        Raises:
            KeyError: the data set has no such video.
        """
        with read_catalog(self.root) as connection:
            return _read(connection, _video(connection, path)[0])

    def changes(self, path: str) -> list[LabelChange]:
        """Return all changes of a video, the oldest first.

        Raises:
            KeyError: the data set has no such video.
        """
        with read_catalog(self.root) as connection:
            rows = connection.execute(
                "SELECT id, time, author, after, undoes FROM label_changes WHERE video_id = ? ORDER BY id",
                (_video(connection, path)[0],),
            ).fetchall()
        return [LabelChange(row[0], row[1], row[2], VideoLabels.from_json(row[3]), row[4]) for row in rows]

    def can_take_back(self, path: str) -> tuple[bool, bool]:
        """Return whether a video has a change for `undo` and one for `redo`.

        Raises:
            KeyError: the data set has no such video.
        """
        with read_catalog(self.root) as connection:
            video = _video(connection, path)[0]
            undo, redo = (last_change(connection, video, redo=redo) is not None for redo in (False, True))
        return undo, redo

    def change(self, path: str, labels: VideoLabels, *, version: str, author: str) -> VideoLabels:
        """Replace the labels of a video.

        Segments are cut to the video and ordered by start. In a video that is labeled frame by frame they are rounded
        to frames; a later start has priority where they overlap, and gaps become background. Neighbors of one class
        stay two segments.

        Args:
            path: folder of the video.
            labels: its new labels.
            version: `VideoLabels.version` of the labels that the author saw.
            author: name of the person.

        Returns:
            The labels as they are stored.

        Raises:
            KeyError: the data set has no such video.
            ValueError: a segment or a class is wrong, or a frame remains without a label; nothing was written.
            ChangedMeanwhileError: the labels have changed since.
        """
        with write_catalog(self.root, create=False) as db:
            return self._write(db.conn, path, labels, version, author, undoes=None)

    def undo(self, path: str, *, version: str, author: str) -> VideoLabels:
        """Take back the last change of a video that was not taken back, of any author and session.

        Raises:
            KeyError: the data set has no such video.
            ValueError: there is nothing to take back, or the labels come from elsewhere since, such as an import.
            ChangedMeanwhileError: the labels have changed since `version`.
        """
        return self._take_back(path, version, author, redo=False)

    def redo(self, path: str, *, version: str, author: str) -> VideoLabels:
        """Take back the last `undo` of a video; arguments and errors are those of `undo`."""
        return self._take_back(path, version, author, redo=True)

    def _take_back(self, path: str, version: str, author: str, *, redo: bool) -> VideoLabels:
        with write_catalog(self.root, create=False) as db:
            connection = db.conn
            video = _video(connection, path)[0]
            number = last_change(connection, video, redo=redo)
            if number is None:
                raise ValueError(f"{path}: nothing to {'redo' if redo else 'undo'}")
            before, after = connection.execute(
                "SELECT before, after FROM label_changes WHERE id = ?", (number,)
            ).fetchone()
            if _read(connection, video) != VideoLabels.from_json(after):
                raise ValueError(
                    f"{path}: its labels were changed by another program, such as `vidseg labels apply`, after the last"
                    " change in the list; edit them instead"
                )
            return self._write(connection, path, VideoLabels.from_json(before), version, author, undoes=number)

    def _write(
        self,
        connection: sqlite3.Connection,
        path: str,
        labels: VideoLabels,
        version: str,
        author: str,
        *,
        undoes: int | None,
    ) -> VideoLabels:
        author = clean_name(author)
        if not author or len(author) > LONGEST_NAME:
            raise ValueError(f"author {author!r:.60}: expected a name of 1 to {LONGEST_NAME} characters")
        video, seconds = _video(connection, path)
        before = _read(connection, video)
        if before.version != version:
            raise ChangedMeanwhileError(f"{path}: its labels have changed since they were read")
        if undoes is None:
            labels = self._stored_form(connection, video, path, labels, seconds)
        if labels == before:
            return before
        known, wanted = set(class_names(connection)), labels.names()
        check_case(wanted - known, known)
        ids = add_classes(connection, wanted)
        connection.execute("UPDATE videos SET class_id = ? WHERE id = ?", (ids.get(labels.label or ""), video))
        connection.execute("DELETE FROM segments WHERE video_id = ?", (video,))
        connection.executemany(
            "INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)",
            [(video, one.start, one.stop, ids[one.label]) for one in labels.segments],
        )
        write_class_set(connection, video, None if labels.classes is None else [ids[name] for name in labels.classes])
        connection.execute(
            "INSERT INTO label_changes (video_id, time, author, before, after, undoes) VALUES (?, ?, ?, ?, ?, ?)",
            (video, _now(), author, before.to_json(), labels.to_json(), undoes),
        )
        return labels

    def _stored_form(
        self, connection: sqlite3.Connection, video: int, path: str, labels: VideoLabels, seconds: float
    ) -> VideoLabels:
        if len(labels.segments) > MOST_SEGMENTS:
            raise ValueError(f"{path}: {len(labels.segments)} segments, more than {MOST_SEGMENTS}")
        segments = [_cut(path, segment, seconds) for segment in labels.segments]
        row = None
        if has_timelines(connection):
            row = connection.execute("SELECT labels, rate FROM timelines WHERE video_id = ?", (video,)).fetchone()
        if row is not None:
            segments = self._without_gaps(path, segments, *row)
        label = None if labels.label is None else _class_name(labels.label)
        several = None if labels.classes is None else tuple(sorted({_class_name(name) for name in labels.classes}))
        return VideoLabels(label, tuple(sorted(segments, key=lambda one: (one.start, one.stop, one.label))), several)

    def _without_gaps(self, path: str, segments: Sequence[NamedSegment], count: int, rate: float) -> list[NamedSegment]:
        # Frames get the number of their segment instead of its class: neighbors of one class keep their boundary.
        gap = len(segments)
        owned = [Segment(one.start, one.stop, number) for number, one in enumerate(segments)]
        try:
            owners = labels_from_segments(owned, count, rate, background=None if self.background is None else gap)
        except ValueError as error:
            raise ValueError(
                f"{path} is labeled frame by frame, but {error}: `vidseg annotate --background CLASS` fills gaps"
            ) from error
        found: list[NamedSegment] = []
        after_gap = False
        for run in segments_from_labels(owners, rate):
            is_gap = run.label == gap
            label = self.background if is_gap else segments[run.label].label
            assert label is not None
            if found and (is_gap or after_gap) and label == found[-1].label == self.background:
                found[-1] = NamedSegment(found[-1].start, run.stop, label)  # a gap beside background becomes part of it
            else:
                found.append(NamedSegment(run.start, run.stop, label))
            after_gap = is_gap
        return found


def _cut(path: str, segment: NamedSegment, seconds: float) -> NamedSegment:
    label = _class_name(segment.label)
    start, stop = float(segment.start), float(segment.stop)
    finite = math.isfinite(start) and math.isfinite(stop)
    start, stop = max(0.0, start), min(stop, seconds if seconds > 0 else MOST_SECONDS)
    if not (finite and start < stop):
        raise ValueError(
            f"{path}: the segment {segment.start:g} to {segment.stop:g} s of {label!r} labels nothing of the video"
            + (f" of {seconds:g} s" if seconds > 0 else "")
        )
    return NamedSegment(start, stop, label)


def _class_name(name: str) -> str:
    name = clean_name(name)
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"class {name!r:.60}: expected a name of 1 to {LONGEST_NAME} characters")
    return name


def _read_videos(connection: sqlite3.Connection, path: str | None = None) -> list[AnnotatedVideo]:
    dense = "EXISTS (SELECT 1 FROM timelines WHERE video_id = v.id)" if has_timelines(connection) else "0"
    several = read_class_sets(connection)
    rows = connection.execute(
        "SELECT v.id, v.path, v.frames, v.fps, v.seconds, c.name,"
        f" (SELECT count(*) FROM segments WHERE video_id = v.id), {dense},"
        " (SELECT max(time) FROM label_changes WHERE video_id = v.id)"
        " FROM videos v LEFT JOIN classes c ON c.id = v.class_id WHERE ?1 IS NULL OR v.path = ?1 ORDER BY v.path",
        (path,),
    )
    return [
        AnnotatedVideo(path, frames, fps, seconds, label, several.get(row), segments, bool(is_dense), changed)
        for row, path, frames, fps, seconds, label, segments, is_dense, changed in rows
    ]


def _video(connection: sqlite3.Connection, path: str) -> tuple[int, float]:
    row = connection.execute("SELECT id, seconds FROM videos WHERE path = ?", (path,)).fetchone()
    if row is None:
        raise KeyError(f"{path}: no such video in the data set")
    return row[0], row[1]


def _read(connection: sqlite3.Connection, video: int) -> VideoLabels:
    (label,) = connection.execute(
        "SELECT c.name FROM videos v LEFT JOIN classes c ON c.id = v.class_id WHERE v.id = ?", (video,)
    ).fetchone()
    rows = connection.execute(
        "SELECT s.start, s.stop, c.name FROM segments s JOIN classes c ON c.id = s.class_id WHERE s.video_id = ?"
        " ORDER BY s.start, s.stop, c.name",
        (video,),
    )
    segments = tuple(NamedSegment(float(start), float(stop), name) for start, stop, name in rows)
    return VideoLabels(label, segments, read_class_sets(connection, video).get(video))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
