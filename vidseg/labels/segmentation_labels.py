"""Frame labels in the catalog, for temporal action segmentation.

A video labeled frame by frame is stored as segments (times in seconds, see `catalog`) and one row of the table
`timelines` with the number and rate of its labels; the labels are restored exactly from both. The videos need no frame
databases: a data set may have features only. Its videos are then listed in the catalog with their number of labels as
number of frames and with height and width 0, until they are converted.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vidseg.labels.catalog import read_catalog, write_catalog
from vidseg.labels.catalog_videos import find_or_add_videos, split_ids
from vidseg.labels.classes import class_names, order_classes, warn_of_moves
from vidseg.labels.counting import counted
from vidseg.labels.dataset import Segment, VideoDataset
from vidseg.labels.segmentation_files import by_name, check_mapping, read_bundle, read_frame_labels, read_mapping

__all__ = [
    "TIMELINES",
    "FrameLabels",
    "SegmentationLabels",
    "SegmentationReport",
    "apply_segmentation",
    "has_frame_labels",
    "has_timelines",
    "labels_from_segments",
    "read_segmentation",
    "read_splits",
    "segments_from_labels",
]

Labels = npt.NDArray[np.int64]

_MOST_LABELS = 1 << 30  # of the videos of one object; bounds the memory that a damaged catalog can ask for

TIMELINES = """
CREATE TABLE IF NOT EXISTS timelines (
    video_id INTEGER PRIMARY KEY REFERENCES videos (id) ON DELETE CASCADE,  -- video labeled frame by frame
    labels   INTEGER NOT NULL,         -- number of labels; label i is the segment at time i / rate
    rate     REAL NOT NULL             -- labels per second
)
"""


def segments_from_labels(labels: npt.ArrayLike, rate: float, *, background: Iterable[int] = ()) -> list[Segment]:
    """Convert runs of equal labels to segments in seconds: frames [a, b) become [a / rate, b / rate).

    Args:
        labels: (L,) class numbers.
        rate: labels per second.
        background: class numbers whose runs are omitted.

    Returns:
        Segments ordered by start.
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
    """Convert segments to frame labels; the inverse of `segments_from_labels`.

    Times are rounded to the nearest frame boundary. Where segments overlap, the later start has priority (for equal
    starts the shorter segment). Parts outside the video are ignored.

    Args:
        segments: segments in any order.
        count: number of frames L.
        rate: labels per second.
        background: class of the frames without a segment; None: every frame must have one.

    Returns:
        (L,) class numbers.

    Raises:
        ValueError: a frame has no label and `background` is None; the message names the frame.
    """
    labels = np.full(count, -1 if background is None else background, np.int64)
    for segment in sorted(segments, key=lambda segment: (segment.start, -segment.stop)):
        labels[max(0, round(segment.start * rate)) : max(0, round(segment.stop * rate))] = segment.label
    if (labels < 0).any():
        frame = int(np.flatnonzero(labels < 0)[0])
        raise ValueError(f"frame {frame} ({frame / rate:.2f} s) has no label; set a background class for such frames")
    return labels


@dataclass
class SegmentationLabels:
    """Frame labels of one data set, as read from its files.

    Attributes:
        classes: class names by number.
        labels: (L,) class numbers of each video, by video name.
        splits: video names of each split, such as `split1/train`.
        rate: labels per second.
    """

    classes: list[str]
    labels: dict[str, Labels]
    splits: dict[str, list[str]]
    rate: float


