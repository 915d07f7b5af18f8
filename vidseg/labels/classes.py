"""Class order of the catalog.

The class number is the index of a model's output, so it must not change. Without an official list, classes are numbered
by sorted name when the catalog is first written, and later classes are appended. An official list (classInd.txt) sets
the numbers once; after that they are fixed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from vidseg.labels.counting import counted

__all__ = [
    "add_classes",
    "check_case",
    "class_names",
    "classes_in_use",
    "drop_unused_classes",
    "order_classes",
    "warn_of_moves",
]

logger = logging.getLogger(__name__)


def class_names(connection: sqlite3.Connection) -> list[str]:
    """Return the names of all classes; the position is the class number."""
    return [name for (name,) in connection.execute("SELECT name FROM classes ORDER BY number")]


def add_classes(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, int]:
    """Append unknown names in sorted order; return the row id (not the class number) of every class."""
    known = class_names(connection)
    spellings = {name.casefold(): name for name in known}
    for name in sorted(set(names) - set(known), key=_sorting_key):
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            logger.warning("classes %r and %r differ only in upper and lower case, but are two classes", other, name)
        connection.execute("INSERT INTO classes (number, name, official) VALUES (?, ?, 0)", (len(known), name))
        known.append(name)
    return dict(connection.execute("SELECT name, id FROM classes"))


def _sorting_key(name: str) -> tuple[int, str]:
    """Sort class names that are numbers by number, so that class "10" follows class "9"."""
    return (int(name), name) if name.isdecimal() and len(name) < 10 else (10**10, name)


def check_case(names: Iterable[str], known: Iterable[str], *, official: Iterable[str] = ()) -> None:
    """Refuse new class names that differ from another class only in upper and lower case.

    Args:
        names: class names of a label file.
        known: class names of the catalog.
        official: class names of official lists; their spelling replaces that of the catalog.

    Raises:
        ValueError: names `run` and `Run`; the message has every such pair.
    """
    names, official = set(names), set(official)
    spellings: dict[str, set[str]] = {}
    for name in {*names, *known, *official}:
        spellings.setdefault(name.casefold(), set()).add(name)
    pairs = []
    for name in sorted(names - official):
        others = sorted(spellings[name.casefold()] - {name})
        if others:
            pairs.append(f"{name!r} and {', '.join(map(repr, others))}")
    if pairs:
        more = f" and {len(pairs) - 10} more" if len(pairs) > 10 else ""
        raise ValueError(
            f"class names that differ only in upper and lower case: {'; '.join(pairs[:10])}{more}; nothing is written;"
            " use one spelling in the label files and the catalog, or pass the class list with the right one"
            " (--classes)"
        )


def order_classes(connection: sqlite3.Connection, official: Sequence[str]) -> None:
    """Number the classes in the order of an official list; other classes in use follow.

    Args:
        connection: open catalog.
        official: class names in official order.

    Raises:
        ValueError: a name occurs twice in the list, or the catalog follows another official list.
    """
    name, count = Counter(official).most_common(1)[0] if official else ("", 0)
    if count != 1:
        raise ValueError(f"class list: {name!r} occurs {count} times" if count else "class list: no classes")
    fixed = [
        (number, name)
        for number, name in connection.execute("SELECT number, name FROM classes WHERE official ORDER BY number")
    ]
    for number, name in fixed:
        if number >= len(official) or official[number] != name:
            found = f"number {official.index(name)}" if name in official else "no number"
            raise ValueError(
                f"class {name!r} has number {number} in the catalog, which follows an official list, but {found} in"
                " the new list; use the first list, or import the labels into another data set folder"
            )
    drop_unused_classes(connection)
    _renumber(connection, [*official, *(name for name in class_names(connection) if name not in set(official))])
    connection.executemany("UPDATE classes SET official = 1 WHERE name = ?", [(name,) for name in official])


def classes_in_use(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the classes of all videos and segments."""
    used = "SELECT class_id FROM videos WHERE class_id IS NOT NULL UNION SELECT class_id FROM segments"
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'video_classes'").fetchone():
        used += " UNION SELECT class_id FROM video_classes"
    return {name for (name,) in connection.execute(f"SELECT name FROM classes WHERE id IN ({used})")}


def drop_unused_classes(connection: sqlite3.Connection, candidates: Iterable[str] | None = None) -> None:
    """Remove classes (of `candidates`, default all) without official number, video and segment.

    Such classes remain after labels of a file replace folder names with another spelling. If a class is removed, the
    classes after the official ones are renumbered by sorted name; otherwise no number changes.
    """
    rows = connection.execute("SELECT name, official FROM classes ORDER BY number").fetchall()
    kept = classes_in_use(connection) | {name for name, is_official in rows if is_official}
    unused = sorted({name for name, _ in rows if candidates is None or name in set(candidates)} - kept)
    if unused:
        connection.executemany("DELETE FROM classes WHERE name = ?", [(name,) for name in unused])
        rest = [row for row in rows if row[0] not in set(unused)]
        others = sorted(name for name, is_official in rest if not is_official)
        _renumber(connection, [*(name for name, is_official in rest if is_official), *others])


def _renumber(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Set the number of every class to its position in `names`, which contains all classes; unknown ones are added."""
    connection.execute(
        "UPDATE classes SET number = -1 - number"
    )  # numbers are unique, so the old ones are moved away first
    connection.executemany(
        "INSERT INTO classes (number, name, official) VALUES (?, ?, 0)"
        " ON CONFLICT (name) DO UPDATE SET number = excluded.number",
        list(enumerate(names)),
    )


def warn_of_moves(before: Sequence[str], after: Sequence[str]) -> None:
    """Log a warning if the number of a class has changed."""
    numbers = {name: number for number, name in enumerate(after)}
    moved = [name for number, name in enumerate(before) if numbers.get(name, number) != number]
    gone = [name for name in before if name not in numbers]
    if moved:
        logger.warning(
            "%d of %d class numbers have changed (%r is now %d); models trained with the old numbers are invalid",
            len(moved), len(after), moved[0], numbers[moved[0]],
        )  # fmt: skip
    if gone:
        logger.warning(
            "removed %s without videos from the catalog, such as %r", counted(len(gone), "class", "classes"), gone[0]
        )
