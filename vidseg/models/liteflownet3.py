"""LiteFlowNet 3: optical flow from coarse to fine on a feature pyramid, with cost volumes repaired where they are weak.

"LiteFlowNet3: Resolving Correspondence Ambiguity for More Accurate Optical Flow Estimation", ECCV 2020, arXiv
2007.09319. Parameter names and values are those of the public PyTorch port lhao0301/pytorch-liteflownet3, which SVTAS
uses. On each level, the flow of the level before is doubled in size, then changed by matching, by a subpixel
refinement, and by a regularization, each pixel a weighted mean of its neighbors. On the two finest levels, the flow and
the cost volume are corrected where the first picture looks like itself nearby.

Shapes: B pairs, C channels, H, W.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._flow import FlowOutput, check_pair, flow_to_size, halves, resize_pictures, warp
from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import register_model
from vidseg.ops import correlation

__all__ = ["LiteFlowNet3"]

_LEVELS = (3, 4, 5, 6)  # level n has 1 / 2^(n - 1) of the size of the pictures
_NAMES = ("netOne", "netTwo", "netThr", "netFou", "netFiv", "netSix")
_WIDTHS = (32, 32, 64, 96, 128, 192)
_LAYERS = (1, 3, 2, 2, 1, 1)
_SLOPE = 0.1
_SCALE = 20.0  # pixels for a flow of 1
_UNIT = 32
_COSTS = 81  # displacements of up to 4 pixels
_SELF = {3: 8, 4: 6}  # level: largest displacement of the correlation of the first picture with itself, by steps of 2


def _kernel(level: int) -> int:
    """Return the kernel size of the last convolution of a part, and the side of the regularized neighborhoods."""
    return 5 if level <= 4 else 3


def _convolutions(widths: Sequence[int], kernels: Sequence[int] | None = None, *, strides: Sequence[int] = ()) -> list:
    """Return convolutions of the given widths, each followed by a leaky ReLU.

    Args:
        widths: channels of the input and of each output.
        kernels: kernel sizes; None: 3.
        strides: strides of the first convolutions, 1 for others.
    """
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        kernel = 3 if kernels is None else kernels[number]
        stride = strides[number] if number < len(strides) else 1
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LeakyReLU(_SLOPE, inplace=True)]
    return layers


def _backwarp(maps: Tensor, flow: Tensor) -> Tensor:
    """Return maps at the position of each pixel plus the flow, as published: vectors are longer by W / (W - 1)."""
    height, width = maps.shape[2:]
    x, y = flow.float().split(1, dim=1)
    return warp(maps, torch.cat([x * (width / max(width - 1, 1)), y * (height / max(height - 1, 1))], dim=1))


def _pixels(flow: Tensor, level: int) -> Tensor:
    """Return a flow of a level in pixels of the level."""
    return flow * (_SCALE / 2 ** (level - 1))


class _Features(nn.Module):
    """Feature pyramid of pictures: maps of the levels 1 to 6."""

    def __init__(self) -> None:
        super().__init__()
        inputs = 3
        for number, (name, width, layers) in enumerate(zip(_NAMES, _WIDTHS, _LAYERS, strict=True)):
            kernels = [7 if number == 0 else 3] * layers
            strides = [1 if number == 0 else 2]
            widths = [inputs, *[width] * layers]
            self.add_module(name, nn.Sequential(*_convolutions(widths, kernels, strides=strides)))
            inputs = width

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name in _NAMES:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps


def _estimator(inputs: int, level: int) -> nn.Sequential:
    """Return the six convolutions from maps to a flow."""
    widths = (inputs, 128, 128, 96, 64, 32)
    kernel = _kernel(level)
    return nn.Sequential(*_convolutions(widths), nn.Conv2d(32, 2, kernel, padding=kernel // 2))


class _Matching(nn.Module):
    """Flow from the correlation of the first picture with the second one, warped by the flow so far."""

    def __init__(self, level: int):
        super().__init__()
        self.level = level
        if level in _SELF:
            costs = (_SELF[level] + 1) ** 2
            self.confFeat = nn.Sequential(*_convolutions((costs + 1, 128, 64, 32)))
            self.dispNet = nn.Sequential(nn.Conv2d(32, 2, 5, padding=2))
            self.confNet = nn.Sequential(nn.Conv2d(32, 1, 5, padding=2), nn.Sigmoid())
            self.corrFeat = nn.Sequential(*_convolutions((_WIDTHS[level - 1] + _COSTS + 1, 128, 64)))
            self.corrScalar = nn.Sequential(*_convolutions((64, 32)), nn.Conv2d(32, _COSTS, 1))
            self.corrOffset = nn.Sequential(*_convolutions((64, 32)), nn.Conv2d(32, _COSTS, 1))
        if level < _LEVELS[-1]:
            self.netUpflow = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False, groups=2)
        if level in _SELF:
            self.netUpconf = nn.ConvTranspose2d(1, 1, 4, 2, 1, bias=False)
        self.netMain = _estimator(_COSTS, level)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor | None, confidence: Tensor | None) -> Tensor:
        """Return the flow of this level.

        Args:
            first: features of the first picture, (B, C, H, W).
            second: features of the second picture.
            flow: flow of the coarser level, (B, 2, H / 2, W / 2); None on the coarsest level.
            confidence: of the flow of the coarser level, (B, 1, H / 2, W / 2); None if it has none.
        """
        if flow is not None:
            flow = self.netUpflow(flow)
        if flow is not None and confidence is not None:
            flow, confidence = self._moved(first, flow, self.netUpconf(confidence))
        if flow is not None:
            second = _backwarp(second, _pixels(flow, self.level))
        costs = F.leaky_relu(correlation(first, second, 4).to(first.dtype), _SLOPE)
        if confidence is not None:
            maps = self.corrFeat(torch.cat([first, costs, confidence], dim=1))
            costs = self.corrScalar(maps) * costs + self.corrOffset(maps)
        change = self.netMain(costs)
        return change if flow is None else flow + change

    def _moved(self, first: Tensor, flow: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Replace each vector of the flow by one nearby, and return the confidence of the result."""
        alike = correlation(first, first, _SELF[self.level], stride2=2).to(first.dtype)
        maps = self.confFeat(torch.cat([F.leaky_relu(alike, _SLOPE), confidence], dim=1))
        return _backwarp(flow, self.dispNet(maps)), self.confNet(maps)


