"""Stage of a network: a sequence of blocks with optional activation checkpointing."""

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
    """`nn.Sequential` with optional activation checkpointing of its blocks.

    With checkpointing, only the input of each block is stored for the backward pass, which recomputes the block with
    the same random numbers and without updating the running statistics of norms. Results do not change.
    """

    checkpointing = False
    """Whether to use checkpointing; no effect without gradients."""

    def forward(self, x: Any) -> Any:
        """Apply all blocks in order; `x` is a tensor or whatever the blocks take."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return super().forward(x)
        for block in self:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
        return x


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """Return the context of the forward pass and that of the recomputation."""
    return nullcontext(), _constant_statistics(block)


@contextmanager
def _constant_statistics(block: nn.Module) -> Iterator[None]:
    """Suspend the update of running statistics; norms stay in training mode."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms if norm.track_running_stats]
    for norm, _, _ in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
