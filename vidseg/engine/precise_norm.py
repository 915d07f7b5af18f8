"""Precise batch norm: statistics averaged over many batches with the weights as they are (Wu and Johnson,
"Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3).

The running averages of training lag behind the weights, and with multigrid they come from clips of other shapes than
those of the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vidseg.engine.distributed import mean_over_group

__all__ = ["renew_statistics"]


def renew_statistics(
    model: nn.Module,
    loader: Iterable[Any],
    batches: int,
    *,
    device: torch.device | str = "cpu",
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    forward: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch.inputs),
) -> int:
    """Replace the running statistics of every batch norm by the mean over batches, and over all processes.

    Args:
        model: its mode is restored; only the statistics change.
        loader: training batches; the first `batches` of them are used.
        batches: number of batches, at least 1.
        device: device of the model.
        context: made around each forward pass, such as an autocast.
        forward: runs the model on a batch.

    Returns:
        Number of batches seen; 0 for a model without batch norm.

    Raises:
        ValueError: the loader has no batch.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in norms]
    model.eval()
    for layer in norms:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
    seen = 0
    try:
        with torch.no_grad():
            for batch in islice(loader, batches):
                with context():
                    forward(model, batch.to(device))
                seen += 1
        if seen == 0:
            raise ValueError("the loader has no batch to take the statistics of batch norm from")
        statistics = [value for layer in norms for value in (layer.running_mean, layer.running_var)]
        mean_over_group([value for value in statistics if value is not None])
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training
    return seen
