"""Slow, C2D and I3D with a ResNet-50: one pathway, without temporal strides; C2D and I3D pool pairs of frames once.

"SlowFast Networks for Video Recognition", ICCV 2019, arXiv 1812.03982 (Slow); "Non-local Neural Networks", CVPR 2018,
arXiv 1711.07971 (C2D and I3D with a ResNet). Parameter names are those of PyTorchVideo. `load_weights` also reads files
of PySlowFast and, for Slow, of mmaction2's SlowOnly.

Shapes: B clips, C channels, T frames, H, W, K classes.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from vidseg.models._input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._residual3d import DEPTHS, ResStage, Stem, check_clips, initialize, pysf_block_key, window_mean
from vidseg.models._width import scaled

__all__ = ["NETWORKS", "Resnet3d", "ResnetDesign", "mmaction_block_key", "own_key", "published_input"]

_WINDOW = 7  # side of the maps of a published training clip, 224 / 32


@dataclass(frozen=True)
class ResnetDesign:
    """Architecture of a registered network.

    Attributes:
        blocks: number of residual blocks of each stage.
        kernels: temporal kernel sizes of the first convolutions of the blocks of each stage, repeated over the blocks.
        stem: temporal kernel size of the first convolution.
        pooled: max pooling over pairs of frames after the first stage.
    """

    blocks: tuple[int, int, int, int]
    kernels: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    stem: int = 1
    pooled: bool = False

    @property
    def stages(self) -> tuple[int, int, int, int]:
        """Numbers of the four stages in `blocks` of the network."""
        return (1, 3, 4, 5) if self.pooled else (1, 2, 3, 4)

    def stage_kernels(self, stage: int) -> list[int]:
        """Return the temporal kernel size of each block of a stage, counted from 0."""
        return list((self.kernels[stage] * self.blocks[stage])[: self.blocks[stage]])


_SLOW = ResnetDesign(DEPTHS[50], ((1,), (1,), (3,), (3,)))
NETWORKS = {
    "slow_r50_4x16": _SLOW,
    "slow_r50_8x8": _SLOW,
    "c2d_r50": ResnetDesign(DEPTHS[50], ((1,), (1,), (1,), (1,)), pooled=True),
    "i3d_r50": ResnetDesign(DEPTHS[50], ((3,), (3, 1), (3, 1), (1, 3)), stem=5, pooled=True),
}
"""Networks of this module by name."""


def mmaction_block_key(entry: str) -> str:
    """Return PyTorchVideo's key inside a residual block for a key of mmaction2, such as "conv1.bn.weight"."""
    if found := re.fullmatch(r"(conv[123]|downsample)\.(conv|bn)\.(\w+)", entry):
        layer, kind = found[1], {"conv": "conv", "bn": "norm"}[found[2]]
        if layer == "downsample":
            return f"branch1_{kind}.{found[3]}"
        return f"branch2.{kind}_{'abc'[int(layer[-1]) - 1]}.{found[3]}"
    return entry


def own_key(key: str, *, pooled: bool = False) -> str:
    """Return the key of PyTorchVideo for a key of PySlowFast or of mmaction2's SlowOnly.

    Args:
        key: any key; other keys are returned unchanged.
        pooled: whether the network has pooling after the first stage, see `ResnetDesign`.
    """
    numbers = (1, 3, 4, 5) if pooled else (1, 2, 3, 4)
    if found := re.fullmatch(r"s([2-5])\.pathway0_res(\d+)\.(.+)", key):
        return f"blocks.{numbers[int(found[1]) - 2]}.res_blocks.{found[2]}.{pysf_block_key(found[3])}"
    if found := re.fullmatch(r"backbone\.layer([1-4])\.(\d+)\.(.+)", key):
        return f"blocks.{numbers[int(found[1]) - 1]}.res_blocks.{found[2]}.{mmaction_block_key(found[3])}"
    if found := re.fullmatch(r"(?:s1\.pathway0_stem|backbone\.conv1)\.(conv|bn)\.(\w+)", key):
        return f"blocks.0.{'conv' if found[1] == 'conv' else 'norm'}.{found[2]}"
    for head in ("head.projection.", "cls_head.fc_cls."):
        if key.startswith(head):
            return f"blocks.{numbers[-1] + 1}.proj.{key.removeprefix(head)}"
    return key


