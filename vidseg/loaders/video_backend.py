"""The video backend: fills plans from video files that have not been converted.

Number, size and orientation of the frames are those that a conversion stores, and the same compiled code resamples
them. The results differ from the native backend's by the loss of JPEG compression. Filling is slower: all frames from a
key frame to the last frame of a clip are decoded.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import av.error
import numpy as np
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames.native import operators
from vidseg.labels import VideoDataset, VideoFile
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.native_backend import CacheReport
from vidseg.loaders.output import OutputForm
from vidseg.videos.frame_index import FrameIndex, chosen_frames, read_frame_index
from vidseg.videos.frame_reader import FrameReader
from vidseg.videos.opening import VideoError
from vidseg.videos.source_files import SourceFiles
from vidseg.videos.upright import UprightFrames

__all__ = ["VideoFiller"]

_INDEX_BYTES = 64 << 20  # size of the cache of frame indices, enough for some thousand videos of a few minutes


class VideoFiller:
    """Fills batches from video files, with the interface of `NativeFiller`; closes all files after each batch.

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
        self._indices = _Indices(_INDEX_BYTES)
        self._memory, self._decoded = BatchMemory(pin=form.pin), BatchMemory()

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
        clips, frames, height, width = plan.shape
        pixels = self._decoded.empty((clips, frames, height, width, 3), torch.uint8)
        shown = torch.from_numpy(plan.frames.copy())
        lock, failed = threading.Lock(), clips  # number of the first clip that failed

        def work(clip: int) -> None:
            nonlocal failed

            def canceled() -> bool:
                # Only clips after a failed one stop: an earlier one may fail too, and its error is the one to raise.
                return clip > failed or (cancel is not None and bool(cancel.item()))

            try:
                if not canceled():
                    self._fill_clip(plan, clip, pixels[clip], shown[clip], canceled)
            except BaseException:
                with lock:
                    failed = min(failed, clip)
                raise

        with ThreadPoolExecutor(min(self.threads, max(clips, 1)), thread_name_prefix="vidseg-video") as pool:
            results = [pool.submit(work, clip) for clip in range(clips)]
        for result in results:
            result.result()
        return self.form.from_pixels(pixels, self._memory), shown

    def close(self) -> None:
        """Free the cached frame indices and the memory of earlier batches."""
        self._indices.clear()
        self._memory.clear()
        self._decoded.clear()

    @property
    def cache_report(self) -> CacheReport:
        """Zeros: this backend has no cache of frames."""
        return CacheReport()

    def _fill_clip(
        self, plan: BatchPlan, clip: int, pixels: Tensor, shown: Tensor, canceled: Callable[[], bool]
    ) -> None:
        video = int(plan.videos[clip])
        file = self.data.video_file(video) or self._sources.find(self.data.video_path(video))
        index = self._indices.find(file.path)
        numbers = _stored_frames(file, index)
        upright = UprightFrames(size="none")
        upright.size = int(self.data.widths[video]), int(self.data.heights[video])
        matrix = torch.from_numpy(np.ascontiguousarray(plan.matrices[clip]))
        with _naming(file.path), FrameReader(file.path, index, canceled=canceled) as reader:
            for wanted in np.unique(plan.frames[clip]).tolist():
                if not 0 <= wanted < len(numbers):
                    raise VideoError(
                        f"{file.path}: frame {wanted}: the video has {len(numbers)} frames; open the data set again"
                    )
                taken, frame = self._read(reader, file.path, numbers, wanted, canceled)
                if frame is None:
                    return
                positions = torch.from_numpy(np.flatnonzero(plan.frames[clip] == wanted))
                with _naming(file.path, wanted):
                    pixels[positions] = upright.sample(frame, matrix, plan.height, plan.width)
                shown[positions] = taken
        first, last = plan.colors.offsets[clip], plan.colors.offsets[clip + 1]
        if last > first:
            codes, parameters = plan.colors.codes[first:last], plan.colors.parameters[first:last]
            pixels[:] = operators.apply_colors(pixels, torch.from_numpy(codes), torch.from_numpy(parameters))

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


class _Indices:
    """A cache of the most recently used frame indices.

    Thread-safe without a lock: a fork could copy a lock that another thread holds.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[Path, FrameIndex] = {}

    def __reduce__(self) -> tuple[type[_Indices], tuple[int]]:
        return _Indices, (self._limit,)  # another process begins with an empty cache

    def find(self, path: Path) -> FrameIndex:
        index = self._found.pop(path, None)
        if index is None:
            with _naming(path):
                index = read_frame_index(path)
            size = index.bytes
            for other, found in reversed(list(self._found.items())):
                size += found.bytes
                if size > self._limit:
                    self._found.pop(other, None)
        self._found[path] = index  # the last position is the most recently used
        return index

    def clear(self) -> None:
        self._found.clear()


def _stored_frames(file: VideoFile, index: FrameIndex) -> np.ndarray:
    with _naming(file.path):
        return chosen_frames(index, start=file.start, stop=file.stop, fps=file.fps)


_REMEDY = '; on_error="replace" uses a neighboring frame'
