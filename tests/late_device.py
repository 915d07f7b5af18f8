"""A device whose copies are late: it stands for a GPU in tests of the copies to it, on machines without one.

As on a GPU, a copy from page-locked memory reads it when the copy is executed, not when it is queued. Here that is when
a consumer waits for an event after the copy, or some events later.
"""

import threading
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vidseg.loaders import transfer
from vidseg.loaders.transfer import CopyStream

META = torch.device("meta")
"""Name of the device for loaders; the copies themselves are in host memory, so that tests can read them."""


@dataclass(eq=False)
class _Block:
    memory: np.ndarray
    lent: bool = False
    copies: int = 0

    @property
    def address(self) -> int:
        return self.memory.ctypes.data


class PageLockedMemory:
    """An allocator of page-locked memory, as torch's: a block is free without a tensor and without a queued copy.

    Args:
        counts_copies: False: a block is free as soon as its tensor is deleted, queued copies or not.
    """

    def __init__(self, *, counts_copies: bool = True):
        self.counts_copies = counts_copies
        self._blocks: list[_Block] = []
        self._lock = threading.RLock()

    def empty(self, *shape, dtype=None) -> Tensor:
        made = torch_empty(*shape, dtype=dtype, device="meta")
        size = made.numel() * made.element_size()
        with self._lock:
            free = (
                block
                for block in self._blocks
                if len(block.memory) == size and not block.lent and not (self.counts_copies and block.copies)
            )
            block = next(free, None)
            if block is None:
                block = _Block(np.zeros(size, np.uint8))
                self._blocks.append(block)
            block.lent = True
        lease = block.memory[:]
        weakref.finalize(lease, setattr, block, "lent", False).atexit = False
        return torch.from_numpy(lease).view(made.dtype).view(made.shape)

    def block(self, tensor: Tensor) -> _Block | None:
        """The block of a page-locked tensor."""
        address = tensor.data_ptr()
        with self._lock:
            return next(
                (b for b in self._blocks if b.address <= address < b.address + max(1, len(b.memory))),
                None,
            )

    def install(self, monkeypatch) -> "PageLockedMemory":
        """Take the place of torch's allocator."""

        def empty(*shape, pin_memory=False, dtype=None, **options):
            return self.empty(*shape, dtype=dtype) if pin_memory else torch_empty(*shape, dtype=dtype, **options)

        def zeros(*shape, pin_memory=False, dtype=None, **options):
            return (
                self.empty(*shape, dtype=dtype).zero_() if pin_memory else torch_zeros(*shape, dtype=dtype, **options)
            )

        def full(shape, value, *, pin_memory=False, dtype=None, **options):
            made = torch_full(shape, value, dtype=dtype, **options)
            return self.empty(shape, dtype=made.dtype).copy_(made) if pin_memory else made

        for name, function in {"empty": empty, "zeros": zeros, "full": full}.items():
            monkeypatch.setattr(torch, name, function)
        return self


torch_empty, torch_zeros, torch_full = torch.empty, torch.zeros, torch.full


@dataclass
class _Copy:
    source: np.ndarray | Tensor
    block: _Block | None
    out: Tensor

    def run(self) -> None:
        source = self.source
        if isinstance(source, np.ndarray):
            source = torch.from_numpy(source.copy()).view(self.out.dtype).view(self.out.shape)
        self.out.copy_(source)
        if self.block is not None:
            self.block.copies -= 1


@dataclass(eq=False)
class LateStream(CopyStream):
    """Copies that are executed when a consumer waits for their event, and hold another number before.

    Args:
        memory: page-locked memory; other memory is read at once, as CUDA does.
        slow: number of events by which the copies lag behind.
        waits: False: a consumer that does not wait.
    """

    memory: PageLockedMemory
    slow: int = 0
    waits: bool = True
    types: list[torch.dtype] = field(default_factory=list)
    """Types of the copied tensors."""
    kept: list[Tensor] = field(default_factory=list)
    """Copies that a consumer has kept for its stream."""

    def __post_init__(self):
        self._queue: deque[tuple[int, _Copy]] = deque()
        self._queued, self._waited = 0, deque(maxlen=self.slow + 1)
        self._lock = threading.Lock()

    def install(self, monkeypatch) -> "LateStream":
        """Take the place of the stream of every device."""
        monkeypatch.setattr(transfer, "make_copy_stream", lambda device: self)
        return self

    def copy(self, tensor: Tensor) -> Tensor:
        assert tensor.is_contiguous()
        out = (
            torch.ones_like(tensor) if tensor.dtype is torch.bool else torch_full(tensor.shape, 77, dtype=tensor.dtype)
        )
        block, source = self.memory.block(tensor), tensor.clone()
        if block is not None:
            block.copies += 1
            start = tensor.data_ptr() - block.address
            source = block.memory[start : start + tensor.numel() * tensor.element_size()]
        with self._lock:
            self._queued += 1
            self._queue.append((self._queued, _Copy(source, block, out)))
            self.types.append(tensor.dtype)
        return out

    def record(self) -> int:
        with self._lock:
            return self._queued

    def hand_over(self, event: int, tensors: Iterable[Tensor]) -> None:
        self.kept += tensors
        if self.waits:
            self._waited.append(event)
            if len(self._waited) > self.slow:
                self._run(self._waited[0])

    def finish(self) -> None:
        """Execute all copies that a consumer waits for, as reading a value on the host does."""
        if self._waited:
            self._run(self._waited[-1])

    def _run(self, event: int) -> None:
        with self._lock:
            while self._queue and self._queue[0][0] <= event:
                self._queue.popleft()[1].run()
