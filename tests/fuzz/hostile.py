"""Hostile values, texts, JSON documents and SQLite databases for the targets of inputs.py."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

__all__ = ["damage_bytes", "damage_database", "damage_json", "damage_text", "hostile_number", "hostile_value"]

INTEGERS = (
    0, 1, -1, 2, 3, 7, 255, 256, 4299, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**33 + 1, 2**40, 2**53 + 1, 2**62,
    2**63 - 1, -(2**63),
)  # fmt: skip
REALS = (0.0, -0.0, 0.5, 1.0, -1.5, 25.0, 1e-320, 1e-9, 1e9, 1e18, 1e300, math.nan, math.inf, -math.inf)
TEXTS = (
    "", " ", "\t", "\n", "\0", "a", "A", "a\nb", "-1", "0", "1", "1e999", "-1e999", "nan", "NaN", "inf", "0x10",
    "1_000",
    "٣", "²", "9" * 5000, "..", ".", "/", "//", "a/b", "../../etc", "jpg/a/v", "jpg/../v", "jpg/a/..", "jpg//",
    "C:\\v.mp4", "v.mp4", "e\u0301", "\u00e9", "\ufeff", "\u2028", "\u202e", "'", '"', '"a', "a,b", "a;b", "a\tb",
    "%s%n", "{}", "train", "test", "split1/train", "unlabeled", "x" * 300, "x" * 70000, "☃" * 90, "nul\0byte",
)  # fmt: skip
BLOBS = (b"", b"\0", b"\xff\xfe", b"\x80abc", b"\xed\xa0\x80", b"x" * 5000)


def hostile_number(draw: random.Random) -> int | float:
    """Return an integer or real number of unusual size."""
    return draw.choice(draw.choice((INTEGERS, REALS)))


def hostile_value(draw: random.Random, *, blobs: bool = False) -> Any:
    """Return None, a truth value, a number, a text, or with `blobs` bytes."""
    kinds: list[Sequence[Any]] = [(None, True, False), INTEGERS, REALS, TEXTS, TEXTS]
    return draw.choice(draw.choice([*kinds, BLOBS] if blobs else kinds))


def damage_bytes(draw: random.Random, data: bytes, *, most: int = 4) -> bytes:
    """Flip, overwrite, remove, repeat or insert a few bytes, or cut the end off."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, most)):
        at = draw.randrange(len(changed) + 1)
        length = draw.choice((1, 1, 2, 4, 16, 100))
        match draw.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at : at + length] = draw.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at:at] = changed[at : at + length]
            case 4:
                changed[at:at] = draw.choice((b"\0", b"\xff", b"\x80", b"\n", b'"', b"\xef\xbb\xbf", bytes(length)))
            case _:
                if draw.random() < 0.3:
                    del changed[at:]
    return bytes(changed)


