"""The table of label changes in the catalog: the labels of a video before and after each, who, when, and what an undo
takes back."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass

__all__ = [
    "LABEL_CHANGES",
    "LABEL_CHANGES_BY_VIDEO",
    "LabelChange",
    "NamedSegment",
    "VideoLabels",
    "last_change",
]

LABEL_CHANGES = """
CREATE TABLE IF NOT EXISTS label_changes (
    id       INTEGER PRIMARY KEY,      -- in the order of the changes
    video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
    time     TEXT NOT NULL,            -- UTC, such as 2026-11-30T12:00:00Z
    author   TEXT NOT NULL,
    before   TEXT NOT NULL,            -- labels as JSON: {"label": class or null, "segments": [[start, stop, class]]},
                                       -- and "classes": [class, ...] if the video has a set of classes
    after    TEXT NOT NULL,
    undoes   INTEGER REFERENCES label_changes (id)  -- the change that this one takes back; NULL: an edit
)
"""
LABEL_CHANGES_BY_VIDEO = "CREATE INDEX IF NOT EXISTS label_changes_by_video ON label_changes (video_id)"


@dataclass(frozen=True, slots=True)
class NamedSegment:
    """Part of a video with a class: start and stop in seconds from the first frame, and the name of the class."""

    start: float
    stop: float
    label: str


@dataclass(frozen=True)
class VideoLabels:
    """Labels of one video.

    Attributes:
        label: class of the whole video, or None.
        segments: its segments by start.
        classes: set of classes of the whole video, sorted; empty: none of the classes. None: the video has no such set.
    """

    label: str | None
    segments: tuple[NamedSegment, ...]
    classes: tuple[str, ...] | None = None

    def to_json(self) -> str:
        """Return the form of the table `label_changes`."""
        rows = [[segment.start, segment.stop, segment.label] for segment in self.segments]
        several = {} if self.classes is None else {"classes": list(self.classes)}
        return json.dumps({"label": self.label, "segments": rows, **several}, ensure_ascii=False)

    def names(self) -> set[str]:
        """Return the names of all classes that occur."""
        found = {segment.label for segment in self.segments} | set(self.classes or ())
        return found if self.label is None else found | {self.label}

    @classmethod
    def from_json(cls, text: str) -> VideoLabels:
        """Return the labels of a row of `label_changes`.

        Raises:
            ValueError: the text has another form.
        """
        try:
            content = json.loads(text)
            rows = [(float(start), float(stop), str(label)) for start, stop, label in content["segments"]]
            several = content.get("classes")
            classes = None if several is None else tuple(sorted({str(name) for name in several}))
            return cls(content["label"], tuple(NamedSegment(*row) for row in rows), classes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"table label_changes: {text!r:.60} are not the labels of a video") from error

    @property
    def version(self) -> str:
        """Short text that differs for other labels."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class LabelChange:
    """One change of a video's labels: its number, time (UTC), author, the labels after it, and what it takes back."""

    number: int
    time: str
    author: str
    labels: VideoLabels
    undoes: int | None


def last_change(connection: sqlite3.Connection, video: int, *, redo: bool) -> int | None:
    """Return the number of the change that the next undo, or redo, takes back.

    An undo takes back an edit, or a redo. A redo takes back an undo, and only as long as no edit follows it.
    """
    done: list[int] = []
    undone: list[int] = []
    is_undo: dict[int, bool] = {}
    for number, undoes in connection.execute(
        "SELECT id, undoes FROM label_changes WHERE video_id = ? ORDER BY id", (video,)
    ):
        is_undo[number] = undoes is not None and not is_undo.get(undoes, False)
        if undoes is None:
            done.append(number)
            undone.clear()
        elif is_undo[number]:
            done.remove(undoes)
            undone.append(number)
        else:
            undone.remove(undoes)
            done.append(number)
    stack = undone if redo else done
    return stack[-1] if stack else None
