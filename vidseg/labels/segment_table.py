"""Durations and segments of the videos of a data set, for temporal action detection."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import numpy.typing as npt

from vidseg.labels.catalog import catalog_path, read_catalog
from vidseg.labels.dataset import VideoDataset

__all__ = ["SegmentTable"]

_NONE = (np.zeros((0, 2)), np.zeros(0, np.int64))


class SegmentTable:
    """Durations and labeled segments of the videos of a data set, read from the catalog in one pass.

    Segments are cut to their video: published annotations exceed it by fractions of a second.

    Args:
        data: the videos.
        left_out: class numbers whose segments are left out, such as the background of frame labels.

    Attributes:
        seconds: float64 (N,), durations of the videos.

    Raises:
        ValueError: a video without a duration, or a segment that is not inside its video; the message names both.
    """

    def __init__(self, data: VideoDataset, *, left_out: Container[int] = ()) -> None:
        self.data = data
        rows = {data.video_path(index): index for index in range(len(data))}
        self.seconds = np.zeros(len(data))
        found: dict[int, list[tuple[float, float, int]]] = {}
        with read_catalog(data.root) as connection:
            for path, seconds in connection.execute("SELECT path, seconds FROM videos"):
                if path in rows:
                    self.seconds[rows[path]] = seconds
            for path, start, stop, label in connection.execute(
                "SELECT v.path, s.start, s.stop, c.number FROM segments s JOIN videos v ON v.id = s.video_id"
                " JOIN classes c ON c.id = s.class_id ORDER BY s.start, s.stop, s.id"
            ):
                if path in rows and label not in left_out:
                    found.setdefault(rows[path], []).append((start, stop, label))
        for index in np.flatnonzero(~(self.seconds > 0))[:1].tolist():
            raise ValueError(
                f"{catalog_path(data.root)}: {data.video_path(index)} has no duration; convert the video again, or "
                "import annotations that have durations"
            )
        self._segments: dict[int, tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]] = {}
        for index, segments in found.items():
            table = np.array(segments)
            times = table[:, :2].clip(0, self.seconds[index])
            for place in np.flatnonzero(~(times[:, 0] < times[:, 1]))[:1].tolist():
                start, stop, label = segments[place]
                raise ValueError(
                    f"{catalog_path(data.root)}: {data.video_path(index)}: the segment {start:g} to {stop:g} s of "
                    f"{data.classes[label]!r} is not inside the video of {self.seconds[index]:g} s; import the labels "
                    "again with --on-error skip"
                )
            self._segments[index] = times, table[:, 2].astype(np.int64)

    def __len__(self) -> int:
        return len(self.seconds)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the segments of a video by start: float64 (M, 2) in seconds, and int64 (M,) class numbers."""
        return self._segments.get(index, _NONE)

    @property
    def count(self) -> int:
        """Number of segments of all videos."""
        return sum(len(labels) for _, labels in self._segments.values())
