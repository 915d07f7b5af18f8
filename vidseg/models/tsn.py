"""TSN and TSM: a 2-D ResNet over segments of a video, with averaged predictions.

"Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", ECCV 2016, arXiv 1608.00859; "TSM:
Temporal Shift Module for Efficient Video Understanding", ICCV 2019, arXiv 1811.08383. TSM exchanges channels with the
neighboring frames before the first convolution of residual blocks and has the same parameters as TSN.

Parameter names are those of mmaction2, in which `.net` marks a convolution after a shift. `load_weights` also reads
files of the authors of TSM and ResNets of torchvision; with strict=False it fills a TSM from a TSN and the reverse.

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
from vidseg.models.mobilenet_tsm import temporal_shift

__all__ = ["BLOCKS", "TemporalSegmentNetwork", "own_key"]

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Number of residual blocks of each stage, by the depth in the name of the network."""

_HEADS = ("cls_head.fc_cls.", "new_fc.", "fc.")  # mmaction2, authors of TSM, torchvision


def own_key(key: str) -> str:
    """Return the key of mmaction2's TSN for a key of the authors of TSM or of torchvision, without `.net`.

    Other keys are returned unchanged.
    """
    bare = key.removeprefix("base_model.").replace(".net.", ".")
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


class _Bottleneck(nn.Module):
    """Residual block of three convolutions; the shift applies to the residual branch only."""

    def __init__(self, inputs: int, inner: int, stride: int, shift_division: int | None):
        super().__init__()
        outputs = 4 * inner
        self.conv1 = _Convolution(inputs, inner, 1, shifted=shift_division is not None)
        self.conv2 = _Convolution(inner, inner, 3, stride=stride)
        self.conv3 = _Convolution(inner, outputs, 1)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = _Convolution(inputs, outputs, 1, stride=stride)
        self.relu = nn.ReLU(inplace=True)
        self.shift_division = shift_division

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps (B, T, C', H', W') of maps (B, T, C, H, W)."""
        frames, maps = x.shape[1], x.flatten(0, 1)
        out = maps if self.shift_division is None else temporal_shift(maps, frames, self.shift_division)
        out = self.conv3(self.relu(self.conv2(self.relu(self.conv1(out)))))
        return self.relu(out + self.downsample(maps)).unflatten(0, (-1, frames))


class _FrameResNet(nn.Module):
    """ResNet of single frames, with the strides in the 3x3 convolutions."""

    def __init__(self, blocks: tuple[int, ...], shift_division: int | None, widths: tuple[int, ...]):
        super().__init__()
        self.conv1 = _Convolution(3, widths[0], 7, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        # As published, networks of depth 101 and 152 shift before every second block.
        every = 2 if blocks[2] >= 23 else 1
        inputs = widths[0]
        for number, (count, inner) in enumerate(zip(blocks, widths, strict=True), start=1):
            stage = Stage()
            for block in range(count):
                stride = 2 if number > 1 and block == 0 else 1
                stage.append(_Bottleneck(inputs, inner, stride, None if block % every else shift_division))
                inputs = 4 * inner
            self.add_module(f"layer{number}", stage)
        self.num_features = inputs

    def forward(self, clips: Tensor) -> Tensor:
        """Compute maps (B, T, C, H / 32, W / 32) of clips (B, 3, T, H, W)."""
        frames = clips.shape[2]
        x = self.pool(self.relu(self.conv1(clips.transpose(1, 2).flatten(0, 1)))).unflatten(0, (-1, frames))
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return x


class TemporalSegmentNetwork(nn.Module):
    """TSN, or TSM if there is a temporal shift; depth 50 has 24 327 632 parameters for 400 classes.

    The published weights expect RGB frames, normalized with the mean and standard deviation of ImageNet.

    Args:
        blocks: number of blocks of each stage, see `BLOCKS`.
        num_classes: K.
        shift_division: TSM: reciprocal of the fraction of channels shifted in each direction, published: 8. None: TSN.
        dropout: dropout probability before the classifier: of the mean over frames in TSN, of each frame in TSM.
        width: multiplier of all widths, rounded to multiples of 8; published: 1.0.

    Raises:
        ValueError: shift_division is below 2, or width is not positive.
    """

    classifier_name = "cls_head.fc_cls"

    def __init__(
        self,
        blocks: tuple[int, ...],
        *,
        num_classes: int,
        shift_division: int | None,
        dropout: float,
        width: float = 1.0,
    ):
        super().__init__()
        if shift_division is not None and shift_division < 2:
            raise ValueError(f"shift_division={shift_division} must be at least 2")
        if width <= 0:
            raise ValueError(f"width={width} must be positive")
        widths = tuple(inner if width == 1 else max(8, 8 * round(inner * width / 8)) for inner in (64, 128, 256, 512))
        self.num_classes, self.shifted = num_classes, shift_division is not None
        self.backbone = _FrameResNet(blocks, shift_division, widths)
        self.num_features = self.backbone.num_features
        classifier = nn.Linear(self.num_features, num_classes)
        self.cls_head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), fc_cls=classifier))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(classifier.weight, std=0.001 if self.shifted else 0.01)
        nn.init.zeros_(classifier.bias)
        self._shifted_keys = frozenset(key for key in self.state_dict() if key.endswith(".net.weight"))

    def own_key(self, key: str) -> str:
        """Return the key of this network for a key of another publication, see `own_key` of this module."""
        name = own_key(key)
        shifted = name.replace(".conv.weight", ".conv.net.weight")
        return shifted if shifted in self._shifted_keys else name

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute feature maps (B, C, T, H / 32, W / 32), sizes rounded up, of normalized clips (B, 3, T, H, W)."""
        return self.backbone(clips).transpose(1, 2)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, 3, T, H, W)."""
        pooled = self.backbone(clips).mean(dim=(3, 4))
        if self.shifted:
            return self.cls_head(pooled).mean(dim=1)
        return self.cls_head(pooled.mean(dim=1))


def _tsn(
    blocks: tuple[int, ...], *, num_classes: int, dropout: float = 0.4, width: float = 1.0
) -> TemporalSegmentNetwork:
    return TemporalSegmentNetwork(blocks, num_classes=num_classes, shift_division=None, dropout=dropout, width=width)


def _tsm(
    blocks: tuple[int, ...], *, num_classes: int, shift_division: int = 8, dropout: float = 0.5, width: float = 1.0
) -> TemporalSegmentNetwork:
    return TemporalSegmentNetwork(
        blocks, num_classes=num_classes, shift_division=shift_division, dropout=dropout, width=width
    )


_INPUT = InputSpec(frames=3, sampling="segments", size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD)

for _depth, _blocks in BLOCKS.items():
    register_model(f"tsn_r{_depth}", partial(_tsn, _blocks), input_spec=_INPUT)
    register_model(f"tsm_r{_depth}", partial(_tsm, _blocks), input_spec=replace(_INPUT, frames=8))