@dataclass
class SegmentationReport:
    """Result of an import of frame labels.

    Attributes:
        videos: number of videos with frame labels.
        labels: number of frame labels.
        segments: number of segments.
        classes: number of classes.
        splits: number of videos of each split.
        without_frames: number of videos without a frame database; feature models need none.
        without_split: names of videos without a split.
        without_labels: names of videos that a split lists but that have no labels; they are skipped.
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
            f"{counted(self.videos, 'video')}, {counted(self.labels, 'frame label')},"
            f" {counted(self.segments, 'segment')}, {counted(self.classes, 'class', 'classes')}",
            f"{counted(self.without_frames, 'video')} without a frame database",
        ]
        lines += [f"    {name:16} {counted(count, 'video')}" for name, count in self.splits.items()]
        for title, names in (
            ("without a split", self.without_split),
            ("without labels in splits", self.without_labels),
        ):
            if names:
                more = f", ... and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"{counted(len(names), 'video')} {title}: {', '.join(names[:5])}{more}")
        return "\n".join(lines)


def read_segmentation(source: str | Path, *, rate: float, allow_missing: bool = False) -> SegmentationLabels:
    """Read a folder with mapping.txt, groundTruth/ and splits/.

    `splits/train.split1.bundle` becomes the split `split1/train`; `train.bundle` becomes `train`. The folder splits/ is
    optional.

    Args:
        source: folder of the data set.
        rate: labels per second.
        allow_missing: accept split entries without labels, as in a part of a data set; they are kept in `splits`.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: a file has invalid content, or a split entry has no labels; the message names file and line.
    """
    source = Path(source)
    if not rate > 0:
        raise ValueError(f"rate is {rate} labels per second, must be greater than 0")
    for needed in (source, source / "mapping.txt", source / "groundTruth"):
        if not needed.exists():
            raise FileNotFoundError(
                f"{needed}: not found; expected mapping.txt, groundTruth/ and splits/ in the folder"
            )
    classes = read_mapping(source / "mapping.txt")
    numbers = {name: number for number, name in enumerate(classes)}
    files = by_name((source / "groundTruth").rglob("*.txt"), ".txt")
    if not files:
        raise FileNotFoundError(f"{source / 'groundTruth'}: no <video>.txt in this folder")
    labels = {name: read_frame_labels(path, numbers) for name, path in files.items()}
    splits = read_splits(source / "splits", labels, allow_missing=allow_missing)
    return SegmentationLabels(classes, labels, splits, rate)


def read_splits(folder: Path, labeled: Container[str], *, allow_missing: bool = False) -> dict[str, list[str]]:
    """Read the videos of each split from a folder of bundles; empty if the folder does not exist."""
    splits = {}
    for path in sorted(folder.glob("*.bundle")):
        part, _, division = path.name.removesuffix(".bundle").partition(".")
        videos = read_bundle(path)
        for name, line in videos.items():
            if name not in labeled and not allow_missing:
                raise ValueError(f"{path}:{line}: video {name!r} has no labels; remove the line, or add the labels")
        splits[f"{division}/{part}" if division else part] = list(videos)
    return splits


def apply_segmentation(
    root: str | Path,
    labels: SegmentationLabels,
    *,
    mapping: str | Path | None = None,
    rates: Mapping[str, float] | None = None,
) -> SegmentationReport:
    """Write frame labels to the catalog of `root` (created if missing) in one transaction.

    Labels are assigned to the video with that folder name, in any class folder; a missing video is added without
    frames. Segments and splits of these videos are replaced; each split contains exactly the videos listed. The class
    numbers are those of the mapping.

    Args:
        root: folder of the data set.
        labels: frame labels to write.
        mapping: file that the class numbers were read from, for error messages.
        rates: labels per second of videos by name, where they differ from the rate of `labels`.

    Returns:
        The number of videos, labels and segments, and the incomplete videos.

    Raises:
        ValueError: the classes contradict the official list of the catalog, or two videos have the same name.
        OSError: the catalog cannot be written; it is unchanged.
    """
    _check(labels)
    rate_of = dict.fromkeys(labels.labels, labels.rate) | dict(rates or {})
    with write_catalog(root) as db:
        connection = db.conn
        connection.execute(TIMELINES)
        before = class_names(connection)
        fixed = [name for (name,) in connection.execute("SELECT name FROM classes WHERE official ORDER BY number")]
        if mapping is not None and fixed:
            check_mapping(mapping, fixed)
        order_classes(connection, labels.classes)
        warn_of_moves(before, class_names(connection))
        class_ids = dict(connection.execute("SELECT name, id FROM classes"))
        videos = find_or_add_videos(
            connection,
            root,
            {name: (len(values), rate_of[name], len(values) / rate_of[name]) for name, values in labels.labels.items()},
        )
        segments = 0
        for name, values in labels.labels.items():
            connection.execute("DELETE FROM segments WHERE video_id = ?", (videos[name],))
            rows = [
                (videos[name], segment.start, segment.stop, class_ids[labels.classes[segment.label]])
                for segment in segments_from_labels(values, rate_of[name])
            ]
            connection.executemany("INSERT INTO segments (video_id, start, stop, class_id) VALUES (?, ?, ?, ?)", rows)
            segments += len(rows)
        connection.executemany(
            "INSERT OR REPLACE INTO timelines VALUES (?, ?, ?)",
            [(videos[name], len(values), rate_of[name]) for name, values in labels.labels.items()],
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
            raise ValueError(
                f"video {name!r}: {what}; every frame needs a class number from 0 to {len(labels.classes) - 1}"
            )
        if "/" in name or name in {"", ".", ".."}:
            raise ValueError(f"video {name!r}: not a valid folder name")


def has_frame_labels(root: str | Path) -> bool:
    """Return whether any video of the data set is labeled frame by frame."""
    with read_catalog(root) as connection:
        return has_timelines(connection) and bool(connection.execute("SELECT 1 FROM timelines LIMIT 1").fetchone())


def has_timelines(connection: sqlite3.Connection) -> bool:
    """Return whether the catalog has the table of the videos that are labeled frame by frame."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'timelines'").fetchone())


