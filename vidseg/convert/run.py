"""Parallel, resumable conversion of a whole data set (`convert_videos`)."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vidseg.convert.conversion import Outcome, finished_outcome
from vidseg.convert.conversion_lock import TargetError, lock_dataset
from vidseg.convert.conversion_report import ConversionReport
from vidseg.convert.convert_options import ConvertOptions
from vidseg.convert.pool import run_local
from vidseg.convert.progress import Progress
from vidseg.labels import VideoRecord, update_catalog
from vidseg.labels.catalog import catalog_path
from vidseg.videos.listing import Job, Listing, find_jobs, in_shard

__all__ = ["TargetError", "convert_videos", "video_record"]

INTERRUPTED = "interrupted; run the same command again to resume"
_LEAST_SPACE = 1 << 20  # bytes that must be free at the start
_CHUNK = 1000  # finished videos that are looked up together


def convert_videos(
    source: str | Path, root: str | Path, *, options: ConvertOptions | None = None, **changes: Any
) -> ConversionReport:
    """Convert videos to frame databases `<root>/jpg/<class>/<video>/frames.db` and list them in catalog.db.

    A second call keeps finished videos and converts the rest. Errors of single videos are recorded in the report and in
    `<root>/conversion_report.json`; the other videos are still converted.

    Args:
        source: a folder of videos (`<class>/<video>` or flat), of folders with JPEG frames, or of frame databases; a
            single one of these; or a CSV with a column `path`, or with the columns label, id, time_start and time_end.
        root: folder of the data set to create or extend.
        options: options of the conversion; default: `ConvertOptions()`.
        **changes: single fields of `ConvertOptions` that replace those of `options`, such as `workers=8, quality=95`.

    Returns:
        The report; `report.ok` is False if any video failed or is damaged.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: an option is out of range, a CSV is malformed, or the source is inside `<root>/jpg`.
        TypeError: `changes` has an unknown option.
        TargetError: `root` cannot be written, or another conversion is running in it.
    """
    options = dataclasses.replace(options or ConvertOptions(), **changes)
    if options.store == "video":
        from vidseg.frames.stream_writer import require_encoder

        require_encoder(options.stream_form().codec)
    root = Path(root)
    began = time.monotonic()
    jpg_folder = (root / "jpg").resolve()
    if jpg_folder in (Path(source).resolve(), *Path(source).resolve().parents):
        raise ValueError(f"{source}: this source is inside the data set {root}; convert it to another folder")
    videos = Path(options.videos) if options.videos else None
    listing = find_jobs(Path(source), videos=videos, skip=jpg_folder, first_number=options.first_number)
    shard = options.shard_numbers()
    listing.jobs = [job for job in listing.jobs if in_shard(job, shard)]
    report = ConversionReport(str(source), str(root), ignored=listing.ignored)
    if options.dry_run:
        report.outcomes = [*_planned(listing, root, options), *_rejected(listing)]
        return report
    with _locked(root, options):
        _convert_all(listing, root, options, report)
        report.outcomes += _rejected(listing)
        report.outcomes.sort(key=lambda outcome: (outcome.target, outcome.source))
        report.seconds = time.monotonic() - began
        try:
            _record_outcomes(report, root, options)
        except KeyboardInterrupt:
            report.stopped = INTERRUPTED
            _record_outcomes(report, root, options)
    return report


def _record_outcomes(report: ConversionReport, root: Path, options: ConvertOptions) -> None:
    """Write the report and, except for a shard, the catalog; can be repeated."""
    if options.shard is None:
        update_catalog(root, [video_record(outcome) for outcome in report.outcomes if outcome.frames])
        report.write(root / "conversion_report.json")
    else:
        report.write(root / "conversion_report.shard-{}-of-{}.json".format(*options.shard_numbers()))


def _convert_all(listing: Listing, root: Path, options: ConvertOptions, report: ConversionReport) -> None:
    """Convert the listed jobs and record their outcomes in the report, also when the run is interrupted."""
    jpg_folder = root / "jpg"
    pending = listing.jobs
    kept: dict[str, Outcome] = {}
    done: dict[str, Outcome] = {}
    try:
        if not options.overwrite:
            kept = {outcome.target: outcome for outcome in _finished(listing.jobs, jpg_folder, options)}
        pending = [job for job in listing.jobs if job.target not in kept]
        with (
            Progress(len(listing.jobs), len(kept)) as progress,
            contextlib.closing(_execute(pending, jpg_folder, options)) as results,
        ):
            for result in results:
                progress.update(result)
                if isinstance(result, int):
                    continue
                done[result.target] = result
                if result.fatal or (options.on_error == "stop" and result.state == "failed"):
                    report.stopped = f"{result.source}: {result.problem}"
                    break
    except KeyboardInterrupt:
        report.stopped = INTERRUPTED
    if report.stopped:
        # Some workers may have finished a video that they could no longer report.
        begun = pending if options.executor == "ray" else pending[: len(done) + options.worker_count()]
        kept |= {outcome.target: outcome for outcome in _finished(begun, jpg_folder, options)}
    for job in listing.jobs:
        idle = Outcome(
            job.source, job.target, "not started", job.label, job.split, problem="the run stopped before this video"
        )
        report.outcomes.append(done.get(job.target) or kept.get(job.target) or idle)


def _finished(jobs: list[Job], jpg_folder: Path, options: ConvertOptions) -> list[Outcome]:
    """Return the outcomes of jobs whose database is complete."""
    found: list[Outcome] = []
    # Threads wait for the disk, and for checksums of sources whose time of modification has changed.
    threads = ThreadPoolExecutor(min(16, 4 * len(os.sched_getaffinity(0))))
    try:
        for first in range(0, len(jobs), _CHUNK):
            outcomes = threads.map(lambda job: finished_outcome(job, jpg_folder, options), jobs[first : first + _CHUNK])
            found += [outcome for outcome in outcomes if outcome is not None]
    finally:
        threads.shutdown(cancel_futures=True)
    return found


def _execute(jobs: list[Job], jpg_folder: Path, options: ConvertOptions) -> Generator[Outcome | int, None, None]:
    if options.executor == "ray":
        from vidseg.convert.ray_executor import run_ray

        return run_ray(jobs, jpg_folder, options)
    return run_local(jobs, jpg_folder, options)


def _planned(listing: Listing, root: Path, options: ConvertOptions) -> Iterator[Outcome]:
    finished = [] if options.overwrite else _finished(listing.jobs, root / "jpg", options)
    kept = {outcome.target: outcome for outcome in finished}
    for job in listing.jobs:
        yield kept.get(job.target) or Outcome(job.source, job.target, "planned", job.label, job.split)


def _rejected(listing: Listing) -> list[Outcome]:
    return [
        Outcome(problem.source, problem.target or "", "failed", problem=problem.reason) for problem in listing.problems
    ]


def video_record(outcome: Outcome) -> VideoRecord:
    """Return the row of the catalog for a video."""
    return VideoRecord(
        path=f"jpg/{outcome.target}",
        label=outcome.label,
        frames=outcome.frames,
        height=outcome.height,
        width=outcome.width,
        fps=outcome.fps or 0.0,
        seconds=outcome.duration,
        size_bytes=outcome.bytes,
        split=outcome.split,
    )


@contextlib.contextmanager
def _locked(root: Path, options: ConvertOptions) -> Iterator[None]:
    """Make the data set's folder and hold the lock on this part of it; refuse a target that cannot be written."""
    try:
        (root / "jpg").mkdir(parents=True, exist_ok=True)
        with lock_dataset(root, shard=None if options.shard is None else options.shard_numbers()):
            with tempfile.TemporaryFile(dir=root / "jpg") as file:
                file.write(bytes(_LEAST_SPACE))
                file.flush()
                os.fsync(file.fileno())
            if options.shard is None and catalog_path(root).exists():
                update_catalog(root, [])
            yield
    except OSError as error:
        place = f"{error.filename}: " if error.filename and Path(error.filename) != root else ""
        raise TargetError(f"{root}: cannot write to this folder: {place}{error.strerror or error}") from error
