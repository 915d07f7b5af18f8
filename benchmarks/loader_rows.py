"""The benchmark's own rows: vidseg's loader, and what limits it. `Job` and the other loaders are in loader_peers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from loader_peers import Job, load
from torch import Tensor

from vidseg import ClipLoader
from vidseg.clips import BatchPlan, BatchShape
from vidseg.clips.planner import ClipPlanner
from vidseg.frames.native import operators
from vidseg.labels import VideoDataset

__all__ = ["LIMITS", "OURS", "make_plans", "some_videos"]

CACHE_BYTES = 4 * 2**30


def some_videos(data: VideoDataset, count: int) -> VideoDataset:
    """A mixture of the data set's videos, as many as a pass has clips."""
    if count > len(data):
        raise ValueError(f"a pass of {count} clips needs as many videos; {data!r} has fewer")
    return data.subset(np.random.default_rng(0).permutation(len(data))[:count])


def _options(shape: BatchShape) -> dict[str, Any]:
    """Training: random starts with interval 1 or 2, random-resized crops, mirrors."""
    return {"frames": shape.frames, "size": (shape.height, shape.width), "batch_size": shape.clips, "interval": (1, 2)}


def make_plans(data: VideoDataset, shape: BatchShape) -> list[BatchPlan]:
    """The batches of the first training epoch."""
    planner = ClipPlanner(data, **_options(shape))
    return [planner.plan(0, index) for index in range(planner.batches(0))]


def _loader(job: Job, **options: Any) -> ClipLoader:
    clips, frames, height, width = job.plans[0].shape
    shape = BatchShape(clips, frames, height, width)
    return ClipLoader(
        job.data, **_options(shape), **{"threads": job.workers, "mean": job.mean, "std": job.std, **options}
    )


def _clip_loader(job: Job, **options: Any) -> Iterator[Tensor]:
    with _loader(job, **options) as loader:
        for batch in loader:
            yield batch.frames


def _cached(job: Job) -> Iterator[Tensor]:
    """The second pass over the same clips."""
    loader = _loader(job, cache="decoded", cache_bytes=CACHE_BYTES)
    for batch in loader:
        del batch  # its memory is used for a later one
    loader.set_epoch(0)
    return (batch.frames for batch in loader)


def _dali(job: Job) -> Iterator[Tensor]:
    load("nvidia.dali")
    return _clip_loader(job, backend="dali")


def _plan(job: Job) -> Iterator[Tensor]:
    """Planning alone, again."""
    clips, frames, height, width = job.plans[0].shape
    planner = ClipPlanner(job.data, **_options(BatchShape(clips, frames, height, width)))
    for index in range(len(job.plans)):
        yield torch.from_numpy(planner.plan(0, index).frames)


def _over_clips(job: Job, work: Callable[[str, Tensor], Tensor]) -> Iterator[Tensor]:
    """`work(path, rows)` for each clip of each batch on as many threads as the job has workers."""

    def clip(place: tuple[BatchPlan, int]) -> Tensor:
        plan, row = place
        path = job.data[int(plan.videos[row])].path
        return work(str(path), torch.from_numpy(plan.frames[row] + 1))

    with ThreadPoolExecutor(job.workers) as pool:
        for plan in job.plans:
            for result in pool.map(clip, [(plan, row) for row in range(len(plan))]):
                last = result  # and the others are dropped
            yield last


def _decode(job: Job) -> Iterator[Tensor]:
    return _over_clips(job, lambda path, rows: operators.decode(path, 0, rows, 0, 0))


def _read(job: Job) -> Iterator[Tensor]:
    return _over_clips(job, lambda path, rows: operators.read(path, 0, rows)[0])


def _copy(job: Job) -> Iterator[Tensor]:
    """Each batch copied once, by torch's threads, from memory that is not in a cache."""
    torch.set_num_threads(job.workers)
    clips, frames, height, width = job.plans[0].shape
    # ones, not empty: the system has handed out the pages of both before the clock matters
    source, target = (torch.ones(clips, 3, frames, height, width) for _ in range(2))
    for _ in job.plans:
        yield target.copy_(source)


@dataclass(frozen=True)
class Row:
    """A row of the table: what it is, and how to start it."""

    what: str
    start: Callable[[Job], Iterator[Tensor]]


OURS = {
    "native": Row("vidseg", partial(_clip_loader)),
    "native-enlarge": Row("vidseg, copies enlarged up to 1.5 times", partial(_clip_loader, enlarge=1.5)),
    "native-uint8": Row("vidseg, bytes instead of floats", partial(_clip_loader, dtype=torch.uint8)),
    "native-1": Row("vidseg, one thread", partial(_clip_loader, threads=1)),
    "native-cache": Row("vidseg, decoded frames cached, second pass", _cached),
    "dali": Row("vidseg, backend DALI on the CPU", _dali),
}
# What they yield are no clips.
LIMITS = {
    "decode": Row("limit: whole frames by libjpeg-turbo", _decode),
    "read": Row("limit: reading the JPEGs", _read),
    "memcpy": Row("limit: copying the batches", _copy),
    "plan": Row("limit: planning", _plan),
}