class FrameLabels:
    """Frame labels of the videos of a data set, read in one pass; 2 to 8 bytes per frame.

    Args:
        data: videos, each labeled frame by frame.

    Attributes:
        lengths: (N,) number of labels of each video.
        rates: (N,) labels per second of each video.

    Raises:
        ValueError: a video has no frame labels; the message names the first.
    """

    def __init__(self, data: VideoDataset) -> None:
        self.data = data
        count = len(data)
        row_of = {data.video_path(index): index for index in range(count)}
        self.lengths, self.rates = np.zeros(count, np.int64), np.zeros(count)
        self._labels: list[npt.NDArray] = [np.zeros(0, np.int16)] * count
        total = 0
        small = np.int16 if len(data.classes) < 2**15 else np.int64
        with read_catalog(data.root) as connection:
            if has_timelines(connection):
                for path, length, rate in connection.execute(
                    "SELECT v.path, t.labels, t.rate FROM timelines t JOIN videos v ON v.id = t.video_id"
                ):
                    if path in row_of:
                        row = row_of[path]
                        total += length
                        if total > _MOST_LABELS:
                            raise ValueError(
                                f"{data.root}: more than {_MOST_LABELS} frame labels; open one split, or part of it"
                            )
                        self.lengths[row], self.rates[row] = length, rate
                        self._labels[row] = np.full(length, -1, small)
                for path, start, stop, number in connection.execute(
                    "SELECT v.path, s.start, s.stop, c.number FROM segments s JOIN videos v ON v.id = s.video_id"
                    " JOIN classes c ON c.id = s.class_id ORDER BY s.video_id, s.start, s.stop DESC"
                ):
                    if path in row_of and self.rates[row_of[path]]:
                        row = row_of[path]
                        rate = self.rates[row]
                        self._labels[row][max(0, round(start * rate)) : max(0, round(stop * rate))] = number
        for row, labels in enumerate(self._labels):
            if not len(labels) or (labels < 0).any():
                what = f"frame {np.flatnonzero(labels < 0)[0]} has no label" if len(labels) else "no frame labels"
                raise ValueError(
                    f"{data.root}: video {data.video_path(row)}: {what}; import them with the data set's converter, or"
                    f" convert segments with `vidseg labels frames {data.root} --background NAME`"
                )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Labels:
        """Return the class numbers of a video, int64 (L,)."""
        return self._labels[index].astype(np.int64)
