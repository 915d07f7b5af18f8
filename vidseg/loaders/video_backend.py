"""The video backend: fills plans from video files that have not been converted.

Number, size and orientation of the frames are those that a conversion stores, and the same compiled code resamples
them, from the planes of the decoder to the batch. The results differ from the native backend's by the loss of JPEG
compression. Filling is slower: frames from a key frame to the last frame of a clip are decoded, except those that are
not wanted and that no other frame refers to.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av.error
import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames.frame_planes import FramePlanes
from vidseg.labels import VideoDataset
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.native_backend import CacheReport
from vidseg.loaders.output import OutputForm
from vidseg.videos.frame_index import FrameIndex, chosen_frames
from vidseg.videos.frame_reader import FrameReader
from vidseg.videos.opening import VideoError
from vidseg.videos.reader_pool import IndexCache, ReaderPool
from vidseg.videos.source_files import SourceFiles
from vidseg.videos.source_planes import PlaneReader

__all__ = ["VideoFiller"]


class VideoFiller:
    """Fills batches from video files, with the interface of `NativeFiller`.

    Up to `threads` files stay open after a batch, for further clips of the same videos.

    Args:
        data: videos of `vidseg.open_videos`, or converted videos whose source files have not moved.
        form: type, layout and normalization of the batches.
        threads: number of clips that are decoded at the same time; the threads are started for each batch.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest frame that can be decoded.
    """

    def __init__(
        self,
        data: VideoDataset,
        form: OutputForm,
        *,
        threads: int,
        on_error: Literal["raise", "replace"] = "raise",
    ) -> None:
        self.data, self.form, self.threads, self.on_error = data, form, threads, on_error
        self._sources = SourceFiles(data.root)
        self._indices, self._readers = IndexCache(), ReaderPool(threads)
        self._memory = BatchMemory(pin=form.pin)

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill a plan.

        Args:
            plan: plan of videos of this data set.
            cancel: uint8 (1,); another thread sets it to 1 to make this call return within the time of decoding one
                frame, with undefined results.

        Returns:
            The frames in the output form, and int64 (B, T), the number of the frame that each position shows.

        Raises:
            VideoError: a video or frame cannot be decoded; the message names that of the first such clip of the plan.
        """
        out = self._memory.empty(self.form.shape(*plan.shape), self.form.dtype)
        shown = torch.from_numpy(plan.frames.copy())
        batch = _Batch(
            plan, out.transpose(1, 2) if self.form.layout == "btchw" else out, shown, self.form.normalization
        )
        queue = _Queue(plan)
        errors: dict[int, BaseException] = {}  # by clip

        def stops(clip: int) -> bool:
            # Only clips after a failed one stop: an earlier one may fail too, and its error is the one to raise.
            return clip > min(list(errors), default=clip) or (cancel is not None and bool(cancel.item()))

        def work() -> None:
            for clips in iter(queue.take, None):
                video: _Video | None = None
                later: list[int] = []
                try:
                    if not stops(min(clips)):
                        video = self._open(int(plan.videos[clips[0]]))
                        clips, later = video.split(plan, clips)
                except BaseException as error:  # noqa: BLE001 - raised by `fill`
                    errors[min(clips)] = error
                finally:
                    queue.add(later)
                if video is None:
                    continue
                for clip in clips:
                    try:
                        if not stops(clip):
                            self._fill_clip(batch, clip, video, partial(stops, clip))
                    except BaseException as error:  # noqa: BLE001 - raised by `fill`
                        errors[clip] = error

        count = min(self.threads, max(len(plan), 1))
        with ThreadPoolExecutor(count, thread_name_prefix="vidseg-video") as pool:
            for result in [pool.submit(work) for _ in range(count)]:
                result.result()
        if errors:
            raise errors[min(errors)]
        return out, shown

    def close(self) -> None:
        """Close the open files; free the cached frame indices and the memory of earlier batches."""
        self._readers.close()
        self._indices.clear()
        self._memory.clear()

    @property
    def cache_report(self) -> CacheReport:
        """Zeros: this backend has no cache of frames."""
        return CacheReport()

    def _open(self, video: int) -> _Video:
        file = self.data.video_file(video) or self._sources.find(self.data.video_path(video))
        with _naming(file.path):
            index = self._indices.find(file.path)
            numbers = chosen_frames(index, start=file.start, stop=file.stop, fps=file.fps)
        return _Video(file.path, index, numbers, (int(self.data.widths[video]), int(self.data.heights[video])))

    def _fill_clip(self, batch: _Batch, clip: int, video: _Video, canceled: Callable[[], bool]) -> None:
        plan, path = batch.plan, video.path
        frames = plan.frames[clip]
        wanted = np.unique(frames)
        wrong = wanted[(wanted < 0) | (wanted >= len(video.numbers))]
        if len(wrong):
            raise VideoError(
                f"{path}: frame {wrong[0]}: the video has {len(video.numbers)} frames; open the data set again"
            )
        matrix = torch.from_numpy(np.ascontiguousarray(plan.matrices[clip]))
        colors = slice(*plan.colors.offsets[clip : clip + 2].tolist())
        codes, parameters = (torch.from_numpy(part[colors]) for part in (plan.colors.codes, plan.colors.parameters))
        with _naming(path):
            for number, taken, planes in self._planes(video, wanted, canceled):
                positions = torch.from_numpy(np.flatnonzero(frames == number))
                with _naming(path, number):
                    planes.fill(
                        batch.clips[clip],
                        positions,
                        matrix,
                        codes=codes,
                        parameters=parameters,
                        normalization=batch.normalization,
                        planar=self.form.layout != "bthwc",
                        bgr=self.form.color == "bgr",
                    )
                batch.shown[clip, positions] = taken

    def _planes(
        self, video: _Video, wanted: np.ndarray, canceled: Callable[[], bool]
    ) -> Iterator[tuple[int, int, FramePlanes]]:
        """Yield number, number of the frame that is shown, and planes of frames in increasing order."""
        planes = PlaneReader(video.size)
        numbers = video.numbers[wanted].tolist()
        with self._readers.reader(video.path, video.index, numbers, canceled) as reader:
            for number in wanted.tolist():
                taken, frame = self._read(reader, video.path, video.numbers, number, canceled)
                if frame is None:
                    return
                with _naming(video.path, number):
                    found = planes(frame)
                yield number, taken, found

    def _read(
        self,
        reader: FrameReader,
        path: Path,
        numbers: np.ndarray,
        wanted: int,
        canceled: Callable[[], bool],
    ) -> tuple[int, Any]:
        """Read a frame; returns its number among the stored frames, and the frame, which is None when canceled."""
        number = int(numbers[wanted])
        frame = reader.read(number)
        if frame is not None or canceled():
            return wanted, frame
        near = reader.nearest(number) if self.on_error == "replace" else None
        if near is None:
            others = ", and neither can any other frame" if self.on_error == "replace" else _REMEDY
            raise VideoError(f"{path}: frame {wanted}: cannot be decoded, the video is damaged{others}")
        return min(int(np.searchsorted(numbers, near[0])), len(numbers) - 1), near[1]


