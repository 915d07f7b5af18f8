"""FastFlowNet: a small network for optical flow from coarse to fine, with sparse cost volumes.

"FastFlowNet: A Lightweight Network for Fast Optical Flow Estimation", ICRA 2021, arXiv 2103.04524. Parameter names are
those of the published files of ltkong218/FastFlowNet. On each level, the features of the second picture are warped by
the doubled flow of the level before, and the decoder reads 53 of the 81 correlations within 4 pixels: all within 2
pixels, every second one outside.

Shapes: B pairs, C channels, H, W.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._flow import (
    FlowOutput,
    check_pair,
    flow_to_size,
    halves,
    pixel_positions,
    resize_pictures,
    sample,
    warp,
)
from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import register_model
from vidseg.ops import spatial_correlation

__all__ = ["FastFlowNet"]

_SCALE = 20.0  # pixels for a flow of 1
_UNIT = 64
_RADIUS = 4
_GROUPS = 3
# Level n has 1 / 2^n of the size of the pictures; those above 3 are means of level 3.
_LEVELS = (2, 3, 4, 5, 6)
_PYRAMID = {1: (16, 2), 2: (32, 3), 3: (64, 3)}  # level: channels and convolutions, of which the first has stride 2
_DENSE = 2  # displacements up to it are all kept
_KEPT = [
    row * (2 * _RADIUS + 1) + column
    for row in range(2 * _RADIUS + 1)
    for column in range(2 * _RADIUS + 1)
    if max(abs(row - _RADIUS), abs(column - _RADIUS)) <= _DENSE or (row + column) % 2 == 0
]


def _convolution(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups), nn.LeakyReLU(0.1, inplace=True))


class _Decoder(nn.Module):
    """Flow (B, 2, H, W) from correlations, features and the flow of the level before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(len(_KEPT) + 32 + 2, 96)
        for number in (2, 3, 4):
            self.add_module(f"conv{number}", _convolution(96, 96, groups=_GROUPS))
        self.conv5 = _convolution(96, 64)
        self.conv6 = _convolution(64, 32)
        self.conv7 = nn.Conv2d(32, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for number in (2, 3, 4):
            # Channels are interleaved, so that the groups of the next convolution read from all groups.
            x = self.get_submodule(f"conv{number}")(x).unflatten(1, (_GROUPS, -1)).transpose(1, 2).flatten(1, 2)
        return self.conv7(self.conv6(self.conv5(x)))


class FastFlowNet(nn.Module):
    """Optical flow between two pictures from coarse to fine.

    Pictures are resized bilinearly to multiples of 64; the flow is estimated at 1/4 of that size and resized.
    `FlowOutput.levels` has, in training mode, the flows of the five levels, (B, 2, h, w) with h = 1/64, 1/32, 1/16, 1/8
    and 1/4 of the height of the resized pictures; times 20 they are in pixels of the resized pictures.

    Args:
        variant: "authors": the channels are read as BGR, their mean over both pictures is subtracted, and warping is
            exact, as the published weights were trained. "svtas": as in SVTAS, which runs the same weights on RGB
            pictures without subtracting the mean and warps with positions longer by W / (W - 1).

    Raises:
        ValueError: the variant is unknown.
    """

    def __init__(self, *, variant: Literal["authors", "svtas"] = "authors"):
        super().__init__()
        if variant not in ("authors", "svtas"):
            raise ValueError(f"variant={variant!r} must be 'authors' or 'svtas'")
        self.variant = variant
        self.register_buffer("kept", torch.tensor(_KEPT), persistent=False)
        inputs = 3
        for level, (width, layers) in _PYRAMID.items():
            for layer in range(1, layers + 1):
                self.add_module(f"pconv{level}_{layer}", _convolution(inputs, width, stride=2 if layer == 1 else 1))
                inputs = width
        for level in _LEVELS:
            self.add_module(f"rconv{level}", _convolution(32 if level == 2 else 64, 32))
        for level in _LEVELS[1:]:
            self.add_module(f"up{level}", nn.ConvTranspose2d(2, 2, 4, 2, 1))
        for level in _LEVELS:
            self.add_module(f"decoder{level}", _Decoder())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions on a CPU

    def forward(self, first: Tensor, second: Tensor) -> FlowOutput:
        """Compute the flow from `first` to `second`.

        Args:
            first: (B, 3, H, W), RGB from 0 to 1.
            second: like `first`.

        Raises:
            ValueError: a shape or dtype is wrong.
        """
        check_pair(first, second)
        pictures = torch.cat([first, second])
        if self.variant == "authors":
            pictures = pictures.flip(1)
            means = pictures.mean(dim=(2, 3), keepdim=True)
            means = (means[: first.shape[0]] + means[first.shape[0] :]) / 2
            pictures = pictures - torch.cat([means, means])
        pictures = resize_pictures(pictures, _UNIT)
        levels = self.raw_flows(*halves(pictures))
        height, width = pictures.shape[2:]
        size = (first.shape[2], first.shape[3])
        flow = flow_to_size(_SCALE * levels[-1].float(), size, unit=(height, width))
        return FlowOutput(flow, tuple(levels) if self.training else ())

    def raw_flows(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Return the flow of each level, from coarse to fine.

        Args:
            first: (B, 3, H, W), as the variant expects it; H and W are multiples of 64.
            second: like `first`.

        Returns:
            Five flows (B, 2, h, w), h = H / 64 to H / 4, in units of 20 pixels.
        """
        features = self._pyramid(torch.cat([first, second]))
        flow: Tensor | None = None
        flows = []
        for level in reversed(_LEVELS):
            one, other = halves(features[level])
            if flow is None:
                coarse = one.new_zeros(one.shape[0], 2, *one.shape[2:])
            else:
                coarse = self.get_submodule(f"up{level + 1}")(flow)
                other = self._warp(other, coarse * (_SCALE / 2**level))
            # The operator returns sums over the channels.
            costs = spatial_correlation(one, other, patch_size=2 * _RADIUS + 1).flatten(1, 2) / one.shape[1]
            costs = costs.index_select(1, self.get_buffer("kept")).to(one.dtype)
            reduced = self.get_submodule(f"rconv{level}")(one)
            flow = self.get_submodule(f"decoder{level}")(torch.cat([costs, reduced, coarse], dim=1)) + coarse
            flows.append(flow)
        return flows

    def _pyramid(self, x: Tensor) -> dict[int, Tensor]:
        """Return the features of the levels of pictures (B, 3, H, W)."""
        maps = {}
        for level, (_, layers) in _PYRAMID.items():
            for layer in range(1, layers + 1):
                x = self.get_submodule(f"pconv{level}_{layer}")(x)
            maps[level] = x
        for level in (4, 5, 6):
            maps[level] = F.avg_pool2d(maps[level - 1], 2)
        return maps

    def _warp(self, maps: Tensor, flow: Tensor) -> Tensor:
        """Return maps at the position of each pixel plus the flow in pixels of the maps."""
        if self.variant == "authors":
            return warp(maps, flow)
        # Positions are scaled as for corners at -1 and 1, but sampled as for edges at -1 and 1.
        height, width = maps.shape[2:]
        x, y = (pixel_positions(maps) + flow.float()).split(1, dim=1)
        x, y = x * (width / max(width - 1, 1)) - 0.5, y * (height / max(height - 1, 1)) - 0.5
        return sample(maps, torch.cat([x, y], dim=1))


register_model(
    "fastflownet",
    FastFlowNet,
    task="flow",
    input_spec=InputSpec(frames=2, size=256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
)
