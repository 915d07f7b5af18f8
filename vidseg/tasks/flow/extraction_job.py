"""Extraction of one video's flow, motion vectors or residuals to a database beside its frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vidseg
from vidseg.convert.conversion import Heartbeat, Outcome, describe, run_job
from vidseg.convert.source_state import SourceState, same_source, source_digest, source_state
from vidseg.frames import FlowDatabase, FlowForm, FlowWriter, FrameDatabase, FrameDatabaseError
from vidseg.frames.schema import DATABASE_NAME, DATABASE_NAMES
from vidseg.frames.writer import remove_temporary_files
from vidseg.labels.counting import counted
from vidseg.tasks.flow.extraction_methods import flow_of_frames, pair_flow
from vidseg.tasks.flow.extraction_options import CODEC, NETWORKS, ExtractFlowOptions
from vidseg.videos.decoding import VideoSource
from vidseg.videos.listing import Job
from vidseg.videos.motion_vectors import MotionSource
from vidseg.videos.opening import VideoError
from vidseg.videos.residuals import displayed_picture
from vidseg.videos.upright import UprightFrames

__all__ = ["Request", "extract_one", "finished_outcome"]


@dataclass(frozen=True, kw_only=True)
class Request(ExtractFlowOptions):
    """Options of a worker process: those of the extraction, with the decisions of its start.

    Attributes:
        weights_sha256: checksum of the file `weights`; None for a method without weights.
    """

    weights_sha256: str | None = None

    def made_with(self, *, video: bool) -> dict[str, object]:
        """Return what the meta table records of the options."""
        recorded = self.recorded(video=video)
        return {**recorded, "weights_sha256": self.weights_sha256} if self.method in NETWORKS else recorded

    def form(self) -> FlowForm:
        """Return how the fields are stored."""
        return FlowForm(
            modality=self.modality,
            method=self.method,
            bound=self.bound,
            values=self.values,
            quality=self.quality,
            levels=self.levels,
            restart_interval=self.restart_interval,
            optimize=self.optimize,
        )


@dataclass
class _Fields:
    """Fields of one video, with the time of each; complete after the pass."""

    stream: Iterator[torch.Tensor]
    times: list[float] = field(default_factory=list)
    properties: dict[str, Any] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)


def extract_one(job: Job, jpg_folder: Path, request: Request, heartbeat: Heartbeat) -> Outcome:
    """Extract one video; errors of the source or the disk are reported in the outcome, not raised.

    Args:
        job: source of the frames or of the codec's motion, and folder of the database.
        jpg_folder: the data set's jpg/ folder.
        request: options.
        heartbeat: called with the number of frames so far.

    Returns:
        The outcome of the job.
    """
    return run_job(
        job, jpg_folder, lambda: describe(job, _extract(job, jpg_folder / job.target, request, heartbeat), "extracted")
    )


def finished_outcome(job: Job, jpg_folder: Path, request: Request) -> Outcome | None:
    """Return the outcome of a job that an earlier run finished, or None if the job has to run.

    A database of other frames is extracted again. One made with other options is a failure that names the difference.
    """
    path = jpg_folder / job.target / DATABASE_NAMES[request.modality]
    try:
        if not path.is_file():
            return None
        database = FlowDatabase(path)
        frames = _frames_beside(path)
        if not (same_source(job, database.meta) if frames is None else _same_frames(frames, database)):
            return None
    except (FrameDatabaseError, OSError, ValueError):  # the extraction names the problem
        return None
    outcome = describe(job, database, "extracted")
    outcome.state = "kept"
    if differences := _differences(database.meta.get("options"), request.made_with(video=frames is None)):
        outcome.state, outcome.other_options = "failed", True
        outcome.problem = f"its {path.name} was made with {differences}; --overwrite extracts it again"
    return outcome


def _same_frames(frames: FrameDatabase, database: FlowDatabase) -> bool:
    """Return whether a database was made for these frames."""
    return len(frames) == len(database) and frames.meta.get("crc32") == database.meta.get("frames_crc32")


def _differences(recorded: object, wanted: dict[str, object]) -> str:
    """Return what an earlier extraction did otherwise, or an empty text."""
    try:
        earlier = json.loads(str(recorded))
        assert isinstance(earlier, dict)
    except (ValueError, AssertionError):
        return "unknown options"
    names = [name for name in {**wanted, **earlier} if earlier.get(name) != wanted.get(name)]
    if "method" in names:
        return f"method {earlier.get('method')} instead of {wanted['method']}"
    if "weights_sha256" in names:
        return "other weights"
    return ", ".join(f"{name} {earlier.get(name)} instead of {wanted.get(name)}" for name in names)


def _frames_beside(path: Path) -> FrameDatabase | None:
    """Return the frames of the video whose flow is at `path`, or None for an extraction from a video file."""
    frames = path.with_name(DATABASE_NAME)
    return FrameDatabase(frames) if frames.is_file() else None


def _extract(job: Job, folder: Path, request: Request, heartbeat: Heartbeat) -> FlowDatabase:
    path = folder / DATABASE_NAMES[request.modality]
    before = _state(job)
    frames = _frames_beside(path)
    fields = _codec_fields(job, request, frames) if request.method in CODEC else _pair_fields(job, request, heartbeat)
    folder.mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)  # of an interrupted run
    with FlowWriter(path, request.form()) as writer:
        for number, one in enumerate(fields.stream):
            writer.add_field(one, timestamp=fields.times[number] if fields.times else None)
            heartbeat(writer.count)
        if frames is not None and writer.count != len(frames):
            raise VideoError(
                f"has {counted(writer.count, 'frame')}, but its {DATABASE_NAME} has {len(frames)}; convert it again"
            )
        if _state(job) != before:
            raise VideoError("the source changed during the extraction; run the same command again")
        writer.meta.update(
            fields.properties,
            damage=json.dumps(fields.damage) if fields.damage else None,
            options=json.dumps(request.made_with(video=frames is None), sort_keys=True),
            tool=f"vidseg {vidseg.__version__}",
        )
        if frames is not None:
            writer.meta["frames_crc32"] = frames.meta.get("crc32")
        else:
            writer.meta.update(
                source=Path(job.source).name,
                source_bytes=before.bytes,
                source_modified=before.modified,
                clip_start=job.start,
                clip_stop=job.stop,
                **source_digest(job, progress=lambda: heartbeat(writer.count)),
            )
    return FlowDatabase(path)


def _state(job: Job) -> SourceState:
    try:
        return source_state(job)
    except OSError as error:
        raise VideoError(f"cannot be read: {error.strerror or error}") from error


def _pair_fields(job: Job, request: Request, heartbeat: Heartbeat) -> _Fields:
    """Return the flow between neighboring frames of a database or a video file."""
    if job.kind == "jpegs":
        raise VideoError("is a folder of JPEG files; convert it with `vidseg convert` first")
    fields = _Fields(iter(()))
    pictures = _database_pictures(job, fields) if job.kind == "database" else _video_pictures(job, request, fields)

    def counted_pictures() -> Iterator[torch.Tensor]:
        for number, picture in enumerate(pictures):
            heartbeat(max(0, number - request.batch_size))
            yield picture

    compute = pair_flow(request.method, request.weights, request.device or "cpu")
    fields.stream = flow_of_frames(counted_pictures(), compute, request.batch_size)
    return fields


def _database_pictures(job: Job, fields: _Fields) -> Iterator[torch.Tensor]:
    database = FrameDatabase(job.source)
    times = database.timestamps
    fields.times = [] if times is None else times.tolist()
    fields.properties = {name: database.meta[name] for name in ("fps", "duration") if name in database.meta}
    return database.stream(size=database.frame_size)


def _video_pictures(job: Job, request: Request, fields: _Fields) -> Iterator[torch.Tensor]:
    source = VideoSource(Path(job.source), job.start, job.stop)
    upright = UprightFrames(size=request.size)
    fields.damage = source.damage
    end = 0.0
    for item in source.at_rate(request.fps) if request.fps else source:
        fields.times.append(item.time)
        end = item.time + item.duration
        yield torch.from_numpy(displayed_picture(upright, item.frame))
    fields.properties = _timing(source.properties, request.fps, fields.times, end)


def _codec_fields(job: Job, request: Request, frames: FrameDatabase | None) -> _Fields:
    """Return the motion vectors or residuals of a video file, in the size of its frames."""
    if job.kind != "video":
        raise VideoError(f"{request.method} are read from video files, not from {job.kind}; give the folder of videos")
    size, fps = request.size, request.fps
    if frames is not None:
        height, width = frames.frame_size
        size, fps = f"{width}x{height}", json.loads(str(frames.meta.get("options", "{}"))).get("fps")
    residuals = request.method == "residual"
    source = MotionSource(
        Path(job.source), job.start, job.stop, fps, size=size, accumulate=request.accumulate, residuals=residuals
    )
    fields = _Fields(iter(()), damage=source.damage)

    def stream() -> Iterator[torch.Tensor]:
        end = 0.0
        for motion in source:
            fields.times.append(motion.time)
            end = motion.time + motion.duration
            if residuals:
                assert motion.residual is not None
                yield torch.from_numpy(np.ascontiguousarray(motion.residual.transpose(2, 0, 1)))
            else:
                yield torch.from_numpy(motion.field)
        fields.properties = _timing(source.properties, fps, fields.times, end)

    fields.stream = stream()
    return fields


def _timing(properties: dict[str, Any], fps: float | None, times: list[float], end: float) -> dict[str, Any]:
    return {"fps": fps or properties.get("fps"), "duration": end - times[0] if times else 0.0}
