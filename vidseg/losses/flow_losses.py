"""Losses of optical-flow networks, selected by network name.

Shapes: B pairs, N iterations or levels, H, W. Every loss is a mean over the pairs of the batch, so that the mean over
processes with equal batches is the loss of the whole batch.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FLOW_LOSSES", "PyramidLoss", "SequenceLoss", "create_flow_loss"]

PYRAMID_WEIGHTS = {64: 0.32, 32: 0.08, 16: 0.02, 8: 0.01, 4: 0.005}
"""Weight of each level of PWC-Net's loss, by the ratio of the picture's side to that of the level."""
_FINEST = 4


class SequenceLoss(nn.Module):
    """Loss of RAFT: weighted sum of the mean absolute errors after each iteration.

    Iteration i of N has the weight gamma^(N - 1 - i). Pixels whose flow is not known, or longer than `max_flow`, do not
    add to the loss; the mean is over all pixels. Source: "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow"
    (Teed and Deng, ECCV 2020), section 3.4, and its program.

    Args:
        gamma: weight of an iteration relative to the next one, in (0, 1]; published: 0.8, for Sintel and KITTI 0.85.
        max_flow: longest flow in pixels that adds to the loss.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, *, gamma: float = 0.8, max_flow: float = 400.0) -> None:
        super().__init__()
        if not 0 < gamma <= 1 or not max_flow > 0:
            raise ValueError(f"gamma={gamma} must be in (0, 1] and max_flow={max_flow} above 0")
        self.gamma, self.max_flow = gamma, max_flow

    def forward(self, levels: Sequence[Tensor], flow: Tensor, known: Tensor) -> Tensor:
        """Return the loss.

        Args:
            levels: N flows (B, 2, H, W) in pixels, the last iteration last.
            flow: true flow, float32 (B, 2, H, W), in pixels.
            known: bool (B, H, W), where it is known.
        """
        counted = (known & (flow.norm(dim=1) < self.max_flow))[:, None]
        total = flow.new_zeros(())
        for place, predicted in enumerate(levels):
            weight = self.gamma ** (len(levels) - 1 - place)
            total = total + weight * ((predicted.float() - flow).abs() * counted).mean()
        return total


class PyramidLoss(nn.Module):
    """Loss of PWC-Net: weighted sum over the levels of the sum of the end-point errors of a level's pixels.

    The true flow of a level is the mean over the pixels of each of its cells, divided by `unit`; cells without known
    pixels do not add to the loss. Sources: "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume"
    (Sun et al., CVPR 2018), section 4; FastFlowNet (Kong et al., ICRA 2021) and LiteFlowNet use the same weights.

    Args:
        weights: weight of a level by the ratio of the picture's side to that of the level; None: the published ones,
            0.32 (64), 0.08 (32), 0.02 (16), 0.01 (8) and 0.005 (4).
        unit: pixels per unit of the levels' flows.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, *, weights: Mapping[int, float] | None = None, unit: float = 20.0) -> None:
        super().__init__()
        self.weights = dict(PYRAMID_WEIGHTS if weights is None else weights)
        if not unit > 0 or not self.weights or min(self.weights.values()) < 0:
            raise ValueError(f"weights={self.weights} and unit={unit}: weights of at least 0, and a unit above 0")
        self.unit = unit

    def forward(self, levels: Sequence[Tensor], flow: Tensor, known: Tensor) -> Tensor:
        """Return the loss.

        Args:
            levels: flows (B, 2, h, w) in units of `unit` pixels of the pictures as the network has resized them, the
                finest one, at a quarter of these pictures' size, last.
            flow: true flow, float32 (B, 2, H, W), in pixels.
            known: bool (B, H, W), where it is known.

        Raises:
            ValueError: a level has a size without a weight.
        """
        # The network resizes pictures to multiples of its unit; the finest level shows to which.
        height, width = (_FINEST * side for side in levels[-1].shape[2:])
        stretch = flow.new_tensor([width / flow.shape[3], height / flow.shape[2]])[:, None, None]
        counted = known[:, None].to(flow.dtype)
        target = flow * counted * (stretch / self.unit)
        total = flow.new_zeros(())
        for predicted in levels:
            size = (predicted.shape[2], predicted.shape[3])
            ratio = height // size[0]
            if ratio not in self.weights:
                raise ValueError(f"a level of 1/{ratio} of the picture has no weight; there are {sorted(self.weights)}")
            share = F.adaptive_avg_pool2d(counted, size)
            mean = F.adaptive_avg_pool2d(target, size) / share.clamp(min=1e-6)
            # The norm has no gradient at zero.
            error = torch.sqrt((predicted.float() - mean).square().sum(dim=1) + 1e-12)
            total = total + self.weights[ratio] * (error * (share[:, 0] > 0)).sum()
        return total / len(flow)


FLOW_LOSSES: dict[str, type[SequenceLoss] | type[PyramidLoss]] = {
    "raft_basic": SequenceLoss,
    "raft_small": SequenceLoss,
    "liteflownet3": PyramidLoss,
    "fastflownet": PyramidLoss,
}
"""Published loss of each network."""


def create_flow_loss(name: str, **options: Any) -> SequenceLoss | PyramidLoss:
    """Return the published loss of the flow network `name`.

    Args:
        name: name of the network.
        **options: options of the loss.

    Raises:
        ValueError: the network has no loss, or an option has an invalid value.
        TypeError: the loss has no such option.
    """
    if name not in FLOW_LOSSES:
        close = difflib.get_close_matches(name, FLOW_LOSSES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are those of {', '.join(FLOW_LOSSES)}"
        raise ValueError(f"no loss for a flow network called {name!r}; {hint}")
    loss = FLOW_LOSSES[name]
    allowed = list(inspect.signature(loss).parameters)
    for option in options:
        if option not in allowed:
            raise TypeError(f"the loss of {name!r} has no option {option!r}; available: {', '.join(allowed)}")
    return loss(**options)
