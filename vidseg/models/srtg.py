"""Plain and SRTG 3-D ResNets: Squeeze and Recursion Temporal Gates.

"Learn to cycle: Time-consistent feature discovery for action recognition", Pattern Recognition Letters 141 (2021),
arXiv 2006.08247. The output of each block is averaged over space to one vector per frame, an LSTM runs over these
vectors, and the output of the block is multiplied by that of the LSTM. The temporal gate skips the multiplication for
clips whose vectors before and after the LSTM are not cycle consistent.

Parameter names and widths are those of the published weights: every depth ends in 512 channels, because the bottleneck
does not expand, and the "xt" networks have no grouped convolutions. All published weights have the gate off.

Shapes: B clips, C channels, T frames, H, W, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vidseg.models._input_spec import InputSpec
from vidseg.models._recurrent import run_recurrent
from vidseg.models._registry import register_model
from vidseg.models._search_space import Sharing, stage_space
from vidseg.models._stage import Stage
from vidseg.models._width import Width, scaled, stage_blocks, stage_widths

__all__ = ["DESIGNS", "PLACEMENTS", "Design", "SqueezeRecursion", "SrtgResNet", "cycle_consistent"]

PLACEMENTS = ("start", "top", "mid", "end", "res", "final")


def cycle_consistent(a: Tensor, b: Tensor) -> Tensor:
    """Return whether each frame's nearest neighbor in the other sequence is the frame with the same number.

    The condition must be satisfied in both directions. Distances are Euclidean; ties are consistent.

    Args:
        a: features (B, C, T).
        b: features (B, C, T).

    Returns:
        bool (B,).
    """
    with torch.no_grad():
        # cdist by matrix products is not exact enough to separate equal frames from nearly equal ones.
        a, b = (x.transpose(1, 2).to(torch.promote_types(x.dtype, torch.float32)) for x in (a, b))
        distance = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        same = distance.diagonal(dim1=1, dim2=2)
        return ((same <= distance.amin(dim=2)) & (same <= distance.amin(dim=1))).all(dim=1)


class SqueezeRecursion(nn.Module):
    """Multiplication of features by the output of an LSTM over their spatial means (section 3 of the paper).

    Args:
        channels: C.
        gate: return a clip unchanged unless its means and the outputs of the LSTM are cycle consistent.
    """

    def __init__(self, channels: int, *, gate: bool = False):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, num_layers=2)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """Compute recalibrated features (B, C, T, H, W) of features of the same shape."""
        squeezed = x.mean(dim=(3, 4))
        recurrent = run_recurrent(self.lstm, squeezed.permute(2, 0, 1))[0].permute(1, 2, 0)
        fused = x * recurrent[..., None, None]
        if not self.gate:
            return fused
        return torch.where(cycle_consistent(squeezed, recurrent)[:, None, None, None, None], fused, x)


@dataclass(frozen=True)
class Design:
    """Architecture of a registered network."""

    kind: str
    """"r3d": 3x3x3 convolutions. "r2plus1d": factorized spatial and temporal convolutions."""
    blocks: tuple[int, int, int, int]
    """Number of blocks of each stage."""
    bottleneck: bool
    """Whether blocks have three convolutions instead of two."""
    groups: int = 1
    """Factor of the inner width of a bottleneck; no published convolution is grouped."""
    group_width: int = 64
    """Inner width of a bottleneck of 64 channels, before `groups`."""

    def widen(self, channels: int) -> int:
        """Return the inner width of a bottleneck with `channels` output channels."""
        return max(1, int(channels * self.group_width / 64)) * self.groups

    def middle(self, inputs: int, outputs: int) -> int:
        """Return the width between spatial and temporal convolution that preserves the parameter count of 3x3x3."""
        channels = (27 * inputs * outputs) // (9 * inputs + 3 * outputs)
        return self.widen(channels) if self.bottleneck else channels


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm3d(channels), nn.ReLU(inplace=True)


def _stem(kind: str, inputs: int, outputs: int, middle: int) -> nn.Sequential:
    if kind == "r3d":
        conv = nn.Conv3d(inputs, outputs, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        return nn.Sequential(conv, *_norm_relu(outputs))
    spatial = nn.Conv3d(inputs, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
    temporal = nn.Conv3d(middle, outputs, (3, 1, 1), padding=(1, 0, 0), bias=False)
    return nn.Sequential(spatial, *_norm_relu(middle), temporal, *_norm_relu(outputs))


def _conv(kind: str, inputs: int, outputs: int, middle: int, stride: int) -> nn.Sequential:
    """Return a 3x3x3 convolution, or a spatial and a temporal convolution with `middle` channels between them."""
    if kind == "r3d":
        return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False))
    spatial = nn.Conv3d(inputs, middle, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
    temporal = nn.Conv3d(middle, outputs, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False)
    return nn.Sequential(spatial, *_norm_relu(middle), temporal)


class _Block(nn.Module):
    """Residual block of two convolutions, or three (bottleneck), with optional Squeeze and Recursion."""

    def __init__(self, design: Design, inputs: int, outputs: int, stride: int, placement: str | None, gate: bool):
        super().__init__()
        middle = design.middle(inputs, outputs)
        if design.bottleneck:
            inner = design.widen(outputs)
            self.conv1 = nn.Sequential(nn.Conv3d(inputs, inner, 1, bias=False), *_norm_relu(inner))
            self.conv2 = nn.Sequential(_conv(design.kind, inner, inner, middle, stride), *_norm_relu(inner))
            self.conv3 = nn.Sequential(nn.Conv3d(inner, outputs, 1, bias=False), nn.BatchNorm3d(outputs))
        else:
            inner = outputs
            self.conv1 = nn.Sequential(_conv(design.kind, inputs, outputs, middle, stride), *_norm_relu(outputs))
            self.conv2 = nn.Sequential(_conv(design.kind, outputs, outputs, middle, 1), nn.BatchNorm3d(outputs))
            self.conv3 = nn.Sequential()
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.placement = placement
        if placement is not None:
            channels = {"start": inputs, "top": inner, "mid": inner}.get(placement, outputs)
            self.sar = SqueezeRecursion(channels, gate=gate)

    def _recur(self, place: str, x: Tensor) -> Tensor:
        return self.sar(x) if place == self.placement else x

    def forward(self, x: Tensor) -> Tensor:
        x = self._recur("start", x)
        out = self._recur("mid", self.conv2(self._recur("top", self.conv1(x))))
        out = self._recur("end", self.conv3(out)) + self._recur("res", self.downsample(x))
        return self._recur("final", self.relu(out))


class SrtgResNet(nn.Module):
    """3-D or (2+1)-D residual network, with or without Squeeze and Recursion in every block.

    Args:
        design: kind of convolutions, number of blocks and kind of block, see `DESIGNS`.
        num_classes: K.
        placement: position of Squeeze and Recursion in a block. "start": input of the block. "top": after the first
            convolution. "mid": after the second. "end": before the sum; in a block of two convolutions the same as
            "mid". "res": on the shortcut. "final": after the sum, as published. None: no Squeeze and Recursion.
        gate: use temporal gates, see `SqueezeRecursion`; False in all published weights.
        pool: max pooling of time, height and width after the stem, as in the code published since November 2020. False:
            no pooling, as in the code of May and June 2020, with the same state dict and about seven times the
            computation.
        width: multiplier of all widths, or one for each stage, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: `placement` is unknown, or `width` is not positive.
    """

    def __init__(
        self,
        design: Design,
        *,
        num_classes: int,
        placement: str | None = "final",
        gate: bool = False,
        pool: bool = True,
        width: Width = 1.0,
        in_channels: int = 3,
    ):
        super().__init__()
        if placement is not None and placement not in PLACEMENTS:
            raise ValueError(f"placement={placement!r} is not one of {', '.join(PLACEMENTS)}")

        def stage(inputs: int, outputs: int, count: int, stride: int) -> Stage:
            first = _Block(design, inputs, outputs, stride, placement, gate)
            rest = (_Block(design, outputs, outputs, 1, placement, gate) for _ in range(count - 1))
            return Stage(first, *rest)

        widths = stage_widths(width)
        self.num_classes = num_classes
        self.num_features = widths[3]
        middle = scaled(45, width if isinstance(width, (int, float)) else width[0])
        self.stem = _stem(design.kind, in_channels, widths[0], middle)
        self.pool = nn.MaxPool3d(3, stride=2, padding=1) if pool else nn.Identity()
        self.layer1 = stage(widths[0], widths[0], design.blocks[0], 1)
        self.layer2 = stage(widths[0], widths[1], design.blocks[1], 2)
        self.layer3 = stage(widths[1], widths[2], design.blocks[2], 2)
        self.layer4 = stage(widths[2], widths[3], design.blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the feature maps (B, C, T', H', W') of the last stage of normalized clips (B, C, T, H, W)."""
        x = self.pool(self.stem(clips))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        return self.fc(self.avgpool(self.forward_features(clips)).flatten(1))


