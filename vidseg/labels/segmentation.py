"""Frame labels in the catalog: what temporal action segmentation trains on.

A video labeled frame by frame is stored as segments (times in seconds, see `catalog`) and one row of the table
`timelines`, which says how many labels it has and at which rate; from both the labels come back exactly. The videos
need no frame databases: a data set may have features only, and its videos then stand in the catalog with the number
of labels as their number of frames, height and width 0, until they are converted.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Container, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.catalog import UNLABELED, read_catalog, split_ids, write_catalog
from vidseg.labels.classes import class_names, order_classes, warn_of_moves
from vidseg.labels.dataset import Segment, VideoDataset
from vidseg.labels.segmentation_files import check_mapping, read_bundle, read_frame_labels, read_mapping

__all__ = [
    "FrameLabels",
    "SegmentationLabels",
    "SegmentationReport",
    "apply_segmentation",
    "has_frame_labels",
    "labels_from_segments",
    "read_segmentation",
    "read_splits",
    "segments_from_labels",
]

Labels = npt.NDArray[np.int64]

_TIMELINES = """
CREATE TABLE IF NOT EXISTS timelines (
    video_id INTEGER PRIMARY KEY REFERENCES videos (id) ON DELETE CASCADE,  -- a video labeled frame by frame
    labels   INTEGER NOT NULL,         -- number of labels; frame i has the segment that i / rate lies in
    rate     REAL NOT NULL             -- labels a second
)
"""


def segments_from_labels(labels: npt.ArrayLike, rate: float, *, background: Iterable[int] = ()) -> list[Segment]:
    """Runs of equal labels as segments in seconds: frames [a, b) become [a / rate, b / rate).

    Args:
        labels: (L,) class numbers.
        rate: labels a second.
        background: classes whose runs are left out.
    """
    values, left_out = np.asarray(labels), set(background)
    if not len(values):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [
        Segment(start / rate, stop / rate, int(values[start]))
        for start, stop in itertools.pairwise(cuts)
        if int(values[start]) not in left_out
    ]


def labels_from_segments(
    segments: Iterable[Segment], count: int, rate: float, *, background: int | None = None
) -> Labels:
    """The label of each frame, (count,): the inverse of `segments_from_labels`.

    Times are rounded to the nearest frame border. Where segments overlap, the one that starts later has the frames
    (of two that start together the shorter one); what lies outside the video is cut off.

    Args:
        segments: in any order.
        count: number of frames L.
        rate: labels a second.
        background: class of the frames that no segment covers; None: there must be none.

    Raises:
        ValueError: a frame without a label, and no background; names it.
    """
    labels = np.full(count, -1 if background is None else background, np.int64)
    for segment in sorted(segments, key=lambda segment: (segment.start, -segment.stop)):
        labels[max(0, round(segment.start * rate)) : max(0, round(segment.stop * rate))] = segment.label
    if (labels < 0).any():
        frame = int(np.flatnonzero(labels < 0)[0])
        raise ValueError(f"frame {frame} ({frame / rate:.2f} s) has no label; name a background class for such frames")
    return labels


@dataclass
class SegmentationLabels:
    """Frame labels of one data set, as read from its files.

    Attributes:
        classes: names by number.
        labels: (L,) class numbers of each video.
        splits: videos of each split, such as `split1/train`.
        rate: labels a second.
    """

    classes: list[str]
    labels: dict[str, Labels]
    splits: dict[str, list[str]]
    rate: float


@dataclass
class SegmentationReport:
    """What became of frame labels.

    Attributes:
        videos: number of videos with frame labels.
        labels: number of their labels.
        segments: number of their segments.
        classes: number of classes.
        splits: videos of each split.
        without_frames: videos that have no frame database (features alone will do for feature models).
        without_split: videos that are in no split.
        without_labels: videos that a split names and that have no labels, and so are in none.
    """

    videos: int
    labels: int
    segments: int
    classes: int
    splits: dict[str, int]
    without_frames: int
    without_split: list[str] = field(default_factory=list)
    without_labels: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.videos} videos, {self.labels} frame labels, {self.segments} segments, {self.classes} classes",
            f"{self.without_frames} videos without a frame database",
        ]
        lines += [f"    {name:16} {count:5} videos" for name, count in self.splits.items()]
        for title, names in (
            ("videos in no split", self.without_split),
            ("videos of splits without labels", self.without_labels),
        ):
            if names:
                more = f", ... and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"{len(names)} {title}: {', '.join(names[:5])}{more}")
        return "\n".join(lines)


def read_segmentation(source: str | Path, *, rate: float, allow_missing: bool = False) -> SegmentationLabels:
    """Reads a folder with mapping.txt, groundTruth/ and splits/.

    `splits/train.split1.bundle` becomes the split `split1/train`; `train.bundle` becomes `train`. A folder without
    splits/ has none.

    Args:
        source: folder of the data set.
        rate: labels a second.
        allow_missing: leave out the videos of splits that have no labels here, as in a part of a data set, instead of
            refusing them; they are in `splits` all the same.

    Raises:
        FileNotFoundError: a file or folder that is not there.
        ValueError: wrong content, or a split entry without labels; names file and line.
    """
    source = Path(source)
    if not rate > 0:
        raise ValueError(f"rate={rate}: labels a second must be above 0")
    for needed in (source, source / "mapping.txt", source / "groundTruth"):
        if not needed.exists():
            raise FileNotFoundError(f"{needed}: not there; a data set has mapping.txt, groundTruth/ and splits/")
    classes = read_mapping(source / "mapping.txt")
    numbers = {name: number for number, name in enumerate(classes)}
    files = sorted((source / "groundTruth").glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{source / 'groundTruth'}: no <video>.txt in it")
    labels = {path.stem: read_frame_labels(path, numbers) for path in files}
    splits = read_splits(source / "splits", labels, allow_missing=allow_missing)
    return SegmentationLabels(classes, labels, splits, rate)


def read_splits(folder: Path, labeled: Container[str], *, allow_missing: bool = False) -> dict[str, list[str]]:
    """Videos of each split of a folder of bundles; none where there is no folder (see `read_segmentation`)."""
    splits = {}
    for path in sorted(folder.glob("*.bundle")):
        part, _, division = path.name.removesuffix(".bundle").partition(".")
        videos = read_bundle(path)
        for name, line in videos.items():
            if name not in labeled and not allow_missing:
                raise ValueError(f"{path}:{line}: video {name!r} has no labels; leave the line out, or add its labels")
        splits[f"{division}/{part}" if division else part] = list(videos)
    return splits


def apply_segmentation(
    root: str | Path, labels: SegmentationLabels, *, mapping: str | Path | None = None
) -> SegmentationReport:
    """Puts frame labels into the catalog of `root`, which is made where there is none; all in one transaction.

    Labels go to the video of that folder name, whatever its class folder; a video that is not there is added without
    frames. Segments and splits of these videos take the place of those they had; each split holds exactly the videos
    named. The classes get the numbers of the mapping.

    Args:
        root: folder of the data set.
        labels: what was read.
        mapping: file that the class numbers come from, to be named in an error.

    Raises:
        ValueError: the classes contradict an official list that the catalog follows, or a video's name is there
            twice.
        OSError: the catalog cannot be written; it is as it was before.
    """
    _check(labels)
    with write_catalog(root) as db:
        connection = db.conn
        connection.execute(_TIMELINES)
        before = class_names(connection)
        fixed = [name for (name,) in connection.execute("SELECT name FROM classes WHERE official ORDER BY number")]
        if mapping is not None and fixed:
            check_mapping(mapping, fixed)
        order_classes(connection, labels.classes)
        warn_of_moves(before, class_names(connection))
        class_ids = dict(connection.execute("SELECT name, id FROM classes"))
        videos = _video_ids(connection, labels, Path(root))
        segments = 0
        for name, values in labels.labels.items():
            connection.execute("DELETE FROM segments WHERE video_id = ?", (videos[name],))
            rows = [
                (videos[name], segment.start, segment.stop, class_ids[labels.classes[segment.label]])
                for segment in segments_from_labels(values, labels.rate)
            ]
            connection.executemany("INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)", rows)
            segments += len(rows)
        connection.executemany(
            "INSERT OR REPLACE INTO timelines VALUES (?, ?, ?)",
            [(videos[name], len(values), labels.rate) for name, values in labels.labels.items()],
        )
        for split_id, names in zip(split_ids(db, labels.splits), labels.splits.values(), strict=True):
            connection.execute("DELETE FROM split_videos WHERE split_id = ?", (split_id,))
            members = sorted(videos[name] for name in names if name in videos)
            connection.executemany("INSERT INTO split_videos VALUES (?, ?)", [(split_id, video) for video in members])
        (without_frames,) = connection.execute(
            "SELECT count(*) FROM videos JOIN timelines ON video_id = id WHERE size_bytes = 0"
        ).fetchone()
    named = {name for names in labels.splits.values() for name in names}
    return SegmentationReport(
        videos=len(labels.labels),
        labels=sum(map(len, labels.labels.values())),
        segments=segments,
        classes=len(labels.classes),
        splits={split: len(set(names) & labels.labels.keys()) for split, names in labels.splits.items()},
        without_frames=without_frames,
        without_split=sorted(labels.labels.keys() - named),
        without_labels=sorted(named - labels.labels.keys()),
    )


def _check(labels: SegmentationLabels) -> None:
    for name, values in labels.labels.items():
        outside = np.flatnonzero((values < 0) | (values >= len(labels.classes)))
        if len(outside) or not len(values):
            what = f"label {values[outside[0]]} at frame {outside[0]}" if len(outside) else "no label"
            raise ValueError(f"video {name!r}: {what}; every frame needs one of {len(labels.classes)} classes")
        if "/" in name or name in {"", ".", ".."}:
            raise ValueError(f"video {name!r}: not a name that a folder can have")


def _video_ids(connection: sqlite3.Connection, labels: SegmentationLabels, root: Path) -> dict[str, int]:
    """Row id of each video, which is added where it is missing."""
    found: dict[str, list[tuple[str, int]]] = {}
    for path, row in connection.execute("SELECT path, id FROM videos ORDER BY path"):
        found.setdefault(path.rpartition("/")[2], []).append((path, row))
    ids = {}
    for name, values in sorted(labels.labels.items()):
        places = found.get(name, [])
        if len(places) > 1:
            raise ValueError(
                f"{root}: the name {name!r} is there twice, as {' and '.join(path for path, _ in places)};"
                " frame labels need a name for each video"
            )
        if not places:
            connection.execute(
                "INSERT INTO videos (path, frames, height, width, fps, seconds, size_bytes)"
                " VALUES (?, ?, 0, 0, ?, ?, 0)",
                (f"jpg/{UNLABELED}/{name}", len(values), labels.rate, len(values) / labels.rate),
            )
            ids[name] = connection.execute("SELECT last_insert_rowid()").fetchone()[0]
        else:
            ids[name] = places[0][1]
    return ids


def has_frame_labels(root: str | Path) -> bool:
    """Whether any video of the data set is labeled frame by frame."""
    with closing(read_catalog(root)) as connection:
        return _has_timelines(connection) and bool(connection.execute("SELECT 1 FROM timelines LIMIT 1").fetchone())


def _has_timelines(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'timelines'").fetchone())


class FrameLabels:
    """The frame labels of a data set's videos, read at once: 2 to 8 bytes a frame.

    Args:
        data: videos, each labeled frame by frame.

    Attributes:
        lengths: (N,) number of labels of each video.
        rates: (N,) labels a second.

    Raises:
        ValueError: a video without frame labels; names the first.
    """

    def __init__(self, data: VideoDataset) -> None:
        self.data = data
        count = len(data)
        row_of = {data.video_path(index): index for index in range(count)}
        self.lengths, self.rates = np.zeros(count, np.int64), np.zeros(count)
        self._labels: list[npt.NDArray] = [np.zeros(0, np.int16)] * count
        small = np.int16 if len(data.classes) < 2**15 else np.int64
        with closing(read_catalog(data.root)) as connection:
            if _has_timelines(connection):
                for path, length, rate in connection.execute(
                    "SELECT v.path, t.labels, t.rate FROM timelines t JOIN videos v ON v.id = t.video_id"
                ):
                    if path in row_of:
                        row = row_of[path]
                        self.lengths[row], self.rates[row] = length, rate
                        self._labels[row] = np.full(length, -1, small)
                for path, start, stop, number in connection.execute(
                    "SELECT v.path, s.start, s.stop, c.number FROM segments s JOIN videos v ON v.id = s.video_id"
                    " JOIN classes c ON c.id = s.class_id ORDER BY s.video_id, s.start, s.stop DESC"
                ):
                    if path in row_of and self.rates[row_of[path]]:
                        row = row_of[path]
                        rate = self.rates[row]
                        self._labels[row][round(start * rate) : round(stop * rate)] = number
        for row, labels in enumerate(self._labels):
            if not len(labels) or (labels < 0).any():
                what = (
                    f"frame {np.flatnonzero(labels < 0)[0]} has no label" if len(labels) else "it has no frame labels"
                )
                raise ValueError(
                    f"{data.root}: video {data.video_path(row)}: {what}; put them in with the data set's converter, or"
                    " make them of segments with vidseg.labels.labels_from_segments"
                )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Labels:
        """Class numbers of a video, int64 (L,)."""
        return self._labels[index].astype(np.int64)
