"""The order of the classes: the number of a class is what a trained model answers, so it must not move.

Without an official list, classes are numbered by sorted name when the catalog is first written, and classes that
turn up later come after them. An official list (classInd.txt and the like) places the classes once; from then on the
order is fixed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["add_classes", "class_names", "classes_in_use", "drop_unused_classes", "order_classes", "warn_of_moves"]

logger = logging.getLogger(__name__)


def class_names(connection: sqlite3.Connection) -> list[str]:
    """Names of all classes; the position of a name is its number."""
    return [name for (name,) in connection.execute("SELECT name FROM classes ORDER BY number")]


def add_classes(connection: sqlite3.Connection, names: Iterable[str]) -> dict[str, int]:
    """Appends the names not yet known, in sorted order; returns the row id (not the number) of every class."""
    known = class_names(connection)
    for name in sorted(set(names) - set(known)):
        connection.execute("INSERT INTO classes (number, name, official) VALUES (?, ?, 0)", (len(known), name))
        known.append(name)
    return dict(connection.execute("SELECT name, id FROM classes"))


def order_classes(connection: sqlite3.Connection, official: Sequence[str]) -> None:
    """Numbers the classes as the official list does; classes in use that it does not name come after it.

    Raises:
        ValueError: a name twice in the list, or the catalog follows another official list already.
    """
    name, count = Counter(official).most_common(1)[0] if official else ("", 0)
    if count != 1:
        raise ValueError(f"class list: {name!r} is in it {count} times" if count else "class list: it is empty")
    fixed = [
        (number, name)
        for number, name in connection.execute("SELECT number, name FROM classes WHERE official ORDER BY number")
    ]
    for number, name in fixed:
        if number >= len(official) or official[number] != name:
            found = official.index(name) if name in official else "not in the list"
            raise ValueError(
                f"class {name!r} has number {number} in the catalog, which follows an official list already, and"
                f" {found} in the one given. Numbers never change once a list has set them: give the list used first,"
                " or remove catalog.db, run `vidseg labels scan` and apply the labels again"
            )
    drop_unused_classes(connection)
    _renumber(connection, [*official, *(name for name in class_names(connection) if name not in set(official))])
    connection.executemany("UPDATE classes SET official = 1 WHERE name = ?", [(name,) for name in official])


def classes_in_use(connection: sqlite3.Connection) -> set[str]:
    """Names of the classes that a video or a segment has."""
    return {
        name
        for (name,) in connection.execute(
            "SELECT name FROM classes WHERE id IN"
            " (SELECT class_id FROM videos WHERE class_id IS NOT NULL UNION SELECT class_id FROM segments)"
        )
    }


def drop_unused_classes(connection: sqlite3.Connection, candidates: Iterable[str] | None = None) -> None:
    """Removes the classes (of `candidates`, default all) that no official list and no video or segment has.

    They are left over where the labels of a file took the place of folder names written otherwise. Where one goes, the
    classes after the official ones are numbered as in a new catalog; where none goes, nothing moves.
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
    """Gives every class its position in `names`, which holds all of them; unknown ones are added."""
    connection.execute("UPDATE classes SET number = -1 - number")  # out of the way: numbers are unique
    connection.executemany(
        "INSERT INTO classes (number, name, official) VALUES (?, ?, 0)"
        " ON CONFLICT (name) DO UPDATE SET number = excluded.number",
        list(enumerate(names)),
    )


def warn_of_moves(before: Sequence[str], after: Sequence[str]) -> None:
    """Logs a warning where a class does not have the number any more that it had."""
    numbers = {name: number for number, name in enumerate(after)}
    moved = [name for number, name in enumerate(before) if numbers.get(name, number) != number]
    gone = [name for name in before if name not in numbers]
    if moved:
        logger.warning(
            "%d of %d classes have a new number (%r now %d): networks trained with the old numbers do not fit any more",
            len(moved), len(after), moved[0], numbers[moved[0]],
        )  # fmt: skip
    if gone:
        logger.warning("%d classes without a video left the catalog, such as %r", len(gone), gone[0])
