"""Means over a batch that several processes share.

A mean is a sum over a count. Where each process has a part of a batch, it divides its sum by the mean of the processes'
counts: the mean of the processes' losses, and of their gradients, is then the loss of the whole batch, however unequal
the parts are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

__all__ = ["batch_mean", "divisor", "shared_batch"]

_over_processes: ContextVar[Callable[[Tensor], Tensor] | None] = ContextVar("_over_processes", default=None)


@contextmanager
def shared_batch(mean: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Losses within are of a process's part of a batch; all processes must compute the same ones in the same order.

    Args:
        mean: from a process's tensor to the mean over all processes, without gradient.
    """
    token = _over_processes.set(mean)
    try:
        yield
    finally:
        _over_processes.reset(token)


def batch_mean(value: Tensor) -> Tensor:
    """The mean over the processes that share a batch, without gradient; the value itself where none do."""
    mean = _over_processes.get()
    return value if mean is None else mean(value.detach())


def divisor(count: Tensor) -> Tensor:
    """What a sum is divided by to be a mean over `count` things of this process's part; 1 where there are none.

    Args:
        count: (), how many, or the sum of their weights.
    """
    shared = batch_mean(count.float() if not count.is_floating_point() else count)
    return shared.where(shared > 0, 1)
