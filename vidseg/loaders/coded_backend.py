"""Fills plans from frame databases that hold a video stream."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vidseg.clips import BatchPlan
from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.frames.frame_planes import FramePlanes
from vidseg.frames.schema import DATABASE_NAME
from vidseg.frames.stored_stream import StoredStream
from vidseg.labels import VideoDataset
from vidseg.loaders.native_backend import DAMAGED
from vidseg.loaders.output import OutputForm
from vidseg.loaders.video_backend import VideoFiller

__all__ = ["CodedFiller"]

_OPENED = 4096  # videos whose metadata are kept


@dataclass(frozen=True)
class _CodedVideo:
    """The stream of one video, with the attributes of a video file that `VideoFiller` uses."""

    path: Path
    coded: StoredStream

    @property
    def numbers(self) -> range:
        """Numbers of its frames."""
        return range(self.coded.count)

    def split(self, plan: BatchPlan, clips: list[int]) -> tuple[list[int], list[int]]:
        """Return the first clip and the others: each is decoded alone."""
        return clips[:1], clips[1:]


class CodedFiller(VideoFiller):
    """Fills batches from frame databases that hold a video stream, with the interface of `NativeFiller`.

    Args:
        data: the videos of the plans.
        form: type, layout and normalization of the batches.
        threads: number of clips that are decoded at the same time; the threads are started for each batch.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest readable frame.
    """

    def __init__(
        self,
        data: VideoDataset,
        form: OutputForm,
        *,
        threads: int,
        on_error: Literal["raise", "replace"] = "raise",
    ) -> None:
        super().__init__(data, form, threads=threads, on_error=on_error)
        self._opened: OrderedDict[int, _CodedVideo] = OrderedDict()

    def _open(self, video: int) -> _CodedVideo:  # type: ignore[override]
        found = self._opened.pop(video, None)
        if found is None:
            path = Path(self.data.root) / self.data.video_path(video) / DATABASE_NAME
            coded = FrameDatabase(path).coded
            if coded is None:
                raise FrameDatabaseError(f"{path}: has changed during loading; open the data set again")
            found = _CodedVideo(path, coded)
        self._opened[video] = found  # the last position is the most recently used
        while len(self._opened) > _OPENED:
            self._opened.popitem(last=False)
        return found

    def _planes(  # type: ignore[override]
        self, video: _CodedVideo, wanted: npt.NDArray[np.int64], canceled: Callable[[], bool]
    ) -> Iterator[tuple[int, int, FramePlanes]]:
        numbers = wanted.tolist()
        while numbers:
            try:
                for number, planes in video.coded.frames(numbers):
                    if canceled():
                        return
                    yield number, number, planes
                    numbers = numbers[1:]
            except FrameDatabaseError as error:
                if self.on_error == "raise":
                    raise FrameDatabaseError(f"{error}{DAMAGED}") from None
                yield numbers[0], *_nearest(video.coded, numbers[0], error)
                numbers = numbers[1:]


def _nearest(coded: StoredStream, number: int, reason: FrameDatabaseError) -> tuple[int, FramePlanes]:
    """Return number and planes of the readable frame nearest to `number`; the earlier of two.

    Raises:
        FrameDatabaseError: no other frame is readable; the message begins with `reason`.
    """
    damaged = set()  # groups
    for other in sorted(range(coded.count), key=lambda other: (abs(other - number), other))[1:]:
        if other // coded.gop in damaged:
            continue
        try:
            return next(coded.frames([other]))
        except FrameDatabaseError:
            damaged.add(other // coded.gop)
    raise FrameDatabaseError(f"{reason}; nor can any other frame of the video be read")
