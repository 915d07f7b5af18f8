"""Means over a batch that is split between processes.

A mean is a sum divided by a count. Each process divides its sum by the mean of the processes' counts. The mean of the
processes' losses, and of their gradients, then equals that of the whole batch for parts of any size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

__all__ = ["batch_mean", "divisor", "shared_batch"]

_over_processes: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("_over_processes", default=None)


@contextmanager
def shared_batch(mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Compute losses within the context for this process's part of a batch.

    All processes must compute the same losses in the same order.

    Args:
        mean: maps a tensor of this process to the mean over all processes, without gradient.
    """
    token = _over_processes.set(mean)
    try:
        yield
    finally:
        _over_processes.reset(token)


def batch_mean(value: Tensor) -> Tensor:
    """Return the mean over the processes that share a batch, without gradient; the value itself outside
    `shared_batch`."""
    mean = _over_processes.get()
    return value if mean is None else mean(value.detach())


def divisor(count: Tensor) -> Tensor:
    """Return the divisor that turns a sum over this process's part into a mean; 1 if the count is 0.

    Args:
        count: (), number of elements, or sum of their weights.
    """
    shared = batch_mean(count.float() if not count.is_floating_point() else count)
    return shared.where(shared > 0, 1)
