"""The checks of `FrameDatabase.verify`: file, table, counts, timestamps, and decoding of every frame."""

import sqlite3
import zlib
from typing import TYPE_CHECKING

import numpy as np

from vidseg.frames.schema import (
    COUNT_NAME,
    DATABASE_NAME,
    DATABASE_NAMES,
    FrameDatabaseError,
    connect_read_only,
    frame_number,
    raise_interrupt,
)

if TYPE_CHECKING:
    from vidseg.frames.database import FrameDatabase
    from vidseg.frames.stored_stream import StoredStream

__all__ = ["verify"]

_BESIDE_FRAMES = set(DATABASE_NAMES.values()) - {DATABASE_NAME}


def verify(database: "FrameDatabase") -> list[str]:
    """Return one sentence per fault of a database; an empty list if there is none."""
    problems = _check_file(database)
    problems += _check_count_file(database)
    problems += _check_timestamps(database)
    if database.coded is not None:
        return problems + _check_stream(database.coded, database.meta.get("crc32"))
    for level in range(database.levels + 1):
        problems += _check_frames(database, level)
    return problems


def _check_file(database: "FrameDatabase") -> list[str]:
    problems = []
    connection = connect_read_only(database.path)
    try:
        problems += [f"SQLite: {text}" for (text,) in connection.execute("PRAGMA quick_check(5)") if text != "ok"]
        # More rows than frames are one fault; without a limit a damaged file can have any number of them.
        if database.coded is not None:
            rows = connection.execute("SELECT key_frame FROM Stream ORDER BY key_frame").fetchmany(len(database) + 1)
            if [row for (row,) in rows] != list(range(1, len(database) + 1, database.coded.gop)):
                problems.append(f"the key frames are not every {database.coded.gop}-th of {len(database)} frames")
            return problems
        names = connection.execute("SELECT rowid, ObjId FROM Images ORDER BY rowid").fetchmany(len(database) + 1)
    except sqlite3.Error as error:
        raise_interrupt(error)
        return [*problems, f"SQLite: {error}"]
    finally:
        connection.close()
    numbers = [frame_number(name) for _, name in names]
    if len(names) != len(database):
        more = "more" if len(names) > len(database) else len(names)
        problems.append(f"{more} rows for {len(database)} frames")
    if sorted(number or 0 for number in numbers) != list(range(1, len(numbers) + 1)):
        problems.append(f"the frame numbers are not 1 to {len(numbers)}, each once")
    if "format" in database.meta and numbers != [rowid for rowid, _ in names]:
        problems.append("the rows are not in frame order")
    return problems


def _check_count_file(database: "FrameDatabase") -> list[str]:
    path = database.path.parent / COUNT_NAME
    if database.path.name in _BESIDE_FRAMES:  # n_frames is written with the frames
        return []
    if not path.is_file():
        return [f"{COUNT_NAME} is missing"]
    text = path.read_text(errors="replace")
    text = text.strip()  # files written by `echo` end with a newline
    return (
        []
        if text.lstrip("0") == str(len(database))
        else [f"{COUNT_NAME} says {text[:20]!r} for {len(database)} frames"]
    )


def _check_timestamps(database: "FrameDatabase") -> list[str]:
    try:
        timestamps = database.timestamps
    except FrameDatabaseError as error:
        return [str(error).removeprefix(f"{database.path}: ")]
    if timestamps is None:
        return []
    if len(timestamps) != len(database):
        return [f"{len(timestamps)} timestamps for {len(database)} frames"]
    return [] if np.all(np.diff(timestamps) >= 0) else ["the timestamps do not increase"]


def _check_stream(coded: "StoredStream", recorded: object) -> list[str]:
    problems, checksum = [], 0
    for first in range(0, coded.count, coded.gop):
        try:
            for _ in coded.frames(range(first, min(first + coded.gop, coded.count))):
                pass
            checksum = zlib.crc32(coded.row(first // coded.gop), checksum)
        except FrameDatabaseError as error:
            problems.append(str(error).removeprefix(f"{coded.path}: "))
    if recorded is not None and not problems and checksum != recorded:
        problems.append("the frames differ from those that were written (CRC-32)")
    return problems


def _check_frames(database: "FrameDatabase", level: int) -> list[str]:
    problems = []
    # A published database may have frames of several sizes; those of FrameWriter record their size.
    expected = tuple(-(-side // 2**level) for side in database.frame_size) if "height" in database.meta else None
    checksum = 0
    for index in range(len(database)):
        try:
            (jpeg,) = database.read([index], level=level)
            checksum = zlib.crc32(jpeg, checksum)
            size = database.decoded_size(index, level)
        except FrameDatabaseError as error:
            problems.append(str(error).removeprefix(f"{database.path}: "))
            continue
        if expected is not None and size != expected:
            problems.append(
                f"frame {index} (level {level}): {size[1]}x{size[0]} pixels, not {expected[1]}x{expected[0]}"
            )
    recorded = database.meta.get("crc32") if level == 0 else None
    if recorded is not None and not problems and checksum != recorded:
        problems.append("the frames differ from those that were written (CRC-32)")
    return problems
