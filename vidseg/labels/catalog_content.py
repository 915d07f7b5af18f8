"""Check of the values of a catalog, which SQLite itself does not type: a text can be where a number is expected."""

from __future__ import annotations

import sqlite3

from vidseg.frames.schema import MAX_SIDE

__all__ = ["MOST_FRAMES", "MOST_LABELS", "MOST_RATE", "MOST_SECONDS", "MOST_SEGMENTS", "check_content"]

# Limits of files from elsewhere, far above those of any real data set.
MOST_FRAMES = 1 << 32  # of one video
MOST_LABELS = 1 << 25  # of one video labeled frame by frame; 310 hours at 30 labels per second
MOST_SEGMENTS = 1 << 20  # of one video, drawn by hand
MOST_SECONDS = 1e9
MOST_RATE = 1e9  # frames or labels per second
_MOST_CLASSES = (1 << 31) - 1
_MOST_VALUE = 1e300  # of a regression

_Rule = tuple[str, str]
"""SQL condition, in which `{0}` is the column, and its description."""


def _whole(most: int) -> _Rule:
    return f"typeof({{0}}) = 'integer' AND {{0}} BETWEEN 0 AND {most}", f"an integer from 0 to {most}"


def _number(least: float, most: float) -> _Rule:
    condition = f"typeof({{0}}) IN ('integer', 'real') AND {{0}} BETWEEN {least!r} AND {most!r}"
    return condition, f"a number from {least:g} to {most:g}"


def _above_zero(rule: _Rule) -> _Rule:
    return f"{rule[0]} AND {{0}} > 0", f"{rule[1]}, and not 0"


_TEXT = ("typeof({0}) = 'text'", "a text")
_ID = ("typeof({0}) = 'integer'", "an integer")
_CLASS = ("{0} IN (SELECT id FROM classes)", "the id of a class")
_LABELS = (
    "CASE WHEN json_valid({0}) THEN json_type({0}, '$.segments') = 'array' ELSE 0 END",
    "the labels of a video as JSON",
)
_VIDEO = ("{0} IN (SELECT id FROM videos)", "the id of a video")

_RULES: dict[str, dict[str, _Rule]] = {
    "classes": {"id": _ID, "number": _whole(_MOST_CLASSES), "name": _TEXT, "official": _whole(1)},
    "videos": {
        "id": _ID,
        "path": _TEXT,
        "class_id": (f"{{0}} IS NULL OR {_CLASS[0]}", f"NULL or {_CLASS[1]}"),
        "frames": _whole(MOST_FRAMES),
        "height": _whole(MAX_SIDE),
        "width": _whole(MAX_SIDE),
        "fps": _number(0, MOST_RATE),
        "seconds": _number(0, MOST_SECONDS),
        "size_bytes": _whole((1 << 63) - 1),
    },
    "splits": {"id": _ID, "name": _TEXT},
    "split_videos": {"split_id": _ID, "video_id": _ID},
    "segments": {
        "video_id": _VIDEO,
        "start": _number(-MOST_SECONDS, MOST_SECONDS),
        "stop": _number(-MOST_SECONDS, MOST_SECONDS),
        "class_id": _CLASS,
    },
    "timelines": {
        "video_id": _VIDEO,
        "labels": _above_zero(_whole(MOST_LABELS)),
        "rate": _above_zero(_number(0, MOST_RATE)),
    },
    "label_changes": {
        "id": _ID,
        "video_id": _VIDEO,
        "time": _TEXT,
        "author": _TEXT,
        "before": _LABELS,
        "after": _LABELS,
        "undoes": ("{0} IS NULL OR {0} IN (SELECT id FROM label_changes)", "NULL or the id of a change"),
    },
    "video_classes": {"video_id": _VIDEO, "class_id": _CLASS},
    "video_values": {
        "video_id": _VIDEO,
        "value": (f"{{0}} IS NULL OR {_number(-_MOST_VALUE, _MOST_VALUE)[0]}", "NULL or a number"),
        "several": _whole(1),
    },
}


def check_content(connection: sqlite3.Connection, tables: set[str]) -> None:
    """Check the types and ranges of all values, and the references between the tables; reads the whole catalog.

    Args:
        connection: the catalog.
        tables: names of its tables.

    Raises:
        ValueError: a value is wrong; the message names the table, the column and the value.
        sqlite3.Error: a column is missing, or the file is damaged.
    """
    for table, rules in _RULES.items():
        if table not in tables:
            continue
        conditions = {column: sql.format(column) for column, (sql, _) in rules.items()}
        # IS NOT TRUE, since a condition on NULL is neither true nor false
        wrong = " OR ".join(f"({condition}) IS NOT TRUE" for condition in conditions.values())
        if connection.execute(f"SELECT 1 FROM {table} WHERE {wrong} LIMIT 1").fetchone() is None:
            continue
        for column, condition in conditions.items():
            row = connection.execute(
                f"SELECT CAST(substr({column}, 1, 60) AS BLOB) FROM {table} WHERE ({condition}) IS NOT TRUE LIMIT 1"
            ).fetchone()
            if row is not None:
                value = "NULL" if row[0] is None else repr(row[0].decode("utf-8", "replace"))
                raise ValueError(f"table {table}: {column} is {value}, expected {rules[column][1]}")
