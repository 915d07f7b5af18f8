"""List files as splits of a converted data set: lines `path num_frames label` (folders of frames) or `path label`.

The lists are those of TSN; labels count from 0, and a path may contain blanks. A line means the video of the data set
with the name of the last folder of its path.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vidseg.labels.counting import counted
from vidseg.labels.dataset import VideoDataset, open_dataset
from vidseg.labels.label_files import class_list_beside
from vidseg.labels.names import clean_name, video_name
from vidseg.labels.official_lists import read_lines, read_numbered_classes

__all__ = ["convert_commands", "open_lists"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    """One line: path, number of frames or None, label, and file and line for messages."""

    path: str
    frames: int | None
    label: int
    place: str


def convert_commands(lists: Sequence[str | Path], folder: str, root: str = "DATA") -> str:
    """Return the commands that convert the videos of list files, for messages.

    Args:
        lists: list files.
        folder: folder of the paths in them; "": the folder of each file.
        root: folder of the data set.
    """
    videos = f" --videos {folder}" if folder else ""
    return " && ".join(f"vidseg convert {path} {root}{videos} --first-number 0" for path in lists)


def open_lists(
    root: str | Path, lists: Sequence[str | Path], *, folder: str = "", num_classes: int | None = None
) -> VideoDataset:
    """Open the videos of list files in a converted data set, with the classes that the lists number.

    Args:
        root: folder of the data set.
        lists: list files; each video is taken once.
        folder: folder of the paths in the lists, for messages.
        num_classes: number of classes; None: that of the class list beside the lists, else the largest label plus 1.

    Returns:
        The videos, in the order of their paths. Class names are those of a class list such as classInd.txt beside the
        lists, else the numbers.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: a malformed line, a label out of range, or a video that the data set does not have.
    """
    entries = [entry for path in lists for entry in _read(Path(path))]
    names = _class_names(Path(lists[0]), entries, num_classes)
    data = open_dataset(root)
    by_name: dict[str, list[int]] = {}
    for row in range(len(data)):
        by_name.setdefault(clean_name(data.video_path(row).rpartition("/")[2]), []).append(row)
    labels: dict[int, _Entry] = {}
    missing = []
    for entry in entries:
        meant = _among(data, by_name.get(video_name(entry.path), []), entry, names)
        if len(meant) > 1:
            paths = ", ".join(data.video_path(row) for row in meant)
            raise ValueError(f"{entry.place}: {entry.path!r} can mean {paths}; give the videos different names")
        if not meant:
            missing.append(entry)
        elif labels.setdefault(meant[0], entry).label != entry.label:
            first = labels[meant[0]]
            raise ValueError(f"{entry.place}: label {entry.label}, but {first.place} has label {first.label}")
    if missing:
        raise ValueError(
            f"{missing[0].place}: {root} has no video {video_name(missing[0].path)!r}"
            + (f", and {counted(len(missing) - 1, 'more video')} of the lists are missing" if len(missing) > 1 else "")
            + f"; convert them: {convert_commands(lists, folder, str(root))}"
        )
    rows = sorted(labels)
    longer = [row for row in rows if labels[row].frames not in (None, int(data.frames[row]))]
    if longer:
        first = labels[longer[0]]
        logger.warning(
            "%s: %s of the lists have another number of frames in the data set, which is used: %r has %d, the list "
            "says %d", first.place, counted(len(longer), "video"), first.path, data.frames[longer[0]], first.frames,
        )  # fmt: skip
    numbers = np.array([labels[row].label for row in rows], np.int64)
    return data.subset(rows).with_classes(numbers, names)


def _read(path: Path) -> list[_Entry]:
    lines = read_lines(path)
    parts = [text.rsplit(None, 2) for _, text in lines]
    with_frames = all(len(part) == 3 and part[1].isdigit() and part[2].isdigit() for part in parts)
    entries = []
    for (number, text), part in zip(lines, parts, strict=True):
        place = f"{path}:{number}"
        name, label = (part[0], part[2]) if with_frames else [*text.rsplit(None, 1), ""][:2]
        if not name.strip() or not label.isdigit():
            raise ValueError(f"{place}: {text!r:.200} is not of the form PATH NUM_FRAMES LABEL or PATH LABEL")
        entries.append(_Entry(name.strip(), int(part[1]) if with_frames else None, int(label), place))
    return entries


def _class_names(path: Path, entries: Sequence[_Entry], num_classes: int | None) -> list[str]:
    beside = class_list_beside(path)
    names = None if beside is None else read_numbered_classes(beside)[0]
    count = num_classes or (max(entry.label for entry in entries) + 1 if names is None else len(names))
    for entry in entries:
        if entry.label >= count:
            raise ValueError(f"{entry.place}: label {entry.label} is not from 0 to {count - 1} (num_classes={count})")
    return names if names is not None and len(names) == count else [str(number) for number in range(count)]


def _among(data: VideoDataset, rows: list[int], entry: _Entry, names: list[str]) -> list[int]:
    """The rows that a line can mean: of several with its name those in the folder of its class, or of its path."""
    if len(rows) < 2:
        return rows
    parent = clean_name(PurePosixPath(entry.path.replace("\\", "/")).parent.name)
    folders = {names[entry.label], str(entry.label), parent}
    return [row for row in rows if clean_name(data.video_path(row).split("/")[-2]) in folders] or rows
