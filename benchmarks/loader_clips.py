"""Clips made in Python from whole frames, in DataLoader workers or in threads: what most training programs do."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from loader_job import Job, crop_box, load
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidseg.clips import BatchPlan

__all__ = ["Clips", "Frames", "Read", "in_processes", "in_threads", "one_thread"]

Frames = list[np.ndarray]
Read = Callable[[Job, BatchPlan, int], Frames]
"""Returns the T whole frames of one clip of a plan: uint8 (H, W, 3), of any size."""
Change = Callable[[Job, int, int, np.ndarray], np.ndarray]
"""Returns the changed pixels, uint8 (T, H, W, 3), of a clip of a batch, before mirroring."""


class Clips(Dataset[Tensor]):
    """Clips of all batches, one item each.

    Args:
        job: plans and data.
        read: frames of a clip.
        bgr: the frames of `read` are BGR instead of RGB.
        change: applied to the resized frames.
    """

    def __init__(self, job: Job, read: Read, *, bgr: bool, change: Change | None = None) -> None:
        self.job, self.read, self.bgr, self.change = job, read, bgr, change
        self.places = [(batch, clip) for batch, plan in enumerate(job.plans) for clip in range(len(plan))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        batch, clip = self.places[index]
        return self.clip(batch, clip, self.read(self.job, self.job.plans[batch], clip))

    def clip(self, batch: int, clip: int, frames: Frames, out: np.ndarray | None = None) -> Tensor:
        """Crop, resize, mirror and normalize the frames of a clip.

        Args:
            batch: number of the batch.
            clip: number of the clip in it.
            frames: whole frames of any size; the crop is scaled to it.
            out: float32 (3, T, H, W) that is filled; None: a new array.
        """
        cv2, job = load("cv2"), self.job
        plan = (job.crops or job.plans)[batch]
        video = plan.videos[clip]
        scale = (frames[0].shape[1] / job.data.widths[video], frames[0].shape[0] / job.data.heights[video])
        left, top, across, down, mirrored = crop_box(plan.matrices[clip], plan.height, plan.width, scale=scale)
        pixels = np.empty((plan.shape[1], plan.height, plan.width, 3), np.uint8)
        for target, frame in zip(pixels, frames, strict=True):
            crop = frame[top : top + down, left : left + across]
            cv2.resize(crop, (plan.width, plan.height), dst=target, interpolation=cv2.INTER_LINEAR)
        if self.change is not None:
            pixels = self.change(job, batch, clip, pixels)
        if self.bgr:
            pixels = pixels[..., ::-1]
        if mirrored:
            pixels = pixels[:, :, ::-1]
        # one NumPy pass per channel, which is faster than torch for negative strides
        result = np.empty((3, *pixels.shape[:3]), np.float32) if out is None else out
        for channel, (mean, std) in enumerate(zip(job.mean, job.std, strict=True)):
            np.multiply(pixels[..., channel], np.float32(1 / 255 / std), out=result[channel])
            result[channel] -= np.float32(mean / std)
        return torch.from_numpy(result)


def in_processes(job: Job, *, read: Read, bgr: bool, change: Change | None = None) -> Iterator[Tensor]:
    """Yield the batches of a DataLoader with the number of worker processes of the job."""
    clips = Clips(job, read, bgr=bgr, change=change)
    stops = np.cumsum([len(plan) for plan in job.plans])
    all_batches = [list(range(stop - len(plan), stop)) for stop, plan in zip(stops.tolist(), job.plans, strict=True)]
    batches: list[list[int]] = []
    loader: DataLoader[Tensor] = DataLoader(
        clips,
        batch_sampler=batches,
        num_workers=job.workers,
        worker_init_fn=one_thread,
        persistent_workers=True,  # keep the workers for the second pass, and for measurement after the last batch
    )
    for plans in job.passes:
        batches[:] = all_batches[: len(plans)]
        yield from loader


def one_thread(_: Any = None) -> None:
    """Disable OpenCV's own threads."""
    load("cv2").setNumThreads(1)


def in_threads(job: Job, *, read: Read, bgr: bool, start: Callable[[], object] = one_thread) -> Iterator[Tensor]:
    """Yield batches that the threads of the job fill, one batch ahead of the consumer.

    Args:
        job: plans and data.
        read: frames of a clip; decoders release the GIL.
        bgr: the frames of `read` are BGR instead of RGB.
        start: called by each thread.
    """
    clips = Clips(job, read, bgr=bgr)

    def fill(batch: int, clip: int, out: np.ndarray) -> Tensor:
        return clips.clip(batch, clip, read(job, job.plans[batch], clip), out)

    with ThreadPoolExecutor(job.workers, initializer=start) as pool:
        for plans in job.passes:
            yield from _in_pool(pool, plans, fill)


def _in_pool(
    pool: ThreadPoolExecutor, plans: list[BatchPlan], fill: Callable[[int, int, np.ndarray], Tensor]
) -> Iterator[Tensor]:
    waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()
    for batch, plan in enumerate(plans):
        out = torch.empty(len(plan), 3, *plan.shape[1:])
        waiting.append((out, [pool.submit(fill, batch, clip, out[clip].numpy()) for clip in range(len(plan))]))
        if len(waiting) == 2:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(out: Tensor, clips: list[Future[Tensor]]) -> Tensor:
    for clip in clips:
        clip.result()
    return out
