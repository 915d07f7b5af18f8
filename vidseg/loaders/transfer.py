"""Copies of batches to a device, made ahead of their use in the loader's thread."""

from __future__ import annotations

import torch

from vidseg.loaders.batch import ClipBatch

__all__ = ["DeviceCopies", "resolve_device"]


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


class DeviceCopies:
    """Copies batches to one device, on a CUDA stream of its own.

    Args:
        device: target device, with an index if it is a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, batch: ClipBatch) -> ClipBatch:
        """Copy a batch in the calling thread; returns when the copy is complete.

        The batch in host memory stays referenced until then: its memory is reused as soon as it is not.
        """
        if self._stream is None:
            return batch.to(self.device)
        with torch.cuda.stream(self._stream):
            moved = batch.to(self.device, non_blocking=True)
        self._stream.synchronize()  # blocks the loader's thread only
        return moved

    def hand_over(self, batch: ClipBatch) -> None:
        """Prepare a copied batch for the current stream of the calling thread.

        The memory was allocated on the stream of the copies. Without this, the allocator could give it to the next copy
        while kernels on the consumer's stream still read it.
        """
        if self._stream is not None:
            for tensor in batch.tensors.values():
                tensor.record_stream(torch.cuda.current_stream(self.device))
