"""Order of samples, their division among processes, and loading ahead: what loaders of whole videos have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from vidseg.clips.draws import permutation
from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.transfer import DevicePrefetcher, copies_to, resolve_device

__all__ = ["SampleLoader"]

Loaded = TypeVar("Loaded")
Batch = TypeVar("Batch", bound=FieldAccess)

_AHEAD = 2  # batches


class SampleLoader(ABC, Generic[Loaded, Batch]):
    """Batches of numbered samples, loaded ahead by threads.

    For training, samples are shuffled and an incomplete last batch is dropped, unless it is the only one. One iteration
    is one epoch. The next iteration is the next epoch, unless `set_epoch` chooses another. The content of a sample is a
    function of (seed, epoch, sample number): it does not depend on batch size, threads or ranks.

    Args:
        batch_size: B over all ranks, a multiple of `world_size`.
        train: shuffle, and drop incomplete batches.
        seed: seed of the order and of what a sample draws.
        rank: index of this process.
        world_size: number of processes, which divide each batch. All have the same number of batches of the same size:
            for evaluation, samples that are not valid pad the last batch.
        threads: number of loading threads.
        pin: allocate batches in page-locked memory. None: where CUDA is available.
        device: copy batches to this device, one batch ahead of their use. None leaves them in host memory.

    Raises:
        ValueError: an argument out of range, or no such device.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        train: bool,
        seed: int,
        rank: int,
        world_size: int,
        threads: int,
        pin: bool | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if min(batch_size, world_size, threads) < 1:
            raise ValueError(
                f"batch_size={batch_size}, world_size={world_size} and threads={threads} must be at least 1"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} of world_size={world_size}: ranks count from 0")
        if batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size} is over all ranks: make it a multiple of world_size={world_size}"
            )
        self.batch_size, self.train, self.seed = batch_size, train, seed
        self.rank, self.world_size, self.threads = rank, world_size, threads
        self.pin = torch.cuda.is_available() if pin is None else pin
        self.device = None if device is None else resolve_device(device)
        self.epoch, self._position, self._resume = 0, 0, 0

    @property
    @abstractmethod
    def sample_count(self) -> int:
        """Number of samples of an epoch, over all ranks."""

    @abstractmethod
    def load_sample(self, number: int, epoch: int, valid: bool) -> Loaded:
        """Load one sample; called by several threads.

        Args:
            number: of the sample.
            epoch: from 0.
            valid: False for a sample that only pads the batch of a rank.
        """

    @abstractmethod
    def make_batch(self, numbers: list[int], loaded: list[Loaded]) -> Batch:
        """Return the batch of loaded samples with these numbers."""

    def __len__(self) -> int:
        """Number of batches of an epoch, the same for all ranks."""
        full, rest = divmod(self.sample_count, self.batch_size)
        return full + (rest > 0 and not (self.train and full > 0))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration; keeps a position of `load_state_dict` in the same epoch."""
        if epoch != self.epoch:
            self.epoch, self._position, self._resume = epoch, 0, 0

    def set_device(self, device: torch.device | str | None) -> None:
        """Copy batches to another device from the next iteration on, see `device`.

        Raises:
            ValueError: there is no such device.
        """
        self.device = None if device is None else resolve_device(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the iteration: after the batch that was yielded last."""
        return {"epoch": self.epoch, "batch": self._position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the iteration at the position of a state; the batches before it are not loaded.

        Raises:
            ValueError: the state is of another seed, data set or batch size.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"the state has {name}={state.get(name)}, this loader {value}: the batches would differ"
                )
        self.epoch, self._position, self._resume = int(state["epoch"]), int(state["batch"]), int(state["batch"])

    def _identity(self) -> dict[str, int]:
        return {"seed": self.seed, "samples": self.sample_count, "batch_size": self.batch_size}

    def __iter__(self) -> Iterator[Batch]:
        epoch, first, self._resume = self.epoch, self._resume, 0
        plan = self._plan(epoch)
        self._position = first
        batches: Generator[Batch, None, None] = self._batches(plan, epoch, first)
        if self.device is not None and copies_to(self.device):
            copied = DevicePrefetcher(batches, count=len(plan) - first, device=self.device)
            batches = (batch for batch, _ in copied)
        with closing(batches):
            for given, batch in enumerate(batches, first):
                self._position = given + 1
                yield batch
        self.epoch, self._position = epoch + 1, 0

    def _batches(self, plan: list[list[tuple[int, bool]]], epoch: int, first: int) -> Generator[Batch, None, None]:
        """Load the batches of an epoch in host memory, from batch `first` on."""
        waiting: deque[list[Future[Loaded]]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="samples")
        try:
            for turn in range(first, len(plan) + _AHEAD):
                if turn < len(plan):
                    waiting.append([pool.submit(self.load_sample, number, epoch, real) for number, real in plan[turn]])
                if turn >= first + _AHEAD:
                    loaded = [future.result() for future in waiting.popleft()]
                    yield self.make_batch([number for number, _ in plan[turn - _AHEAD]], loaded)
        finally:
            pool.shutdown(cancel_futures=True)

    def _plan(self, epoch: int) -> list[list[tuple[int, bool]]]:
        """For each batch of this rank, its sample numbers and whether each is valid."""
        count = self.sample_count
        order = permutation(self.seed, epoch, count) if self.train else np.arange(count)
        batches = []
        for turn in range(len(self)):
            together = order[turn * self.batch_size : (turn + 1) * self.batch_size].tolist()
            mine = [(number, True) for number in together[self.rank :: self.world_size]]
            missing = math.ceil(len(together) / self.world_size) - len(mine)
            batches.append(mine + [(together[0], False)] * missing)
        return batches
