"""Published label format: a CSV with a header, columns identified by name.

    label,youtube_id,time_start,time_end,split
    Archery,abcdEFGH123,12.0,14.0,train

`youtube_id`, `id` or `video` names the video (the first of them that exists); the times are given for clips cut from
longer videos. A list of local videos has a column `path` instead. The label may be called `class`. Label, times and
split are optional; other columns are ignored. Columns may also be separated by tabs or semicolons. Names are read in
Unicode NFC without surrounding blanks.
Source: loaders of the SRTG and MTNet training repositories.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vidseg.frames.whole_file import whole_file
from vidseg.labels.counting import counted
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import LONGEST_NAME, clean_name, strip_extension, video_name

__all__ = ["LabelRow", "check_row", "folder_names", "has_header", "read_label_csv", "read_rows", "write_label_csv"]

_NAME_COLUMNS = ("youtube_id", "id", "path", "video")  # the first column present names the video
_DELIMITERS = (",", "\t", ";")
_LONGEST_CELL = 1 << 16  # characters; longer ones come from a quote that is not closed


@dataclass(frozen=True)
class LabelRow:
    """One row of a label file.

    Label, name and split are converted to Unicode NFC without surrounding blanks.

    Attributes:
        label: class name, or None.
        name: video id, or file name without extension if the file lists paths.
        start: start in seconds in the source video, or None if the row describes a whole video.
        stop: end in seconds in the source video, or None.
        split: split name as written, such as train, val or test, or None.
        path: path of the source video, or None.
    """

    label: str | None
    name: str
    start: float | None = None
    stop: float | None = None
    split: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        for name in ("label", "split"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else clean_name(value) or None)
        object.__setattr__(self, "name", clean_name(self.name))

    @property
    def folder_name(self) -> str:
        """Name of the video's frame folder: the video name, followed by both times in whole seconds if the row has
        times."""
        if self.start is None or self.stop is None:
            return self.name
        return f"{self.name}_{int(self.start):06d}_{int(self.stop):06d}"

    @property
    def exact_folder_name(self) -> str:
        """Name of the frame folder with times in milliseconds, for clips that start and end in the same seconds."""
        if self.start is None or self.stop is None:
            return self.name
        return f"{self.name}_{self.start:010.3f}_{self.stop:010.3f}"

    @property
    def class_folder(self) -> str | None:
        """Name of the folder that contains the source video, from its path; None without a path or folder."""
        if self.path is None:
            return None
        return clean_name(PurePosixPath(self.path.replace("\\", "/")).parent.name) or None


def folder_names(rows: Sequence[LabelRow]) -> list[str]:
    """Return the frame folder of each row: `folder_name`, or `exact_folder_name` where clips of a class share it.

    Rows with equal times describe the same clip and share its folder.
    """
    clips: dict[tuple[str | None, str], set[tuple[float | None, float | None]]] = {}
    for row in rows:
        clips.setdefault((row.label, row.folder_name), set()).add((row.start, row.stop))
    return [row.folder_name if len(clips[row.label, row.folder_name]) == 1 else row.exact_folder_name for row in rows]


def has_header(path: str | Path) -> bool:
    """Return whether the first line that is not blank names a column for the video."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = next((line for line in file if line.strip()), "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    return _delimiter(line) is not None


def _delimiter(header: str) -> str | None:
    """Return the delimiter of a header line, or None if it has none of the columns that name a video."""
    for delimiter in _DELIMITERS:
        if {cell.strip().strip('"').lower() for cell in header.split(delimiter)} & set(_NAME_COLUMNS):
            return delimiter
    return None


