"""Label files of temporal action segmentation in the format of MS-TCN.

    mapping.txt                  `<number> <class>` lines, numbers from 0
    groundTruth/<video>.txt      class name of each frame, one per line
    splits/train.split1.bundle   `<video>.txt` lines

Predictions are read in both published formats: one class per line, or a title line followed by one line with all
classes (recognition files of MS-TCN, without extension). Errors name file and line. Source: data set of Farha and Gall
(MS-TCN, CVPR 2019) and the evaluation code of later work.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.frames.whole_file import write_text
from vidseg.labels.catalog_content import MOST_LABELS
from vidseg.labels.counting import counted
from vidseg.labels.faults import SegmentFaults
from vidseg.labels.names import LONGEST_NAME, clean_name
from vidseg.labels.official_lists import read_lines

__all__ = [
    "by_name",
    "check_mapping",
    "paired_files",
    "read_bundle",
    "read_frame_labels",
    "read_frame_names",
    "read_mapping",
    "read_range_names",
    "write_bundle",
    "write_frame_labels",
    "write_mapping",
]

Labels = npt.NDArray[np.int64]


def read_mapping(path: str | Path) -> list[str]:
    """Return the class names of a mapping.txt; the position is the class number. Lines may be in any order.

    Number and name are separated by blanks, tabs or a comma.

    Raises:
        ValueError: a line has another form, a number or name occurs twice, or a number is missing; the message names
            the line.
    """
    names: dict[int, str] = {}
    for line, text in read_lines(path):
        number, name = _mapping_line(path, line, text)
        if number in names:
            raise ValueError(f"{path}:{line}: number {number} is already assigned to {names[number]!r}")
        if name in names.values():
            raise ValueError(f"{path}:{line}: class {name!r} already has a number")
        names[number] = name
    for number in range(len(names)):
        if number not in names:
            raise ValueError(f"{path}: no class has number {number}; expected the numbers 0 to {len(names) - 1}")
    return [names[number] for number in range(len(names))]


def _mapping_line(path: str | Path, line: int, text: str) -> tuple[int, str]:
    match = re.fullmatch(r"([0-9]{1,9})(?:\s*,\s*|\s+)(.+)", text)
    name = clean_name(match[2]) if match else ""
    if match is None or not name:
        raise ValueError(f"{path}:{line}: {text!r} is not of the form NUMBER CLASS, such as '0 take'")
    return int(match[1]), name


def check_mapping(path: str | Path, classes: Sequence[str]) -> None:
    """Raise ValueError if the class numbers of a mapping.txt differ from the order of `classes`, such as those of a
    checkpoint."""
    lines = {_mapping_line(path, line, text)[1]: line for line, text in read_lines(path)}
    found = read_mapping(path)
    for number, name in enumerate(found):
        if number >= len(classes) or classes[number] != name:
            expected = (
                f"{number} is {classes[number]!r}" if number < len(classes) else f"the last is {len(classes) - 1}"
            )
            raise ValueError(
                f"{path}:{lines[name]}: class {name!r} has number {number}, but in the expected class list {expected};"
                " use the mapping that the model was trained with"
            )
    if len(found) < len(classes):
        raise ValueError(f"{path}: {counted(len(found), 'class', 'classes')}, expected {len(classes)}")


def write_mapping(path: str | Path, classes: Sequence[str]) -> None:
    """Write a mapping.txt."""
    write_text(path, "".join(f"{number} {name}\n" for number, name in enumerate(classes)))


def read_frame_names(path: str | Path) -> list[str]:
    """Read the class name of each frame: one per line, or a title line followed by one line with all names.

    Raises:
        ValueError: the file is not UTF-8 text, is empty, or has an empty line between labels; the message names the
            line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) == 2 and lines[0].startswith("#"):  # "### Frame level recognition: ###"
        lines = lines[1].split()
    for line, name in enumerate(lines, start=1):
        if len(name) > LONGEST_NAME:
            raise ValueError(f"{path}:{line}: a class name of {len(name)} characters, more than {LONGEST_NAME}")
    cleaned = {name: clean_name(name) for name in set(lines)}
    names = [cleaned[name] for name in lines]
    if not all(names):
        raise ValueError(f"{path}:{names.index('') + 1}: the line is empty; every frame needs a label")
    if not names:
        raise ValueError(f"{path}: the file is empty; every frame needs a label")
    return names


def read_frame_labels(path: str | Path, classes: Sequence[str] | Mapping[str, int]) -> Labels:
    """Read the class number of each frame, (L,).

    Args:
        path: file in a format of `read_frame_names`.
        classes: class names by number, or the number of each name.

    Raises:
        ValueError: a class is not in `classes`; the message names file, line and the closest class.
    """
    numbers = classes if isinstance(classes, Mapping) else {name: number for number, name in enumerate(classes)}
    names = read_frame_names(path)
    try:
        return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))
    except KeyError:
        line = next(line for line, name in enumerate(names, start=1) if name not in numbers)
        raise ValueError(f"{path}:{line}: {_unknown(names[line - 1], numbers)}") from None


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; add the class to the mapping, or correct the label"
    return f"class {name!r} is not in the mapping{hint}"


