"""The video backend: the same plans, filled straight from video files.

For those who have not converted yet. Frames are those that a conversion stores, in number, size and uprightness, and
are resampled by the same compiled code; what differs from the native backend is the JPEGs' loss, and the time: all
frames between a key frame and the wanted ones are decoded.
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
from vidseg.loaders.native_backend import CacheReport
from vidseg.loaders.output import OutputForm
from vidseg.videos.decoding import VideoError
from vidseg.videos.frame_index import FrameIndex, chosen_frames, read_frame_index
from vidseg.videos.frame_reader import FrameReader
from vidseg.videos.source_files import SourceFiles
from vidseg.videos.upright import UprightFrames

__all__ = ["VideoFiller"]

_INDEX_BYTES = 64 << 20  # of frame indices that are kept: some thousand videos of a few minutes


class VideoFiller:
    """Fills batches from video files, with the interface of `NativeFiller`; no file stays open between two batches.

    Args:
        data: videos of `vidseg.open_videos`, or converted ones whose files are where the conversion found them.
        form: type, layout and normalization of the batches.
        threads: clips that are decoded at once; the threads live for the time of one batch.
        on_error: "raise", or "replace" a damaged frame by the nearest one that can be decoded.
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

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The frames of a plan, and which frame of its video each of them is, int64 (B, T).

        Args:
            plan: of videos of this data set.
            cancel: uint8 (1,); once another thread makes it 1, this call returns within the time of decoding a frame,
                and its result is worthless.

        Raises:
            VideoError: a video or a frame cannot be decoded; names it.
        """
        clips, frames, height, width = plan.shape
        pixels = torch.empty(clips, frames, height, width, 3, dtype=torch.uint8)
        shown = torch.from_numpy(plan.frames.copy())
        failed = threading.Event()

        def canceled() -> bool:
            return failed.is_set() or (cancel is not None and bool(cancel.item()))

        def work(clip: int) -> None:
            try:
                if not canceled():
                    self._fill_clip(plan, clip, pixels[clip], shown[clip], canceled)
            except BaseException:
                failed.set()  # the other clips are not needed any more
                raise

        with ThreadPoolExecutor(min(self.threads, max(clips, 1)), thread_name_prefix="vidseg-video") as pool:
            results = [pool.submit(work, clip) for clip in range(clips)]
        for result in results:
            result.result()
        return self.form.from_pixels(pixels), shown

    def close(self) -> None:
        """Forget what is known of the files."""
        self._indices.clear()

    @property
    def cache_report(self) -> CacheReport:
        """Zeros: nothing that is decoded is kept."""
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
                    raise VideoError(f"{file.path}: frame {wanted}: the video has {len(numbers)}, has it changed?")
                taken, frame = self._read(reader, file.path, numbers, wanted, canceled)
                if frame is None:
                    return
                positions = torch.from_numpy(np.flatnonzero(plan.frames[clip] == wanted))
                with _naming(file.path, wanted):
                    pixels[positions] = _sample(upright, frame, matrix, plan.height, plan.width)
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
        """A frame and its number among the stored ones; None for it when canceled."""
        number = int(numbers[wanted])
        frame = reader.read(number)
        if frame is not None or canceled():
            return wanted, frame
        near = reader.nearest(number) if self.on_error == "replace" else None
        if near is None:
            others = ", nor can its neighbors" if self.on_error == "replace" else _REMEDY
            raise VideoError(f"{path}: frame {wanted}: cannot be decoded, the video is damaged{others}")
        return min(int(np.searchsorted(numbers, near[0])), len(numbers) - 1), near[1]


@contextlib.contextmanager
def _naming(path: Path, frame: int | None = None) -> Iterator[None]:
    """Puts the file, and the frame, before errors of those who do not know them."""
    try:
        yield
    except (RuntimeError, av.error.FFmpegError) as error:
        if str(error).startswith(f"{path}: "):
            raise
        where = "" if frame is None else f"frame {frame}: "
        raise VideoError(f"{path}: {where}{str(error).splitlines()[0]}") from error


class _Indices:
    """Frame indices of files, the most recently used of them.

    Safe for use by several threads, and without a lock, which a fork might find taken.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[Path, FrameIndex] = {}

    def __reduce__(self) -> tuple[type[_Indices], tuple[int]]:
        return _Indices, (self._limit,)  # another process reads the files itself

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
        self._found[path] = index  # in the last place
        return index

    def clear(self) -> None:
        self._found.clear()


def _stored_frames(file: VideoFile, index: FrameIndex) -> np.ndarray:
    with _naming(file.path):
        return chosen_frames(index, start=file.start, stop=file.stop, fps=file.fps)


def _sample(upright: UprightFrames, frame: Any, matrix: Tensor, height: int, width: int) -> Tensor:
    """One output frame, uint8 (H, W, 3)."""
    planes = upright.planes(frame)
    sampled: Tensor = operators.sample_planes(
        *planes.planes,
        *planes.strides,
        planes.width,
        planes.height,
        upright.chroma,
        *planes.luma_weights,
        planes.full_range,
        matrix,
        height,
        width,
    )
    return sampled


_REMEDY = '; on_error="replace" takes a neighboring frame'
