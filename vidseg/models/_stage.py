"""A stage of a network: blocks one after the other, whose activations can be computed again instead of kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["Stage"]


class Stage(nn.Sequential):
    """`nn.Sequential` with a switch: of each block only the input is kept for the backward pass.

    The results are the same with the switch on: the second run of a block draws the same random numbers and leaves
    the running statistics of its norms alone.
    """

    checkpointing = False
    """The switch; it matters only where gradients are wanted."""

    def forward(self, x: Any) -> Any:
        """Through all blocks in order."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
        return x


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _statistics_left_alone(block)


@contextmanager
def _statistics_left_alone(block: nn.Module) -> Iterator[None]:
    """Norms in training take nothing into their running statistics, which they must have all the same."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms if norm.track_running_stats]
    for norm, _, _ in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
