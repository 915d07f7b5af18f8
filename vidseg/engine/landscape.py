"""Loss around the weights of a network, along random directions with normalized filters.

"Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018, arXiv 1712.09913, section 4: each filter of a direction
is scaled to the norm of the network's filter, and biases and parameters of norms do not move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

__all__ = ["Landscape", "filter_direction", "loss_landscape"]


@dataclass(frozen=True)
class Landscape:
    """Loss on a grid of weights.

    Attributes:
        steps: float64 (P,), multiples of the directions, from -span to span.
        losses: float64 (P,) along one direction, or (P, P) with rows of the second and columns of the first direction.
        center: loss of the network itself.
    """

    steps: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]
    center: float


def filter_direction(model: nn.Module, *, seed: int) -> dict[str, Tensor]:
    """Return a random direction with the filter norms of a network.

    Args:
        model: network whose parameters give shapes and norms.
        seed: seed of the normal distribution; the direction depends on it and on the parameters' names alone.

    Returns:
        Name -> tensor of the parameter's shape, for the parameters with two or more dimensions. A filter is an entry of
        the first dimension.
    """
    found = {}
    for place, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.dim() < 2 or not parameter.is_floating_point():
            continue
        generator = torch.Generator().manual_seed((seed * 1_000_003 + place) % 2**63)
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        filters, weights = direction.flatten(1), parameter.detach().double().cpu().flatten(1)
        scale = weights.norm(dim=1, keepdim=True) / filters.norm(dim=1, keepdim=True).clamp(min=1e-10)
        found[name] = (filters * scale).reshape(parameter.shape).to(parameter)
    return found


def loss_landscape(
    model: nn.Module,
    loss: Callable[[], float],
    *,
    points: int = 11,
    span: float = 1.0,
    dimensions: int = 2,
    seed: int = 0,
    progress: Callable[[], None] | None = None,
) -> Landscape:
    """Compute the loss on a grid around the weights; the weights are the same bits afterwards, also after an error.

    Args:
        model: network that `loss` evaluates.
        loss: computes the loss of the model with its present weights, on the same samples in each call.
        points: points along each direction, odd, so that the network itself is one of them.
        span: largest multiple of a direction; at 1, the change of a filter has the norm of the filter.
        dimensions: 1 or 2 directions.
        seed: seed of the directions.
        progress: called after each point.

    Raises:
        ValueError: an even number of points or fewer than 3, a span that is not positive, or other dimensions.
    """
    if points < 3 or points % 2 == 0 or not span > 0 or dimensions not in (1, 2):
        raise ValueError(
            f"points={points}, span={span}, dimensions={dimensions}: expected an odd number of points of at least 3, a "
            "positive span, and 1 or 2 dimensions"
        )
    directions = [filter_direction(model, seed=2 * seed + number) for number in range(dimensions)]
    moved = {name: parameter for name, parameter in model.named_parameters() if name in directions[0]}
    if not moved:
        raise ValueError(f"{type(model).__name__} has no weights with filters to move")
    kept = {name: parameter.detach().clone() for name, parameter in moved.items()}
    steps = np.linspace(-span, span, points)
    losses = np.empty((points,) * dimensions)
    try:
        for place in np.ndindex(*losses.shape):
            multiples = [float(steps[index]) for index in reversed(place)]  # the first direction along the columns
            with torch.no_grad():
                for name, parameter in moved.items():
                    value = kept[name]
                    for multiple, direction in zip(multiples, directions, strict=True):
                        value = value + multiple * direction[name]
                    parameter.copy_(value)
            losses[place] = loss()
            if progress is not None:
                progress()
    finally:
        with torch.no_grad():
            for name, parameter in moved.items():
                parameter.copy_(kept[name])
    return Landscape(steps, losses, float(losses[(points // 2,) * dimensions]))