def read_rows(path: str | Path, *, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, each with its line number counted from 1.

    Args:
        path: the file.
        delimiter: character between the cells.

    Raises:
        ValueError: the file is not UTF-8 or not valid CSV.
    """
    try:
        # utf-8-sig removes the byte order mark of spreadsheets; newline="" leaves line ends to the csv module.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not valid CSV ({error}); check its quotes") from error
    for line, cells in rows:
        longest = max(map(len, cells))
        if longest > _LONGEST_CELL:
            raise ValueError(
                f"{path}:{line}: a cell of {longest} characters, more than {_LONGEST_CELL}; check its quotes"
            )
    return rows


def read_label_csv(path: str | Path, *, faults: SegmentFaults | None = None) -> list[LabelRow]:
    """Read a label file in the published format, in the order of its lines.

    Args:
        path: the file.
        faults: check of the times; default: a clip without length is an error.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a column is missing, a line does not match the header, or a cell cannot be parsed.
    """
    faults = faults or SegmentFaults()
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        delimiter = _delimiter(next((line for line in file if line.strip()), ""))
    lines = read_rows(path, delimiter=delimiter or ",")
    if not lines:
        raise ValueError(
            f"{path}: the file is empty; expected a header such as label,youtube_id,time_start,time_end,split"
        )
    header_line, header = lines[0]
    names = [cell.strip().lower() for cell in header]
    if "label" not in names:
        names = ["label" if name == "class" else name for name in names]
    columns = {name: position for position, name in enumerate(names)}
    if len(columns) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}:{header_line}: the header has column {twice!r:.80} twice; remove one")
    name_column = next((name for name in _NAME_COLUMNS if name in columns), None)
    if name_column is None:
        raise ValueError(
            f"{path}:{header_line}: the header {','.join(names)!r:.200} has none of the columns youtube_id, id, path, "
            "video; write the column names in the first line"
        )
    if ("time_start" in columns) != ("time_end" in columns):
        raise ValueError(f"{path}:{header_line}: only one of time_start and time_end is present; add the other column")

    rows = []
    for line, cells in lines[1:]:
        if len(cells) != len(names):
            raise ValueError(
                f"{path}:{line}: {counted(len(cells), 'cell')}, but the header has {counted(len(names), 'column')};"
                " put names with commas in quotes"
            )
        cell = dict(zip(names, cells, strict=True))
        place = f"{path}:{line}"
        name = cell[name_column]
        if not clean_name(name):
            raise ValueError(f"{place}: column {name_column!r} is empty; write the name of the video")
        by_path = name_column == "path" or (name_column == "video" and "/" in name)
        place_of_video = name if by_path else cell.get("path", "")
        name = video_name(name) if by_path else strip_extension(clean_name(name))
        start, stop = (_seconds(cell.get(column, ""), column, place) for column in ("time_start", "time_end"))
        if (start is None) != (stop is None):
            raise ValueError(f"{place}: one of time_start and time_end is empty; set both or neither")
        if start is not None and stop is not None:
            times = faults.check(start, stop, place=place, label=cell.get("label", "").strip() or None)
            if times is None:
                continue
            start, stop = times
        row = LabelRow(
            label=cell.get("label"),
            name=name,
            start=start,
            stop=stop,
            split=cell.get("split"),
            path=place_of_video.strip() or None,
        )
        check_row(row, place)
        rows.append(row)
    return rows


def _seconds(text: str, column: str, place: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{place}: column {column!r}: {text!r} is not a time in seconds; expected a number such as 12.5"
        )
    return value


def check_row(row: LabelRow, place: str) -> None:
    """Check that a row has a name, and that its texts can be names of folders.

    Args:
        row: row of a label file.
        place: file and line, for the message.

    Raises:
        ValueError: a text is empty or too long, or contains a line break or NUL.
    """
    if not row.name:
        raise ValueError(f"{place}: the row has no name of a video")
    for column, value in (("label", row.label), ("name", row.name), ("split", row.split), ("path", row.path)):
        if value is not None and any(character in value for character in "\n\r\0"):
            raise ValueError(
                f"{place}: {column} {value!r:.200} contains a line break or NUL, which folder names must not contain"
            )
        if value is not None and len(value) > LONGEST_NAME and column != "path":  # the listing names a path too long
            raise ValueError(f"{place}: {column} of {len(value)} characters, more than {LONGEST_NAME}")


def write_label_csv(path: str | Path, rows: Iterable[LabelRow]) -> None:
    """Write rows in the published format, replacing an existing file atomically.

    The columns are label, youtube_id (timed rows) or id, time_start, time_end, split, and path if a row has one.
    Columns without values are omitted, except label and split.

    Args:
        path: file to write.
        rows: rows in the order of the file.

    Raises:
        ValueError: a row cannot be represented in the format.
    """
    rows = list(rows)
    timed = any(row.start is not None for row in rows)
    with_path = any(row.path is not None for row in rows)
    header = ["label", "youtube_id" if timed else "id", *(["time_start", "time_end"] if timed else []), "split"]
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, "path"] if with_path else header)
        for row in rows:
            check_row(row, str(path))
            times = [_text(row.start), _text(row.stop)] if timed else []
            cells = [row.label or "", row.name, *times, row.split or ""]
            writer.writerow([*cells, row.path or ""] if with_path else cells)


def _text(value: float | None) -> str:
    return "" if value is None else repr(float(value))
