"""Memory of batches, reused when no tensor refers to the batch any more.

A batch can have hundreds of megabytes. Allocating new memory of that size takes about as long as decoding the batch,
because the kernel zeroes each page at its first use. New memory uses huge pages where the kernel supports them.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import time
import weakref
from collections import deque
from functools import partial

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchMemory"]

_HUGE = 4 * 2**20  # bytes from which huge pages are used; smaller blocks would waste part of a page
_KEPT = 3  # largest number of free blocks
_MOST = 2**30  # bytes of batches in use above which `empty` waits for a block to become free
_PATIENCE = 0.05  # longest wait, seconds


class BatchMemory:
    """Allocates tensors whose memory is reused after the last tensor that shares it is deleted.

    Thread-safe.

    Args:
        pin: allocate page-locked memory, for asynchronous copies to a GPU; torch reuses it.
    """

    def __init__(self, *, pin: bool = False) -> None:
        self.pin = pin
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)
        self._lent: dict[int, int] = {}  # bytes of the blocks in use, by id()

    def __reduce__(self) -> tuple[partial[BatchMemory], tuple[()]]:
        return partial(BatchMemory, pin=self.pin), ()  # another process begins with no memory

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return an uninitialized tensor."""
        if self.pin:
            # torch's own allocator of page-locked memory: it reuses a block only when the copies from it that are
            # queued on a device have run. A block of ours would be free as soon as Python drops the tensor.
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        # A training loop deletes a batch shortly after it gets the next one, so that two large blocks are enough.
        deadline = time.monotonic() + _PATIENCE
        while self._lent and sum(list(self._lent.values())) + size > _MOST and time.monotonic() < deadline:
            time.sleep(0.001)
        block = self._take(size)
        self._lent[id(block)] = len(block)
        lease = block[:size]  # a separate object, which the tensor keeps alive
        weakref.finalize(lease, self._give_back, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

    def _give_back(self, block: np.ndarray) -> None:
        self._lent.pop(id(block), None)
        self._free.append(block)

    def _take(self, size: int) -> np.ndarray:
        """Return a free block that is large enough, or a new one in place of a free block that is too small."""
        small: list[np.ndarray] = []
        while True:
            try:
                block = self._free.popleft()
            except IndexError:
                break
            if len(block) >= size:
                self._free.extend(small)
                return block
            small.append(block)
        self._free.extend(small[1:])
        return self._allocate(max(size, 1))

    @staticmethod
    def _allocate(size: int) -> np.ndarray:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # the kernel has no huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(memory, np.uint8)

    def clear(self) -> None:
        """Free the unused blocks."""
        self._free.clear()
