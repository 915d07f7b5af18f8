"""The benchmark's own rows: vidseg's loader, and what limits it. `Job` and the other loaders are in loader_peers."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from loader_peers import Job
from torch import Tensor

from vidseg.clips import BatchPlan, BatchShape, ColourPlan
from vidseg.clips.random import permutation, uniform
from vidseg.frames.native import operators
from vidseg.labels import VideoDataset

__all__ = ["LIMITS", "make_plans"]


def make_plans(data: VideoDataset, shape: BatchShape, count: int, *, seed: int = 0) -> list[BatchPlan]:
    """The first batches of a training epoch: random start and interval, random-resized crop, mirror."""
    order = permutation(seed, 0, len(data))
    plans = []
    for index in range(count):
        videos = order[index * shape.clips : (index + 1) * shape.clips]
        draws = uniform(seed, 0, videos, purpose="clip", count=7)
        interval = 1 + (draws[:, 0] * 2).astype(np.int64)
        slack = data.frames[videos] - (shape.frames - 1) * interval
        start = (draws[:, 1] * slack).astype(np.int64)
        frames = start[:, None] + interval[:, None] * np.arange(shape.frames)
        area = 340 * 256 * (0.08 + 0.92 * draws[:, 2])
        aspect = np.exp((2 * draws[:, 3] - 1) * np.log(4 / 3))
        across = np.clip(np.rint(np.sqrt(area * aspect)), 1, 340)
        down = np.clip(np.rint(np.sqrt(area / aspect)), 1, 256)
        left, top = np.floor(draws[:, 4] * (341 - across)), np.floor(draws[:, 5] * (257 - down))
        mirror = draws[:, 6] < 0.5
        matrices = np.zeros((len(videos), 3, 3))
        matrices[:, 0, 0] = np.where(mirror, -1, 1) * across / shape.width
        matrices[:, 0, 2] = np.where(mirror, left + across, left)
        matrices[:, 1, 1] = down / shape.height
        matrices[:, 1, 2] = top
        matrices[:, 2, 2] = 1
        plans.append(
            BatchPlan(
                epoch=0,
                index=index,
                height=shape.height,
                width=shape.width,
                videos=videos,
                views=np.zeros_like(videos),
                labels=data.labels[videos],
                frames=frames,
                matrices=matrices,
                colours=ColourPlan.none(len(videos)),
            )
        )
    return plans


def _over_clips(job: Job, work: Callable[[str, Tensor], Tensor]) -> Iterator[Tensor]:
    """`work(path, rows)` for each clip of each batch on as many threads as the job has workers."""

    def clip(place: tuple[BatchPlan, int]) -> Tensor:
        plan, row = place
        path = job.data[int(plan.videos[row])].path
        return work(str(path), torch.from_numpy(plan.frames[row] + 1))

    with ThreadPoolExecutor(job.workers) as pool:
        for plan in job.plans:
            yield list(pool.map(clip, [(plan, row) for row in range(len(plan))]))[-1]


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


# name: (what it is, its batches); the tensors that they yield hold no clips
LIMITS: dict[str, tuple[str, Callable[[Job], Iterator[Tensor]]]] = {
    "decode": ("limit: whole frames by libjpeg-turbo", _decode),
    "read": ("limit: reading the JPEGs", _read),
    "memcpy": ("limit: copying the batches", _copy),
}
