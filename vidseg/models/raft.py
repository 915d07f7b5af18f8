"""RAFT: optical flow by recurrent refinement, from the correlation of all pairs of feature vectors.

"RAFT: Recurrent All-Pairs Field Transforms for Optical Flow", ECCV 2020, arXiv 2003.12039. Parameter names are those of
the published files of princeton-vl/RAFT; `load_weights` also reads those of torchvision. In each iteration, a recurrent
unit reads the correlations of each feature vector of the first picture with a window of the second picture around the
current flow, on four scales, and updates the flow at 1/8 of the size of the pictures.

Shapes: B pairs, C channels, H, W of the pictures, h = H / 8, w = W / 8.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._flow import FlowOutput, check_pair, halves, pad_pictures, pixel_positions
from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import register_model
from vidseg.ops import correlation_lookup

__all__ = ["NETWORKS", "Raft", "RaftDesign", "all_pairs", "look_up", "look_up_on_demand", "own_key"]

_LEVELS = 4
_STRIDE = 8


@dataclass(frozen=True)
class RaftDesign:
    """Architecture of a registered network.

    Attributes:
        small: bottleneck blocks, one convolution for the correlations, a square kernel in the recurrent unit and
            bilinear upsampling of the flow. False: residual blocks, two convolutions, two separable recurrent units and
            learned upsampling.
        widths: channels of the stem and the first stage, and of the two following stages.
        features: channels of the features that are correlated.
        hidden: channels of the recurrent state.
        context: channels of the features of the first picture that the recurrent unit reads.
        radius: radius of the windows of correlations, in feature vectors of each scale.
        correlations: channels of the convolutions of the correlations.
        flows: channels of the two convolutions of the flow.
        motion: channels of correlations and flow together.
        head: channels of the last but one convolution.
    """

    small: bool
    widths: tuple[int, int, int]
    features: int
    hidden: int
    context: int
    radius: int
    correlations: tuple[int, ...]
    flows: tuple[int, int]
    motion: int
    head: int


NETWORKS = {
    "raft_basic": RaftDesign(
        small=False,
        widths=(64, 96, 128),
        features=256,
        hidden=128,
        context=128,
        radius=4,
        correlations=(256, 192),
        flows=(128, 64),
        motion=128,
        head=256,
    ),
    "raft_small": RaftDesign(
        small=True,
        widths=(32, 64, 96),
        features=128,
        hidden=96,
        context=64,
        radius=3,
        correlations=(96,),
        flows=(64, 32),
        motion=82,
        head=128,
    ),
}
"""Networks of this module by name."""

# Beginnings of the keys of torchvision.
_TORCHVISION = {
    "feature_encoder.": "fnet.",
    "context_encoder.": "cnet.",
    "mask_predictor.convrelu.0.": "update_block.mask.0.",
    "mask_predictor.conv.": "update_block.mask.2.",
    "update_block.motion_encoder.": "update_block.encoder.",
    "update_block.recurrent_block.": "update_block.gru.",
}


def own_key(key: str, *, small: bool = False) -> str:
    """Return the key of princeton-vl/RAFT for a key of torchvision; other keys are returned unchanged.

    Args:
        key: key without prefixes of wrappers.
        small: the network is `raft_small`, whose recurrent unit has one step.
    """
    theirs = next((prefix for prefix in _TORCHVISION if key.startswith(prefix)), None)
    if theirs is None:
        return key
    prefix, rest = _TORCHVISION[theirs], key.removeprefix(theirs)
    if prefix in ("fnet.", "cnet."):
        rest = re.sub(r"^conv\.", "conv2.", rest)
        rest = re.sub(r"convnormrelu(\d?)\.0\.", lambda found: f"conv{found[1] or 1}.", rest)
        rest = re.sub(r"convnormrelu(\d?)\.1\.", lambda found: f"norm{found[1] or 1}.", rest)
    elif prefix == "update_block.encoder.":
        rest = re.sub(r"^conv(c|f)\w+(\d)\.0\.", r"conv\1\2.", rest)
        rest = re.sub(r"^conv\.0\.", "conv.", rest)
    elif prefix == "update_block.gru.":
        rest = re.sub(r"^convgru(\d)\.(conv[zrq])\.", lambda found: f"{found[2]}{'' if small else found[1]}.", rest)
    return prefix + rest


def all_pairs(first: Tensor, second: Tensor) -> list[Tensor]:
    """Correlate each vector of `first` with all vectors of `second` and of `second` at 1/2, 1/4 and 1/8 of its size.

    Args:
        first: float32 (B, C, h, w).
        second: float32 (B, C, h, w).

    Returns:
        For each scale, dot products divided by sqrt(C), (B, h * w, rows, columns) of `second` at this scale. A scale
        may have no rows or columns.
    """
    vectors = first.flatten(2).transpose(1, 2) / math.sqrt(first.shape[1])
    # the mean of dot products is the dot product with the mean
    return [(vectors @ scale.flatten(2)).unflatten(2, scale.shape[2:]) for scale in _scales(second)]


def _scales(features: Tensor) -> list[Tensor]:
    """Return features (B, C, h, w) and their means at 1/2, 1/4 and 1/8 of the size, some perhaps without rows."""
    scales = [features]
    while len(scales) < _LEVELS:
        rows, columns = scales[-1].shape[2:]
        empty = rows < 2 or columns < 2
        scales.append(scales[-1][:, :, : rows // 2, : columns // 2] if empty else F.avg_pool2d(scales[-1], 2))
    return scales


def look_up(pyramid: list[Tensor], positions: Tensor, radius: int) -> Tensor:
    """Interpolate the correlations bilinearly in a window around a position in the second picture.

    All samples of a window have the same distance to the next integer position, so the window is read once with one
    more row and column and interpolated as a whole. Correlations outside the second picture are zero.

    Args:
        pyramid: correlations of each scale, see `all_pairs`.
        positions: float32 (B, 2, h, w), (x, y) in vectors of the first scale; no gradient.
        radius: r of the windows of 2r + 1 positions on each axis, in vectors of each scale.

    Returns:
        (B, S * (2r + 1)^2, h, w) for S scales; x is the slow axis of a window and y the fast one, as published.
    """
    height, width = positions.shape[2:]
    side = 2 * radius + 2
    offsets = torch.arange(-radius, radius + 2, device=positions.device)
    windows = []
    for level, correlations in enumerate(pyramid):
        rows, columns = correlations.shape[2:]
        if not rows or not columns:
            windows.append(positions.new_zeros(positions.shape[0], height * width, (side - 1) ** 2))
            continue
        place = positions.flatten(2) / 2**level
        base = place.floor()
        x_share, y_share = (place - base)[:, :, :, None, None].unbind(dim=1)
        # (B, h * w, side): positions far outside are zero; the limit keeps them in the range of integers
        x, y = (base.clamp(-1e6, 1e6).long()[:, :, :, None] + offsets).unbind(dim=1)
        inside_x, inside_y = (x >= 0) & (x < columns), (y >= 0) & (y < rows)
        places = y.clamp(0, rows - 1)[:, :, None] * columns + x.clamp(0, columns - 1)[:, :, :, None]
        values = correlations.flatten(2).gather(2, places.flatten(2)).unflatten(2, (side, side))
        values = torch.where(inside_x[:, :, :, None] & inside_y[:, :, None], values, 0)
        values = torch.lerp(values[:, :, :-1], values[:, :, 1:], x_share)
        values = torch.lerp(values[:, :, :, :-1], values[:, :, :, 1:], y_share)
        windows.append(values.flatten(2))
    return torch.cat(windows, dim=2).transpose(1, 2).unflatten(2, (height, width))


def look_up_on_demand(first: Tensor, scales: list[Tensor], positions: Tensor, radius: int) -> Tensor:
    """Compute the correlations of `look_up` from the features, without those of all pairs.

    Args:
        first: float32 (B, C, h, w).
        scales: features of the second picture at each scale, (B, C, rows, columns).
        positions: float32 (B, 2, h, w), (x, y) in vectors of the first scale; no gradient.
        radius: r of the windows of 2r + 1 positions on each axis, in vectors of each scale.

    Returns:
        (B, S * (2r + 1)^2, h, w) for S scales, as from `look_up`.
    """
    windows = [correlation_lookup(first, scale, positions / 2**level, radius) for level, scale in enumerate(scales)]
    return torch.cat(windows, dim=1)


class _Block(nn.Module):
    """Residual block of two convolutions, or of three with a bottleneck."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, norm: type[nn.Module], bottleneck: bool):
        super().__init__()
        if bottleneck:
            inner = outputs // 4
            self.conv1 = nn.Conv2d(inputs, inner, 1)
            self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1)
            self.conv3 = nn.Conv2d(inner, outputs, 1)
            self.norm1, self.norm2, self.norm3 = norm(inner), norm(inner), norm(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
            self.norm1, self.norm2 = norm(outputs), norm(outputs)
        self.bottleneck = bottleneck
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), norm(outputs))
        else:
            self.downsample = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.norm1(self.conv1(x)))
        out = F.relu_(self.norm2(self.conv2(out)))
        if self.bottleneck:
            out = F.relu_(self.norm3(self.conv3(out)))
        return F.relu_(self.downsample(x) + out)