def damage_text(draw: random.Random, data: bytes) -> bytes:
    """Change lines and cells of a text, its encoding, or its bytes."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        match draw.randrange(6):
            case 0:
                lines.insert(at, draw.choice(lines))
            case 1 if len(lines) > 1:
                del lines[at]
            case 2:
                lines[at] = draw.choice(TEXTS)
            case 3:
                lines[at] += draw.choice((" ", "\r", ",", "\t", ",,", " 1", " -1", '"', "\0"))
            case _:  # a cell
                separator = draw.choice([mark for mark in ",\t; -" if mark in lines[at]] or [","])
                cells = lines[at].split(separator)
                cells[draw.randrange(len(cells))] = draw.choice((draw.choice(TEXTS), str(hostile_number(draw))))
                lines[at] = separator.join(cells)
    text = "\n".join(lines)
    match draw.randrange(12):
        case 0:
            return text.encode(draw.choice(("utf-16", "latin-1", "utf-8-sig", "utf-32")), "replace")
        case 1:
            return damage_bytes(draw, text.encode("utf-8", "surrogateescape"))
        case 2:
            return text.replace("\n", draw.choice(("\r", "\r\n", "\x85"))).encode("utf-8", "surrogateescape")
    return text.encode("utf-8", "surrogateescape")


def damage_json(draw: random.Random, content: Any) -> bytes:
    """Change one to three nodes of a JSON document, or its text."""
    content = json.loads(json.dumps(content))
    for _ in range(draw.randint(1, 3)):
        content = _changed(draw, content)
    text = json.dumps(content, ensure_ascii=draw.random() < 0.5)
    match draw.randrange(14):
        case 0:
            return damage_bytes(draw, text.encode())
        case 1:
            deep = draw.choice((("[", "]"), ('{"a":', "}")))
            return (deep[0] * 100_000 + "1" + deep[1] * 100_000).encode()
        case 2:
            return text.replace("1", draw.choice(("9" * 5000, "1e999", "-1", "\\ud800", "NaN")), 1).encode()
        case 3:
            return text.replace('"', '"\\ud800', 2).replace('\\ud800"', '"').encode()
        case 4:
            return text.encode(draw.choice(("utf-16", "utf-8-sig", "latin-1")), "replace")
    return text.encode()


def _changed(draw: random.Random, node: Any) -> Any:
    """Return the document with another node somewhere."""
    if isinstance(node, (dict, list)) and node and draw.random() < 0.85:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys)
        match draw.randrange(8):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[draw.choice(TEXTS)] = node.pop(key)
            case 2 if isinstance(node, list):
                node.insert(0, node[key])
            case _:
                node[key] = _changed(draw, node[key])
        return node
    if draw.random() < 0.2:
        return draw.choice(([], {}, [node], {"a": node}, [[]]))
    return hostile_value(draw)


def damage_database(draw: random.Random, path: Path) -> None:
    """Change rows, columns, tables and the schema of a SQLite file through SQLite, or its bytes."""
    if draw.random() < 0.9:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = MEMORY")
            for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
                with suppress(sqlite3.Error, OverflowError, UnicodeError):
                    _change(draw, connection)
    if draw.random() < 0.25:
        path.write_bytes(damage_bytes(draw, path.read_bytes()))


def _change(draw: random.Random, connection: sqlite3.Connection) -> None:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = draw.choice(tables or [""])
    columns = [row[1] for row in connection.execute(f'PRAGMA table_xinfo("{table}")')]
    if not columns:  # nothing is left
        return
    column = draw.choice(columns)
    match draw.randrange(14):
        case 0 | 1 | 2 | 3 | 4:
            _set(draw, connection, table, column)
        case 5:
            connection.execute(f'DELETE FROM "{table}" WHERE abs(random()) % 3 = 0')
        case 6:  # the same rows again, with other keys
            rest = ", ".join(f'"{name}"' if name != columns[0] else f'"{name}" || 1' for name in columns)
            connection.execute(f'INSERT INTO "{table}" SELECT {rest} FROM "{table}" LIMIT 50')
        case 7:
            _set(draw, connection, table, column, every=True)
        case 8:
            change = draw.choice(("DROP COLUMN", "RENAME COLUMN"))
            connection.execute(f'ALTER TABLE "{table}" {change} "{column}"' + (" TO other" if change[0] == "R" else ""))
        case 9:
            connection.execute(f'DROP TABLE "{table}"')
        case 10:
            number = draw.choice((0, 1, 2, -1, 2**31 - 1))
            connection.execute(f"PRAGMA user_version = {number}")
        case 11:
            connection.execute(draw.choice(_statements(table, column)))
        case _:
            _edit_schema(draw, connection, table)


def _set(draw: random.Random, connection: sqlite3.Connection, table: str, column: str, *, every: bool = False) -> None:
    """Put a hostile value into one row, or into all."""
    where = (
        "" if every else f' WHERE "{column}" IS (SELECT "{column}" FROM "{table}" LIMIT 1 OFFSET {draw.randrange(4)})'
    )
    expressions = ("CAST(x'ff41' AS TEXT)", "CAST(x'c328' AS TEXT)", "zeroblob(100000)", "-9e999", "9e999")
    if draw.random() < 0.2:
        connection.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = {draw.choice(expressions)}{where}')
    else:
        value = hostile_value(draw, blobs=True)
        connection.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ?{where}', (value,))


def _statements(table: str, column: str) -> Sequence[str]:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS id FROM n"
    return (
        f'CREATE TRIGGER t AFTER INSERT ON "{table}" BEGIN DELETE FROM "{table}"; END',
        f'CREATE INDEX i ON "{table}" (abs("{column}"))',
        f'CREATE UNIQUE INDEX u ON "{table}" ("{column}")',
        f'ALTER TABLE "{table}" ADD COLUMN added AS (zeroblob(100000000))',
        f'ALTER TABLE "{table}" ADD COLUMN added',
        f'ALTER TABLE "{table}" RENAME TO moved',
        f"CREATE VIEW timelines AS {endless}",
        "CREATE TABLE timelines (video_id, labels, rate)",
        "CREATE TABLE other (a, b)",
        "PRAGMA page_size = 512",
    )


def _edit_schema(draw: random.Random, connection: sqlite3.Connection, table: str) -> None:
    """Change the text of the schema, or what it points to, without SQLite's checks."""
    connection.execute("PRAGMA writable_schema = ON")
    edits: tuple[Callable[[], object], ...] = (
        lambda: _schema(connection, "rootpage = ?", draw.choice((0, 1, 2, 3, 5, 2**31 - 1, -1)), table),
        lambda: _schema(connection, "sql = replace(sql, 'INTEGER', ?)", draw.choice(("TEXT", "BLOB", "")), table),
        lambda: _schema(connection, "sql = replace(sql, 'NOT NULL', ?)", "COLLATE nothing", table),
        lambda: _schema(connection, "sql = replace(sql, 'UNIQUE', ?)", "CHECK (0)", table),
        lambda: _schema(connection, "type = ?", draw.choice(("view", "index", "")), table),
        lambda: _schema(connection, "name = ?", draw.choice(("videos", "Images", "", "sqlite_sequence")), table),
    )
    draw.choice(edits)()
    connection.execute("PRAGMA writable_schema = RESET")


def _schema(connection: sqlite3.Connection, change: str, value: Any, table: str) -> None:
    connection.execute(f"UPDATE sqlite_master SET {change} WHERE name = ?", (value, table))
