"""X3D: a narrow 3-D network with depthwise convolutions, expanded step by step in frames, size, width and depth.

"X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020, arXiv 2004.04730. Parameter names are those
of PyTorchVideo; `load_weights` also reads files of PySlowFast. XS, S and M have the same entries and differ in their
input and in the size of the pooling.

Shapes: B clips, C channels, T frames, H, W, K classes.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from vidseg.models._input_spec import InputSpec
from vidseg.models._registry import register_model
from vidseg.models._residual3d import check_clips, initialize, pysf_block_key, window_mean
from vidseg.models._stage import Stage
from vidseg.models._width import scaled

__all__ = ["NETWORKS", "X3d", "X3dDesign", "own_key"]

_STEM = 24
_WIDTHS = (24, 48, 96, 192)
_HEAD = 2048
_EXPANSION = 2.25  # inner channels of a block for each output channel
_SQUEEZE = 16


@dataclass(frozen=True)
class X3dDesign:
    """Architecture of a registered network.

    Attributes:
        blocks: number of residual blocks of each stage.
        window: side of the windows of the pooling, in positions of the last maps.
    """

    blocks: tuple[int, int, int, int]
    window: int


NETWORKS = {
    "x3d_xs": X3dDesign((3, 5, 11, 7), window=5),
    "x3d_s": X3dDesign((3, 5, 11, 7), window=5),
    "x3d_m": X3dDesign((3, 5, 11, 7), window=7),
    "x3d_l": X3dDesign((5, 10, 25, 15), window=10),
}
"""Networks of this module by name."""

_PYSF_LAYERS = {
    # PyTorchVideo calls the spatial convolution of the stem conv_t and the temporal one conv_xy.
    "s1.pathway0_stem.conv_xy.": "blocks.0.conv.conv_t.",
    "s1.pathway0_stem.conv.": "blocks.0.conv.conv_xy.",
    "s1.pathway0_stem.bn.": "blocks.0.norm.",
    "head.conv_5.": "blocks.5.pool.pre_conv.",
    "head.conv_5_bn.": "blocks.5.pool.pre_norm.",
    "head.lin_5.": "blocks.5.pool.post_conv.",
    "head.projection.": "blocks.5.proj.",
}
_PYSF_BRANCH = {"norm_b.": "norm_b.0.", "se.fc1.": "norm_b.1.block.0.", "se.fc2.": "norm_b.1.block.2."}


def own_key(key: str) -> str:
    """Return the key of PyTorchVideo for a key of PySlowFast; other keys are returned unchanged."""
    if found := re.fullmatch(r"s([2-5])\.pathway0_res(\d+)\.(.+)", key):
        entry = pysf_block_key(found[3])
        for theirs, ours in _PYSF_BRANCH.items():
            entry = entry.replace(f"branch2.{theirs}", f"branch2.{ours}")
        return f"blocks.{int(found[1]) - 1}.res_blocks.{found[2]}.{entry}"
    for theirs, ours in _PYSF_LAYERS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


class _SqueezeExcitation(nn.Module):
    """Scale channels by weights that depend on their means."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(8, int(channels / _SQUEEZE + 4) // 8 * 8)
        if inner < 0.9 * channels / _SQUEEZE:
            inner += 8
        self.block = nn.Sequential(
            nn.Conv3d(channels, inner, 1), nn.ReLU(inplace=True), nn.Conv3d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.block(x.mean(dim=(2, 3, 4), keepdim=True))


class _Block(nn.Module):
    """Inverted bottleneck block with a depthwise 3x3x3 convolution."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, squeeze: bool):
        super().__init__()
        inner, strides = int(_EXPANSION * outputs), (1, stride, stride)
        self.projects = stride != 1 or inputs != outputs
        # The shortcut of a block that only reduces the size has no norm.
        self.widens = inputs != outputs
        if self.projects:
            self.branch1_conv = nn.Conv3d(inputs, outputs, 1, strides, bias=False)
        if self.widens:
            self.branch1_norm = nn.BatchNorm3d(outputs)
        norm_b: list[nn.Module] = [nn.BatchNorm3d(inner)]
        if squeeze:
            norm_b.append(_SqueezeExcitation(inner))
        self.branch2 = nn.Sequential(
            OrderedDict(
                conv_a=nn.Conv3d(inputs, inner, 1, bias=False),
                norm_a=nn.BatchNorm3d(inner),
                act_a=nn.ReLU(inplace=True),
                conv_b=nn.Conv3d(inner, inner, 3, strides, 1, groups=inner, bias=False),
                norm_b=nn.Sequential(*norm_b),
                act_b=nn.SiLU(),
                conv_c=nn.Conv3d(inner, outputs, 1, bias=False),
                norm_c=nn.BatchNorm3d(outputs),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_conv(x) if self.projects else x
        if self.widens:
            shortcut = self.branch1_norm(shortcut)
        return torch.relu_(self.branch2(x) + shortcut)


class _ResStage(nn.Module):
    """Stage whose first block halves the size; every second block has squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, count: int):
        super().__init__()
        blocks = [
            _Block(inputs if i == 0 else outputs, outputs, stride=2 if i == 0 else 1, squeeze=i % 2 == 0)
            for i in range(count)
        ]
        self.res_blocks = Stage(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_blocks(x)


class _Head(nn.Module):
    """Pooling between two projections, and the classifier."""

    def __init__(self, inputs: int, inner: int, outputs: int, num_classes: int, *, window: int, dropout: float):
        super().__init__()
        self.window = window
        self.pool = nn.ModuleDict(
            {
                "pre_conv": nn.Conv3d(inputs, inner, 1, bias=False),
                "pre_norm": nn.BatchNorm3d(inner),
                "post_conv": nn.Conv3d(inner, outputs, 1, bias=False),
            }
        )
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(outputs, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.pool["pre_norm"](self.pool["pre_conv"](maps)).relu_()
        windows = window_mean(x, self.window).unsqueeze(2)
        features = self.pool["post_conv"](windows).relu_().mean(dim=(2, 3, 4))
        return self.proj(self.dropout(features))


class X3d(nn.Module):
    """X3D; for 400 classes, 3 794 274 parameters for XS, S and M, and 6 153 384 for L.

    Activations have the channels-last layout, in which depthwise 3-D convolutions are faster.

    Args:
        design: see `NETWORKS`.
        num_classes: K.
        dropout: dropout probability before the classifier.
        zero_init: set the scale of the last norm of each block to 0 at initialization, as published.
        width: multiplier of all widths, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: width is not positive.
    """

    classifier_name = "blocks.5.proj"
    own_key = staticmethod(own_key)

    def __init__(
        self,
        design: X3dDesign,
        *,
        num_classes: int,
        dropout: float = 0.5,
        zero_init: bool = True,
        width: float = 1.0,
        in_channels: int = 3,
    ):
        super().__init__()
        stem, widths = scaled(_STEM, width), [scaled(outputs, width) for outputs in _WIDTHS]
        self.design, self.num_classes, self.num_features = design, num_classes, scaled(_HEAD, width)
        spatial = nn.Conv3d(in_channels, stem, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        temporal = nn.Conv3d(stem, stem, (5, 1, 1), padding=(2, 0, 0), groups=stem, bias=False)
        conv = nn.Sequential(OrderedDict(conv_t=spatial, conv_xy=temporal))
        norm, relu = nn.BatchNorm3d(stem), nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList([nn.Sequential(OrderedDict(conv=conv, norm=norm, relu=relu))])
        for inputs, outputs, count in zip([stem, *widths[:-1]], widths, design.blocks, strict=True):
            self.blocks.append(_ResStage(inputs, outputs, count))
        inner = int(_EXPANSION * widths[-1])
        head = _Head(widths[-1], inner, self.num_features, num_classes, window=design.window, dropout=dropout)
        self.blocks.append(head)
        initialize(self, head.proj, zero_init=zero_init)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the feature maps of the last stage.

        Args:
            clips: (B, C, T, H, W), normalized.

        Returns:
            (B, C, T, H / 32, W / 32), sizes rounded up.

        Raises:
            ValueError: the clips have fewer than 32x32 pixels.
        """
        check_clips(self, clips)
        x = clips.contiguous(memory_format=torch.channels_last_3d)
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W); errors as in `forward_features`.

        Features are averaged over time and over windows of the size of the maps of published training clips.
        """
        return self.blocks[-1](self.forward_features(clips))


_INPUT = InputSpec(frames=16, interval=5, size=224, resize=256, mean=(0.45,) * 3, std=(0.225,) * 3)
_INPUTS = {
    "x3d_xs": replace(_INPUT, frames=4, interval=12, size=160, resize=182),
    "x3d_s": replace(_INPUT, frames=13, interval=6, size=160, resize=182),
    "x3d_m": _INPUT,
    "x3d_l": replace(_INPUT, size=312, resize=356),
}

for _name, _design in NETWORKS.items():
    register_model(_name, partial(X3d, _design), input_spec=_INPUTS[_name])
