"""Conversion of one video, folder of JPEGs or database to a frames.db."""

import contextlib
import errno
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av.error
import numpy as np
import torch

import vidseg
from vidseg.convert.convert_options import ConvertOptions
from vidseg.convert.encoding import FrameStore, open_store
from vidseg.convert.memory_limit import limited_memory
from vidseg.convert.source_state import same_source, source_digest, source_state
from vidseg.frames import FrameDatabase, FrameDatabaseError, decode_jpeg
from vidseg.frames.jpeg import resize_frame
from vidseg.frames.schema import COUNT_NAME, DATABASE_NAME
from vidseg.frames.stored_stream import StoredStream
from vidseg.frames.writer import remove_temporary_files
from vidseg.labels.counting import counted
from vidseg.videos.decoding import DamagedVideoError, VideoSource
from vidseg.videos.frame_size import target_size
from vidseg.videos.listing import Job, numbered_jpegs
from vidseg.videos.opening import VideoError
from vidseg.videos.orientation import UPRIGHT, jpeg_orientation, jpeg_size
from vidseg.videos.upright import UprightFrames

__all__ = ["Heartbeat", "Outcome", "convert_one", "describe", "finished_outcome", "run_job"]

Heartbeat = Callable[[int], None]

# Errors that affect every following video too.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG}


@dataclass
class Outcome:
    """Result of one conversion job.

    Attributes:
        source: path of the video, folder of JPEGs or database.
        target: folder of the new database below the data set's jpg/.
        state: "converted", or "extracted" for motion; "kept" (finished by an earlier run), "recovered" (converted or
            extracted, but the source is damaged), "failed" or "not started".
        label: class name, or None.
        split: split name, or None.
        frames: number of frames in the database.
        height: frame height in pixels.
        width: frame width in pixels.
        fps: mean frame rate, or None if unknown.
        duration: duration of the video in seconds.
        bytes: size of frames.db.
        seconds: time of the conversion.
        problem: error message, or None.
        fatal: whether the target cannot be written, so that the run has to stop.
        other_options: whether a kept database was made with other options than those of this run.
    """

    source: str
    target: str
    state: str
    label: str | None = None
    split: str | None = None
    frames: int = 0
    height: int = 0
    width: int = 0
    fps: float | None = None
    duration: float = 0.0
    bytes: int = 0
    seconds: float = 0.0
    problem: str | None = None
    fatal: bool = False
    other_options: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data for reports and for the pipe between processes."""
        return asdict(self)


@dataclass
class _Frames:
    """Stream of encoded frames of one source, with the source's properties and damage."""

    stream: Iterator[tuple[Any, int, float | None]]  # frame as the store encodes it, width, time
    properties: dict[str, str | int | float | None]
    damage: list[str] = field(default_factory=list)


def convert_one(job: Job, jpg_folder: Path, options: ConvertOptions, heartbeat: Heartbeat) -> Outcome:
    """Convert one job; errors of the source or the disk are reported in the outcome, not raised.

    Args:
        job: source and target of the conversion.
        jpg_folder: the data set's jpg/ folder.
        options: options of the conversion.
        heartbeat: called with the number of frames so far, at least once for each frame.

    Returns:
        The outcome of the job.
    """

    def convert() -> Outcome:
        with limited_memory(options.memory_limit):
            database = _convert(job, jpg_folder / job.target / DATABASE_NAME, options, heartbeat)
        return describe(job, database, "converted")

    return run_job(job, jpg_folder, convert)


def run_job(job: Job, jpg_folder: Path, work: Callable[[], Outcome]) -> Outcome:
    """Do a job; errors of its source or of the disk are reported in the outcome, not raised.

    Args:
        job: source and target.
        jpg_folder: the data set's jpg/ folder.
        work: does the job and returns its outcome.
    """
    began = time.perf_counter()
    outcome = Outcome(job.source, job.target, "failed", job.label, job.split)
    try:
        outcome = work()
    except VideoError as error:
        outcome.problem = str(error)
    except FrameDatabaseError as error:
        outcome.problem = str(error)
        outcome.fatal = "cannot write" in outcome.problem
    except av.error.FFmpegError as error:
        outcome.problem = f"FFmpeg: {error}"
    except OSError as error:
        outcome.problem = f"cannot write to {jpg_folder / job.target}: {error.strerror or error}"
        outcome.fatal = error.errno in _DISK_ERRORS
    except (ValueError, RuntimeError, MemoryError) as error:
        outcome.problem = f"{type(error).__name__}: {error}".splitlines()[0]
    if outcome.state == "failed":
        with contextlib.suppress(OSError):  # not empty: it holds the database of an earlier conversion
            (jpg_folder / job.target).rmdir()
    outcome.seconds = round(time.perf_counter() - began, 3)
    return outcome


