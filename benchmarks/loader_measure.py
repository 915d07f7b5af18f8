"""Measurement of one row of the loader benchmark in a separate process: time, CPU, memory, /dev/shm, pixel error."""

import os
import re
import resource
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_job import Job, crop_box
from torch import Tensor
from torch.nn import functional as F

from vidseg.frames import FrameDatabase

__all__ = ["machine_seconds", "measure", "touch"]

PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1e6
_COMPARED = 2  # number of clips kept of the first batch, which add to the memory of the row


def measure(
    batches: Iterator[Tensor], job: Job, *, compare: bool, whole: bool = True, smaller: bool = False
) -> dict[str, Any]:
    """Measure the timed pass of a row; memory includes the batches before it.

    Args:
        batches: one tensor per plan of `job.passes`; nothing has been started yet.
        job: shape, plans and data of the row.
        compare: compute the pixel error against the reference; requires clips in the format of the job.
        whole: require batches of the shape of their plan.
        smaller: the batches have fewer clips than their plans, and one value for each clip.

    Raises:
        RuntimeError: a batch has a wrong shape, or the number of batches differs from the number of plans.
    """
    base, shm = _memory("VmRSS"), _shm_bytes()
    for batch in islice(batches, job.warm):
        touch(batch)
    del batch
    shm_peak, count, first, wait = _shm_bytes(), 0, None, 0.0
    cpu, busy = _cpu_seconds(), machine_seconds()
    began = before = time.perf_counter()
    for plan, batch in zip(job.plans, batches, strict=True):
        wait += time.perf_counter() - before
        if whole and tuple(batch.shape) != (len(plan), 3, *plan.shape[1:]):
            raise RuntimeError(f"batch has shape {tuple(batch.shape)}, expected that of {plan}")
        touch(batch)
        shm_peak = max(shm_peak, _shm_bytes())
        if first is None:
            first = batch[:_COMPARED].clone()
        count += len(batch) if smaller else len(plan)
        # read the peaks of the child processes while they are running
        peaks = [_memory("VmHWM", child) for child in _descendants()]
        cpu_now = _cpu_seconds()
        before = time.perf_counter()
    seconds = time.perf_counter() - began
    others = machine_seconds() - busy - (_cpu_seconds() - cpu)
    own = _memory("VmHWM")
    return {
        "clips": count,
        "seconds": seconds,
        "clips_per_s": count / seconds,
        "cpu_ms_per_clip": 1000 * (cpu_now - cpu) / count,
        "wait_share": wait / seconds,
        "others": max(0.0, others) / seconds / len(os.sched_getaffinity(0)),
        "rss_mb": (own + sum(peaks)) / MB,
        "extra_mb": (own - base + sum(max(0, peak - base) for peak in peaks)) / MB,
        "shm_mb": (shm_peak - shm) / MB,
        "off": _distance(first, job) if compare and first is not None else None,
    }


def touch(batch: Tensor) -> float:
    """Read one value of each page, as a copy to a device would."""
    flat = batch.detach().reshape(-1)
    return float(flat[:: max(1, PAGE // flat.element_size())].double().sum())


def _memory(field: str, pid: int | str = "self") -> int:
    """Return a field of /proc/<pid>/status in bytes; unlike ru_maxrss it excludes the parent process."""
    try:
        match = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):  # the process has just ended
        return 0
    return int(match[1]) * 1024 if match else 0


def _descendants(pid: int | str = "self") -> list[int]:
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            numbers = [int(number) for number in children.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for number in numbers:
            found += [number, *_descendants(number)]
    return found


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process, its running descendants, and the descendants that it has waited for."""
    total = time.process_time()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total += ended.ru_utime + ended.ru_stime
    for child in _descendants():
        try:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def machine_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used, or that its host took from it."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _shm_bytes() -> int:
    state = os.statvfs("/dev/shm")
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _distance(first: Tensor, job: Job) -> float:
    """Return the mean distance in gray levels from whole frames, cropped and resized with an antialiasing bilinear
    filter."""
    plan = job.plans[0]
    std, mean = (torch.tensor(values).view(3, 1, 1, 1) for values in (job.std, job.mean))
    distances = []
    for clip, pixels in enumerate(first):
        left, top, across, down, mirrored = crop_box(plan.matrices[clip], plan.height, plan.width)
        frames = FrameDatabase(job.data[int(plan.videos[clip])].path).decode(plan.frames[clip])
        crop = frames[:, top : top + down, left : left + across].permute(0, 3, 1, 2).float()
        exact = F.interpolate(crop, (plan.height, plan.width), mode="bilinear", antialias=True).permute(1, 0, 2, 3)
        if mirrored:
            exact = exact.flip(-1)
        levels = pixels.float() if pixels.dtype == torch.uint8 else (pixels * std + mean) * 255
        distances.append(float((levels - exact).abs().mean()))
    return float(np.mean(distances))
