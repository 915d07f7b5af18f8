"""Label files of temporal action segmentation, in the form of the MS-TCN data set.

    mapping.txt                  `<number> <class>` lines, numbers from 0
    groundTruth/<video>.txt      a class name for each frame, one a line
    splits/train.split1.bundle   `<video>.txt` lines

Predictions are read in both published forms: a class a line, or a title line and then all classes in one line (the
recognition files of MS-TCN, which have no extension). Whatever is wrong is named with its file and line. Source: the
data set of Farha and Gall (MS-TCN, CVPR 2019) and the evaluation of its followers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.official_lists import read_lines

__all__ = [
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
    """Class names of a mapping.txt; the position is the class number. Lines may be in any order.

    Raises:
        ValueError: a line of another form, a number or name twice, or a number left out; names the line.
    """
    names: dict[int, str] = {}
    for line, text in read_lines(path):
        digits, _, name = text.partition(" ")
        name = name.strip()
        if not digits.isdecimal() or not name:
            raise ValueError(f"{path}:{line}: {text!r} is not of the form NUMBER CLASS, such as '0 take'")
        number = int(digits)
        if number in names:
            raise ValueError(f"{path}:{line}: number {number} is given to {names[number]!r} already")
        if name in names.values():
            raise ValueError(f"{path}:{line}: class {name!r} has a number already")
        names[number] = name
    for number in range(len(names)):
        if number not in names:
            raise ValueError(f"{path}: no class has number {number}; {len(names)} classes need 0 to {len(names) - 1}")
    return [names[number] for number in range(len(names))]


def check_mapping(path: str | Path, classes: Sequence[str]) -> None:
    """Raises ValueError where a mapping.txt numbers classes otherwise than `classes`, such as those of a checkpoint."""
    lines = {text.partition(" ")[2].strip(): line for line, text in read_lines(path)}
    found = read_mapping(path)
    for number, name in enumerate(found):
        if number >= len(classes) or classes[number] != name:
            wanted = f"{classes[number]!r} has it" if number < len(classes) else f"there are {len(classes)} classes"
            raise ValueError(
                f"{path}:{lines[name]}: class {name!r} has number {number}, but in the list to be followed {wanted};"
                " a network's outputs keep the order it was trained with, use that mapping"
            )
    if len(found) < len(classes):
        raise ValueError(f"{path}: {len(found)} classes, but the list to be followed has {len(classes)}")


def write_mapping(path: str | Path, classes: Sequence[str]) -> None:
    """Writes a mapping.txt."""
    Path(path).write_text("".join(f"{number} {name}\n" for number, name in enumerate(classes)), encoding="utf-8")


def read_frame_names(path: str | Path) -> list[str]:
    """Class name of each frame: one a line, or a title line and a line with all of them.

    Raises:
        ValueError: not UTF-8 text, empty, or an empty line between the labels; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) == 2 and lines[0].startswith("#"):  # "### Frame level recognition: ###"
        return lines[1].split()
    names = list(map(str.strip, lines))
    if not all(names):
        raise ValueError(f"{path}:{names.index('') + 1}: an empty line; every frame has a label")
    if not names:
        raise ValueError(f"{path}: empty; a video has a label for each frame")
    return names


def read_frame_labels(path: str | Path, classes: Sequence[str] | Mapping[str, int]) -> Labels:
    """Class number of each frame, (L,).

    Args:
        path: a file as `read_frame_names` reads it.
        classes: class names by number, or the number of each name.

    Raises:
        ValueError: a class that is not in the list; names file, line and the nearest class.
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
    hint = f"; did you mean {close[0]!r}?" if close else "; add it to the mapping, or correct the label"
    return f"class {name!r} is not in the mapping{hint}"


def write_frame_labels(path: str | Path, labels: Labels, classes: Sequence[str]) -> None:
    """Writes the class name of each frame (L,), one a line."""
    Path(path).write_text("".join(f"{classes[number]}\n" for number in labels.tolist()), encoding="utf-8")


def read_range_names(path: str | Path) -> list[str]:
    """Class name of each frame of a file with `<first>-<last> <class>` lines, frames from 1 (Breakfast's own form).

    Published files go from one range to the next without a gap; a range may begin at the frame where the one before
    it ended, and then the later one has that frame.

    Raises:
        ValueError: a line of another form, or a gap; names the line.
    """
    names: list[str] = []
    for line, text in read_lines(path):
        span, _, name = text.partition(" ")
        first, _, last = span.partition("-")
        name = name.strip()
        if not (first.isdecimal() and last.isdecimal() and name) or int(last) < int(first):
            raise ValueError(f"{path}:{line}: {text!r} is not of the form FIRST-LAST CLASS, such as '1-30 SIL'")
        if int(first) - 1 not in {len(names), len(names) - 1}:
            raise ValueError(f"{path}:{line}: begins at frame {first}, but the range before it ends at {len(names)}")
        names[int(first) - 1 :] = [name] * (int(last) - int(first) + 1)
    return names


def read_bundle(path: str | Path) -> dict[str, int]:
    """Videos of a split, each with the line that names it; `.txt` is left out.

    Raises:
        ValueError: a video twice; names both lines.
    """
    videos: dict[str, int] = {}
    for line, text in read_lines(path):
        name = text.replace("\\", "/").rpartition("/")[2].removesuffix(".txt")
        if not name:
            raise ValueError(f"{path}:{line}: {text!r} names no video")
        if name in videos:
            raise ValueError(f"{path}:{line}: video {name!r} is in line {videos[name]} already")
        videos[name] = line
    return videos


def write_bundle(path: str | Path, videos: Iterable[str]) -> None:
    """Writes a split's videos."""
    Path(path).write_text("".join(f"{video}.txt\n" for video in videos), encoding="utf-8")


def paired_files(
    truth: str | Path, predictions: str | Path | None = None
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Label files that belong together, by video.

    Args:
        truth: folder of `<video>.txt`; or, without `predictions`, of `<video>-gt.txt` and `<video>-pred.txt`.
        predictions: folder of `<video>.txt`, or of `<video>` without extension.

    Returns:
        (truth, prediction) of each video, sorted by name; and the names that only one side has.

    Raises:
        FileNotFoundError: no such folder, or no pair.
    """
    for folder in (truth, predictions):
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
    if predictions is None:
        files = list(Path(truth).iterdir())
        ours = {path.name.removesuffix("-pred.txt"): path for path in files if path.name.endswith("-pred.txt")}
        true = {path.name.removesuffix("-gt.txt"): path for path in files if path.name.endswith("-gt.txt")}
        form = "<video>-gt.txt and <video>-pred.txt"
    else:
        true = {path.stem: path for path in Path(truth).glob("*.txt")}
        found = [path for path in Path(predictions).iterdir() if path.is_file() and not path.name.startswith(".")]
        ours = {path.stem: path for path in found if path.suffix in {"", ".txt"}}
        form = "<video>.txt on both sides"
    pairs = {name: (true[name], ours[name]) for name in sorted(true.keys() & ours.keys())}
    if not pairs:
        raise FileNotFoundError(f"{predictions or truth}: no prediction has its truth beside it; expected {form}")
    return pairs, sorted(true.keys() ^ ours.keys())
