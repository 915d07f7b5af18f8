"""Memory of batches, used again when nobody holds the batch any more.

A batch is some hundred megabytes. Fresh memory of that size costs the kernel about as much time as decoding does: it
hands out zeroed pages one by one, and takes them back when the batch is dropped.
"""

import math
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

__all__ = ["BatchMemory"]

_KEPT = 3  # blocks that wait for their next use: the loader rarely needs more at once


class BatchMemory:
    """Hands out tensors whose memory comes back by itself when the last tensor that shares it is gone.

    Safe for use by several threads.

    Args:
        pin: page-locked memory, for asynchronous copies to a GPU.
    """

    def __init__(self, *, pin: bool = False) -> None:
        self.pin = pin
        self._free: deque[np.ndarray] = deque(maxlen=_KEPT)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor with undefined content."""
        size = math.prod(shape) * dtype.itemsize
        block = self._take(size)
        lease = block[:size]  # an object of its own, which the tensor keeps alive
        weakref.finalize(lease, self._free.append, block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

    def _take(self, size: int) -> np.ndarray:
        """A free block that is large enough, or a new one instead of one that is too small."""
        small = []
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
        return torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=self.pin).numpy()

    def clear(self) -> None:
        """Give the free blocks back to the system."""
        self._free.clear()
