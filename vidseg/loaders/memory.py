"""Memory of batches, used again when nobody holds the batch any more.

A batch is some hundred megabytes. Fresh memory of that size costs the kernel about as much time as decoding does: it
hands out zeroed pages one by one, and takes them back when the batch is dropped. New memory comes in huge pages where
the kernel has them.
"""

import contextlib
import math
import mmap
import time
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchMemory"]

_HUGE = 4 * 2**20  # bytes from which huge pages are worth their round sizes
_KEPT = 3  # blocks that wait for their next use: the loader rarely needs more at once
_MOST = 2**30  # bytes of batches in use from which a new one is worth waiting for an old one
_PATIENCE = 0.05  # seconds


class BatchMemory:
    """Hands out tensors whose memory comes back by itself when the last tensor that shares it is gone.

    Safe for use by several threads.

    Args:
        pin: page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(self, *, pin: bool = False) -> None:
        self.pin = pin
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)
        self._lent: dict[int, int] = {}  # bytes of the blocks in use, by their identity

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with undefined content."""
        size = math.prod(shape) * dtype.itemsize
        # A loop drops its last batch a moment after it has taken the next one: of large batches two are enough then.
        deadline = time.monotonic() + _PATIENCE
        while self._lent and sum(list(self._lent.values())) + size > _MOST and time.monotonic() < deadline:
            time.sleep(0.001)
        block = self._take(size)
        self._lent[id(block)] = len(block)
        lease = block[:size]  # an object of its own, which the tensor keeps alive
        weakref.finalize(lease, self._give_back, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

    def _give_back(self, block: np.ndarray) -> None:
        self._lent.pop(id(block), None)
        self._free.append(block)

    def _take(self, size: int) -> np.ndarray:
        """A free block that is large enough, or a new one instead of one that is too small."""
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

    def _allocate(self, size: int) -> np.ndarray:
        if self.pin:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages: small ones, then
                memory.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(memory, np.uint8)

    def clear(self) -> None:
        """Give the free blocks back to the system."""
        self._free.clear()
