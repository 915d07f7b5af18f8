"""Conversion of one video, folder of JPEGs or database to a frames.db."""

import contextlib
import errno
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av.error

import vidseg
from vidseg.convert.convert_options import ConvertOptions
from vidseg.convert.encoding import EncodedFrames, FrameStore, open_store
from vidseg.convert.memory_limit import limited_memory
from vidseg.convert.source_state import same_source, source_digest, source_state
from vidseg.frames import FrameDatabase, FrameDatabaseError
from vidseg.frames.schema import COUNT_NAME, DATABASE_NAME
from vidseg.frames.writer import remove_temporary_files
from vidseg.videos.decoding import DamagedVideoError, VideoSource
from vidseg.videos.listing import Job
from vidseg.videos.opening import VideoError
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
    if job.kind == "video":
        frames = _video_frames(job, options, store)
    else:
        from vidseg.convert.stored_frames import stored_frames  # imports torch, which a worker for videos does not need

        frames = stored_frames(job, options, store)
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


def _video_frames(job: Job, options: ConvertOptions, store: FrameStore) -> EncodedFrames:
    source = VideoSource(Path(job.source), job.start, job.stop, max_pixels=options.max_pixels)
    upright = UprightFrames(size=options.size, chroma=options.chroma)
    frames = EncodedFrames(iter(()), {}, source.damage)

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
