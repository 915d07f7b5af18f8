"""The DALI backend: fills plans with NVIDIA DALI, on a GPU if there is one, else on the CPU.

DALI decodes the part of each JPEG that a clip needs, resamples it, applies the color operations and normalizes. The
backend reads the same part of the same stored copy as the native backend. Without color operations the batches of both
agree within `TOLERANCE`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vidseg.clips import BatchPlan
from vidseg.frames import FrameDatabase, FrameDatabaseError, decode_jpeg
from vidseg.labels import VideoDataset
from vidseg.loaders.dali_color import Steps, color_steps
from vidseg.loaders.dali_pipeline import CHUNK, Chunk, build_pipeline, from_dali, import_dali
from vidseg.loaders.memory import BatchMemory
from vidseg.loaders.native_backend import CacheReport
from vidseg.loaders.output import OutputForm

__all__ = ["TOLERANCE", "DaliFiller"]

TOLERANCE = 2.0
"""Largest mean absolute difference of a clip from the native backend's, in gray levels of 0..255, without color
operations. Natural pictures differ by 0.01 to 0.2 when the full-size frame is read. They differ by up to 1.2 when a
smaller copy is read, because the native backend corrects for the filter that made the copy. Crops that extend beyond
the frame, which no geometry draws, are resampled like rotations and differ more at the edge of the frame."""

_OPEN = 4096  # number of databases whose metadata is kept
_ALMOST = 1 - 1e-6


@dataclass(frozen=True)
class Geometry:
    """Which part of the frames of B clips is decoded, and how it is resampled."""

    warped: npt.NDArray[np.bool_]
    """(B,): the clip is not a crop inside the frame and needs perspective resampling."""
    levels: npt.NDArray[np.int64]
    """(B,): stored copy, 0 for the frame itself, 1 for half the side."""
    windows: npt.NDArray[np.int64]
    """(B, 4): left, top, right and bottom of the decoded window, in pixels of the copy."""
    matrices: npt.NDArray[np.float64]
    """(B, 3, 3): from a point of the output to a point of the window."""
    divisors: npt.NDArray[np.int64]
    """(B,): factor by which the window is reduced before it is warped."""
    points: npt.NDArray[np.int64]
    """(B,): samples per output pixel and axis, 1 or 2, that warping averages."""


def choose_sources(plan: BatchPlan, sizes: npt.NDArray[np.int64], levels: npt.NDArray[np.int64]) -> Geometry:
    """Choose the smallest copy that need not be enlarged, and the window of it that each clip needs.

    Args:
        plan: plan of B clips.
        sizes: (B, 2), height and width of the stored frames.
        levels: (B,), number of smaller copies.

    Raises:
        ValueError: a matrix is not finite, or maps a corner of the output to infinity or the output to a line.
    """
    matrices = plan.matrices / plan.matrices[:, 2:, 2:]
    if not np.isfinite(matrices).all():
        raise ValueError(f"{plan}: a matrix holds a number that is not finite, or no last element")
    corners = np.array([[x, y, 1.0] for x in (0, plan.width) for y in (0, plan.height)]).T
    mapped = matrices @ corners  # (B, 3, 4)
    if (mapped[:, 2] <= 1e-6).any():
        raise ValueError(f"{plan}: the perspective puts a corner of the output at infinity")
    mapped = mapped[:, :2] / mapped[:, 2:]
    center = matrices @ np.array([plan.width / 2, plan.height / 2, 1.0])
    depth = center[:, 2, None, None]
    slopes = (matrices[:, :2, :2] - center[:, :2, None] / depth * matrices[:, 2:, :2]) / depth
    shrink = np.linalg.norm(slopes, axis=1)  # along the output's axes
    if (shrink == 0).any():
        raise ValueError(f"{plan}: a matrix maps the output to a line")
    least = np.maximum(shrink.min(axis=1), 1e-9)
    halvings = np.clip(np.floor(np.log2(least / _ALMOST)), 0, None).astype(np.int64)
    level = np.minimum(halvings, levels)
    scale = 2.0**level
    mapped /= scale[:, None, None]
    reach = np.maximum(1.0, shrink.max(axis=1) / scale) + 1
    low, high = mapped.min(axis=2), mapped.max(axis=2)  # (B, 2): x, y
    sides = -(-sizes[:, ::-1] // scale[:, None].astype(np.int64))
    first = np.clip(np.floor(low - reach[:, None]), 0, sides - 1).astype(np.int64)
    last = np.clip(np.ceil(high + reach[:, None]), first + 1, sides).astype(np.int64)
    inside = ((low > -1e-6) & (high < sides + 1e-6)).all(axis=1)
    flat = (matrices[:, [0, 1, 2, 2], [1, 0, 0, 1]] == 0).all(axis=1)
    to_window = np.zeros_like(matrices)
    to_window[:, 0, 0] = to_window[:, 1, 1] = 1 / scale
    to_window[:, :2, 2] = -first
    to_window[:, 2, 2] = 1
    return Geometry(
        warped=~(flat & inside),
        levels=level,
        windows=np.concatenate([first, last], axis=1),
        matrices=to_window @ matrices,
        divisors=2 ** (halvings - level),
        points=np.where(shrink.max(axis=1) / 2.0**halvings > 1.1, 2, 1),
    )


class DaliFiller:
    """Fills batches with DALI pipelines, with the interface of `NativeFiller`.

    The shape may change from batch to batch: pipelines differ by the kind of resampling and the number of color
    operations, not by shape. With a GPU, nvJPEG decodes the JPEGs and the batches are CUDA tensors. Decoding and copies
    run on streams of their own: they do not wait for the consumer's kernels. A batch is complete when `fill` returns. A
    consumer on another stream calls `record_stream`, as `DevicePrefetcher` does.

    Args:
        data: the videos of the plans.
        form: type, layout and normalization of the batches; `pin` has no effect on CUDA tensors.
        threads: number of threads of each pipeline, and of reading threads.
        device: "cuda", "cuda:1", ..., or "cpu". None: the current CUDA device if CUDA is available, else the CPU.
        on_error: "raise" an error for a damaged frame, or "replace" it by the nearest readable frame.
        to_host: return batches in host memory, also those that a GPU decoded.

    Raises:
        ImportError: DALI is not installed.
    """

    def __init__(
        self,
        data: VideoDataset,
        form: OutputForm,
        *,
        threads: int,
        device: torch.device | str | None = None,
        on_error: Literal["raise", "replace"] = "raise",
        to_host: bool = False,
    ) -> None:
        if device is None:
            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        self.data, self.form, self.threads, self.on_error = data, form, threads, on_error
        self.device, self.to_host = torch.device(device), to_host
        import_dali()
        self._databases: OrderedDict[int, FrameDatabase] = OrderedDict()
        self._pipelines: dict[tuple[bool, int], tuple[_Feed, Any]] = {}
        self._readers: ThreadPoolExecutor | None = None
        self._memory = BatchMemory(pin=form.pin)
        self._stream: Any = None  # of the copies from DALI's memory, on a GPU; made at the first batch
        self._process = os.getpid()
        self._inherited: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        """The attributes, without pipelines, threads and memory, which each process makes itself."""
        return {
            **self.__dict__,
            "_pipelines": {},
            "_readers": None,
            "_memory": BatchMemory(pin=self.form.pin),
            "_stream": None,
            "_inherited": [],
        }

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Fill a plan.

        Args:
            plan: plan of videos of this data set.
            cancel: uint8 (1,); another thread sets it to 1 to make this call return after the frames that are being
                decoded, with undefined results.

        Returns:
            The frames in the output form, and int64 (B, T), the number of the frame that each position shows.

        Raises:
            FrameDatabaseError: a frame or database cannot be read; the message names it.
            NotImplementedError: DALI does not have a color operation of the plan; the message names it.
        """
        self._leave_parent()
        steps = color_steps(plan.colors)
        databases = [self._database(video) for video in plan.videos.tolist()]
        sizes = np.array([database.frame_size for database in databases])
        geometry = choose_sources(plan, sizes, np.array([database.levels for database in databases]))
        shown = torch.from_numpy(plan.frames.copy())
        if self.device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):  # None, for the CPU, changes nothing
            out = self._empty(*plan.shape)
            for warped in (False, True):
                self._run(plan, geometry, steps, databases, out, shown, cancel, warped=warped)
            return (out.cpu() if self.to_host else out), shown

    def close(self) -> None:
        """Free the pipelines, the reading threads and the memory of earlier batches."""
        self._leave_parent()
        self._pipelines.clear()
        self._memory.clear()
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None

    @property
    def cache_report(self) -> CacheReport:
        """Zeros: this backend has no cache."""
        return CacheReport()

    def _leave_parent(self) -> None:
        """Drop the pipelines of the parent after a fork: its threads do not exist here, and freeing them would hang."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._inherited += [self._pipelines, self._readers]
            self._pipelines, self._readers = {}, None

    def _empty(self, clips: int, frames: int, height: int, width: int) -> Tensor:
        shape = self.form.shape(clips, frames, height, width)
        if self.device.type == "cpu":
            return self._memory.empty(shape, self.form.dtype)
        return torch.empty(shape, dtype=self.form.dtype, device=self.device)

    def _database(self, video: int) -> FrameDatabase:
        """Open a video's database; its metadata is read once."""
        database = self._databases.get(video)
        if database is None:
            database = FrameDatabase(self.data[video].path)
            if database.coded is not None:
                raise ValueError(
                    f"{database.path}: holds a video stream, and backend='dali' reads JPEGs; use backend='native', or"
                    " convert the videos with `--store jpeg --overwrite`"
                )
            self._databases[video] = database
            if len(self._databases) > _OPEN:
                self._databases.popitem(last=False)
        return database

    def _run(
        self,
        plan: BatchPlan,
        geometry: Geometry,
        steps: Steps,
        databases: list[FrameDatabase],
        out: Tensor,
        shown: Tensor,
        cancel: Tensor | None,
        *,
        warped: bool,
    ) -> None:
        """Decode the clips of one kind with their pipeline and copy the frames to `out`."""
        pieces = _pieces(np.flatnonzero(geometry.warped == warped), plan.frames.shape[1])
        kind, done = (warped, steps.slots), 0
        while done < len(pieces):
            feed, pipeline = self._pipeline(*kind)
            feed.chunks = (self._chunk(plan, geometry, steps, databases, shown, piece) for piece in pieces[done:])
            try:
                while done < len(pieces):
                    if cancel is not None and cancel.item():
                        del self._pipelines[kind]  # it has prefetched frames of this batch
                        return
                    (frames,) = pipeline.run(self._stream)
                    self._place(out, pieces[done], from_dali(frames))
                    done += 1
                pipeline.reset()
            except RuntimeError as error:
                del self._pipelines[kind]  # a DALI pipeline cannot be used after an error
                if isinstance(error, FrameDatabaseError):
                    raise
                # DALI decodes ahead, so that the error may be of one of the next pieces
                damaged = [self._damaged(geometry, databases, shown, piece) for piece in pieces[done : done + 3]]
                if not any(damaged):
                    raise FrameDatabaseError(f"DALI cannot decode {plan}: {error}") from error

    def _pipeline(self, warped: bool, slots: int) -> tuple[_Feed, Any]:
        if (warped, slots) not in self._pipelines:
            feed = _Feed(warped)
            pipeline = build_pipeline(
                feed, self.form, warped=warped, slots=slots, threads=self.threads, device=self.device
            )
            self._pipelines[warped, slots] = feed, pipeline
        return self._pipelines[warped, slots]

    def _chunk(
        self,
        plan: BatchPlan,
        geometry: Geometry,
        steps: Steps,
        databases: list[FrameDatabase],
        shown: Tensor,
        piece: _Piece,
    ) -> Chunk:
        """Read the JPEGs of a piece and compute the other inputs of the pipeline."""
        if self._readers is None:
            self._readers = ThreadPoolExecutor(self.threads, thread_name_prefix="dali-read")

        def read(clip: int) -> list[bytes]:
            return self._read(databases[clip], shown[clip, piece.first : piece.last], int(geometry.levels[clip]))

        jpegs = [jpeg for clip in self._readers.map(read, piece.clips.tolist()) for jpeg in clip]
        windows, matrices = geometry.windows[piece.clips], geometry.matrices[piece.clips]
        shapes = windows[:, 2:] - windows[:, :2]
        divisors, points = geometry.divisors[piece.clips, None], geometry.points[piece.clips, None]
        shrunk = -(-shapes[:, ::-1] // divisors)
        sizes = np.tile(np.array([plan.height, plan.width]), (len(piece.clips), 1))
        if geometry.warped[piece.clips[0]]:
            to_small, from_large = np.ones((2, len(piece.clips), 3))
            to_small[:, :2] /= divisors
            from_large[:, :2] /= points
            matrices = to_small[:, :, None] * matrices * from_large[:, None]

        def rows(column: npt.NDArray, kind: type = np.float32) -> npt.NDArray:
            return np.repeat(column.astype(kind), piece.last - piece.first, axis=0)

        return Chunk(
            jpegs=[np.frombuffer(jpeg, np.uint8) for jpeg in jpegs],
            starts=rows(windows[:, :2], np.int32),
            shapes=rows(shapes, np.int32),
            sizes=rows(sizes),
            matrices=rows(matrices),
            shrunk=rows(shrunk),
            covered=rows(shrunk * divisors),
            looked_up=rows(sizes * points),
            colors=steps.inputs(piece.clips, piece.last - piece.first),
        )

    def _read(self, database: FrameDatabase, frames: Tensor, level: int) -> list[bytes]:
        """Read the JPEGs of some frames; a damaged frame is replaced, and `frames` is updated."""
        try:
            return database.read(frames.numpy(), level=level)
        except FrameDatabaseError:
            if self.on_error == "raise":
                raise
        result = []
        for position, frame in enumerate(frames.tolist()):
            try:
                result += database.read([frame], level=level)
            except FrameDatabaseError as error:
                frames[position] = _nearest_readable(database, frame, level, error)
                result += database.read([int(frames[position])], level=level)
        return result

    def _damaged(self, geometry: Geometry, databases: list[FrameDatabase], shown: Tensor, piece: _Piece) -> bool:
        """Find the frames of a piece that DALI cannot decode; raise for the first, or replace them in `shown`."""
        found = False
        for clip in piece.clips.tolist():
            database, level = databases[clip], int(geometry.levels[clip])
            for position in range(piece.first, piece.last):
                frame = int(shown[clip, position])
                try:
                    _decode_one(database, frame, level)
                except FrameDatabaseError as error:
                    if self.on_error == "raise":
                        raise
                    shown[clip, position] = _nearest_readable(database, frame, level, error)
                    found = True
        return found

    def _place(self, out: Tensor, piece: _Piece, frames: Tensor) -> None:
        """Copy frames, (N, 3, H, W) or (N, H, W, 3), to their clips and positions."""
        values = frames.view(len(piece.clips), piece.last - piece.first, *frames.shape[1:])
        first, last = int(piece.clips[0]), int(piece.clips[-1]) + 1
        clips = slice(first, last) if last - first == len(piece.clips) else torch.from_numpy(piece.clips)
        if self.form.layout == "bcthw":
            out[clips, :, piece.first : piece.last] = values.transpose(1, 2).to(out.dtype)
        else:
            out[clips, piece.first : piece.last] = values.to(out.dtype)
        if self._stream is not None:
            # DALI reuses the memory of the frames. Only this thread waits, and only for DALI and the copies.
            self._stream.synchronize()


@dataclass
class _Feed:
    """Callable that a pipeline calls for its next input."""

    warped: bool
    chunks: Iterator[Chunk] = field(default_factory=lambda: iter(()))

    def __call__(self) -> tuple[Any, ...]:
        return next(self.chunks).inputs(warped=self.warped)


@dataclass(frozen=True)
class _Piece:
    """The frames of one chunk: positions first to last - 1 of some clips, clip by clip."""

    clips: npt.NDArray[np.int64]
    first: int
    last: int


def _pieces(clips: npt.NDArray[np.int64], frames: int) -> list[_Piece]:
    """Divide clips of `frames` frames into pieces of at most `CHUNK` frames: several clips, or a part of one."""
    together = max(1, CHUNK // frames)
    starts = range(0, frames, CHUNK)
    return [
        _Piece(clips[at : at + together], start, min(frames, start + CHUNK))
        for at in range(0, len(clips), together)
        for start in starts
    ]


def _decode_one(database: FrameDatabase, frame: int, level: int) -> None:
    """Decode one frame.

    Raises:
        FrameDatabaseError: it cannot be read or decoded; the message names it.
    """
    (jpeg,) = database.read([frame], level=level)
    try:
        decode_jpeg(jpeg)
    except (RuntimeError, ValueError) as error:
        raise FrameDatabaseError(f"{database.path}: frame {frame}: {str(error).splitlines()[0]}") from None


def _nearest_readable(database: FrameDatabase, frame: int, level: int, reason: FrameDatabaseError) -> int:
    """Return the readable frame nearest to `frame`; the earlier of two.

    Raises:
        FrameDatabaseError: no other frame is readable; the message begins with `reason`.
    """
    others = sorted(range(len(database)), key=lambda other: (abs(other - frame), other))
    for other in others[1:]:
        try:
            _decode_one(database, other, level)
        except FrameDatabaseError:
            continue  # only the planned frame is counted as damaged
        return other
    raise FrameDatabaseError(f"{reason}; nor can any other frame of the video be read")
