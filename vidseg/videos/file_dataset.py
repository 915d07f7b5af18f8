"""Data sets of video files without conversion (`open_videos`)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av.error
from tqdm import tqdm

import vidseg
from vidseg.frames.whole_file import write_text
from vidseg.labels import VideoDataset, VideoFile, VideoRecord
from vidseg.labels.video_files import dataset_of_files
from vidseg.videos.frame_index import chosen_frames, read_frame_index
from vidseg.videos.frame_size import target_size
from vidseg.videos.listing import Job, find_jobs
from vidseg.videos.opening import VideoError

__all__ = ["INDEX_NAME", "open_videos"]

logger = logging.getLogger(__name__)

INDEX_NAME = ".vidseg_videos.json"


def open_videos(
    folder: str | Path,
    split: str | None = None,
    *,
    size: str | int = "256",
    fps: float | None = None,
    videos: str | Path | None = None,
    threads: int | None = None,
) -> VideoDataset:
    """Open video files as a data set without converting them, for `ClipLoader(data, backend="video")`.

    Videos, names, classes, order and frame counts equal those of `convert_videos` followed by `open_dataset`. Each file
    is read once to count its frames. The counts are cached in `.vidseg_videos.json` in the folder if it is writable;
    changed files are counted again. Unreadable videos are skipped with a warning that names them.

    Args:
        folder: folder of videos (`<class>/<video>`, `<split>/<class>/<video>` or flat), a single video, or a CSV as for
            `convert_videos`.
        split: "train", "val" or "test" if the folder has splits; None: all videos.
        size: frame size as for a conversion: maximum short side in pixels, WIDTHxHEIGHT, or "none".
        fps: resample frames to this constant rate; None: every frame once.
        videos: folder of the videos listed in a CSV; default: folder of the CSV.
        threads: number of threads that count frames; None: one per core.

    Returns:
        The data set, ordered by path.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: no videos, an unknown split, or a size or rate out of range.
    """
    folder = Path(folder)
    target_size(size, 16, 16)  # report an invalid size before reading the files
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is {fps}, must be greater than 0")
    listing = find_jobs(folder, videos=None if videos is None else Path(videos))
    for problem in listing.problems:
        logger.warning("%s: skipped: %s", problem.source, problem.reason)
    home = folder if folder.is_dir() else folder.parent
    index = _Index(home)
    records = []
    for job, facts in _count(listing.jobs, index, fps, threads or len(os.sched_getaffinity(0))):
        if isinstance(facts, str):
            logger.warning("%s: skipped: %s", job.source, facts)
            continue
        width, height = target_size(size, facts["width"], facts["height"])
        file = VideoFile(Path(job.source), start=job.start, stop=job.stop, fps=fps)
        rate = fps or facts["fps"]
        record = VideoRecord(
            path=f"jpg/{job.target}",
            label=job.label,
            frames=facts["frames"],
            height=height,
            width=width,
            fps=rate,
            seconds=facts["frames"] / rate if rate else 0.0,
            size_bytes=facts["bytes"],
            split=job.split,
        )
        records.append((record, file))
    index.write()
    return dataset_of_files(home, records, split=split)


def _count(
    jobs: Iterable[Job], index: _Index, fps: float | None, threads: int
) -> Iterable[tuple[Job, dict[str, Any] | str]]:
    """Yield each job with the properties of its video, or with the reason why it is skipped."""
    jobs = list(jobs)
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda job: index.facts(job, fps), jobs)
        progress = tqdm(results, total=len(jobs), unit=" video", disable=len(jobs) < 2 or not sys.stderr.isatty())
        yield from zip(jobs, progress, strict=True)


class _Index:
    """Cached properties of the videos below a folder, by path, clip and rate; valid while size and modification time
    match."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX_NAME
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = False
        if self.path.is_file():
            try:
                content = json.loads(self.path.read_text())
                self._known = content["videos"] if content["format"] == 1 else {}
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("%s: not a valid video index (%s); counting all frames again", self.path, error)

    def facts(self, job: Job, fps: float | None) -> dict[str, Any] | str:
        """Return frame count, size and rate of a job's video, or the reason why it is skipped."""
        if job.kind != "video":
            return f"contains {job.kind}, not a video; convert it with vidseg.convert_videos"
        path = Path(job.source)
        with contextlib.suppress(ValueError):  # a CSV may list files outside the folder
            path = path.relative_to(self._folder)
        key = json.dumps([str(path), job.start, job.stop, fps])
        try:
            status = Path(job.source).stat()
            state = {"bytes": status.st_size, "modified": status.st_mtime_ns}
            known = self._known.get(key)
            if known is not None and {name: known.get(name) for name in state} == state:
                return known
            index = read_frame_index(Path(job.source))
            frames = len(chosen_frames(index, start=job.start, stop=job.stop, fps=fps))
        except VideoError as error:
            return str(error)
        except (OSError, av.error.FFmpegError) as error:
            return f"cannot be read: {error}"
        facts = {**state, "frames": frames, "height": index.height, "width": index.width, "fps": index.fps}
        self._known[key] = facts
        self._changed = True
        return facts

    def write(self) -> None:
        """Write the cache if the folder is writable."""
        if not self._changed:
            return
        content = {"format": 1, "tool": f"vidseg {vidseg.__version__}", "videos": self._known}
        try:
            write_text(self.path, json.dumps(content))
        except OSError as error:
            logger.info("%s: cannot write the index (%s); the next call counts frames again", self.path, error.strerror)
