"""`open_videos`: a data set of video files as they are, for those who have not converted yet."""

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
from vidseg.labels import VideoDataset, VideoFile, VideoRecord
from vidseg.labels.video_files import dataset_of_files
from vidseg.videos.decoding import VideoError
from vidseg.videos.frame_index import chosen_frames, read_frame_index
from vidseg.videos.frame_size import target_size
from vidseg.videos.listing import Job, find_jobs

__all__ = ["INDEX_NAME", "open_videos"]

logger = logging.getLogger(__name__)

INDEX_NAME = ".vidseg_videos.json"


def open_videos(
    folder: str | Path,
    split: str | None = None,
    *,
    size: str = "256",
    fps: float | None = None,
    videos: str | Path | None = None,
    threads: int | None = None,
) -> VideoDataset:
    """Opens video files as a data set without converting them, for `ClipLoader(data, backend="video")`.

    Videos, names, classes, order and numbers of frames are those that `convert_videos` and `open_dataset` would give.
    Each file is read once to count its frames; the counts are kept in `.vidseg_videos.json` in the folder, where it can
    be written to, and files that change are counted again. Videos that cannot be read are named in a warning and left
    out.

    Args:
        folder: of videos, `<class>/<video>`, `<split>/<class>/<video>` or flat; a single video; or a CSV, as for
            `convert_videos`.
        split: "train", "val" or "test", where the folder has them; None for all videos.
        size: of the frames, as for a conversion: the longest short side in pixels, WIDTHxHEIGHT, or "none".
        fps: choose frames at a constant rate by their times; None for every frame once.
        videos: where the videos of a CSV lie; default: beside it.
        threads: that count frames; None takes one for each core.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no videos, an unknown split, or a size or rate out of range.
    """
    folder = Path(folder)
    target_size(size, 16, 16)  # a wrong size is an error before the files are read
    if fps is not None and not fps > 0:
        raise ValueError(f"fps is {fps}, must be above 0")
    listing = find_jobs(folder, videos=None if videos is None else Path(videos))
    for problem in listing.problems:
        logger.warning("%s: left out: %s", problem.source, problem.reason)
    home = folder if folder.is_dir() else folder.parent
    index = _Index(home)
    records = []
    for job, facts in _count(listing.jobs, index, fps, threads or len(os.sched_getaffinity(0))):
        if isinstance(facts, str):
            logger.warning("%s: left out: %s", job.source, facts)
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
    """What is known of each job's video, or why it is left out."""
    jobs = list(jobs)
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda job: index.facts(job, fps), jobs)
        progress = tqdm(results, total=len(jobs), unit=" video", disable=not sys.stderr.isatty())
        yield from zip(jobs, progress, strict=True)


class _Index:
    """Facts of the videos below a folder, by path, part and rate; valid while size and time of the file stay."""

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
                logger.warning("%s: not an index of videos (%s); all frames are counted again", self.path, error)

    def facts(self, job: Job, fps: float | None) -> dict[str, Any] | str:
        """Frames, size and rate of a job's video, or why it has none."""
        if job.kind != "video":
            return f"it holds {job.kind}, not a video; convert it with vidseg.convert_videos"
        path = Path(job.source)
        with contextlib.suppress(ValueError):  # outside of the folder, where a CSV says so
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
        """Keep what was counted, where the folder can be written to."""
        if not self._changed:
            return
        temporary = self.path.with_name(f"{INDEX_NAME}.{os.getpid()}.tmp")
        content = {"format": 1, "tool": f"vidseg {vidseg.__version__}", "videos": self._known}
        try:
            temporary.write_text(json.dumps(content))
            temporary.replace(self.path)
        except OSError as error:
            logger.info("%s: not written (%s); frames are counted again next time", self.path, error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
