"""Layers of the 3-D bottleneck ResNets of PyTorchVideo, which Slow, C2D, I3D and both pathways of SlowFast consist of.

Attribute names are those of PyTorchVideo, so the entries of its files fit.

Shapes: B clips, C channels, T frames, H, W.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._stage import Stage

__all__ = ["DEPTHS", "ResStage", "Stem", "check_clips", "initialize", "pysf_block_key", "window_mean"]

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Number of residual blocks of each stage, by the depth in the name of a network."""


def check_clips(model: nn.Module, clips: Tensor, *, frames: int = 1, size: int = 32) -> None:
    """Check that clips are not shorter or smaller than the network can process.

    Args:
        model: network, named in the message.
        clips: (B, C, T, H, W).
        frames: smallest T.
        size: smallest H and W, in pixels.

    Raises:
        ValueError: the clips are too short or too small.
    """
    length, height, width = clips.shape[2:]
    if length < frames or height < size or width < size:
        raise ValueError(
            f"clips of {length} frames, {height}x{width}: {type(model).__name__} needs at least "
            f"{frames} {'frame' if frames == 1 else 'frames'} of {size}x{size}"
        )


def window_mean(maps: Tensor, size: int) -> Tensor:
    """Average feature maps over time and over all spatial windows of a size, as the published heads do.

    The published average pooling has the size of the maps of training clips and a stride of 1. Larger clips have
    several windows, whose mean counts the center of the maps more often than the border.

    Args:
        maps: (B, C, T, H, W).
        size: height and width of a window; smaller maps are one window.

    Returns:
        (B, C, H', W'), one value for each window: H' = H - size + 1, at least 1.
    """
    frames = maps.mean(dim=2)
    height, width = frames.shape[2:]
    return F.avg_pool2d(frames, (min(size, height), min(size, width)), stride=1)


def initialize(model: nn.Module, classifier: nn.Linear, *, zero_init: bool, last_norms: str = "norm_c") -> None:
    """Initialize as PyTorchVideo: He's normal distribution; the classifier with a standard deviation of 0.01.

    Args:
        model: network.
        classifier: its classifier.
        zero_init: set the scale of the last norm of each residual block to 0, so that blocks start as identities.
        last_norms: name of these norms inside their block.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif zero_init and isinstance(module, nn.BatchNorm3d) and name.rpartition(".")[2] == last_norms:
            nn.init.zeros_(module.weight)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)


def pysf_block_key(entry: str) -> str:
    """Return PyTorchVideo's key inside a residual block for a key of PySlowFast, such as "branch2.a_bn.weight"."""
    for theirs, ours in (("branch1_bn.", "branch1_norm."), ("branch1.", "branch1_conv.")):
        if entry.startswith(theirs):
            return ours + entry.removeprefix(theirs)
    for layer in "abc":
        entry = entry.replace(f"branch2.{layer}.", f"branch2.conv_{layer}.")
        entry = entry.replace(f"branch2.{layer}_bn.", f"branch2.norm_{layer}.")
    return entry


class Stem(nn.Sequential):
    """First convolution, with a stride of 2 in space, and pooling: maps (B, C, T, H / 4, W / 4)."""

    def __init__(self, outputs: int, frames: int, *, in_channels: int):
        """Args: outputs: C; frames: temporal size of the kernel; in_channels: channels of the clips."""
        conv = nn.Conv3d(in_channels, outputs, (frames, 7, 7), (1, 2, 2), (frames // 2, 3, 3), bias=False)
        super().__init__(
            OrderedDict(
                conv=conv,
                norm=nn.BatchNorm3d(outputs),
                relu=nn.ReLU(inplace=True),
                pool=nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            )
        )


def _branch(inputs: int, inner: int, outputs: int, frames: int, stride: int) -> nn.Sequential:
    """Return the residual branch: temporal, spatial and pointwise convolution."""
    return nn.Sequential(
        OrderedDict(
            conv_a=nn.Conv3d(inputs, inner, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False),
            norm_a=nn.BatchNorm3d(inner),
            act_a=nn.ReLU(inplace=True),
            conv_b=nn.Conv3d(inner, inner, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            norm_b=nn.BatchNorm3d(inner),
            act_b=nn.ReLU(inplace=True),
            conv_c=nn.Conv3d(inner, outputs, 1, bias=False),
            norm_c=nn.BatchNorm3d(outputs),
        )
    )


class _ResBlock(nn.Module):
    """Bottleneck block; the first one of a stage changes the width and may reduce the size."""

    def __init__(self, inputs: int, inner: int, outputs: int, *, frames: int, stride: int):
        super().__init__()
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.branch1_conv = nn.Conv3d(inputs, outputs, 1, (1, stride, stride), bias=False)
            self.branch1_norm = nn.BatchNorm3d(outputs)
        self.branch2 = _branch(inputs, inner, outputs, frames, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_norm(self.branch1_conv(x)) if self.projects else x
        return torch.relu_(self.branch2(x) + shortcut)


class ResStage(nn.Module):
    """Stage of bottleneck blocks.

    Args:
        inputs: channels of the input.
        inner: channels of the first two convolutions of a block; the outputs have four times as many.
        kernels: temporal size of the first convolution of each block, 1 or 3.
        stride: spatial stride of the first block.
    """

    def __init__(self, inputs: int, inner: int, kernels: Sequence[int], *, stride: int):
        super().__init__()
        self.res_blocks = Stage()
        for number, frames in enumerate(kernels):
            first = number == 0
            self.res_blocks.append(
                _ResBlock(
                    inputs if first else 4 * inner, inner, 4 * inner, frames=frames, stride=stride if first else 1
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps (B, 4 * inner, T, H / stride, W / stride)."""
        return self.res_blocks(x)
