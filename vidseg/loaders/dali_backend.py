"""The DALI backend: the plans of the native one through NVIDIA DALI, on a GPU where there is one, else on the CPU.

DALI decodes the part of each JPEG that a clip needs, resamples it, applies the color operations and normalizes; what
is decoded, and from which stored copy, is chosen as the native backend chooses it. The batches agree with the native
ones within `TOLERANCE`, before color operations.
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
"""Mean absolute difference of a clip from the native backend's, gray levels of 0..255, without color operations.
Natural pictures measure 0.01 to 0.2 where the stored frame itself is read, up to 1.2 where a smaller copy is: the
native backend takes account of the filter that made the copy (or has libjpeg-turbo decode at a smaller scale). Crops
that reach beyond the frame, which no sampler draws, are resampled as rotations are: they differ more at its edge."""

_OPEN = 4096  # databases whose metadata is remembered
_ALMOST = 1 - 1e-6


@dataclass(frozen=True)
class Geometry:
    """What is decoded of the frames of B clips, and how it is resampled."""

    warped: npt.NDArray[np.bool_]
    """(B,): not a crop inside the frame; needs the general resampling."""
    levels: npt.NDArray[np.int64]
    """(B,): which stored copy."""
    windows: npt.NDArray[np.int64]
    """(B, 4): left, top, right and bottom of the part that is decoded, pixels of the copy."""
    matrices: npt.NDArray[np.float64]
    """(B, 3, 3): from a point of the output to a point of the window."""
    divisors: npt.NDArray[np.int64]
    """(B,): how many times smaller the window is made before it is warped."""
    points: npt.NDArray[np.int64]
    """(B,): points per pixel and axis, 1 or 2, that warping averages over."""


def choose_sources(plan: BatchPlan, sizes: npt.NDArray[np.int64], levels: npt.NDArray[np.int64]) -> Geometry:
    """Choose the smallest copies that no output enlarges, and the part of them that is needed.

    Args:
        plan: B clips.
        sizes: (B, 2), height and width of the stored frames.
        levels: (B,), how many smaller copies there are.

    Raises:
        ValueError: a matrix that does not map the output into a plane picture.
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
    """Fills batches through DALI pipelines, with the interface of `NativeFiller`.

    Batches may change their shape from one to the next; a pipeline is made once for each kind of work (crops, general
    matrices, color operations), not for each shape. With a GPU the JPEGs are decoded there (nvJPEG) and the batches
    are CUDA tensors.

    Args:
        data: the videos that the plans name.
        form: type, layout and normalization of the batches; `pin` has no effect on CUDA tensors.
        threads: of each pipeline, and for reading.
        device: "cuda", "cuda:1", ..., or "cpu"; None takes the current CUDA device where there is one.
        on_error: "raise", or "replace" a damaged frame by the nearest one that can be read.

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
    ) -> None:
        if device is None:
            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        self.data, self.form, self.threads, self.on_error = data, form, threads, on_error
        self.device = torch.device(device)
        import_dali()
        self._databases: OrderedDict[int, FrameDatabase] = OrderedDict()
        self._pipelines: dict[tuple[bool, int], tuple[_Feed, Any]] = {}
        self._readers: ThreadPoolExecutor | None = None
        self._memory = BatchMemory(pin=form.pin)
        self._process = os.getpid()
        self._inherited: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to this process."""
        return {
            **self.__dict__,
            "_pipelines": {},
            "_readers": None,
            "_memory": BatchMemory(pin=self.form.pin),
            "_inherited": [],
        }

    def fill(self, plan: BatchPlan, cancel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The frames of a plan, and which frame of its video each of them is, int64 (B, T).

        Args:
            plan: of videos of this data set.
            cancel: uint8 (1,); once another thread makes it 1, this call returns after the frames that are being
                decoded, and its result is worthless.

        Raises:
            FrameDatabaseError: a frame or database cannot be read; names it.
            NotImplementedError: a color operation that DALI does not have; names it.
        """
        self._leave_parent()
        steps = color_steps(plan.colors)
        databases = [self._database(video) for video in plan.videos.tolist()]
        sizes = np.array([database.frame_size for database in databases])
        geometry = choose_sources(plan, sizes, np.array([database.levels for database in databases]))
        out = self._empty(*plan.shape)
        shown = torch.from_numpy(plan.frames.copy())
        for warped in (False, True):
            self._run(plan, geometry, steps, databases, out, shown, cancel, warped=warped)
        return out, shown

    def close(self) -> None:
        """Free the pipelines, the reading threads and the memory of past batches."""
        self._leave_parent()
        self._pipelines.clear()
        self._memory.clear()
        if self._readers is not None:
            self._readers.shutdown()
            self._readers = None

    @property
    def cache_report(self) -> CacheReport:
        """Zeros: DALI keeps no frames."""
        return CacheReport()

    def _leave_parent(self) -> None:
        """After a fork: threads of the parent are not here, and freeing what waits for them would hang."""
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
        """A video's database, with its metadata read once."""
        database = self._databases.get(video)
        if database is None:
            database = FrameDatabase(self.data[video].path)
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
        """Send the clips of one kind through their pipeline and put the frames in their places."""
        pieces = _pieces(np.flatnonzero(geometry.warped == warped), plan.frames.shape[1])
        kind, done = (warped, steps.slots), 0
        while done < len(pieces):
            feed, pipeline = self._pipeline(*kind)
            feed.chunks = (self._chunk(plan, geometry, steps, databases, shown, piece) for piece in pieces[done:])
            try:
                while done < len(pieces):
                    if cancel is not None and cancel.item():
                        del self._pipelines[kind]  # what it has read ahead belongs to this batch
                        return
                    (frames,) = pipeline.run()
                    self._place(out, pieces[done], from_dali(frames))
                    done += 1
                pipeline.reset()
            except RuntimeError as error:
                del self._pipelines[kind]  # DALI gives a pipeline up after an error
                if isinstance(error, FrameDatabaseError):
                    raise
                # those that DALI may have been decoding ahead are looked at as well
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
        """Read the JPEGs of a piece, and lay out what DALI has to know of each frame."""
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
        """The JPEGs of some frames; `frames` is changed where one had to be replaced."""
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
        """Find the damaged frames of a piece that DALI refused; raise for the first one, or replace them in `shown`."""
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
        """Copy frames (N, 3, H, W) or (N, H, W, 3) to their clips and positions."""
        values = frames.view(len(piece.clips), piece.last - piece.first, *frames.shape[1:])
        first, last = int(piece.clips[0]), int(piece.clips[-1]) + 1
        clips = slice(first, last) if last - first == len(piece.clips) else torch.from_numpy(piece.clips)
        if self.form.layout == "bcthw":
            out[clips, :, piece.first : piece.last] = values.transpose(1, 2).to(out.dtype)
        else:
            out[clips, piece.first : piece.last] = values.to(out.dtype)
        if out.is_cuda:
            torch.cuda.current_stream(out.device).synchronize()  # DALI uses the frames' memory again


@dataclass
class _Feed:
    """What a pipeline calls for its next input."""

    warped: bool
    chunks: Iterator[Chunk] = field(default_factory=lambda: iter(()))

    def __call__(self) -> tuple[Any, ...]:
        return next(self.chunks).inputs(warped=self.warped)


@dataclass(frozen=True)
class _Piece:
    """Positions first to last - 1 of some clips: the frames of one chunk, clip after clip."""

    clips: npt.NDArray[np.int64]
    first: int
    last: int


def _pieces(clips: npt.NDArray[np.int64], frames: int) -> list[_Piece]:
    """Divide clips of `frames` frames: several whole ones in a piece, or several pieces of one."""
    together = max(1, CHUNK // frames)
    starts = range(0, frames, CHUNK)
    return [
        _Piece(clips[at : at + together], start, min(frames, start + CHUNK))
        for at in range(0, len(clips), together)
        for start in starts
    ]


def _decode_one(database: FrameDatabase, frame: int, level: int) -> None:
    """Raise FrameDatabaseError, naming the frame, where it cannot be read or decoded."""
    (jpeg,) = database.read([frame], level=level)
    try:
        decode_jpeg(jpeg)
    except (RuntimeError, ValueError) as error:
        raise FrameDatabaseError(f"{database.path}: frame {frame}: {str(error).splitlines()[0]}") from None


def _nearest_readable(database: FrameDatabase, frame: int, level: int, reason: FrameDatabaseError) -> int:
    """The readable frame that is nearest to `frame`, the earlier one of two.

    Raises:
        FrameDatabaseError: `reason`, there is none.
    """
    others = sorted(range(len(database)), key=lambda other: (abs(other - frame), other))
    for other in others[1:]:
        try:
            _decode_one(database, other, level)
        except FrameDatabaseError:
            continue  # counted once, for the frame that was asked for
        return other
    raise FrameDatabaseError(f"{reason}; nor can any other frame of the video be read")
