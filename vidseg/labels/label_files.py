"""Label files of recognition data sets in any supported form: CSV files with a header, and lists without one.

Lists have one video per line, as those of UCF-101, TSN, mmaction2 and SlowFast:

    Archery/v_Archery_g08_c01.avi 3       path and class number; also separated by tabs or commas
    v_Archery_g08_c01 164 0               folder of frames, number of frames, class number
    Archery/v_Archery_g01_c01.avi         path only; the class is the name of the folder

The split is taken from the name of the list (`train.txt`, `testlist01.txt`), the class names from a class list, or from
the folders of the paths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vidseg.labels.counting import counted
from vidseg.labels.csv_labels import LabelRow, check_row, has_header, read_label_csv
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import clean_name, division_of_file, is_split_name, video_name
from vidseg.labels.official_lists import read_lines, read_numbered_classes

__all__ = ["LABEL_FILE_SUFFIXES", "LabelFiles", "class_list_beside", "read_label_files"]

LABEL_FILE_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".lst", ".list"})

_CLASS_LISTS = re.compile(r"(class_?ind|class(es|_?list|_?names)?|categories|label_?map\w*|mapping)\.(txt|json)")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass
class LabelFiles:
    """Content of label files.

    Attributes:
        rows: rows of all files, in order.
        classes: class names by number if the files or a class list number the classes, else None.
    """

    rows: list[LabelRow]
    classes: list[str] | None


@dataclass(frozen=True)
class _Line:
    """One line of a list: path of the video, class number or None, split, and file and line for messages."""

    path: str
    number: int | None
    split: str | None
    place: str

    @property
    def folder(self) -> str | None:
        """Class folder of the video: the last folder of its path, unless that is the folder of a split."""
        name = clean_name(PurePosixPath(self.path.replace("\\", "/")).parent.name)
        return name if name and not is_split_name(name) and name != ".." else None


def read_label_files(
    paths: Sequence[str | Path],
    *,
    classes: str | Path | None = None,
    first_number: int | None = None,
    faults: SegmentFaults | None = None,
) -> LabelFiles:
    """Read label files; pass all files of a data set in one call.

    Args:
        paths: CSV files with a header, and lists of videos.
        classes: class list, which numbers the classes. None: a class list among `paths` or beside the lists, such as
            classInd.txt, if there is one.
        first_number: number of the first class in the lists, 0 or 1. None: as the lists, the class list and the class
            folders show.
        faults: check of the times; default: a clip without length is an error.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is malformed, or class numbers and class names contradict each other.
    """
    rows: list[LabelRow] = []
    lines: list[_Line] = []
    files = [Path(path) for path in paths]
    if classes is None and len(files) > 1:
        listed = [path for path in files if _CLASS_LISTS.fullmatch(path.name.lower())]
        classes = _only(listed)
        files = [path for path in files if path not in listed]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: file not found")
        if has_header(path) or not _is_list(path):
            rows += read_label_csv(path, faults=faults)
        else:
            lines += _read_list(path)
            if classes is None:
                classes = class_list_beside(path, files)
    names, first = (None, None) if classes is None else read_numbered_classes(classes)
    if lines:
        found, names = _rows(lines, names, first if first_number is None else first_number, classes, first_number)
        rows += found
    return LabelFiles(rows, names)


def class_list_beside(path: Path, files: Sequence[Path] = ()) -> Path | None:
    """Return the class list in the folder of a list file, such as classInd.txt, or None.

    Args:
        path: list file.
        files: files of the folder that are left out.

    Raises:
        ValueError: there are several class lists.
    """
    beside = sorted(set(path.parent.iterdir()) - set(files))
    return _only([other for other in beside if _CLASS_LISTS.fullmatch(other.name.lower())])


def _only(lists: Sequence[Path]) -> Path | None:
    if len(lists) > 1:
        raise ValueError(f"several class lists: {', '.join(map(str, lists))}; choose one with --classes")
    return lists[0] if lists else None


def _is_list(path: Path) -> bool:
    """Return whether a file without a CSV header is a list; a CSV file is one if its first line ends with a number."""
    if path.suffix.lower() not in {".csv", ".tsv"}:
        return True
    try:
        (_, line) = read_lines(path)[0]
    except ValueError:
        return False  # empty, or not UTF-8: the CSV reader names the fault
    return bool(re.fullmatch(r".+[\s,]-?[0-9]+", line))


def _read_list(path: Path) -> list[_Line]:
    split, lines = division_of_file(path), []
    first_count: tuple[int, int] | None = None
    for number, text in read_lines(path):
        name, numbers = _numbers_at_end(text)
        if len(numbers) > 2:
            raise ValueError(
                f"{path}:{number}: {counted(len(numbers), 'number')} after the path; expected PATH LABEL or PATH FRAMES"
                " LABEL; several labels of a video and start frames are not supported"
            )
        first_count = first_count or (len(numbers), number)
        if len(numbers) != first_count[0]:
            raise ValueError(
                f"{path}:{number}: {counted(len(numbers), 'number')} after the path, but line {first_count[1]} has"
                f" {first_count[0]}; write all lines in one form"
            )
        name = name.strip("\"'").strip()
        if not video_name(name):
            raise ValueError(f"{path}:{number}: {text!r} has no video name")
        lines.append(_Line(name, numbers[-1] if numbers else None, split, f"{path}:{number}"))
    return lines


def _numbers_at_end(text: str) -> tuple[str, list[int]]:
    """Return the path of a line, and up to four numbers after it."""
    numbers: list[int] = []
    while len(numbers) < 4:
        end = max(text.rfind(character) for character in " \t,")
        if end < 1 or not _NUMBER.fullmatch(text[end + 1 :]):
            break
        numbers.insert(0, int(text[end + 1 :]))
        text = text[:end].rstrip(" \t,")
    return text, numbers


def _rows(
    lines: list[_Line], names: list[str] | None, first: int | None, source: str | Path | None, chosen: int | None
) -> tuple[list[LabelRow], list[str] | None]:
    """Return the rows of lists, and the class names by number."""
    numbers = {line.number for line in lines if line.number is not None and line.number >= 0}
    folders = {line.folder for line in lines} - {None}
    if names is None and numbers:
        names, first = _classes_of(lines, numbers, first)
    elif names is not None and numbers:
        first = _first_number(lines, numbers, names, first, source, chosen)
    known = None if names is None else set(names)
    rows = []
    for line in lines:
        label = None
        if line.number is not None and names is not None:
            position = line.number - (first or 0)
            if line.number >= 0:
                if not 0 <= position < len(names):
                    last = len(names) - 1 + (first or 0)
                    raise ValueError(f"{line.place}: class number {line.number} is not from {first or 0} to {last}")
                label = names[position]
        elif line.number is None and (line.folder in known if known is not None else len(folders) > 1):
            label = line.folder
        elif line.number is None and known is not None and line.folder is not None and len(folders) > 1:
            raise ValueError(f"{line.place}: folder {line.folder!r} is not a class of {source}")
        rows.append(LabelRow(label, video_name(line.path), split=line.split, path=line.path))
        check_row(rows[-1], line.place)
    return rows, names


def _classes_of(lines: list[_Line], numbers: set[int], first: int | None) -> tuple[list[str], int]:
    """Return class names for lists without a class list: the class folders if each has one number, else the numbers."""
    folder_of: dict[int, set[str | None]] = {}
    for line in lines:
        if line.number is not None and line.number >= 0:
            folder_of.setdefault(line.number, set()).add(line.folder)
    pairs = {number: next(iter(found)) for number, found in folder_of.items() if len(found) == 1}
    start = min(numbers) if first is None else first
    complete = numbers == set(range(start, start + len(numbers))) and start in (0, 1)
    names = [pairs.get(number) for number in sorted(numbers)]
    if complete and None not in names and len(set(names)) == len(numbers):
        return [name for name in names if name is not None], start
    if max(numbers) > 1_000_000:
        raise ValueError(f"class number {max(numbers)} is larger than 1000000; check the columns of the list")
    return [str(number) for number in range(max(numbers) + 1)], 0


def _first_number(
    lines: list[_Line],
    numbers: set[int],
    names: list[str],
    first: int | None,
    source: str | Path | None,
    chosen: int | None,
) -> int:
    """Return the number of the first class in the lists: 0 or 1, as far as numbers and class folders show it."""
    if chosen is not None:
        candidates = [chosen]
    else:
        candidates = [start for start in (0, 1) if start <= min(numbers) and max(numbers) < start + len(names)]
        if not candidates:
            raise ValueError(
                f"{source}: {counted(len(names), 'class', 'classes')}, but the lists have the class numbers"
                f" {min(numbers)} to {max(numbers)}; pass the class list of these lists with --classes"
            )
    # Folders with names of classes show which name a number means.
    shown = [line for line in lines if line.number is not None and line.number >= 0 and line.folder in set(names)]
    agreeing = [
        start
        for start in candidates
        if all(0 <= line.number - start < len(names) and names[line.number - start] == line.folder
               for line in shown if line.number is not None)
    ]  # fmt: skip
    if shown and not agreeing:
        line = shown[0]
        raise ValueError(
            f"{line.place}: class number {line.number} in folder {line.folder!r} contradicts the order of {source};"
            " pass the class list of these lists with --classes"
        )
    if len(agreeing) == 1:
        return agreeing[0]
    if first == 1:
        raise ValueError(
            f"{source}: its numbers begin with 1, but the lists do not show whether theirs begin with 0 or 1; set"
            " --first-number"
        )
    return first or 0
