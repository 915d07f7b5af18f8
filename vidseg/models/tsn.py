"""TSN and TSM: a 2-D ResNet or MobileNetV2 over segments of a video, with averaged predictions.

"Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", ECCV 2016, arXiv 1608.00859; "TSM:
Temporal Shift Module for Efficient Video Understanding", ICCV 2019, arXiv 1811.08383. TSM exchanges channels with the
neighboring frames before the first convolution of residual blocks and has the same parameters as TSN.

Parameter names are those of mmaction2, in which `.net` marks a convolution after a shift. `load_weights` also reads
files of the authors of TSM, and ResNets and MobileNetV2 of torchvision; with strict=False it fills a TSM from a TSN and
the reverse.

Shapes: B videos, C channels, T frames, H, W, K classes.
"""

import re
from collections import OrderedDict
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from vidseg.models._input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._stage import Stage
from vidseg.models._width import scaled
from vidseg.models.mobilenet_tsm import MobileNetTsm, temporal_shift
from vidseg.models.mobilenet_tsm import own_key as own_mobilenet_key

__all__ = ["BLOCKS", "TemporalSegmentNetwork", "own_key"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Number of residual blocks of each stage, by the depth in the name of the network; 18 and 34 have basic blocks."""

_HEADS = ("cls_head.fc_cls.", "new_fc.", "fc.", "classifier.1.")  # mmaction2, authors of TSM, torchvision


def own_key(key: str) -> str:
    """Return the key of mmaction2's TSN for a key of the authors of TSM or of torchvision, without `.net`.

    Other keys are returned unchanged.
    """
    bare = key.removeprefix("base_model.").replace(".net.", ".")
    if bare.startswith("features."):
        return f"backbone.{own_mobilenet_key(bare, flat=key.startswith('base_model.'))}"
    for head in _HEADS:
        if bare.startswith(head):
            return _HEADS[0] + bare.removeprefix(head)
    if found := re.fullmatch(r"(layer\d\.\d+\.)?(conv|bn)(\d)\.(\w+)", bare):
        block, layer, number, entry = found.groups(default="")
        return f"backbone.{block}conv{number}.{layer}.{entry}"
    if found := re.fullmatch(r"(layer\d\.\d+\.downsample)\.([01])\.(\w+)", bare):
        return f"backbone.{found[1]}.{('conv', 'bn')[int(found[2])]}.{found[3]}"
    return bare


class _Convolution(nn.Sequential):
    """Convolution and batch normalization; a convolution after a shift has another key."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, shifted: bool = False):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        named = nn.Sequential(OrderedDict(net=conv)) if shifted else conv
        super().__init__(OrderedDict(conv=named, bn=nn.BatchNorm2d(outputs)))


class _Block(nn.Module):
    """Residual block of two or three convolutions; the shift applies to the residual branch only."""

    def __init__(self, inputs: int, inner: int, stride: int, shift_division: int | None, *, basic: bool):
        super().__init__()
        outputs = inner if basic else 4 * inner
        shifted = shift_division is not None
        if basic:
            self.conv1 = _Convolution(inputs, inner, 3, stride=stride, shifted=shifted)
            self.conv2 = _Convolution(inner, outputs, 3)
        else:
            self.conv1 = _Convolution(inputs, inner, 1, shifted=shifted)
            self.conv2 = _Convolution(inner, inner, 3, stride=stride)
            self.conv3 = _Convolution(inner, outputs, 1)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = _Convolution(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU(inplace=True)
        self.shift_division, self.basic = shift_division, basic

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps (B, T, C', H', W') of maps (B, T, C, H, W)."""
        frames, maps = x.shape[1], x.flatten(0, 1)
        out = maps if self.shift_division is None else temporal_shift(maps, frames, self.shift_division)
        out = self.conv2(self.relu(self.conv1(out)))
        if not self.basic:
            out = self.conv3(self.relu(out))
        return self.relu(out + self.downsample(maps)).unflatten(0, (-1, frames))


class _FrameResNet(nn.Module):
    """ResNet of single frames, with the strides in the 3x3 convolutions."""

    def __init__(
        self, blocks: tuple[int, ...], shift_division: int | None, width: float, *, basic: bool, in_channels: int
    ):
        super().__init__()
        widths = [scaled(inner, width) for inner in (64, 128, 256, 512)]
        self.conv1 = _Convolution(in_channels, widths[0], 7, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        # As published, networks of depth 101 and 152 shift before every second block.
        every = 2 if blocks[2] >= 23 else 1
        inputs = widths[0]
        for number, (count, inner) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage = Stage()
            for block in range(count):
                stride = 2 if number > 1 and block == 0 else 1
                shift = None if block % every else shift_division
                stage.append(_Block(inputs, inner, stride, shift, basic=basic))
                inputs = inner if basic else 4 * inner
            self.add_module(f"layer{number}", stage)
        self.num_features = inputs

    def forward(self, clips: Tensor) -> Tensor:
        """Compute maps (B, T, C, H / 32, W / 32) of clips (B, C, T, H, W)."""
        frames = clips.shape[2]
        x = self.pool(self.relu(self.conv1(clips.transpose(1, 2).flatten(0, 1)))).unflatten(0, (-1, frames))
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return x


class _FrameMobileNet(MobileNetTsm):
    """MobileNetV2 of single frames."""

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Compute maps (B, T, C, H / 32, W / 32) of clips (B, C, T, H, W)."""
        return super().forward(clips, mask)[1]


class TemporalSegmentNetwork(nn.Module):
    """TSN, or TSM if there is a temporal shift; depth 50 has 24 327 632 parameters for 400 classes.

    The published weights expect RGB frames, normalized with the mean and standard deviation of ImageNet.

    Args:
        backbone: network of clips (B, C, T, H, W) -> maps (B, T, C, H / 32, W / 32), with an attribute `num_features`.
        num_classes: K.
        shifted: whether the backbone has temporal shifts. The logits of a TSM are means over frames; a TSN has one
            classifier for the mean over frames.
        dropout: dropout probability before the classifier.
    """

    classifier_name = "cls_head.fc_cls"

    def __init__(self, backbone: nn.Module, *, num_classes: int, shifted: bool, dropout: float):
        super().__init__()
        self.num_classes, self.shifted = num_classes, shifted
        self.backbone = backbone
        self.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        classifier = nn.Linear(self.num_features, num_classes)
        self.cls_head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), fc_cls=classifier))
        nn.init.normal_(classifier.weight, std=0.001 if shifted else 0.01)
        nn.init.zeros_(classifier.bias)
        self._shifted_keys = {key.replace(".net.", "."): key for key in self.state_dict() if ".net." in key}

    def own_key(self, key: str) -> str:
        """Return the key of this network for a key of another publication, see `own_key` of this module."""
        name = own_key(key)
        return self._shifted_keys.get(name, name)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute feature maps (B, C, T, H / 32, W / 32), sizes rounded up, of normalized clips (B, C, T, H, W)."""
        return self.backbone(clips).transpose(1, 2)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        pooled = self.backbone(clips).mean(dim=(3, 4))
        if self.shifted:
            return self.cls_head(pooled).mean(dim=1)
        return self.cls_head(pooled.mean(dim=1))


def _resnet(
    blocks: tuple[int, ...], basic: bool, shift_division: int | None, width: float, in_channels: int
) -> _FrameResNet:
    if shift_division is not None and shift_division < 2:
        raise ValueError(f"shift_division={shift_division} must be at least 2")
    backbone = _FrameResNet(blocks, shift_division, width, basic=basic, in_channels=in_channels)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def _tsn(
    blocks: tuple[int, ...],
    basic: bool,
    *,
    num_classes: int,
    dropout: float = 0.4,
    width: float = 1.0,
    in_channels: int = 3,
) -> TemporalSegmentNetwork:
    backbone = _resnet(blocks, basic, None, width, in_channels)
    return TemporalSegmentNetwork(backbone, num_classes=num_classes, shifted=False, dropout=dropout)


def _tsm(
    blocks: tuple[int, ...],
    basic: bool,
    *,
    num_classes: int,
    shift_division: int = 8,
    dropout: float = 0.5,
    width: float = 1.0,
    in_channels: int = 3,
) -> TemporalSegmentNetwork:
    backbone = _resnet(blocks, basic, shift_division, width, in_channels)
    return TemporalSegmentNetwork(backbone, num_classes=num_classes, shifted=True, dropout=dropout)


def _tsn_mobilenet(
    *, num_classes: int, dropout: float = 0.4, width: float = 1.0, in_channels: int = 3
) -> TemporalSegmentNetwork:
    backbone = _FrameMobileNet(shift_division=None, width=width, in_channels=in_channels)
    return TemporalSegmentNetwork(backbone, num_classes=num_classes, shifted=False, dropout=dropout)


def _tsm_mobilenet(
    *, num_classes: int, shift_division: int = 8, dropout: float = 0.5, width: float = 1.0, in_channels: int = 3
) -> TemporalSegmentNetwork:
    backbone = _FrameMobileNet(shift_division=shift_division, width=width, in_channels=in_channels)
    return TemporalSegmentNetwork(backbone, num_classes=num_classes, shifted=True, dropout=dropout)


_INPUT = InputSpec(frames=3, sampling="segments", size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)

for _depth, _blocks in BLOCKS.items():
    register_model(f"tsn_r{_depth}", partial(_tsn, _blocks, _depth < 50), input_spec=_INPUT)
    register_model(f"tsm_r{_depth}", partial(_tsm, _blocks, _depth < 50), input_spec=replace(_INPUT, frames=8))
register_model("tsn_mobilenet_v2", _tsn_mobilenet, input_spec=_INPUT)
register_model("tsm_mobilenet_v2", _tsm_mobilenet, input_spec=replace(_INPUT, frames=8))
