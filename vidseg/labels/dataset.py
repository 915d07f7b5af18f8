"""Data set opened for training: catalog columns as arrays, videos created on access."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from vidseg.labels.catalog import catalog_path, read_catalog
from vidseg.labels.classes import class_names
from vidseg.labels.counting import counted
from vidseg.labels.target_columns import target_columns

__all__ = ["Segment", "Video", "VideoDataset", "VideoFile", "open_dataset"]

logger = logging.getLogger(__name__)

_NO_CLASS = -1


@dataclass(frozen=True, slots=True)
class Video:
    """One video of a data set.

    Attributes:
        name: folder of the video, without its class.
        path: path of its frames.db, or of the video file if the data set is not converted.
        label: class number, -1 without a class.
        frames: number of frames.
        fps: mean frame rate, 0 if unknown.
        height: frame height in pixels.
        width: frame width in pixels.
    """

    name: str
    path: Path
    label: int
    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Labeled segment of an untrimmed video: start and stop in seconds, and its class number."""

    start: float
    stop: float
    label: int


@dataclass(frozen=True, slots=True)
class VideoFile:
    """Video file, or part of one, that forms one video of a data set without conversion.

    Attributes:
        path: the video file.
        start: start time in seconds from the start of the file; None: the first frame.
        stop: end time, exclusive; None: the end of the file.
        fps: constant rate that the frames are resampled to; None: every frame once.
    """

    path: Path
    start: float | None = None
    stop: float | None = None
    fps: float | None = None


