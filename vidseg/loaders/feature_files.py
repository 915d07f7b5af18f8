"""Files of features: one file for each video, in any of the forms in which features are published.

.npy            NumPy array, memory-mapped
.npz            the only array in it, or the one called features, feats or feature
.pt, .pth       tensor, read without running code of the file
.csv            numbers in lines, with or without a line of names (BMN)
.pkl            pickled NumPy array; other objects are refused, see `read_array`
"""

from __future__ import annotations

import os
import pickle
import tokenize
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from vidseg.labels import VideoDataset
from vidseg.labels.names import clean_name

__all__ = ["SUFFIXES", "FeatureFiles", "Layout", "read_array"]

Layout = Literal["DL", "LD"]

SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".csv", ".pkl")
_NAMES = ("features", "feats", "feature")
_READ_ERRORS = (
    ValueError, EOFError, OSError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, ImportError,
    pickle.UnpicklingError, zipfile.BadZipFile, tokenize.TokenError, SyntaxError, OverflowError,
)  # fmt: skip
"""What NumPy, torch and pickle raise for damaged files."""
_PREFIXES = ("", "v_")  # ActivityNet's names of videos are files with a prefix
_NUMPY_CLASSES = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of arrays: a file cannot name any function beyond those that make an array."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_CLASSES:
            raise ValueError(f"it holds a {module}.{name}, not an array; save the features as .npy")
        return super().find_class(module, name)


def read_array(path: Path) -> npt.NDArray:
    """Read the array of one file; only .npy files are memory-mapped.

    Raises:
        ValueError: the file does not hold one array of floating point numbers with two axes.
    """
    try:
        array = _read(path)
    except _READ_ERRORS as error:
        raise ValueError(f"{path}: not a readable {path.suffix} file of features ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        shape = getattr(array, "shape", "unknown")
        raise ValueError(f"{path}: shape {shape}, {getattr(array, 'dtype', '')}; expected floating point (D, L)")
    return array


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            names = [name for name in _NAMES if name in arrays] or list(arrays)
            if len(names) != 1:
                raise ValueError(f"it holds {', '.join(names)}; call the array of the features 'features'")
            return arrays[names[0]]
    if path.suffix in (".pt", ".pth"):
        tensor = torch.load(path, map_location="cpu", weights_only=True)
        return tensor.float().numpy() if isinstance(tensor, torch.Tensor) else tensor
    if path.suffix == ".csv":
        with path.open(encoding="utf-8") as file:
            first = file.readline().split(",")
        named = any(not _is_number(word) for word in first)
        return np.loadtxt(path, np.float32, delimiter=",", skiprows=int(named), ndmin=2)
    with path.open("rb") as file:
        return _ArrayUnpickler(file).load()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class FeatureFiles:
    """The features of the videos of a data set.

    Args:
        data: the videos.
        folders: folder of the files, relative to the data set's folder or absolute; of several folders, such as those
            of RGB and optical flow, the values of a column are concatenated, and the columns cut to the fewest.
        layout: "DL" for files of shape (D, L), one column per time step; "LD" for (L, D).

    Attributes:
        size: D, values of a column.

    Raises:
        FileNotFoundError: no folder, or a video without a file; the message has the first one and their number.
        ValueError: a file of the wrong shape, or an unknown layout; the message has the file.
    """

    def __init__(
        self, data: VideoDataset, folders: str | Path | Sequence[str | Path], *, layout: Layout = "DL"
    ) -> None:
        if layout not in ("DL", "LD"):
            raise ValueError(f"layout={layout!r}: features are 'DL' (a column a time step) or 'LD'")
        self.data, self.layout = data, layout
        given = [folders] if isinstance(folders, (str, Path)) else list(folders)
        self.folders = [data.root / folder for folder in given]
        if not self.folders:
            raise ValueError("no folder of features is given")
        self._paths = [self._find(folder) for folder in self.folders]
        self._finite: set[tuple[int, int, int]] = set()
        self._sizes: list[int] = []

    def _find(self, folder: Path) -> list[Path]:
        """The file of each video."""
        names = [self.data.video_path(index).rpartition("/")[2] for index in range(len(self.data))]
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; features are <video>.npy files in it")
        there: dict[str, list[str]] = {}  # by name in any Unicode form
        for entry in os.scandir(folder):
            stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122  (a name, not a path)
            if suffix in SUFFIXES:
                there.setdefault(clean_name(stem), []).append(entry.name)
        found, missing = [], []
        for name in names:
            files = next((there[key] for prefix in _PREFIXES if (key := clean_name(prefix + name)) in there), [])
            if len(files) > 1:
                raise ValueError(f"{folder}: {name} has the files {', '.join(sorted(files))}; keep one of them")
            if files:
                found.append(folder / files[0])
            else:
                missing.append(name)
        if missing:
            others = f", and those of {len(missing) - 1} others of {len(names)} videos" if missing[1:] else ""
            raise FileNotFoundError(
                f"{folder / missing[0]}.npy is missing{others}; extract the features, or leave these videos out"
            )
        return found

    @property
    def size(self) -> int:
        """D, values of a column."""
        return sum(self._sizes)

    def path(self, video: int) -> Path:
        """Return the file of a video, the first one of several."""
        return self._paths[0][video]

    def _open(self, part: int, video: int) -> npt.NDArray:
        """One file of a video as (D, L)."""
        path = self._paths[part][video]
        array = read_array(path)
        array = array if self.layout == "DL" else array.T
        if part == len(self._sizes):
            self._sizes.append(array.shape[0])
        if array.shape[0] != self._sizes[part]:
            turned = "; is the layout the other one?" if array.shape[1] == self._sizes[part] else ""
            raise ValueError(
                f"{path}: {array.shape[0]} values per column, but {self._paths[part][0]} has "
                f"{self._sizes[part]}{turned}"
            )
        if not array.shape[1]:
            raise ValueError(f"{path}: no column")
        return array

    def shape(self, video: int) -> tuple[int, int]:
        """Return (D, L) of a video."""
        parts = [self._open(part, video).shape for part in range(len(self.folders))]
        return sum(shape[0] for shape in parts), min(shape[1] for shape in parts)

    def load(self, video: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return columns [start, stop) of a video, float32 (D, L); each range is checked for NaN once.

        Raises:
            ValueError: a value is not finite; the message has file, column and dimension.
        """
        parts = []
        for part in range(len(self.folders)):
            with np.errstate(over="ignore"):  # the check below finds a float64 too large for float32
                columns = np.asarray(self._open(part, video)[:, start:stop], np.float32)
            if (video, start, stop) not in self._finite:
                self._check(columns, self._paths[part][video], start)
            parts.append(columns)
        self._finite.add((video, start, stop))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @staticmethod
    def _check(columns: npt.NDArray[np.float32], path: Path, start: int) -> None:
        wrong = np.argwhere(~np.isfinite(columns.T))
        if len(wrong):
            column, row = wrong[0]
            raise ValueError(
                f"{path}: {columns[row, column]} in column {start + column}, dimension {row} (and in "
                f"{len(set(wrong[:, 0].tolist())) - 1} other columns); extract the features of this video again"
            )
