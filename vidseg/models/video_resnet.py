"""Video ResNets of torchvision and of the IG-65M port: R3D, MC3 and R(2+1)D, without pooling after the stem.

"A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018, arXiv 1711.11248. The weights of
torchvision for Kinetics-400 fit the three `torchvision_` networks. `ig65m_r2plus1d_34` is the R(2+1)D-34 pre-trained on
IG-65M ("Large-scale weakly-supervised pre-training for video action recognition", CVPR 2019, arXiv 1905.00561), which
TSP ("TSP: Temporally-Sensitive Pretraining of Video Encoders for Localization Tasks", ICCVW 2021, arXiv 2011.11479) and
the encoder of ETAD also use.

Parameter names are those of torchvision. `load_weights` also reads files of TSP, whose keys have the prefix `features.`
in the trunk and whose classifiers are `fc`, or `fc1` for actions and `fc2` for action or background.

Differences from the plain networks of `srtg`: no pooling after the stem, the inner widths of the 34-layer network, the
epsilon of its norms. `torchvision_r2plus1d_18` and `r2plus1d_18` have the same keys and shapes.

Shapes: B clips, C channels, T frames, H, W, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from vidseg.models._input_spec import KINETICS_MEAN, KINETICS_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._search_space import Sharing, stage_space
from vidseg.models._stage import Stage
from vidseg.models._width import Width, scaled, stage_blocks, stage_widths

__all__ = ["NETWORKS", "VideoDesign", "VideoResNet", "own_key"]

Kind = Literal["r3d", "mc3", "r2plus1d"]


@dataclass(frozen=True)
class VideoDesign:
    """Architecture of a registered network.

    Attributes:
        kind: "r3d": 3x3x3 convolutions. "mc3": 3x3x3 convolutions in the first stage and 1x3x3 in the others, which do
            not reduce the number of frames. "r2plus1d": factorized spatial and temporal convolutions.
        blocks: number of residual blocks of each stage.
        own_middle: compute the width between spatial and temporal convolution from the widths of the convolution itself
            (IG-65M), instead of those of the first convolution of the block (torchvision).
        eps: epsilon of the norms.
        momentum: momentum of the running statistics of the norms.
    """

    kind: Kind
    blocks: tuple[int, int, int, int]
    own_middle: bool = False
    eps: float = 1e-5
    momentum: float = 0.1


NETWORKS = {
    "torchvision_r3d_18": VideoDesign("r3d", (2, 2, 2, 2)),
    "torchvision_mc3_18": VideoDesign("mc3", (2, 2, 2, 2)),
    "torchvision_r2plus1d_18": VideoDesign("r2plus1d", (2, 2, 2, 2)),
    "ig65m_r2plus1d_34": VideoDesign("r2plus1d", (3, 4, 6, 3), own_middle=True, eps=1e-3, momentum=0.9),
}
"""Networks of this module by name."""


def own_key(key: str) -> str:
    """Return the key of torchvision for a key of TSP; other keys are returned unchanged."""
    key = key.removeprefix("features.")
    return f"fc.{key.removeprefix('fc1.')}" if key.startswith("fc1.") else key


def _middle(inputs: int, outputs: int) -> int:
    """Return the width between spatial and temporal convolution that preserves the parameter count of 3x3x3."""
    return 27 * inputs * outputs // (9 * inputs + 3 * outputs)


class _Block(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, design: VideoDesign, kind: Kind, inputs: int, outputs: int, stride: int):
        super().__init__()
        norm = partial(nn.BatchNorm3d, eps=design.eps, momentum=design.momentum)
        strides = (1 if kind == "mc3" else stride, stride, stride)
        first = _middle(inputs, outputs)
        second = _middle(outputs, outputs) if design.own_middle else first

        def convolution(inputs: int, strides: tuple[int, int, int], middle: int) -> nn.Module:
            if kind == "r3d":
                return nn.Conv3d(inputs, outputs, 3, strides, padding=1, bias=False)
            if kind == "mc3":
                return nn.Conv3d(inputs, outputs, (1, 3, 3), strides, padding=(0, 1, 1), bias=False)
            spatial = nn.Conv3d(inputs, middle, (1, 3, 3), (1, *strides[1:]), padding=(0, 1, 1), bias=False)
            temporal = nn.Conv3d(middle, outputs, (3, 1, 1), (strides[0], 1, 1), padding=(1, 0, 0), bias=False)
            return nn.Sequential(spatial, norm(middle), nn.ReLU(inplace=True), temporal)

        self.conv1 = nn.Sequential(convolution(inputs, strides, first), norm(outputs), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(convolution(outputs, (1, 1, 1), second), norm(outputs))
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, strides, bias=False), norm(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.conv1(x)) + self.downsample(x))


class VideoResNet(nn.Module):
    """Video ResNet of basic blocks.

    Args:
        design: kind of convolutions, number of blocks, norms; see `NETWORKS`.
        num_classes: K.
        width: multiplier of all widths, or one for each stage, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: width is not positive.
    """

    own_key = staticmethod(own_key)
    other_heads = ("fc2.",)
    """Prefixes of entries of published files that recognition does not use."""

    def __init__(self, design: VideoDesign, *, num_classes: int, width: Width = 1.0, in_channels: int = 3):
        super().__init__()

        def stage(kind: Kind, inputs: int, outputs: int, count: int, stride: int) -> Stage:
            rest = (_Block(design, kind, outputs, outputs, 1) for _ in range(count - 1))
            return Stage(_Block(design, kind, inputs, outputs, stride), *rest)

        def norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
            return nn.BatchNorm3d(channels, eps=design.eps, momentum=design.momentum), nn.ReLU(inplace=True)

        widths = stage_widths(width)
        self.num_classes = num_classes
        self.num_features = widths[3]
        if design.kind == "r2plus1d":
            middle = scaled(45, width if isinstance(width, (int, float)) else width[0])
            spatial = nn.Conv3d(in_channels, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
            temporal = nn.Conv3d(middle, widths[0], (3, 1, 1), padding=(1, 0, 0), bias=False)
            self.stem = nn.Sequential(spatial, *norm_relu(middle), temporal, *norm_relu(widths[0]))
        else:
            conv = nn.Conv3d(in_channels, widths[0], (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
            self.stem = nn.Sequential(conv, *norm_relu(widths[0]))
        first: Kind = "r3d" if design.kind == "mc3" else design.kind
        self.layer1 = stage(first, widths[0], widths[0], design.blocks[0], 1)
        self.layer2 = stage(design.kind, widths[0], widths[1], design.blocks[1], 2)
        self.layer3 = stage(design.kind, widths[1], widths[2], design.blocks[2], 2)
        self.layer4 = stage(design.kind, widths[2], widths[3], design.blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the feature maps of the last stage.

        Args:
            clips: (B, C, T, H, W), normalized.

        Returns:
            (B, C, T / 8, H / 16, W / 16), sizes rounded up; "mc3" returns T frames.
        """
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clips)))))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        return self.fc(self.avgpool(self.forward_features(clips)).flatten(1))


def _video_resnet(
    design: VideoDesign,
    *,
    num_classes: int,
    width: Width = 1.0,
    blocks: Sequence[int] | None = None,
    in_channels: int = 3,
) -> VideoResNet:
    design = replace(design, blocks=stage_blocks(blocks, design.blocks))
    return VideoResNet(design, num_classes=num_classes, width=width, in_channels=in_channels)


# The published evaluation samples every second frame of videos with 30 frames per second.
_INPUT = InputSpec(frames=16, interval=2, size=112, resize=128, mean=KINETICS_MEAN, std=KINETICS_STD)

for _name, _design in NETWORKS.items():
    register_model(
        _name,
        partial(_video_resnet, _design),
        input_spec=_INPUT,
        search_space=stage_space(_design.blocks, sharing=Sharing()),
    )