def _srtg(
    design: Design,
    *,
    num_classes: int,
    placement: str = "final",
    gate: bool = False,
    pool: bool = True,
    width: Width = 1.0,
    blocks: Sequence[int] | None = None,
    in_channels: int = 3,
) -> SrtgResNet:
    return SrtgResNet(
        replace(design, blocks=stage_blocks(blocks, design.blocks)),
        num_classes=num_classes,
        placement=placement,
        gate=gate,
        pool=pool,
        width=width,
        in_channels=in_channels,
    )


def _plain(
    design: Design,
    *,
    num_classes: int,
    pool: bool = True,
    width: Width = 1.0,
    blocks: Sequence[int] | None = None,
    in_channels: int = 3,
) -> SrtgResNet:
    design = replace(design, blocks=stage_blocks(blocks, design.blocks))
    return SrtgResNet(design, num_classes=num_classes, placement=None, pool=pool, width=width, in_channels=in_channels)


_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def _designs(kind: str) -> dict[str, Design]:
    designs = {f"{kind}_{depth}": Design(kind, blocks, depth >= 50) for depth, blocks in _BLOCKS.items()}
    designs[f"{kind}xt50_32x4d"] = Design(kind, _BLOCKS[50], True, groups=32, group_width=4)
    designs[f"{kind}xt101_32x8d"] = Design(kind, _BLOCKS[101], True, groups=32, group_width=8)
    designs[f"wide_{kind}50_2"] = Design(kind, _BLOCKS[50], True, group_width=128)
    designs[f"wide_{kind}101_2"] = Design(kind, _BLOCKS[101], True, group_width=128)
    return designs


DESIGNS = _designs("r3d") | _designs("r2plus1d")
"""Plain networks by name; the prefix "srtg_" adds Squeeze and Recursion."""

_INPUT = InputSpec(frames=16, interval=2, size=112, resize=128)

for _name, _design in DESIGNS.items():
    register_model(
        _name,
        partial(_plain, _design),
        input_spec=_INPUT,
        search_space=stage_space(_design.blocks, sharing=Sharing()),
    )
    register_model(
        f"srtg_{_name}",
        partial(_srtg, _design),
        input_spec=_INPUT,
        search_space=stage_space(_design.blocks, placement=PLACEMENTS, gate=[False, True]),
    )
