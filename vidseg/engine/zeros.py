"""Training of sparse weights: those that are zero stay zero."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["keep_zeros"]


def keep_zeros(model: nn.Module) -> int:
    """Give weights that are zero no gradient, so that every optimizer leaves them at zero.

    Only matrices and kernels count: biases and scales that are zero train on.

    Args:
        model: network; the hooks stay as long as it does.

    Returns:
        The number of weights that stay zero.
    """
    count = 0
    for parameter in model.parameters():
        if parameter.dim() < 2 or not parameter.requires_grad:
            continue
        kept = parameter.detach() != 0
        zeros = kept.numel() - int(kept.sum())
        if zeros:
            count += zeros
            parameter.register_hook(_masked(kept))
    return count


def _masked(kept: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * kept