def finished_outcome(job: Job, jpg_folder: Path, options: ConvertOptions) -> Outcome | None:
    """Return the outcome of a job that an earlier run finished, or None if the job has to run.

    A job is finished if its database is complete, has its n_frames file, and was made from the same source, see
    `same_source`.
    """
    path = jpg_folder / job.target / DATABASE_NAME
    try:
        if not path.is_file() or not path.with_name(COUNT_NAME).is_file():
            return None
        database = FrameDatabase(path)
        if not same_source(job, database.meta):
            return None
    except (FrameDatabaseError, OSError, ValueError):  # the conversion names the problem
        return None
    outcome = describe(job, database, "converted")
    outcome.state = "kept"
    outcome.other_options = database.meta.get("options") != options.recorded()
    return outcome


def _convert(job: Job, path: Path, options: ConvertOptions, heartbeat: Heartbeat) -> FrameDatabase:
    try:
        before = source_state(job)
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror or error}") from error
    store = open_store(options)
    source = {"video": _video_frames, "jpegs": _jpeg_frames, "database": _database_frames}[job.kind]
    frames = source(job, options, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(path.parent)  # of an interrupted run
    writer = store.open(path)
    with writer:
        for frame, width, moment in frames.stream:
            if writer.count >= options.max_frames:
                raise VideoError(f"has more frames than the limit of {options.max_frames} (max_frames)")
            store.add(frame, width=width, timestamp=moment)
            heartbeat(writer.count)
        if frames.damage and options.damaged == "refuse":
            raise DamagedVideoError("; ".join(frames.damage))
        digest = source_digest(job, progress=lambda: heartbeat(writer.count))
        if source_state(job) != before:
            raise VideoError("the source changed during its conversion; run the same command again")
        writer.meta = {
            **frames.properties,
            "source": Path(job.source).name,
            "source_bytes": before.bytes,
            "source_modified": before.modified,
            **digest,
            "clip_start": job.start,
            "clip_stop": job.stop,
            "damage": json.dumps(frames.damage) if frames.damage else None,
            "options": options.recorded(),
            "tool": f"vidseg {vidseg.__version__}",
        }
    return FrameDatabase(path)


def describe(job: Job, database: FrameDatabase, state: str) -> Outcome:
    """Return the outcome of a job whose database is finished: `state`, or "recovered" if the video is damaged."""
    meta = database.meta
    damage = "; ".join(json.loads(meta["damage"])) if "damage" in meta else None
    height, width = database.frame_size
    return Outcome(
        job.source,
        job.target,
        "recovered" if damage else state,
        job.label,
        job.split,
        frames=len(database),
        height=height,
        width=width,
        fps=meta.get("fps"),
        duration=round(meta.get("duration") or 0.0, 6),
        bytes=database.path.stat().st_size,
        problem=damage,
    )


def _video_frames(job: Job, options: ConvertOptions, store: FrameStore) -> _Frames:
    source = VideoSource(Path(job.source), job.start, job.stop, max_pixels=options.max_pixels)
    upright = UprightFrames(size=options.size, chroma=options.chroma)
    frames = _Frames(iter(()), {}, source.damage)

    def stream() -> Iterator[tuple[Any, int, float]]:
        first, end = None, 0.0
        for item in source.at_rate(options.fps) if options.fps else source:
            planes = upright.planes(item.frame)
            first = item.time if first is None else first
            end = item.time + item.duration
            yield store.of_planes(planes), planes.width, item.time
        fps = options.fps or source.properties["fps"]
        width, height = upright.size or (0, 0)
        frames.properties.update(source.properties)
        frames.properties.update(
            fps=fps,
            width=width,
            height=height,
            duration=end - (first or 0.0),
            orientation=upright.orientation.exif,
            quality=options.quality if options.store == "jpeg" else None,
            **store.properties,
        )

    frames.stream = stream()
    return frames


def _jpeg_frames(job: Job, options: ConvertOptions, store: FrameStore) -> _Frames:
    numbered = numbered_jpegs(Path(job.source))
    frames = _Frames(iter(()), {"codec": "mjpeg", "container": "folder of JPEG files"})
    first, last = numbered[0][0], numbered[-1][0]
    missing = sorted(set(range(first, last + 1)) - {number for number, _ in numbered})
    if missing:
        frames.damage.append(f"{counted(len(missing), 'frame')} missing, first missing number {missing[0]}")
    blobs = ((path.read_bytes, path.name) for _, path in numbered)
    times = (index / options.fps for index in range(len(numbered))) if options.fps else None
    frames.properties["fps"] = options.fps
    frames.stream = _restored(blobs, times, options, store, frames)
    return frames


def _database_frames(job: Job, options: ConvertOptions, store: FrameStore) -> _Frames:
    try:
        database = FrameDatabase(job.source)
    except (FrameDatabaseError, OSError) as error:
        raise VideoError(str(error)) from error
    if options.fps is not None:
        raise VideoError("--fps cannot resample a frame database; convert the original video with --fps")
    kept = ("fps", "codec", "container", "pixel_format", "source_width", "source_height", "source_sha256")
    frames = _Frames(iter(()), {key: database.meta[key] for key in kept if key in database.meta})
    frames.damage += json.loads(database.meta["damage"]) if "damage" in database.meta else []
    times = None if database.timestamps is None else iter(database.timestamps.tolist())
    if database.coded is not None:
        frames.stream = _decoded(database.coded, times or itertools.repeat(None), options, store, frames)
        return frames
    blobs = ((lambda index=index: database.read([index])[0], f"frame {index}") for index in range(len(database)))
    frames.stream = _restored(blobs, times, options, store, frames)
    return frames


def _decoded(
    coded: StoredStream,
    times: Iterator[float | None],
    options: ConvertOptions,
    store: FrameStore,
    frames: _Frames,
) -> Iterator[tuple[Any, int, float | None]]:
    """Convert the frames of a video stream to the size of the options."""
    size = target_size(options.size, coded.width, coded.height)
    kept = size == (coded.width, coded.height) and options.chroma == coded.chroma
    shown: list[float | None] = []
    for first in range(0, coded.count, coded.gop):
        numbers = range(first, min(first + coded.gop, coded.count))
        moments = list(itertools.islice(times, len(numbers)))
        try:
            pictures = [planes for _, planes in coded.frames(numbers)]
        except FrameDatabaseError as error:
            frames.damage.append(str(error).removeprefix(f"{coded.path}: "))
            continue
        shown += moments
        for planes, moment in zip(pictures, moments, strict=True):
            yield store.of_planes(planes) if kept else store.of_rgb(planes.rgb(size[::-1])), size[0], moment
    if not shown:
        raise VideoError(f"no frame could be decoded: {frames.damage[0]}")
    _describe_restored(frames, size, shown, store)


def _restored(
    blobs: Iterator[tuple[Callable[[], bytes], str]],
    times: Iterator[float] | None,
    options: ConvertOptions,
    store: FrameStore,
    frames: _Frames,
) -> Iterator[tuple[Any, int, float | None]]:
    """Convert JPEGs of any encoder to the size of the options and the form of the store, upright by their EXIF tags.

    If JPEGs are stored and neither size, quality nor orientation changes, the pixels stay bit-equal.
    """
    size: tuple[int, int] | None = None
    shown: list[float | None] = []
    for read, name in blobs:
        try:
            jpeg = read()
            stored = jpeg_size(jpeg)
            if stored is not None and stored[0] * stored[1] > options.max_pixels:
                raise ValueError(
                    f"{stored[0]}x{stored[1]} pixels, more than the limit of {options.max_pixels} (max_pixels)"
                )
            image, orientation = decode_jpeg(jpeg), jpeg_orientation(jpeg)
            if orientation != UPRIGHT:
                image = torch.from_numpy(np.ascontiguousarray(orientation.apply(image.numpy())))
            height, width = image.shape[:2]
            size = size or target_size(options.size, width, height)
            keep = not options.reencode and orientation == UPRIGHT and size == (width, height)
            image = image if (width, height) == size else resize_frame(image, size[::-1])
            frame = store.of_rgb(image, jpeg=jpeg if keep else None)
        except (RuntimeError, ValueError, OSError) as error:
            frames.damage.append(f"{name}: {str(error).splitlines()[0]}")
            if times is not None:
                next(times)
            continue
        shown.append(None if times is None else next(times))
        yield frame, size[0], shown[-1]
    if size is None:
        raise VideoError(f"no frame could be decoded: {frames.damage[0]}")
    _describe_restored(frames, size, shown, store)


def _describe_restored(
    frames: _Frames, size: tuple[int, int], times: Sequence[float | None], store: FrameStore
) -> None:
    """Set the properties of frames whose source has no stream with a duration."""
    fps = frames.properties.get("fps")
    rate = float(fps) if fps else 0.0
    first, last = (times[0], times[-1]) if times else (None, None)
    if first is not None and last is not None:
        duration = last - first + 1.0 / (rate or 25.0)
    else:
        duration = len(times) / rate if rate else 0.0
    frames.properties.update(width=size[0], height=size[1], duration=duration, **store.properties)
