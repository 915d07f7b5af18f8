"""Heads of the detection networks that predict a segment at every point of a feature pyramid.

The heads have shared weights for all levels, which are joined into one tensor. `vidseg.models._pyramid` describes the
pyramid and its two modes of padding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._pyramid_layers import ChannelNorm, Convolution, Level, convolve
from vidseg.models._segmentation import clear_padding

__all__ = ["ClassHead", "Joined", "OffsetHead"]

_PRIOR = 0.01
"""Initial probability of each class, which keeps the first losses finite (arXiv 1708.02002, section 4.1)."""


class Joined(NamedTuple):
    """Maps of all levels in one tensor, with columns of zeros between them, so that a head needs one call."""

    x: Tensor
    """(B, C, J)."""
    outside: Tensor
    """bool (B or 1, 1, J), True on padding and between levels."""
    after: Tensor | None
    """Mask of columns that heads set to zero after a convolution, other than the last."""
    last: Tensor | None
    """Mask of columns that heads set to zero before the next convolution."""
    places: tuple[tuple[int, int], ...]
    """Start of each level among the columns, and its number of points in the output."""

    @staticmethod
    def join(levels: Sequence[Level], *, frames: int, gap: int, exact: bool) -> "Joined":
        """Join levels.

        Args:
            levels: maps (B, C, L) and their paddings.
            frames: L of the features, without the columns that the network adds.
            gap: number of columns of zeros between two levels: half the largest kernel of the heads.
            exact: whether the mode of padding is "exact".
        """
        maps, outside, between, places, start = [], [], [], [], 0
        for index, (x, padding) in enumerate(levels):
            length = x.shape[2]
            inside = torch.zeros_like(x[:1, :1], dtype=torch.bool)
            outside.append(F.pad(inside if padding is None else padding, (0, gap), value=True))
            between.append(F.pad(inside, (0, gap), value=True))
            places.append((start, (frames + 2**index - 1) // 2**index))
            start += length + gap
            maps.append(x)
        everything, gaps = torch.cat(outside, dim=2), torch.cat(between, dim=2)
        joined = torch.cat([F.pad(x, (0, gap)) for x in maps], dim=2)
        if exact:
            return Joined(clear_padding(joined, everything), everything, None, everything, tuple(places))
        return Joined(joined, everything, everything, gaps, tuple(places))

    def split(self, x: Tensor) -> list[Tensor]:
        """Return the points of each level of a head's output (..., J)."""
        return [x[..., start : start + count] for start, count in self.places]


class _Head(nn.Module):
    """Convolutions with normalization and ReLU."""

    def __init__(self, inputs: int, maps: int, *, kernel: int, layers: int):
        super().__init__()
        widths = [inputs] + [maps] * (layers - 1)
        self.head = nn.ModuleList(Convolution(width, maps, kernel) for width in widths[:-1])
        self.norm = nn.ModuleList(ChannelNorm(maps) for _ in range(layers - 1))

    def hidden(self, joined: Joined) -> Tensor:
        return convolve(joined.x, self.head, self.norm, after=joined.after, last=joined.last)


class ClassHead(_Head):
    """Class logits of every point.

    Args:
        inputs: number of channels of the levels.
        maps: number of channels of the head.
        num_classes: K.
        kernel: kernel size, odd.
        layers: number of convolutions, at least 2.
    """

    def __init__(self, inputs: int, maps: int, num_classes: int, *, kernel: int, layers: int):
        super().__init__(inputs, maps, kernel=kernel, layers=layers)
        self.cls_head = Convolution(maps, num_classes, kernel, bias=-math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, joined: Joined) -> Tensor:
        """Return logits (B, K, J), 0 on padding and between levels."""
        return clear_padding(self.cls_head(self.hidden(joined)), joined.outside)


class _Scale(nn.Module):
    """Learned factor of a level."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class OffsetHead(_Head):
    """Values of every point that are not negative, with a learned factor for each level.

    Args:
        inputs: number of channels of the levels.
        maps: number of channels of the head.
        outputs: number of values of a point.
        levels: number of levels.
        kernel: kernel size, odd.
        layers: number of convolutions, at least 2.
    """

    def __init__(self, inputs: int, maps: int, outputs: int, *, levels: int, kernel: int, layers: int):
        super().__init__(inputs, maps, kernel=kernel, layers=layers)
        self.scale = nn.ModuleList(_Scale() for _ in range(levels))
        self.offset_head = Convolution(maps, outputs, kernel, bias=0.0)

    def forward(self, joined: Joined) -> list[Tensor]:
        """Return the values (B, outputs, n) of the n points of each level, 0 on padding."""
        levels = joined.split(clear_padding(self.offset_head(self.hidden(joined)), joined.outside))
        return [F.relu(scale(x)) for scale, x in zip(self.scale, levels, strict=True)]
