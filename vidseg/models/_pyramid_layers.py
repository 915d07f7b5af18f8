"""Layers of the detection networks that predict a segment at every point of a feature pyramid.

`vidseg.models._pyramid` describes the pyramid and its two modes of padding.
"""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ChannelNorm",
    "Convolution",
    "Level",
    "PaddingMode",
    "StochasticDepth",
    "convolve",
    "max_pool",
    "residual_scale",
]

PaddingMode = Literal["exact", "published"]

Level = tuple[Tensor, Tensor | None]
"""Map (B, C, L) of a level and its padding: bool (B, 1, L), True on padded columns; None: no column is padding."""

_EPS = 1e-5
"""Value added to the variance in normalizations."""


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of each column of (B, C, L)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centered = wide - wide.mean(dim=1, keepdim=True)
        scale = (centered.square().mean(dim=1, keepdim=True) + _EPS).rsqrt()
        return torch.addcmul(self.bias, centered * scale, self.weight).to(x.dtype)

    def by_rows(self, x: Tensor) -> Tensor:
        """Apply the normalization to (B, L, C)."""
        weight = self.weight.flatten()
        return F.layer_norm(x, weight.shape, weight, self.bias.flatten(), _EPS)


class Convolution(nn.Module):
    """Convolution under the published name `conv`, with zeros outside the sequence.

    Args:
        inputs: number of input channels.
        outputs: number of output channels.
        kernel: kernel size, odd.
        groups: groups of channels.
        bias: initial bias; None: no bias.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, bias: float | None = None):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias is not None)
        if bias is not None and self.conv.bias is not None:
            nn.init.constant_(self.conv.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class StochasticDepth(nn.Module):
    """Learned scale of each channel of a residual branch, which is dropped for whole videos in training.

    Sources: stochastic depth, arXiv 1603.09382; scale, arXiv 2103.17239. Other videos are multiplied by
    1 / (1 - probability). The random numbers come from PyTorch's default generator of the device.

    Args:
        channels: C.
        probability: of dropping the branch, from 0 to below 1.
    """

    def __init__(self, channels: int, probability: float):
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path={probability} must be at least 0 and below 1")
        self.scale = nn.Parameter(torch.full((1, channels, 1), 1e-4))
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if not self.training or not self.probability:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.probability
        return x * (kept / (1 - self.probability)).to(x.dtype)


def residual_scale(channels: int, probability: float) -> nn.Module:
    """Return the stochastic depth of a residual branch; without parameters, as published, if the probability is 0."""
    return StochasticDepth(channels, probability) if probability else nn.Identity()


def max_pool(x: Tensor, padding: Tensor | None, *, dim: int, exact: bool) -> Tensor:
    """Halve the length by the maximum over three columns.

    Args:
        x: (B, C, L), or (B, L, C) with dim=1; L is even.
        padding: bool (B, 1, L) or (B, L, 1), True on padded columns, or None.
        dim: dimension of L.
        exact: exclude padded columns from the maximum. False: use their values, as the published code does.

    Returns:
        Column i is the maximum over columns 2 i - 1 to 2 i + 1; -inf if `exact` and all three are padding.
    """
    if exact and padding is not None:
        x = x.masked_fill(padding, -torch.inf)
    pairs = x.unflatten(dim, (-1, 2))
    left, right = pairs.unbind(dim=dim + 1)
    both = torch.maximum(left, right)
    count = both.shape[dim]
    # Elementwise operators are several times as fast as max_pool1d, in the backward pass above all.
    rest = torch.maximum(both.narrow(dim, 1, count - 1), right.narrow(dim, 0, count - 1))
    return torch.cat([both.narrow(dim, 0, 1), rest], dim=dim)


def convolve(
    x: Tensor,
    convolutions: Iterable[nn.Module],
    norms: Iterable[nn.Module],
    *,
    after: Tensor | None,
    last: Tensor | None,
) -> Tensor:
    """Apply convolution, normalization and ReLU several times.

    Args:
        x: (B, C, J).
        convolutions: modules that return (B, C, J).
        norms: as many as there are convolutions.
        after: bool mask of columns that are set to zero after the convolution.
        last: bool mask of columns that are zero in the result.
    """
    for convolution, norm in zip(convolutions, norms, strict=True):
        x = convolution(x)  # no backward pass reads what is overwritten here
        x = norm(x if after is None else x.masked_fill_(after, 0))
        x = F.relu_(x if last is None else x.masked_fill_(last, 0))
    return x