@contextlib.contextmanager
def _naming(path: Path, frame: int | None = None) -> Iterator[None]:
    """Add the file, and the frame, to errors that do not name them."""
    try:
        yield
    except (RuntimeError, av.error.FFmpegError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        where = "" if frame is None else f"frame {frame}: "
        raise VideoError(f"{path}: {where}{str(error).splitlines()[0]}") from error


@dataclass(frozen=True)
class _Batch:
    """A plan and its results: clips (B, 3, T, H, W) or (B, T, H, W, 3), and the frames shown (B, T)."""

    plan: BatchPlan
    clips: Tensor
    shown: Tensor
    normalization: Tensor


@dataclass(frozen=True)
class _Video:
    """A video file, its index, the numbers of the frames that a conversion stores, and its (width, height)."""

    path: Path
    index: FrameIndex
    numbers: np.ndarray
    size: tuple[int, int]

    def split(self, plan: BatchPlan, clips: list[int]) -> tuple[list[int], list[int]]:
        """Return the first clips, which are decoded from one key frame, and the others."""
        starts = np.minimum(plan.frames[clips].min(axis=1), len(self.numbers) - 1)
        keys = [self.index.key_before(int(number)) for number in self.numbers[starts]]
        same = next((place for place, key in enumerate(keys) if key != keys[0]), len(keys))
        return clips[:same], clips[same:]


class _Queue:
    """Groups of clips of one video, in the order of their first frames, for the threads of one batch."""

    def __init__(self, plan: BatchPlan) -> None:
        groups: dict[int, list[int]] = {}
        for clip, video in enumerate(plan.videos.tolist()):
            groups.setdefault(video, []).append(clip)
        starts = plan.frames.min(axis=1)
        self._groups = deque(sorted(clips, key=lambda clip: int(starts[clip])) for clips in groups.values())
        self._taken = 0  # groups of which a part may come back
        self._changed = threading.Condition()

    def take(self) -> list[int] | None:
        """Return a group, or None when there is none left."""
        with self._changed:
            while not self._groups and self._taken:
                self._changed.wait()
            if not self._groups:
                return None
            self._taken += 1
            return self._groups.popleft()

    def add(self, clips: list[int]) -> None:
        """Return a part of a group that was taken; it may be empty."""
        with self._changed:
            self._taken -= 1
            if clips:
                self._groups.append(clips)
            self._changed.notify_all()


_REMEDY = '; on_error="replace" uses a neighboring frame'
