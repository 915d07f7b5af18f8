"""Rows of vidseg's loader and of the limits; the other loaders are in loader_peers."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from loader_augmented import all_dali_operations
from loader_job import Job, load
from torch import Tensor

from vidseg import ClipLoader
from vidseg.clips import BatchPlan, BatchShape
from vidseg.clips.planner import ClipPlanner
from vidseg.frames.native import operators, simd
from vidseg.labels import VideoDataset

__all__ = ["LIMITS", "OURS", "make_plans", "some_videos"]

CACHE_BYTES = 4 * 2**30


def some_videos(data: VideoDataset, count: int) -> VideoDataset:
    """Return a random selection of `count` videos."""
    if count > len(data):
        raise ValueError(f"a pass of {count} clips requires {count} videos, but {data!r} has fewer")
    return data.subset(np.random.default_rng(0).permutation(len(data))[:count])


def _options(shape: BatchShape) -> dict[str, Any]:
    """Return training options: random starts with interval 1 or 2, random resized crops, mirroring."""
    return {"frames": shape.frames, "size": (shape.height, shape.width), "batch_size": shape.clips, "interval": (1, 2)}


def make_plans(data: VideoDataset, shape: BatchShape, augment: str | None = None) -> list[BatchPlan]:
    """Return the plans of the first training epoch."""
    planner = ClipPlanner(data, augment=augment, **_options(shape))
    return [planner.plan(0, index) for index in range(planner.batches(0))]


def _loader(job: Job, **options: Any) -> ClipLoader:
    clips, frames, height, width = job.plans[0].shape
    shape = BatchShape(clips, frames, height, width)
    return ClipLoader(
        job.data,
        **_options(shape),
        **{"threads": job.workers, "mean": job.mean, "std": job.std, "augment": job.augment, **options},
    )


def _clip_loader(job: Job, **options: Any) -> Iterator[Tensor]:
    with _loader(job, **options) as loader:
        for batch in islice(loader, job.warm):
            yield batch.frames
        loader.set_epoch(0)
        for batch in loader:
            yield batch.frames


def _baseline(job: Job) -> Iterator[Tensor]:
    """Yield clips of the code for processors without AVX2.

    Raises:
        RuntimeError: the process has chosen its instruction set before.
    """
    os.environ["VIDSEG_SIMD"] = "baseline"  # read once, when the first frame is decoded
    if not simd().startswith("baseline"):
        raise RuntimeError(f"the native library uses {simd()} already; VIDSEG_SIMD must be set before its first use")
    return _clip_loader(job)


def _cached(job: Job) -> Iterator[Tensor]:
    """Yield the second pass over the same clips, after the first batches of the first one."""
    loader = _loader(job, cache="decoded", cache_bytes=CACHE_BYTES)
    for number, batch in enumerate(loader):
        if number < job.warm:
            yield batch.frames
        del batch  # its memory is reused for a later batch
    loader.set_epoch(0)
    for batch in loader:
        yield batch.frames


def _dali(job: Job) -> Iterator[Tensor]:
    load("nvidia.dali")
    if job.augment:
        all_dali_operations()
    return _clip_loader(job, backend="dali")


def _plan(job: Job) -> Iterator[Tensor]:
    """Plan the epoch without filling batches."""
    clips, frames, height, width = job.plans[0].shape
    planner = ClipPlanner(job.data, augment=job.augment, **_options(BatchShape(clips, frames, height, width)))
    for plans in job.passes:
        for index in range(len(plans)):
            yield torch.from_numpy(planner.plan(0, index).frames)


def _over_clips(job: Job, work: Callable[[str, Tensor], Tensor]) -> Iterator[Tensor]:
    """Call `work(path, rows)` for each clip of each batch on the number of threads of the job."""

    def clip(place: tuple[BatchPlan, int]) -> Tensor:
        plan, row = place
        path = job.data[int(plan.videos[row])].path
        return work(str(path), torch.from_numpy(plan.frames[row] + 1))

    with ThreadPoolExecutor(job.workers) as pool:
        for plan in chain(*job.passes):
            for result in pool.map(clip, [(plan, row) for row in range(len(plan))]):
                last = result  # discard the others
            yield last


def _decode(job: Job) -> Iterator[Tensor]:
    return _over_clips(job, lambda path, rows: operators.decode(path, 0, rows, 0, 0))


def _read(job: Job) -> Iterator[Tensor]:
    return _over_clips(job, lambda path, rows: operators.read(path, 0, rows)[0])


def _copy(job: Job) -> Iterator[Tensor]:
    """Copy each batch once with torch's threads, from memory outside the cache."""
    torch.set_num_threads(job.workers)
    clips, frames, height, width = job.plans[0].shape
    # ones instead of empty, so that the pages are allocated before the measurement
    source, target = (torch.ones(clips, 3, frames, height, width) for _ in range(2))
    for _ in chain(*job.passes):
        yield target.copy_(source)


def _step(job: Job) -> Iterator[Tensor]:
    """Train R3D-18 on clips in memory, on a GPU in bfloat16 if there is one, else on the cores in float32.

    On the CPU, a step has at most two clips: a larger batch would take minutes, at the same speed per clip.
    """
    from vidseg.models import create_model

    clips, frames, height, width = job.plans[0].shape
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(job.workers)
    model = create_model("r3d_18", num_classes=51).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    part = clips if device.type == "cuda" else 2
    inputs = torch.randn(part, 3, frames, height, width, device=device)
    labels = torch.arange(part, device=device) % 51
    for _ in chain(*job.passes):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach().reshape(1).expand(part).cpu()


@dataclass(frozen=True)
class Row:
    """Row of the table, with the function that starts it."""

    what: str
    start: Callable[[Job], Iterator[Tensor]]
    store: str = "dataset"
    """Format of the data that it reads, "" for none."""
    smaller: bool = False
    """Whether its batches have fewer clips than their plans."""
    batches_per_worker: int | None = None
    """Largest number of batches of a pass, for each worker; None: no limit."""


OURS = {
    "native": Row("vidseg", partial(_clip_loader)),
    "native-enlarge": Row("vidseg, levels enlarged up to 1.5 times", partial(_clip_loader, enlarge=1.5)),
    "native-uint8": Row("vidseg, uint8 instead of float32", partial(_clip_loader, dtype=torch.uint8)),
    "native-1": Row("vidseg, one thread", partial(_clip_loader, threads=1)),
    "native-baseline": Row("vidseg, without AVX2", _baseline),
    "native-cache": Row("vidseg, decoded frames cached, second pass", _cached),
    "dali": Row("vidseg, backend DALI on the CPU", _dali, batches_per_worker=2),
}
# Rows that do not yield clips.
LIMITS = {
    "decode": Row("limit: decoding whole frames with libjpeg-turbo", _decode),
    "read": Row("limit: reading the JPEGs", _read),
    "memcpy": Row("limit: copying the batches", _copy, ""),
    "plan": Row("limit: planning", _plan, ""),
    "step": Row("compute floor: training R3D-18 on clips in memory", _step, "", smaller=True, batches_per_worker=1),
}
