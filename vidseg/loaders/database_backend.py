"""Fills plans from frame databases, whether they hold JPEGs or a video stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames.schema import DATABASE_NAME, holds_stream
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import CacheReport, NativeFiller

if TYPE_CHECKING:
    from vidseg.loaders.coded_backend import CodedFiller

__all__ = ["DatabaseFiller"]


class _CodedVideos:
    """Which videos of a data set are stored as a video stream; each file is looked at once.

    Args:
        data: converted videos.
    """

    def __init__(self, data: VideoDataset) -> None:
        self.data = data
        self._known = np.full(len(data), -1, np.int8)

    def path(self, video: int) -> Path:
        """Path of the database of a video."""
        return Path(self.data.root) / self.data.video_path(video) / DATABASE_NAME

    def which(self, videos: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return, for each of the videos, whether it is stored as a video stream."""
        for video in videos[self._known[videos] < 0].tolist():
            self._known[video] = holds_stream(self.path(video))
        return self._known[videos] > 0


class DatabaseFiller:
    """Fills batches from frame databases of JPEGs, of video streams, or of both.

    Args:
        native: backend of the videos that are stored as JPEGs.
        cached: whether it has a cache, which video streams do not have.

    Raises:
        ValueError: the first video is a video stream, and `cached`.
    """

    def __init__(self, native: NativeFiller, *, cached: bool = False) -> None:
        self.form = native.form
        self._native = native
        self._streams: CodedFiller | None = None  # made when it is needed, because it imports PyAV
        self._videos = _CodedVideos(native.data)
        self._cached = cached
        self._check_cache(np.zeros(min(1, len(native.data)), np.int64))

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill a plan; see `NativeFiller.fill`."""
        coded = self._videos.which(plan.videos)
        if not coded.any():
            return self._native.fill(plan, cancel)
        self._check_cache(plan.videos)
        if self._streams is None:
            self._streams = self._open_streams()
        if coded.all():
            return self._streams.fill(plan, cancel)
        parts: list[tuple[NativeFiller | CodedFiller, npt.NDArray[np.int64]]] = [
            (self._native, np.flatnonzero(~coded)),
            (self._streams, np.flatnonzero(coded)),
        ]
        out = self._native.empty(plan)
        shown = torch.empty(plan.frames.shape, dtype=torch.int64)
        for filler, clips in parts:
            rows = torch.from_numpy(clips)
            out[rows], shown[rows] = filler.fill(plan.take(clips), cancel)
        return out, shown

    def _open_streams(self) -> CodedFiller:
        from vidseg.loaders.coded_backend import CodedFiller

        native = self._native
        return CodedFiller(native.data, native.form, threads=native.threads, on_error=native.on_error)

    def _check_cache(self, videos: npt.NDArray[np.int64]) -> None:
        coded = videos[self._videos.which(videos)]
        if self._cached and len(coded):
            raise ValueError(
                f"cache_bytes: {self._videos.path(int(coded[0]))} holds a video stream, which is read without a cache;"
                " set it to 0"
            )

    def close(self) -> None:
        """Free caches and the memory of earlier batches."""
        self._native.close()
        if self._streams is not None:
            self._streams.close()

    @property
    def cache_report(self) -> CacheReport:
        """Statistics of the cache of JPEGs so far; zeros without a cache."""
        return self._native.cache_report