def published_input(keys: Iterable[str], spec: InputSpec) -> InputSpec:
    """Return the input spec of a weights file: mmaction2 normalizes with the statistics of ImageNet.

    Args:
        keys: keys of the file.
        spec: registered spec of the network.
    """
    if any(key.startswith("backbone.") for key in keys):
        return replace(spec, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return spec


class Resnet3d(nn.Module):
    """3-D bottleneck ResNet; 32 454 096 parameters for Slow and 28 043 472 for I3D, for 400 classes.

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

    def __init__(
        self,
        design: ResnetDesign,
        *,
        num_classes: int,
        dropout: float = 0.5,
        zero_init: bool = True,
        width: float = 1.0,
        in_channels: int = 3,
    ):
        super().__init__()
        widths = [scaled(inner, width) for inner in (64, 128, 256, 512)]
        self.design, self.num_classes, self.num_features = design, num_classes, 4 * widths[3]
        self.blocks = nn.ModuleList([Stem(widths[0], design.stem, in_channels=in_channels)])
        inputs = widths[0]
        for number, inner in enumerate(widths):
            self.blocks.append(ResStage(inputs, inner, design.stage_kernels(number), stride=1 if number == 0 else 2))
            inputs = 4 * inner
            if number == 0 and design.pooled:
                self.blocks.append(nn.MaxPool3d((2, 1, 1)))
        self.classifier_name = f"blocks.{len(self.blocks)}.proj"
        classifier = nn.Linear(self.num_features, num_classes)
        self.blocks.append(nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), proj=classifier)))
        initialize(self, classifier, zero_init=zero_init)

    def own_key(self, key: str) -> str:
        """Return the key of this network for a key of another publication, see `own_key` of this module."""
        return own_key(key, pooled=self.design.pooled)

    def published_input(self, entries: Mapping[str, Tensor], spec: InputSpec) -> InputSpec:
        """Return the input spec of a weights file, see `published_input` of this module."""
        return published_input(entries, spec)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the feature maps of the last stage.

        Args:
            clips: (B, C, T, H, W), normalized.

        Returns:
            (B, C, T, H / 32, W / 32), sizes rounded up; T / 2, rounded down, for C2D and I3D.

        Raises:
            ValueError: the clips have fewer than 32x32 pixels, or C2D or I3D get one frame.
        """
        check_clips(self, clips, frames=2 if self.design.pooled else 1)
        x = clips
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W); errors as in `forward_features`.

        Features are averaged over time and over windows of 7x7 positions, as published for clips of 224 pixels.
        """
        return self.blocks[-1](window_mean(self.forward_features(clips), _WINDOW).mean(dim=(2, 3)))


def _resnet3d(
    design: ResnetDesign,
    *,
    num_classes: int,
    stem_kernel: int | None = None,
    dropout: float = 0.5,
    zero_init: bool = True,
    width: float = 1.0,
    in_channels: int = 3,
) -> Resnet3d:
    if stem_kernel is not None:
        if stem_kernel < 1 or stem_kernel % 2 == 0:
            raise ValueError(f"stem_kernel={stem_kernel} must be odd and at least 1")
        design = replace(design, stem=stem_kernel)
    return Resnet3d(
        design,
        num_classes=num_classes,
        dropout=dropout,
        zero_init=zero_init,
        width=width,
        in_channels=in_channels,
    )


_INPUT = InputSpec(frames=8, interval=8, size=224, resize=256, mean=(0.45,) * 3, std=(0.225,) * 3)

for _name, _design in NETWORKS.items():
    _input = replace(_INPUT, frames=4, interval=16) if _name.endswith("4x16") else _INPUT
    register_model(_name, partial(_resnet3d, _design), input_spec=_input)
