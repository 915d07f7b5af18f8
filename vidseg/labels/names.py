"""Names of videos, classes and splits in one spelling: Unicode NFC, without surrounding blanks.

macOS and some archive tools write file names in decomposed form (NFD), label files usually have composed characters
(NFC), and spreadsheets add blanks. All readers of labels convert names with `clean_name`, so that such spellings are
one name.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Container
from pathlib import Path, PurePosixPath

__all__ = [
    "LONGEST_NAME",
    "PathFinder",
    "clean_name",
    "division_of_file",
    "find_name",
    "split_name",
    "strip_extension",
    "video_name",
]

LONGEST_NAME = 4096
"""Most characters of a name or path in a label file, as of a path on Linux."""

_INVISIBLE = "\ufeff\u200b\u2060"  # byte order mark, zero width space, word joiner
_VIDEO_EXTENSIONS = frozenset(
    "3g2 3gp amv asf av1 avi avs bik dav divx dv f4v flv gif gxf h261 h263 h264 h265 hevc ivf m1v m2ts m2v m4v mjpeg"
    " mjpg mkv mov mp4 mpe mpeg mpg mpv mts mxf nsv nut obu ogg ogm ogv qt rm rmvb roq swf ts vc1 vob webm wmv wtv y4m"
    " yuv".split()
)
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_PART = re.compile(rf"(?:^|[^a-z])({'|'.join(sorted(_SPLITS, key=len, reverse=True))})(?=list|set|split|[^a-z]|$)")
_DIVISION = re.compile(r"(?:split|list|fold)[_-]?0*(\d+)")


def clean_name(text: str) -> str:
    """Return a name in Unicode NFC without surrounding blanks and invisible characters."""
    text = unicodedata.normalize("NFC", text)
    while (shorter := text.strip().strip(_INVISIBLE)) != text:
        text = shorter
    return text


def strip_extension(name: str) -> str:
    """Return a file name without the extension of a video; other endings belong to the name (`P01.a`)."""
    stem, dot, extension = name.rpartition(".")
    return stem if dot and stem and extension.strip().lower() in _VIDEO_EXTENSIONS else name


def video_name(path: str) -> str:
    """Return the name of a video from its path: the file name without folders and video extension."""
    return clean_name(strip_extension(PurePosixPath(path.strip().replace("\\", "/")).name))


def split_name(written: str) -> str:
    """Return the usual name of a split: train, val or test for the spellings of official files, others unchanged."""
    return _SPLITS.get(written.lower(), written)


def is_split_name(written: str) -> bool:
    """Return whether a folder name is a spelling of train, val or test."""
    return written.strip().lower() in _SPLITS


def division_of_file(path: str | Path) -> str | None:
    """Return the split that the name of a label file means, or None.

    `train.txt` and `kinetics_train_list.txt` mean train, `trainlist01.txt` and `ucf101_train_split_1_videos.txt` mean
    split1/train.
    """
    stem = Path(path).stem.lower()
    parts = {_SPLITS[part] for part in _PART.findall(stem)}
    if len(parts) != 1:
        return None
    (part,) = parts
    division = _DIVISION.search(stem)
    return f"split{division[1]}/{part}" if division else part


def find_name(name: str, known: Container[str]) -> str | None:
    """Return the name among `known` that means the same video: equal, or with the prefix `v_` on one side only.

    ActivityNet, HACS and FineAction name a video `v_<id>` in files and `<id>` in annotations, or the reverse.
    """
    for candidate in (name, f"v_{name}", name.removeprefix("v_")):
        if candidate in known:
            return candidate
    return None


class PathFinder:
    """Finds files by paths whose spelling differs from the disk: Unicode form, backslashes, a missing extension.

    Args:
        folder: folder of relative paths.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: dict[Path, dict[str, list[Path]]] = {}

    def find(self, path: str) -> Path | None:
        """Return the file or folder, or None if there is none, or several that the path can mean."""
        exact = self.folder / path
        if os.path.exists(exact):  # noqa: PTH110 - unlike Path.exists, False for names that are too long
            return exact
        wanted = PurePosixPath(path.replace("\\", "/"))
        place = Path(wanted.anchor) if wanted.is_absolute() else self.folder
        for part in wanted.relative_to(wanted.anchor).parts if wanted.is_absolute() else wanted.parts:
            found = [place / part] if part == ".." else self._named(place).get(clean_name(part), [])
            if len(found) != 1:
                return None
            place = found[0]
        return place

    def _named(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._children:
            names: dict[str, list[Path]] = {}
            for child in sorted(folder.iterdir()) if folder.is_dir() else ():
                for name in {clean_name(child.name), clean_name(strip_extension(child.name))}:
                    names.setdefault(name, []).append(child)
            self._children[folder] = names
        return self._children[folder]