def write_frame_labels(path: str | Path, labels: Labels, classes: Sequence[str]) -> None:
    """Write the class name of each frame (L,), one per line."""
    write_text(path, "".join(f"{classes[number]}\n" for number in labels.tolist()))


def read_range_names(path: str | Path, *, faults: SegmentFaults | None = None) -> list[str]:
    """Read the class name of each frame from `<first>-<last> <class>` lines, frames counted from 1 (format of
    Breakfast).

    Ranges follow each other without a gap. If a range starts at the last frame of the one before, the later range has
    that frame.

    Args:
        path: the file.
        faults: check of the ranges; default: a range without frames is an error.

    Raises:
        ValueError: a line has another form, or there is a gap; the message names the line.
    """
    names: list[str] = []
    for line, text in read_lines(path):
        match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})\s+(.+)", text)
        if match is None or int(match[1]) < 1:
            raise ValueError(f"{path}:{line}: {text!r} is not of the form FIRST-LAST CLASS, such as '1-30 SIL'")
        first, last, name = match[1], match[2], clean_name(match[3])
        if int(last) < int(first):
            (faults or SegmentFaults()).empty(f"range of frames {text!r}", place=f"{path}:{line}")
            continue
        if int(last) > MOST_LABELS:
            raise ValueError(f"{path}:{line}: frame {last} is above {MOST_LABELS}, the largest number of labels")
        if int(first) - 1 not in {len(names), len(names) - 1}:
            raise ValueError(
                f"{path}:{line}: the range starts at frame {first}, but the previous range ends at {len(names)}"
            )
        names[int(first) - 1 :] = [name] * (int(last) - int(first) + 1)
    return names


def read_bundle(path: str | Path) -> dict[str, int]:
    """Return the videos of a split without `.txt`, each with its line number.

    Raises:
        ValueError: a video occurs twice; the message names both lines.
    """
    videos: dict[str, int] = {}
    for line, text in read_lines(path):
        name = clean_name(text.replace("\\", "/").rpartition("/")[2].removesuffix(".txt"))
        if not name:
            raise ValueError(f"{path}:{line}: {text!r} is not a video name")
        if name in videos:
            raise ValueError(f"{path}:{line}: video {name!r} is already in line {videos[name]}")
        videos[name] = line
    return videos


def write_bundle(path: str | Path, videos: Iterable[str]) -> None:
    """Write the videos of a split, one per line."""
    write_text(path, "".join(f"{video}.txt\n" for video in videos))


def by_name(paths: Iterable[Path], ending: str) -> dict[str, Path]:
    """Return the files by video name: the file name without `ending`.

    Raises:
        ValueError: two files have the same name, in two Unicode forms or with and without `ending`.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        name = clean_name(path.name.removesuffix(ending))
        if name in found:
            raise ValueError(f"{path}: video {name!r} has a second file, {found[name]}; remove one")
        found[name] = path
    return found


def paired_files(
    truth: str | Path, predictions: str | Path | None = None
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Match the label files of truth and prediction by video.

    Args:
        truth: folder of `<video>.txt`; without `predictions`, folder of `<video>-gt.txt` and `<video>-pred.txt`.
        predictions: folder of `<video>.txt`, or of `<video>` without extension.

    Returns:
        (truth, prediction) of each video, sorted by name; and the names found on one side only.

    Raises:
        FileNotFoundError: a folder does not exist, or there is no pair.
        ValueError: a video has two files in one folder.
    """
    for folder in (truth, predictions):
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: folder not found")
    if predictions is None:
        files = list(Path(truth).iterdir())
        ours = by_name([path for path in files if path.name.endswith("-pred.txt")], "-pred.txt")
        true = by_name([path for path in files if path.name.endswith("-gt.txt")], "-gt.txt")
        form = "<video>-gt.txt and <video>-pred.txt"
    else:
        true = by_name(Path(truth).glob("*.txt"), ".txt")
        found = [path for path in Path(predictions).iterdir() if path.is_file() and not path.name.startswith(".")]
        # A name without extension may have dots (P01.a), so files are recognized by the names of the ground truth.
        ours = by_name([path for path in found if path.suffix in {"", ".txt"} or clean_name(path.name) in true], ".txt")
        form = "<video>.txt in both folders"
    pairs = {name: (true[name], ours[name]) for name in sorted(true.keys() & ours.keys())}
    if not pairs:
        raise FileNotFoundError(f"{predictions or truth}: no pair of truth and prediction; expected {form}")
    return pairs, sorted(true.keys() ^ ours.keys())
