"""Extraction of optical flow, motion vectors or residuals of a whole data set, parallel and resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vidseg.convert.conversion import Outcome
from vidseg.convert.conversion_lock import TargetError, lock_dataset
from vidseg.convert.pool import run_local
from vidseg.convert.progress import Progress
from vidseg.convert.run import INTERRUPTED, video_record
from vidseg.frames import FrameDatabaseError
from vidseg.frames.schema import DATABASE_NAME, DATABASE_NAMES
from vidseg.labels import open_dataset, update_catalog
from vidseg.labels.catalog import catalog_path
from vidseg.labels.counting import counted
from vidseg.loaders.transfer import resolve_device
from vidseg.tasks.flow.extraction_job import Request, finished_outcome
from vidseg.tasks.flow.extraction_methods import check_method, weights_file
from vidseg.tasks.flow.extraction_options import CODEC, NETWORKS, ExtractFlowOptions
from vidseg.videos.listing import Job, find_jobs
from vidseg.videos.opening import VideoError
from vidseg.videos.source_files import SourceFiles

__all__ = ["FlowReport", "extract_flow"]

_WORKER = "vidseg.tasks.flow.extraction_worker"
_REMEDY = "give the folder of the video files with --videos"
_SHOWN = 20  # problems that the summary lists


@dataclass
class FlowReport:
    """Outcome of every video of an extraction.

    Attributes:
        root: folder of the data set.
        database: name of the databases, such as flow.db.
        method: method of the extraction.
        outcomes: one for each video.
        seconds: duration of the run.
        stopped: reason for an early stop, or None.
    """

    root: str
    database: str
    method: str
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every video has its database, and none is damaged."""
        return self.stopped is None and all(outcome.problem is None for outcome in self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data for JSON."""
        counts = Counter(outcome.state for outcome in self.outcomes)
        extracted = [outcome for outcome in self.outcomes if outcome.state in ("extracted", "recovered")]
        frames = sum(outcome.frames for outcome in extracted)
        return {
            "root": self.root,
            "database": self.database,
            "method": self.method,
            "ok": self.ok,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
            "frames": frames,
            "bytes": sum(outcome.bytes for outcome in self.outcomes),
            "frames_per_second": round(frames / self.seconds, 2) if self.seconds else 0.0,
            "counts": dict(sorted(counts.items())),
            "videos": [outcome.as_dict() for outcome in self.outcomes],
        }

    def __str__(self) -> str:
        """Return the summary for the console."""
        facts = self.as_dict()
        states = ", ".join(f"{count} {state}" for state, count in facts["counts"].items())
        lines = [f"{self.database} by {self.method}: {counted(len(self.outcomes), 'video')}: {states or 'none'}"]
        if facts["frames"]:
            lines.append(
                f"{counted(facts['frames'], 'frame')} in {self.seconds:.1f} s, {facts['frames_per_second']:.1f} "
                f"frames/s, {facts['bytes'] / 1e6:.1f} MB in all"
            )
        problems = [outcome for outcome in self.outcomes if outcome.problem is not None]
        lines += [f"{outcome.state}: {outcome.source}: {outcome.problem}" for outcome in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"... and {len(problems) - _SHOWN} more; --json lists all")
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines)


def extract_flow(
    data: str | Path,
    options: ExtractFlowOptions,
    *,
    out: str | Path | None = None,
    split: str | None = None,
    videos: str | Path | None = None,
) -> FlowReport:
    """Write flow.db, motion.db or residual.db for each video of a data set or of a folder of videos.

    A second call keeps finished databases and extracts the rest. Errors of single videos are recorded in the report;
    the other videos are still extracted.

    Args:
        data: folder of a data set of frame databases, or of video files (`<class>/<video>` or flat).
        options: method and options.
        out: folder of the databases, `<out>/jpg/<class>/<video>/flow.db`; required for a folder of videos, else the
            data set itself.
        split: extract the videos of this split of a data set only.
        videos: folder of the video files of a data set, if they are no longer where they were converted from; for
            motion vectors and residuals.

    Returns:
        The report; `report.ok` is False if any video failed or is damaged.

    Raises:
        FileNotFoundError: `data`, `videos` or the weights do not exist.
        ValueError: an option does not fit the data, or weights do not fit the method.
        ImportError: a package of the method is not installed.
        TargetError: the folder cannot be written, or a conversion or extraction is writing to it.
    """
    data, began = Path(data), time.monotonic()
    if not data.exists():
        raise FileNotFoundError(f"{data}: no such file or folder")
    if videos is not None and not Path(videos).is_dir():
        raise FileNotFoundError(f"{videos}: no such folder of videos")
    converted = catalog_path(data).is_file()
    if converted and out is not None:
        raise ValueError(f"out={out}: {data} is a data set, whose flow is written beside its frames; leave out --out")
    if converted and (options.size != "256" or options.fps is not None):
        raise ValueError(f"--size and --fps are for video files; flow of {data} has the size and rate of its frames")
    if not converted and out is None:
        raise ValueError(
            f"{data}: has no catalog.db, so it is a folder of videos; give the folder of the flow with --out"
        )
    if not converted and (split is not None or videos is not None):
        raise ValueError(f"{data}: --split and --videos are for data sets of frame databases")
    request = _request(options)
    root = data if out is None else Path(out)
    report = FlowReport(str(root), DATABASE_NAMES[request.modality], request.method)
    if converted:
        jobs, report.outcomes = _dataset_jobs(data, request, split, None if videos is None else Path(videos))
    else:
        listing = find_jobs(data, skip=(root / "jpg").resolve())
        jobs = listing.jobs
        report.outcomes = [
            Outcome(one.source, one.target or "", "failed", problem=one.reason) for one in listing.problems
        ]
    try:
        (root / "jpg").mkdir(parents=True, exist_ok=True)
        with lock_dataset(root):
            _extract_all(jobs, root / "jpg", request, report)
            if not converted:
                update_catalog(root, [video_record(one) for one in report.outcomes if _is_new(root, one)])
    except OSError as error:
        raise TargetError(f"{root}: cannot write to this folder: {error.strerror or error}") from error
    report.outcomes.sort(key=lambda outcome: (outcome.target, outcome.source))
    report.seconds = time.monotonic() - began
    return report


def _request(options: ExtractFlowOptions) -> Request:
    """Decide what the workers need to know, and refuse what cannot run."""
    fields = {one.name: getattr(options, one.name) for one in dataclasses.fields(ExtractFlowOptions)}
    device = "cpu"
    if options.method in NETWORKS:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = str(resolve_device(options.device or accelerator or "cpu"))
    elif options.device not in (None, "cpu"):
        raise ValueError(f"device={options.device!r}: the method {options.method} runs on the CPU")
    weights = weights_file(options)
    digest = None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest()
    fields |= {"device": device, "weights": None if weights is None else str(weights.resolve())}
    if options.workers is None and device != "cpu":
        fields["workers"] = 1
    request = Request(**fields, weights_sha256=digest)
    if request.method not in CODEC:
        check_method(request, device)
    return request


def _dataset_jobs(
    root: Path, request: Request, split: str | None, videos: Path | None
) -> tuple[list[Job], list[Outcome]]:
    """Return the jobs of a data set, and the outcomes of videos whose file is not found."""
    data = open_dataset(root, split)
    sources = SourceFiles(root, videos=videos, remedy=_REMEDY)
    jobs, failed = [], []
    for index in range(len(data)):
        folder = data.video_path(index)
        target = folder.removeprefix("jpg/")
        source = str(root / folder / DATABASE_NAME)
        if request.method not in CODEC:
            jobs.append(Job(source, "database", target))
            continue
        try:
            file = sources.find(folder)
        except (VideoError, FrameDatabaseError, OSError) as error:
            failed.append(Outcome(source, target, "failed", problem=str(error).removeprefix(f"{root / folder}: ")))
        else:
            jobs.append(Job(str(file.path), "video", target, start=file.start, stop=file.stop))
    return jobs, failed


def _extract_all(jobs: list[Job], jpg_folder: Path, request: Request, report: FlowReport) -> None:
    """Do the jobs and record their outcomes in the report, also when the run is interrupted."""
    known: dict[str, Outcome] = {}
    try:
        if not request.overwrite:
            known = _finished(jobs, jpg_folder, request)
        pending = [job for job in jobs if job.target not in known]
        with (
            Progress(len(jobs), len(known)) as progress,
            contextlib.closing(run_local(pending, jpg_folder, request, _WORKER)) as results,
        ):
            for result in results:
                progress.update(result)
                if isinstance(result, int):
                    continue
                known[result.target] = result
                if result.fatal:
                    report.stopped = f"{result.source}: {result.problem}"
                    break
    except KeyboardInterrupt:
        report.stopped = INTERRUPTED
    if report.stopped:  # workers may have finished a video that they could no longer report
        known = {**_finished(jobs, jpg_folder, request), **known} if not request.overwrite else known
    for job in jobs:
        idle = Outcome(job.source, job.target, "not started", problem="the run stopped before this video")
        report.outcomes.append(known.get(job.target) or idle)


def _finished(jobs: list[Job], jpg_folder: Path, request: Request) -> dict[str, Outcome]:
    """Return the outcomes of jobs whose database is there."""
    with ThreadPoolExecutor(min(16, 4 * len(os.sched_getaffinity(0)))) as threads:
        outcomes = threads.map(lambda job: finished_outcome(job, jpg_folder, request), jobs)
        return {outcome.target: outcome for outcome in outcomes if outcome is not None}


def _is_new(root: Path, outcome: Outcome) -> bool:
    """Return whether the catalog has to list a video: it has flow, and no frames that a conversion has listed."""
    return outcome.frames > 0 and not (root / "jpg" / outcome.target / DATABASE_NAME).is_file()
