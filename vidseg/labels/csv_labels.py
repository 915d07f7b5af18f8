"""The published label file: a CSV with a header, columns found by name.

    label,youtube_id,time_start,time_end,split
    Archery,abcdEFGH123,12.0,14.0,train

`youtube_id` or `id` names the video (where both exist, youtube_id); the times are there for data sets whose clips are
cut from longer videos. A list of one's own videos has a column `path` instead. Label, times and split may be missing;
further columns are left alone. Source: the training repository's loaders (reference: SRTG and MTNet, data and labels).
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["LabelRow", "read_label_csv", "read_rows", "video_name", "write_label_csv"]

_NAME_COLUMNS = ("youtube_id", "id", "path")  # the first that exists names the video


@dataclass(frozen=True)
class LabelRow:
    """One line of a label file.

    Attributes:
        label: class name as written, or None.
        name: the video: its id, or the file's name without extension where the file lists paths.
        start: seconds into the source video, or None where the row is about a whole video.
        stop: seconds into the source video, or None.
        split: train, val, test or any other name, as written; or None.
        path: path of the source video, or None.
    """

    label: str | None
    name: str
    start: float | None = None
    stop: float | None = None
    split: str | None = None
    path: str | None = None

    @property
    def folder_name(self) -> str:
        """Folder of the video's frames: the name, with both times in whole seconds where there are times."""
        if self.start is None or self.stop is None:
            return self.name
        return f"{self.name}_{int(self.start):06d}_{int(self.stop):06d}"


def video_name(path: str) -> str:
    """Name of a video file: without its folders and its last extension."""
    return PurePosixPath(path.replace("\\", "/")).stem


def read_rows(path: str | Path) -> list[tuple[int, list[str]]]:
    """Lines of a CSV file that are not blank, each with its line number from 1.

    Raises:
        ValueError: not UTF-8, or not CSV.
    """
    try:
        # utf-8-sig drops the mark that spreadsheets put first; newline="" leaves line ends to the csv module.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not valid CSV ({error}); check its quotes") from error


def read_label_csv(path: str | Path) -> list[LabelRow]:
    """Reads a label file in the published form, in the order of its lines.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a missing column, a line that does not fit the header, or a cell that cannot be read.
    """
    lines = read_rows(path)
    if not lines:
        raise ValueError(f"{path}: empty; expected a header such as label,youtube_id,time_start,time_end,split")
    header_line, header = lines[0]
    names = [cell.strip().lower() for cell in header]
    columns = {name: position for position, name in enumerate(names)}
    if len(columns) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}:{header_line}: column {twice!r} is in the header twice; remove one")
    name_column = next((name for name in _NAME_COLUMNS if name in columns), None)
    if name_column is None:
        raise ValueError(
            f"{path}:{header_line}: none of the columns youtube_id, id, path in the header {','.join(names)!r};"
            " the first line must name the columns"
        )
    if ("time_start" in columns) != ("time_end" in columns):
        raise ValueError(f"{path}:{header_line}: time_start and time_end belong together; one of them is missing")

    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            raise ValueError(
                f"{path}:{line}: {len(cells)} cells, but the header has {len(names)} columns;"
                " a comma inside a name needs quotes around the name"
            )
        cell = dict(zip(names, cells, strict=True))
        place = f"{path}:{line}"
        name = cell[name_column].strip()
        if name_column == "path":
            name = video_name(name)
        if not name:
            raise ValueError(f"{place}: column {name_column!r} is empty; every row must name its video")
        start, stop = (_seconds(cell.get(column, ""), column, place) for column in ("time_start", "time_end"))
        if (start is None) != (stop is None):
            raise ValueError(f"{place}: one of time_start and time_end is empty; give both or none")
        if start is not None and stop is not None and stop <= start:
            raise ValueError(f"{place}: column 'time_end': {stop} is not after time_start {start}")
        row = LabelRow(
            label=cell.get("label", "") or None,
            name=name,
            start=start,
            stop=stop,
            split=cell.get("split", "").strip() or None,
            path=cell.get("path", "").strip() or None,
        )
        _check(row, place)
        rows.append(row)
    return rows


def _seconds(text: str, column: str, place: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{place}: column {column!r}: {text!r} is not a time in seconds, such as 12 or 12.5")
    return value


def _check(row: LabelRow, place: str) -> None:
    for column, value in (("label", row.label), ("name", row.name), ("split", row.split), ("path", row.path)):
        if value is not None and any(character in value for character in "\n\r\0"):
            raise ValueError(f"{place}: {column} {value!r} has a line break or NUL in it; it could not be a folder")


def write_label_csv(path: str | Path, rows: Iterable[LabelRow]) -> None:
    """Writes rows in the published form; the file is there whole or not at all.

    Columns: label, youtube_id (timed rows) or id, time_start, time_end, split; and path where a row has one. What no
    row has is left out, but for label and split.

    Raises:
        ValueError: a row that could not be read back.
    """
    rows = list(rows)
    timed = any(row.start is not None for row in rows)
    with_path = any(row.path is not None for row in rows)
    header = ["label", "youtube_id" if timed else "id", *(["time_start", "time_end"] if timed else []), "split"]
    temporary = Path(f"{path}.tmp{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*header, "path"] if with_path else header)
            for row in rows:
                _check(row, str(path))
                times = [_text(row.start), _text(row.stop)] if timed else []
                cells = [row.label or "", row.name, *times, row.split or ""]
                writer.writerow([*cells, row.path or ""] if with_path else cells)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))