class VideoDataset:
    """The videos of a data set or of one of its splits, ordered by path.

    Holds a few arrays (about 120 bytes per video), so copies in worker processes are small.

    Attributes:
        root: folder of the data set, or of the videos of one that is not converted.
        split_name: name of the split, or None.
        splits: names of all splits of the data set.
        classes: names of all classes of the data set, independent of the split; the position is the class number.
        labels: (N,) int64 class numbers, -1 for a video without a class.
        frames: (N,) int64 numbers of frames.
        heights: (N,) int32 heights of the frames in pixels, 0 if unknown.
        widths: (N,) int32 widths of the frames in pixels, 0 if unknown.
    """

    def __init__(
        self,
        root: Path,
        *,
        split_name: str | None,
        splits: list[str],
        classes: list[str],
        columns: dict[str, npt.NDArray],
        path_bytes: npt.NDArray[np.uint8],
    ) -> None:
        self.root = root
        self.split_name = split_name
        self.splits = splits
        self.classes = classes
        self._columns = columns
        # Paths are stored in one byte array: a list of strings would dominate memory and pickling time.
        self._path_bytes = path_bytes

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self._columns["label"]

    @property
    def frames(self) -> npt.NDArray[np.int64]:
        return self._columns["frames"]

    @property
    def heights(self) -> npt.NDArray[np.int32]:
        return self._columns["height"]

    @property
    def widths(self) -> npt.NDArray[np.int32]:
        return self._columns["width"]

    @property
    def class_sets(self) -> npt.NDArray[np.bool_] | None:
        """(N, K) classes of videos that may have several of them; None if the data set has no such labels."""
        bits = self._columns.get("class_bits")
        return None if bits is None else np.unpackbits(bits, axis=1, count=len(self.classes)).astype(bool)

    @property
    def has_class_set(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a video has a set of classes, which may be empty."""
        return self._columns.get("several", np.zeros(len(self), bool))

    @property
    def values(self) -> npt.NDArray[np.float64] | None:
        """(N,) numbers of the videos for a regression, NaN for none; None if the data set has no numbers."""
        return self._columns.get("value")

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set.

        Raises:
            ValueError: the data set has no classes.
        """
        if not self.classes:
            raise ValueError(f"{self.root}: no video has a class; run `vidseg labels apply {self.root} LABELS.csv`")
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> VideoDataset: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Video | VideoDataset:
        """Return one video, or for a slice the data set of these videos.

        Args:
            index: from 0; negative numbers count from the end.

        Raises:
            IndexError: a number outside the data set.
        """
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        row = self._row(index.__index__())
        folder, file = self.video_path(row), self.video_file(row)
        value = {name: self._columns[name][row].item() for name in ("label", "frames", "fps", "height", "width")}
        return Video(
            name=folder.rpartition("/")[2],
            path=self.root / folder / "frames.db" if file is None else file.path,
            label=value["label"],
            frames=value["frames"],
            fps=value["fps"],
            height=value["height"],
            width=value["width"],
        )

    def __iter__(self) -> Iterator[Video]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        split = "" if self.split_name is None else f", split={self.split_name!r}"
        counts = f"{counted(len(self), 'video')}, {counted(len(self.classes), 'class', 'classes')}"
        return f"VideoDataset({str(self.root)!r}{split}: {counts})"

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"{self.root}: video {index} is out of range; the data set has {counted(len(self), 'video')}"
            )
        return index % len(self)

    def video_path(self, index: int) -> str:
        """Return the folder of a video's database relative to the root, `jpg/<class>/<video>`; its name if not
        converted."""
        row = self._row(index)
        return self._text("path", row)

    @property
    def converted(self) -> bool:
        """Whether the videos are frame databases; False for video files, see `vidseg.open_videos`."""
        return "file_start" not in self._columns

    def video_file(self, index: int) -> VideoFile | None:
        """Return the source file of a video, or None if it is a frame database."""
        row = self._row(index)
        if self.converted:
            return None
        start, stop, fps = (float(self._columns[name][row]) for name in ("first_second", "last_second", "chosen_fps"))
        return VideoFile(
            Path(self._text("file", row)),
            start=None if np.isnan(start) else start,
            stop=None if np.isnan(stop) else stop,
            fps=None if np.isnan(fps) else fps,
        )

    def _text(self, name: str, row: int) -> str:
        start, stop = self._columns[f"{name}_start"][row], self._columns[f"{name}_stop"][row]
        return self._path_bytes[start:stop].tobytes().decode()

    def segments(self, index: int) -> list[Segment]:
        """Return the labeled segments of an untrimmed video ordered by start, read from the catalog."""
        if not self.converted:
            return []
        with read_catalog(self.root) as connection:
            rows = connection.execute(
                "SELECT s.start, s.stop, c.number FROM segments s JOIN videos v ON v.id = s.video_id"
                " JOIN classes c ON c.id = s.class_id WHERE v.path = ? ORDER BY s.start, s.stop",
                (self.video_path(index),),
            )
            return [Segment(*row) for row in rows]

    def subset(self, indices: Iterable[int] | npt.NDArray) -> VideoDataset:
        """The videos at `indices`, in that order; a boolean mask (N,) serves as well.

        Raises:
            IndexError: an index outside the data set.
        """
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if rows.dtype == bool:
            if len(rows) != len(self):
                raise IndexError(
                    f"{self.root}: mask of length {len(rows)} for a data set of {counted(len(self), 'video')}"
                )
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64, casting="same_kind") if rows.size else np.zeros(0, np.int64)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(
                f"{self.root}: indices {rows.min()} to {rows.max()}, but the data set has {counted(len(self), 'video')}"
            )
        return VideoDataset(
            self.root,
            split_name=self.split_name,
            splits=self.splits,
            classes=self.classes,
            columns={name: column[rows] for name, column in self._columns.items()},
            path_bytes=self._path_bytes,
        )

    def with_classes(self, labels: npt.NDArray[np.int64], classes: list[str]) -> VideoDataset:
        """Return the same videos with other classes.

        Args:
            labels: int64 (N,) class numbers, -1 for none.
            classes: names by number.

        Raises:
            ValueError: another number of labels, or one outside the classes.
        """
        if labels.shape != self.labels.shape or (len(labels) and not -1 <= labels.min() <= labels.max() < len(classes)):
            raise ValueError(f"{self.root}: labels must be {len(self)} numbers from -1 to {len(classes) - 1}")
        return VideoDataset(
            self.root,
            split_name=self.split_name,
            splits=self.splits,
            classes=list(classes),
            columns={name: column for name, column in self._columns.items() if name not in ("class_bits", "several")}
            | {"label": labels.astype(np.int64)},
            path_bytes=self._path_bytes,
        )

    def split(self, fraction: float, *, seed: int) -> tuple[VideoDataset, VideoDataset]:
        """Divide the videos at random, class by class, for data sets without official splits.

        The division depends only on the seed and the paths of the videos. A class of two or more videos has at least
        one in each part; a single video goes to the first part.

        Args:
            fraction: fraction of each class in the first part, between 0 and 1.
            seed: random seed of the division.

        Raises:
            ValueError: `fraction` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"fraction {fraction} is not between 0 and 1")
        keys = np.fromiter(
            (
                int.from_bytes(
                    hashlib.blake2b(f"{seed}:{self.video_path(row)}".encode(), digest_size=8).digest(), "big"
                )
                for row in range(len(self))
            ),
            np.uint64,
            len(self),
        )
        first = np.zeros(len(self), bool)
        by_class = np.lexsort((keys, self.labels))  # rows ordered by class, shuffled within each class
        for rows in np.split(by_class, np.flatnonzero(np.diff(self.labels[by_class])) + 1):
            count = round(len(rows) * fraction)
            first[rows[: min(max(count, 1), max(len(rows) - 1, 1))]] = True
        return self.subset(first), self.subset(~first)


def open_dataset(root: str | Path, split: str | None = None) -> VideoDataset:
    """Open a data set from its catalog without opening any frame database.

    Args:
        root: folder of the data set, with catalog.db and jpg/.
        split: name of a split, such as "train" or "split1/test"; None: all videos.

    Raises:
        FileNotFoundError: the folder or its catalog does not exist.
        ValueError: the split is unknown, the split or data set has no videos, or the file is not a catalog.
    """
    root = Path(root)
    with read_catalog(root, content=True) as connection:
        numbers = dict(connection.execute("SELECT id, number FROM classes"))
        split_ids = dict(connection.execute("SELECT name, id FROM splits ORDER BY name"))
        where, parameters = "", []
        if split is not None:
            if split not in split_ids:
                raise ValueError(_unknown_split(root, split, list(split_ids)))
            where = "WHERE v.id IN (SELECT video_id FROM split_videos WHERE split_id = ?)"
            parameters = [split_ids[split]]
        # CAST returns bytes, which need no decoding. Row id 0 stands for no class.
        cursor = connection.execute(
            "SELECT CAST(v.path AS BLOB), ifnull(v.class_id, 0), v.frames, v.height, v.width, v.fps"
            f" FROM videos v {where} ORDER BY v.path",
            parameters,
        )
        try:
            if sorted(numbers.values()) != list(range(len(numbers))):
                raise ValueError(f"the class numbers are not 0 to {len(numbers) - 1}")
            _check_paths(connection)
            columns, path_bytes = _read_columns(cursor, numbers)
        except ValueError as error:
            raise ValueError(f"{catalog_path(root)}: damaged catalog: {error}") from error
        columns |= target_columns(connection, columns, path_bytes, classes=len(numbers))
        data = VideoDataset(
            root,
            split_name=split,
            splits=list(split_ids),
            classes=class_names(connection),
            columns=columns,
            path_bytes=path_bytes,
        )
    if not len(data):
        if split is None:
            raise ValueError(f"{root}: the catalog has no videos; convert videos, or run `vidseg labels scan {root}`")
        raise ValueError(
            f"{root}: split {split!r} has no converted video; {root / 'labels_report.json'} lists the missing ones"
        )
    without = int(((data.labels == _NO_CLASS) & ~data.has_class_set).sum())
    if 0 < without < len(data):
        logger.warning("%r: videos without a class: %d; their label is -1", data, without)
    return data


def _unknown_split(root: Path, split: str, known: list[str]) -> str:
    if known:
        return f"{root}: unknown split {split!r}; expected {', '.join(known)}"
    return (
        f"{root}: unknown split {split!r}; the data set has no splits; add them with `vidseg labels apply {root}"
        f" LABELS.csv`, or divide the videos with `vidseg labels split {root} 0.8 0.1 0.1`"
    )


def _check_paths(connection: sqlite3.Connection) -> None:
    """Raise ValueError if a path leads out of the data set."""
    row = connection.execute(
        "SELECT path FROM videos WHERE typeof(path) != 'text' OR substr(path, 1, 4) != 'jpg/' OR instr(path, '/../')"
        " OR substr(path, -3) = '/..' LIMIT 1"
    ).fetchone()
    if row is not None:
        raise ValueError(f"video path {row[0]!r:.200} is not of the form jpg/<class>/<video>")


def _read_columns(
    cursor: sqlite3.Cursor, numbers: dict[int, int]
) -> tuple[dict[str, npt.NDArray], npt.NDArray[np.uint8]]:
    """Read the columns as arrays in portions: a list of 650 000 rows would need three times the memory."""
    types = {"label": np.int64, "frames": np.int64, "height": np.int32, "width": np.int32, "fps": np.float64}
    portions: dict[str, list[npt.NDArray]] = {name: [np.zeros(0, dtype)] for name, dtype in types.items()}
    lengths = [np.zeros(0, np.int64)]
    paths = []
    keys = np.array(sorted({0, *numbers}), np.int64)  # row ids; 0 stands for no class
    number_of = np.array([numbers.get(key, _NO_CLASS) for key in keys.tolist()], np.int64)
    while rows := cursor.fetchmany(16384):
        path, *values = zip(*rows, strict=True)
        try:
            b"\0".join(path).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"a video path is not UTF-8 text ({error})") from error
        paths.append(b"".join(path))
        lengths.append(np.fromiter(map(len, path), np.int64, len(path)))
        for (name, dtype), value in zip(types.items(), values, strict=True):
            portions[name].append(np.array(value, dtype))
    columns = {name: np.concatenate(parts) for name, parts in portions.items()}
    columns["label"] = number_of[np.searchsorted(keys, columns["label"])]
    columns["path_stop"] = np.cumsum(np.concatenate(lengths))
    columns["path_start"] = columns["path_stop"] - np.concatenate(lengths)
    return columns, np.frombuffer(b"".join(paths), np.uint8)