class _Encoder(nn.Module):
    """Features (B, outputs, H / 8, W / 8) of pictures (B, 3, H, W)."""

    def __init__(self, widths: tuple[int, int, int], outputs: int, *, norm: type[nn.Module], bottleneck: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3)
        self.norm1 = norm(widths[0])
        inputs = widths[0]
        for number, (width, stride) in enumerate(zip(widths, (1, 2, 2), strict=True), 1):
            blocks = [
                _Block(inputs, width, stride, norm=norm, bottleneck=bottleneck),
                _Block(width, width, 1, norm=norm, bottleneck=bottleneck),
            ]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = width
        self.conv2 = nn.Conv2d(inputs, outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm1(self.conv1(x)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        return self.conv2(x)


class _MotionEncoder(nn.Module):
    """Features (B, motion, h, w) of the correlations and the flow, whose last two channels are the flow."""

    def __init__(self, design: RaftDesign):
        super().__init__()
        windows = _LEVELS * (2 * design.radius + 1) ** 2
        self.convc1 = nn.Conv2d(windows, design.correlations[0], 1)
        if not design.small:
            self.convc2 = nn.Conv2d(design.correlations[0], design.correlations[-1], 3, 1, 1)
        self.convf1 = nn.Conv2d(2, design.flows[0], 7, 1, 3)
        self.convf2 = nn.Conv2d(*design.flows, 3, 1, 1)
        self.conv = nn.Conv2d(design.correlations[-1] + design.flows[1], design.motion - 2, 3, 1, 1)
        self.small = design.small

    def forward(self, flow: Tensor, correlations: Tensor) -> Tensor:
        c = F.relu_(self.convc1(correlations))
        if not self.small:
            c = F.relu_(self.convc2(c))
        f = F.relu_(self.convf2(F.relu_(self.convf1(flow))))
        return torch.cat([F.relu_(self.conv(torch.cat([c, f], dim=1))), flow], dim=1)


class _Step(NamedTuple):
    """What a step of the recurrent unit has in common in all iterations."""

    gates: Tensor
    candidate: Tensor
    gates_weight: Tensor
    candidate_weight: Tensor


class _Recurrent(nn.Module):
    """Convolutional gated recurrent unit, in one step or in a horizontal and a vertical one."""

    def __init__(self, design: RaftDesign):
        super().__init__()
        self.hidden, self.context = design.hidden, design.context
        kernels = {"": (3, 3)} if design.small else {"1": (1, 5), "2": (5, 1)}
        self.steps = tuple(kernels)
        inputs = design.hidden + design.context + design.motion
        for step, kernel in kernels.items():
            padding = (kernel[0] // 2, kernel[1] // 2)
            for gate in "zrq":
                self.add_module(f"conv{gate}{step}", nn.Conv2d(inputs, design.hidden, kernel, padding=padding))

    def constant_part(self, context: Tensor) -> list[_Step]:
        """Return what is the same in all iterations, for each step."""
        parts = []
        for step in self.steps:
            gates = [self._layer(gate, step) for gate in "zrq"]
            weight = torch.cat([layer.weight[:, self.hidden : self.hidden + self.context] for layer in gates])
            bias = torch.cat([layer.bias for layer in gates if layer.bias is not None])
            part = F.conv2d(context, weight, bias, padding=gates[0].padding)
            update, reset, candidate = (self._varying(layer) for layer in gates)
            weights = torch.cat([update, reset]), candidate
            parts.append(_Step(part[:, : 2 * self.hidden], part[:, 2 * self.hidden :], *weights))
        return parts

    def forward(self, hidden: Tensor, motion: Tensor, constant: list[_Step]) -> Tensor:
        """Return the next state of the state `hidden`.

        Args:
            hidden: (B, hidden, h, w).
            motion: (B, motion, h, w).
            constant: from `constant_part`.
        """
        for name, step in zip(self.steps, constant, strict=True):
            padding = self._layer("z", name).padding
            gates = F.conv2d(torch.cat([hidden, motion], dim=1), step.gates_weight, padding=padding) + step.gates
            update, reset = gates.sigmoid().chunk(2, dim=1)
            candidate = F.conv2d(torch.cat([reset * hidden, motion], dim=1), step.candidate_weight, padding=padding)
            hidden = torch.lerp(hidden, (candidate + step.candidate).tanh(), update)
        return hidden

    def _layer(self, gate: str, step: str) -> nn.Conv2d:
        layer = self.get_submodule(f"conv{gate}{step}")
        assert isinstance(layer, nn.Conv2d)
        return layer

    def _varying(self, layer: nn.Conv2d) -> Tensor:
        """Return the weights for the state and for the motion features."""
        return torch.cat([layer.weight[:, : self.hidden], layer.weight[:, self.hidden + self.context :]], dim=1)


class _FlowHead(nn.Module):
    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 3, 1, 1)
        self.conv2 = nn.Conv2d(hidden, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class _Update(nn.Module):
    def __init__(self, design: RaftDesign):
        super().__init__()
        self.encoder = _MotionEncoder(design)
        self.gru = _Recurrent(design)
        self.flow_head = _FlowHead(design.hidden, design.head)
        if not design.small:
            self.mask = nn.Sequential(
                nn.Conv2d(design.hidden, 256, 3, 1, 1), nn.ReLU(), nn.Conv2d(256, 9 * _STRIDE**2, 1)
            )


class Raft(nn.Module):
    """Optical flow between two pictures by iterations of a recurrent unit.

    Pictures are padded to multiples of 8 by repeating their border pixels. `FlowOutput.levels` has, in training mode,
    the flow after each iteration at the size of the pictures, float32 (B, 2, H, W) in pixels; the last one is `flow`.

    Args:
        design: architecture.
        iterations: number of iterations; published: 12 in training, 20 in the demo, 32 for Sintel and 24 for KITTI.
            None: 12 in training mode, 20 in evaluation mode.
        padding: "sintel": half of the padded rows at the top and half at the bottom. "kitti": all of them at the
            bottom, as published for KITTI. Padded columns are always divided between left and right.
        correlation: "all_pairs": the correlations of all pairs of feature vectors are computed once, as published.
            Their memory grows with the square of the number of pixels. "on_demand": each iteration computes those that
            it reads. Memory is linear in the number of pixels; flows are equal to rounding.

    Raises:
        ValueError: iterations < 1, or an unknown padding or correlation.
    """

    def __init__(
        self,
        design: RaftDesign,
        *,
        iterations: int | None = None,
        padding: Literal["sintel", "kitti"] = "sintel",
        correlation: Literal["all_pairs", "on_demand"] = "all_pairs",
    ):
        super().__init__()
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations={iterations} must be at least 1")
        if padding not in ("sintel", "kitti"):
            raise ValueError(f"padding={padding!r} must be 'sintel' or 'kitti'")
        if correlation not in ("all_pairs", "on_demand"):
            raise ValueError(f"correlation={correlation!r} must be 'all_pairs' or 'on_demand'")
        self.design = design
        self.iterations = iterations
        self.padding = padding
        self.correlation = correlation
        encoder = partial(_Encoder, design.widths, bottleneck=design.small)
        self.fnet = encoder(design.features, norm=nn.InstanceNorm2d)
        self.cnet = encoder(design.hidden + design.context, norm=nn.Identity if design.small else nn.BatchNorm2d)
        self.update_block = _Update(design)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions on a CPU

    def own_entries(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries of a published file under the keys of the network.

        Files of princeton-vl/RAFT have the norms of shortcuts under two names, of which one is left out.
        """
        named = {own_key(key, small=self.design.small): value for key, value in entries.items()}
        return {
            key: value
            for key, value in named.items()
            if ".norm3." not in key or key.replace(".norm3.", ".downsample.1.") not in named
        }

    def forward(self, first: Tensor, second: Tensor) -> FlowOutput:
        """Compute the flow from `first` to `second`.

        Args:
            first: (B, 3, H, W), RGB from 0 to 1.
            second: like `first`.

        Raises:
            ValueError: a shape or dtype is wrong.
        """
        check_pair(first, second)
        pictures, (rows, columns) = pad_pictures(
            torch.cat([first, second]) * 2 - 1, _STRIDE, bottom=self.padding == "kitti"
        )
        flows, states = self.refine(*halves(pictures))
        if not self.training:
            flows, states = flows[-1:], states[-1:]
        levels = [
            self._upsample(*each).index_select(2, rows).index_select(3, columns)
            for each in zip(flows, states, strict=True)
        ]
        return FlowOutput(levels[-1], tuple(levels) if self.training else ())

    def refine(self, first: Tensor, second: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the flow at 1/8 of the size.

        Args:
            first: (B, 3, H, W), from -1 to 1; H and W are multiples of 8.
            second: like `first`.

        Returns:
            Flow float32 (B, 2, h, w) in vectors of the features and state (B, hidden, h, w) after each iteration.
        """
        features = self.fnet(torch.cat([first, second]))
        hidden, context = self.cnet(first).split([self.design.hidden, self.design.context], dim=1)
        hidden, constant = hidden.tanh(), self.update_block.gru.constant_part(context.relu())
        with torch.autocast(first.device.type, enabled=False):
            windows = self._correlations(*halves(features.float()))
        start = pixel_positions(features)
        flow = torch.zeros_like(features[: first.shape[0], :2], dtype=torch.float32)
        flows, states = [], []
        for _ in range(self.iterations or (12 if self.training else 20)):
            flow = flow.detach()
            correlations = windows(start + flow, self.design.radius)
            motion = self.update_block.encoder(flow.to(hidden.dtype), correlations.to(hidden.dtype))
            hidden = self.update_block.gru(hidden, motion, constant)
            flow = flow + self.update_block.flow_head(hidden).float()
            flows.append(flow)
            states.append(hidden)
        return flows, states

    def _correlations(self, first: Tensor, second: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return the function from positions and radius to the correlations of features (B, C, h, w)."""
        if self.correlation == "all_pairs":
            return partial(look_up, all_pairs(first, second))
        first, second = (each.contiguous(memory_format=torch.channels_last) for each in (first, second))
        return partial(look_up_on_demand, first, _scales(second))

    def _upsample(self, flow: Tensor, hidden: Tensor) -> Tensor:
        """Return a flow (B, 2, h, w) at 8 times the size, in pixels."""
        height, width = flow.shape[2:]
        if self.design.small:
            size = (height * _STRIDE, width * _STRIDE)
            return _STRIDE * F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
        # Each pixel is a weighted mean of the 3 x 3 vectors around it.
        weights = 0.25 * self.update_block.mask(hidden)
        weights = weights.float().unflatten(1, (1, 9, _STRIDE, _STRIDE)).softmax(dim=2)
        vectors = F.unfold(_STRIDE * flow, 3, padding=1).unflatten(1, (2, 9, 1, 1)).unflatten(5, (height, width))
        fine = (weights * vectors).sum(dim=2)
        return fine.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


for _name, _design in NETWORKS.items():
    register_model(
        _name,
        partial(Raft, _design),
        task="flow",
        input_spec=InputSpec(frames=2, size=256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    )
