"""Batches on a device: each is copied while the consumer computes on the one before it.

The rules, for every loader:

1. Copies run on a stream of their own, beside the consumer's kernels. An event after the copies of a batch is recorded
   on that stream, and the consumer's stream waits for the event. The host waits for neither.
2. Page-locked memory is that of torch's caching host allocator (`vidseg.loaders.memory`). It notes each copy from a
   block and reuses the block only after the copy has run, also if the tensor was deleted long before.
3. The copies are allocated on the stream of the copies and used on the consumer's stream. `record_stream` keeps the
   allocator from reusing their memory before the consumer's kernels have run.
4. Clips are copied as uint8 and normalized on the device: a quarter of the bytes of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from vidseg.loaders.batch import FieldAccess
from vidseg.loaders.prefetch import Prefetcher

__all__ = [
    "CopyStream",
    "CudaCopyStream",
    "DevicePrefetcher",
    "copies_to",
    "copy_ahead",
    "make_copy_stream",
    "prefetch_to",
    "resolve_device",
]

BatchType = TypeVar("BatchType", bound=FieldAccess)


def resolve_device(device: torch.device | str) -> torch.device:
    """Return the device with its index, so that it is the same device in every thread.

    Raises:
        ValueError: no device has this name, or this machine does not have it.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not the name of a device; give cpu, cuda or cuda:1") from error
    if found.type in ("cpu", "meta"):
        return found
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator is not None and accelerator.type == found.type else 0
    if count <= (found.index or 0):
        present = f"{count} {found.type} device{'' if count == 1 else 's'}"
        raise ValueError(f"device={str(device)!r}: torch finds {present} on this machine; use another one or 'cpu'")
    if found.index is None:
        return torch.device(found.type, torch.accelerator.current_device_index())
    return found


def copies_to(device: torch.device | None) -> bool:
    """Return whether batches for this `device` of a loader are copied: it is neither None nor the CPU."""
    return device is not None and device.type != "cpu"


def copy_ahead(loader: Any, device: torch.device) -> None:
    """Let a loader of this package without a device of its own copy its batches to the device of a model.

    Other loaders, and batches for the CPU, stay as they are.
    """
    if copies_to(device) and hasattr(loader, "set_device") and loader.device is None:
        loader.set_device(device)


class CopyStream:
    """Copies to a device without streams: each is complete when `copy` returns.

    Args:
        device: target device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def copy(self, tensor: Tensor) -> Tensor:
        """Start to copy a tensor; returns the copy, whose values are those of `tensor` at the time of the call."""
        return tensor.to(self.device)

    def record(self) -> Any:
        """Return an event after all copies so far."""
        return None

    def hand_over(self, event: Any, tensors: Iterable[Tensor]) -> None:
        """Make copies usable on the current stream of the calling thread, without waiting on the host.

        Args:
            event: result of `record` after the copies.
            tensors: the copies.
        """


class CudaCopyStream(CopyStream):
    """Copies on a CUDA stream of their own.

    Args:
        device: a CUDA device, with its index.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)

    def copy(self, tensor: Tensor) -> Tensor:
        # From pageable memory, CUDA reads the values before it returns. From page-locked memory it reads them later.
        with torch.cuda.stream(self._stream):
            return tensor.to(self.device, non_blocking=True)

    def record(self) -> torch.cuda.Event:
        event: torch.cuda.Event = self._stream.record_event()
        return event

    def hand_over(self, event: torch.cuda.Event, tensors: Iterable[Tensor]) -> None:
        consumer = torch.cuda.current_stream(self.device)
        consumer.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(consumer)


def make_copy_stream(device: torch.device) -> CopyStream:
    """Return the stream for copies to a device."""
    return CudaCopyStream(device) if device.type == "cuda" else CopyStream(device)


class DevicePrefetcher(Generic[BatchType]):
    """Iterates over batches on a device; the next batch is copied while the consumer uses the current one.

    One batch is copied ahead, in a background thread, so the device holds two batches. The order is that of `batches`.
    An error is raised in place of the batch that it prevented. Leaving the iteration, or `close`, ends the thread.

    Args:
        batches: batches in host memory; iterated over in the thread.
        count: number of batches to take.
        device: target device.
        finish: computes the final batch from a copied one, on the consumer's stream, such as a normalization. None: the
            copied batch itself.
        cancel: makes a running `next(batches)` return or raise early; `close` calls it.
    """

    def __init__(
        self,
        batches: Iterator[BatchType],
        *,
        count: int,
        device: torch.device,
        finish: Callable[[BatchType], BatchType] | None = None,
        cancel: Callable[[], object] = lambda: None,
    ) -> None:
        self._batches, self._finish, self._cancel = batches, finish, cancel
        self._stream = make_copy_stream(device)
        # With a limit of 0 bytes, a copy starts as soon as no copied batch waits for the consumer.
        self._copied = Prefetcher(self._copy, lambda _: 1, first=0, stop=count, limit=0, cancel=cancel)

    def _copy(self, _: int) -> tuple[BatchType, Any]:
        batch = next(self._batches).map_tensors(self._stream.copy)
        return batch, self._stream.record()

    def __iter__(self) -> Iterator[tuple[BatchType, float]]:
        """Yield each batch on the device, and the time that the consumer waited for it on the host, in seconds.

        The batch is for the stream that is current in the consumer's thread at this moment.
        """
        try:
            for (batch, event), waited in self._copied:
                self._stream.hand_over(event, batch.tensors.values())
                yield (batch if self._finish is None else self._finish(batch)), waited
        finally:
            self.close()

    def close(self) -> None:
        """End the thread and the iteration over the batches in host memory."""
        self._copied.close()
        self._cancel()  # again: the thread may have ended before it took a batch, so that nothing else ends their maker
        if not getattr(self._batches, "gi_running", True):  # a generator that this thread is not in itself
            self._batches.close()  # type: ignore[attr-defined]


def prefetch_to(
    device: torch.device | None,
    filling: Prefetcher[BatchType],
    *,
    count: int,
    finish: Callable[[BatchType], BatchType] | None = None,
) -> Prefetcher[BatchType] | DevicePrefetcher[BatchType]:
    """Return the batches of `filling` on a loader's device; `filling` itself if they stay in host memory.

    Args:
        device: device of the loader; None is host memory.
        filling: batches in host memory.
        count: their number.
        finish: see `DevicePrefetcher`.
    """
    if device is None or not copies_to(device):
        return filling
    batches = (batch for batch, _ in filling)
    return DevicePrefetcher(batches, count=count, device=device, finish=finish, cancel=filling.close)
