"""Places for trials that run at the same time: their processor threads and GPUs."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

from vidseg.search.trial_process import Launch, Process

__all__ = ["Slots", "share_gpus"]


def share_gpus(jobs: int, present: int, each: float | None) -> list[tuple[int, ...]]:
    """Return the numbers of the GPUs of each job; several jobs may share one.

    Args:
        jobs: number of jobs.
        present: number of GPUs.
        each: GPUs of each job; None: all of them divided among the jobs.

    Raises:
        ValueError: there are fewer GPUs.
    """
    if present == 0 and each is None:
        return [()] * jobs
    wanted = each if each is not None else present / jobs
    whole = int(wanted)
    if whole >= 1:
        if jobs * whole > present:
            raise ValueError(f"{jobs} jobs with {whole} GPUs each need {jobs * whole}; there are {present}")
        return [tuple(range(job * whole, (job + 1) * whole)) for job in range(jobs)]
    share = int(1 / wanted + 1e-9) if each is not None else -(-jobs // present)
    if jobs > share * present:
        raise ValueError(f"{jobs} jobs with {wanted:g} of a GPU each need more than {present} GPUs")
    return [(job // share,) for job in range(jobs)]


class Slots:
    """Places for jobs.

    Args:
        count: number of places.
        threads: processor threads of each.
        gpus: GPUs of each; None: those of this machine divided among the places.
        ray: Ray assigns the GPUs.
    """

    def __init__(self, count: int, *, threads: int, gpus: float | None = None, ray: bool = False) -> None:
        self.count, self.threads = count, threads
        self._free = list(range(count))
        self._gpus = [()] * count if ray else share_gpus(count, _present_gpus(), gpus)
        self._ray: Any = None
        if ray:
            from vidseg.search.ray_trials import RayCluster

            self._ray = RayCluster(threads=threads, gpus=gpus or 0.0)

    def __enter__(self) -> Slots:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray is not None:
            self._ray.close()

    @property
    def free(self) -> int:
        """Number of free places."""
        return len(self._free)

    @property
    def ray_process(self) -> Callable[[Launch], Process]:
        """Starts a process on the Ray cluster."""
        found: Callable[[Launch], Process] = self._ray.start
        return found

    def take(self) -> tuple[int, str | None]:
        """Take a free place; returns its number and its GPUs as CUDA_VISIBLE_DEVICES, None without a choice."""
        slot = self._free.pop(0)
        return slot, ",".join(_visible_names(self._gpus[slot])) if self._gpus[slot] else None

    def give(self, slot: int) -> None:
        """Free a place."""
        self._free.append(slot)
        self._free.sort()


def _present_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _visible_names(numbers: tuple[int, ...]) -> list[str]:
    """Names of GPUs for a child process, where this process itself sees only some of them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    return [str(number) if names is None else names[number] for number in numbers]
