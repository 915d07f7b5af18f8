"""Readers of official annotation text files: class lists, split lists of UCF-101 and HMDB-51, id lists."""

from __future__ import annotations

import re
from pathlib import Path

from vidseg.labels.csv_labels import LabelRow, check_row, read_rows
from vidseg.labels.json_files import read_json
from vidseg.labels.names import LONGEST_NAME, clean_name, video_name

__all__ = [
    "read_class_list",
    "read_hmdb_list",
    "read_id_list",
    "read_lines",
    "read_numbered_classes",
    "read_ucf_list",
]

_HMDB_CODES = {"0": None, "1": "train", "2": "test"}


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """Return the lines that are not blank, stripped, each with its number counted from 1.

    Raises:
        ValueError: the file is not UTF-8 text, or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    found = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise ValueError(f"{path}: the file is empty")
    for number, line in found:
        if len(line) > LONGEST_NAME:
            raise ValueError(f"{path}:{number}: a line of {len(line)} characters, more than {LONGEST_NAME}")
    return found


def read_class_list(path: str | Path) -> list[str]:
    """Read class names in their official order; see `read_numbered_classes`."""
    return read_numbered_classes(path)[0]


def read_numbered_classes(path: str | Path) -> tuple[list[str], int | None]:
    """Read class names in their official order, and the number of the first class if the file has numbers.

    Formats: `1 ApplyEyeMakeup` (UCF-101's classInd.txt), `c000 Holding some clothes` (Charades), `clapping,0` (Moments
    in Time), one name per line, a JSON list of names, or a JSON object `{name: number}` (as saved by the published
    training code). Number and name may also be separated by a tab. A CSV file with the header `action` or `class` has
    one name per line (ActivityNet), one with the columns `id` and `key` both (EPIC-Kitchens).

    Returns:
        The names, and 0 or 1, or None if the file has no numbers.

    Raises:
        ValueError: a name or number occurs twice, or a number is missing.
    """
    written = True
    if Path(path).suffix.lower() == ".json":
        content = read_json(path)
        if isinstance(content, dict) and all(isinstance(number, int) for number in content.values()):
            numbered = [(number, name) for name, number in content.items()]
        elif isinstance(content, list) and all(isinstance(name, str) for name in content):
            numbered, written = list(enumerate(content)), False
        else:
            raise ValueError(f"{path}: expected a list of class names, or an object {{name: number}}")
    else:
        lines = _class_lines(path)
        first = [re.fullmatch(r"c?(?P<number>[0-9]{1,9})\s+(?P<name>.+)", line) for line in lines]
        last = [re.fullmatch(r"(?P<name>.+?)\s*[,\t]\s*(?P<number>[0-9]{1,9})", line) for line in lines]
        matches = first if all(first) else last
        if all(matches):
            numbered = [(int(match["number"]), match["name"]) for match in matches if match]
        else:
            numbered, written = list(enumerate(lines)), False
    numbered.sort()
    names = [clean_name(name) for _, name in numbered]
    first_number = 0 if numbered and numbered[0][0] == 0 else 1
    for position, (number, name) in enumerate(numbered, start=first_number):
        if number != position:
            raise ValueError(
                f"{path}: class {name!r} has number {number}, expected {position}; numbers must be consecutive"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: class {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return names, first_number if written else None


def _class_lines(path: str | Path) -> list[str]:
    """Return the lines of a class list without a CSV header; `NUMBER NAME` for one with the columns id and key."""
    lines = [line for _, line in read_lines(path)]
    if Path(path).suffix.lower() != ".csv":
        return lines
    header = lines[0].lower().split(",")
    if {"id", "key"} <= set(header):
        number, name = header.index("id"), header.index("key")
        return [f"{cells[number]} {cells[name]}" for _, cells in read_rows(path)[1:]]
    return lines[1:] if header in (["action"], ["class"]) and len(lines) > 1 else lines


def read_ucf_list(path: str | Path, *, split: str) -> list[LabelRow]:
    """Read UCF-101's `trainlist01.txt` (`Archery/v_Archery_g08_c01.avi 3`) or `testlist01.txt` (without number)."""
    rows = []
    for number, line in read_lines(path):
        match = re.fullmatch(r"(?:.*/)?([^/]+)/([^/]+?\.\w+)(?:\s+\d+)?", line.replace("\\", "/"))
        if not match:
            raise ValueError(f"{path}:{number}: {line!r} is not of the form Class/video.avi, with or without a number")
        rows.append(LabelRow(match[1], video_name(match[2]), split=split))
        check_row(rows[-1], f"{path}:{number}")
    return rows


def read_hmdb_list(path: str | Path, *, label: str, division: str) -> list[LabelRow]:
    """Read one class of one division of HMDB-51 (`<class>_test_split1.txt`): lines `video.avi 1`.

    Code 1 means train, 2 test, and 0 that the division does not use the video.
    """
    rows = []
    for number, line in read_lines(path):
        file, _, code = " ".join(line.rsplit(None, 1)).rpartition(" ")
        if not file or code not in _HMDB_CODES:
            raise ValueError(f"{path}:{number}: {line!r} is not of the form video.avi CODE with a code of 0, 1 or 2")
        part = _HMDB_CODES[code]
        rows.append(LabelRow(label, video_name(file), split=f"{division}/{part}" if part else None))
        check_row(rows[-1], f"{path}:{number}")
    return rows


def read_id_list(path: str | Path) -> set[str]:
    """Read video ids: one per line (Mini-Kinetics-200's `train_ytid_list.txt`), or a JSON list.

    Raises:
        ValueError: the file is empty, or a JSON file that is not a list of names.
    """
    if Path(path).suffix.lower() != ".json":
        return {clean_name(line) for _, line in read_lines(path)}
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: expected a list of video names")
    return {clean_name(name) for name in content}