class _Subpixel(nn.Module):
    """Change of the flow, from the features of the first picture and the warped features of the second one."""

    def __init__(self, level: int):
        super().__init__()
        self.level = level
        self.netMain = _estimator(2 * _WIDTHS[level - 1] + 2, level)

    def forward(self, first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
        """Return the flow (B, 2, H, W); arguments as in `_Matching.forward`, flow of this level."""
        second = _backwarp(second, _pixels(flow, self.level))
        return flow + self.netMain(torch.cat([first, second, flow], dim=1))


class _Regularization(nn.Module):
    """Weighted mean of the flow over the neighborhood of each pixel, with weights from pictures, features and flow."""

    def __init__(self, level: int):
        super().__init__()
        self.level = level
        self.side = _kernel(level)
        neighbors, width = self.side**2, _WIDTHS[level - 1]
        self.netFeat = nn.Sequential(*_convolutions((width, 128), (1,))) if level <= 4 else nn.Sequential()
        inputs = 3 + (128 if level <= 4 else width)
        self.netMain = nn.Sequential(*_convolutions((inputs, 128, 128, 64, 64, 32, 32)))
        pad = self.side // 2
        if level <= 4:
            self.netDist = nn.Sequential(
                nn.Conv2d(32, neighbors, (self.side, 1), padding=(pad, 0)),
                nn.Conv2d(neighbors, neighbors, (1, self.side), padding=(0, pad)),
            )
        else:
            self.netDist = nn.Sequential(nn.Conv2d(32, neighbors, self.side, padding=pad))
        if level in (4, 5):
            self.confNet = nn.Sequential(nn.Conv2d(32, 1, self.side, padding=pad), nn.Sigmoid())
        self.netScaleX = nn.Conv2d(neighbors, 1, 1)
        self.netScaleY = nn.Conv2d(neighbors, 1, 1)

    def forward(self, first: Tensor, second: Tensor, features: Tensor, flow: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the flow and its confidence (B, 1, H, W), None on levels without one.

        Args:
            first: first picture at the size of the level, (B, 3, H, W).
            second: second picture.
            features: features of the first picture, (B, C, H, W).
            flow: flow of this level, (B, 2, H, W).
        """
        difference = first - _backwarp(second, _pixels(flow, self.level))
        brightness = difference.detach().square().sum(dim=1, keepdim=True).sqrt()
        centered = flow - flow.mean(dim=(2, 3), keepdim=True)
        maps = self.netMain(torch.cat([brightness, centered, self.netFeat(features)], dim=1))
        distances = -self.netDist(maps).square()
        weights = (distances - distances.amax(dim=1, keepdim=True)).exp()
        # The published layers have a bias, which is divided by the sum of the weights, too.
        scale = weights.sum(dim=1, keepdim=True).reciprocal()
        x, y = (weights * self._neighbors(part) for part in flow.split(1, dim=1))
        flow = torch.cat([self.netScaleX(x) * scale, self.netScaleY(y) * scale], dim=1)
        return flow, self.confNet(maps) if self.level in (4, 5) else None

    def _neighbors(self, part: Tensor) -> Tensor:
        """Return the neighborhood of each value of (B, 1, H, W) in channels, 0 outside."""
        return F.unfold(part, self.side, padding=self.side // 2).unflatten(2, part.shape[2:])


class LiteFlowNet3(nn.Module):
    """Optical flow between two pictures from coarse to fine.

    Pictures are resized bilinearly to multiples of 32; the flow is estimated at 1/4 of that size and resized.
    `FlowOutput.levels` has, in training mode, the flows of the four levels, (B, 2, h, w) with h = 1/32, 1/16, 1/8 and
    1/4 of the height of the resized pictures; times 20 they are in pixels of the resized pictures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.netFeatures = _Features()
        self.netMatching = nn.ModuleList(_Matching(level) for level in _LEVELS)
        self.netSubpixel = nn.ModuleList(_Subpixel(level) for level in _LEVELS)
        self.netRegularization = nn.ModuleList(_Regularization(level) for level in _LEVELS)
        for module in reversed(list(self.modules())):  # parts after their layers
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):  # bilinear upsampling
                weights = torch.tensor([0.25, 0.75, 0.75, 0.25])
                with torch.no_grad():
                    module.weight.copy_(weights[:, None] * weights)
            elif isinstance(module, _Regularization):  # a weighted mean
                nn.init.ones_(module.netScaleX.weight)
                nn.init.ones_(module.netScaleY.weight)
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
        pictures = resize_pictures(torch.cat([first, second]), _UNIT)
        levels = self.raw_flows(*halves(pictures.flip(1)))  # the published program reads BGR
        height, width = pictures.shape[2:]
        size = (first.shape[2], first.shape[3])
        flow = flow_to_size(_SCALE * levels[-1].float(), size, unit=(height, width))
        return FlowOutput(flow, tuple(levels) if self.training else ())

    def raw_flows(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Return the flow of each level, from coarse to fine.

        Args:
            first: (B, 3, H, W), BGR from 0 to 1; H and W are multiples of 32.
            second: like `first`.

        Returns:
            Four flows (B, 2, h, w), h = H / 32 to H / 4, in units of 20 pixels.
        """
        both = torch.cat([first, second])
        both = both - both.mean(dim=(2, 3), keepdim=True)
        features = self.netFeatures(both)
        pictures = {}
        for level in _LEVELS:
            both = F.interpolate(both, size=features[level - 1].shape[2:], mode="bilinear", align_corners=False)
            pictures[level] = halves(both)
        flow = confidence = None
        flows = []
        for level in reversed(_LEVELS):
            one, other = halves(features[level - 1])
            place = level - _LEVELS[0]
            flow = self.netMatching[place](one, other, flow, confidence)
            flow = self.netSubpixel[place](one, other, flow)
            flow, confidence = self.netRegularization[place](*pictures[level], one, flow)
            flows.append(flow)
        return flows


register_model(
    "liteflownet3",
    LiteFlowNet3,
    task="flow",
    input_spec=InputSpec(frames=2, size=256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
)
