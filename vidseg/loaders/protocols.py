"""What a training loop needs of a loader and its batches. `ClipLoader`, `FeatureLoader`, `StreamLoader` satisfy it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Batch", "Loader"]

BatchType = TypeVar("BatchType", bound="Batch", covariant=True)


@runtime_checkable
class Batch(Protocol):
    """Samples that a model processes together."""

    @property
    def inputs(self) -> Tensor:
        """The tensor that the network is called with, batch dimension first; the first one if it takes several."""
        ...

    def __len__(self) -> int:
        """Number of samples, padding included."""
        ...

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on `device`.

        Args:
            device: target device.
            non_blocking: copy asynchronously where the tensors are in page-locked memory, as `torch.Tensor.to`.
        """
        ...


@runtime_checkable
class Loader(Protocol[BatchType]):
    """Batches of one epoch per iteration, in an order that can be resumed."""

    def __iter__(self) -> Iterator[BatchType]:
        """Iterate over the rest of the current epoch; a completed iteration advances to the next epoch."""
        ...

    def __len__(self) -> int:
        """Number of batches of the current epoch, those already yielded included."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, from 0; keeps a loaded position in the same epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last batch yielded."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the position of `state_dict`, without computing the batches before it.

        Raises:
            ValueError: this loader would not yield the batches of the loader that the state is from.
        """
        ...
