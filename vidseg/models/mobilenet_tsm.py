"""MobileNetV2 with temporal shift: backbone of the smaller streaming networks, and a frame-wise classifier.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv 1801.04381; "TSM: Temporal Shift Module for
Efficient Video Understanding", ICCV 2019, arXiv 1811.08383. Blocks with an expansion and a residual connection exchange
channels with the neighboring frames of the window before the first convolution. Parameter names are those of the
published weights, which are those of mmaction2; `.net` marks a convolution after a shift.

Shapes: B videos, C channels, T frames, H, W, K classes.
"""

import re
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._stage import Stage
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask
from vidseg.models._width import scaled

__all__ = ["FrameClassifier", "MobileNetTsm", "TwoStreamTsm", "own_key", "temporal_shift", "tsm_backbone"]

# Expansion, channels, blocks and stride of the seven stages.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Stage and the number of its first block, in files that number all blocks; 0 is the first convolution.
_FIRST_BLOCKS = [(stage, 1 + sum(row[2] for row in _STAGES[: stage - 1])) for stage in range(1, len(_STAGES) + 1)]


def own_key(key: str, *, flat: bool = False) -> str:
    """Return the key of mmaction2's MobileNetV2 for a key of another publication; other keys are returned unchanged.

    Args:
        key: key without the prefix of the trunk and without `.net`, such as "features.2.conv.0.1.weight".
        flat: the layers of a block are one sequence, as in the files of the authors of TSM, in which the number 3 is
            the second convolution. False: the layers are grouped, as in torchvision.
    """
    found = re.fullmatch(r"features\.(\d+)\.((?:conv\.)?)([\d.]+)\.(\w+)", key)
    if found is None:
        return key
    number, places, entry = int(found[1]), [int(place) for place in found[3].split(".")], found[4]
    if not found[2]:  # the first or the last convolution
        return f"conv{1 if number == 0 else 2}.{('conv', 'bn')[places[0]]}.{entry}"
    stage, block = next((stage, number - first) for stage, first in reversed(_FIRST_BLOCKS) if number >= first)
    layers = 2 if _STAGES[stage - 1][0] == 1 else 3
    if flat:  # convolution, norm, activation of each layer
        layer, part = divmod(places[0], 3)
    elif len(places) == 2:
        layer, part = places
    else:  # the last convolution and its norm
        layer, part = layers - 1, places[0] - (layers - 1)
    return f"layer{stage}.{block}.conv.{layer}.{('conv', 'bn')[part]}.{entry}"


def temporal_shift(x: Tensor, frames: int, division: int) -> Tensor:
    """Shift a part of the channels to the previous frame and a part to the next frame, with zeros at both ends.

    Args:
        x: (B * T, C, H, W).
        frames: T.
        division: the first C // division channels take the values of the next frame, as many following channels those
            of the previous frame.

    Returns:
        (B * T, C, H, W).
    """
    fold = x.shape[1] // division
    if fold == 0:
        return x
    clips = x.unflatten(0, (-1, frames))
    following = F.pad(clips[:, 1:, :fold], (0, 0) * 3 + (0, 1))
    previous = F.pad(clips[:, :-1, fold : 2 * fold], (0, 0) * 3 + (1, 0))
    return torch.cat([following, previous, clips[:, :, 2 * fold :]], dim=2).flatten(0, 1)


def _convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers["bn"] = nn.BatchNorm2d(outputs)
    if relu:
        layers["activate"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)


class _Shifted(nn.Module):
    """Layer with a temporal shift of its input."""

    def __init__(self, net: nn.Module, division: int):
        super().__init__()
        self.net = net
        self.division = division

    def forward(self, x: Tensor, frames: int) -> Tensor:
        return self.net(temporal_shift(x, frames, self.division))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, division: int | None):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            expand = _convolution(inputs, hidden, 1)
            layers.append(_Shifted(expand, division) if self.residual and division is not None else expand)
        layers.append(_convolution(hidden, hidden, 3, stride=stride, groups=hidden))
        layers.append(_convolution(hidden, outputs, 1, relu=False))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps (B, T, C', H', W') of maps (B, T, C, H, W)."""
        frames, maps = x.shape[1], x.flatten(0, 1)
        out = maps
        for layer in self.conv:
            out = layer(out, frames) if isinstance(layer, _Shifted) else layer(out)
        return (maps + out if self.residual else out).unflatten(0, (-1, frames))


class MobileNetTsm(nn.Module):
    """MobileNetV2 with temporal shift, without classifier; 2 223 872 parameters.

    Args:
        shift_division: reciprocal of the fraction of channels shifted in each direction; published: 8 in TSM, 30 in
            the first version of ETESVS. None: no shift.
        width: multiplier of all widths, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: shift_division is below 2, or width is not positive.
    """

    def __init__(self, *, shift_division: int | None = 8, width: float = 1.0, in_channels: int = 3):
        super().__init__()
        if shift_division is not None and shift_division < 2:
            raise ValueError(f"shift_division={shift_division} must be at least 2")
        inputs = scaled(32, width)
        self.conv1 = _convolution(in_channels, inputs, 3, stride=2)
        for number, (expansion, channels, blocks, stride) in enumerate(_STAGES, 1):
            outputs = scaled(channels, width)
            stage = Stage()
            for block in range(blocks):
                first = block == 0
                stage.append(
                    _InvertedResidual(
                        inputs if first else outputs, outputs, stride if first else 1, expansion, shift_division
                    )
                )
            self.add_module(f"layer{number}", stage)
            inputs = outputs
        self.stage_features = inputs
        self.num_features = scaled(1280, width)
        self.conv2 = _convolution(inputs, self.num_features, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the feature maps of the last stage and of the last convolution.

        Args:
            clips: (B, C, T, H, W), normalized.
            mask: (B, T), 1 on valid frames; None: all frames are valid.

        Returns:
            Two tensors (B, T, C, H / 32, W / 32) with C = `stage_features` and C = `num_features`, 0 on padded frames.
        """
        frames = clips.shape[2]
        keep = None if mask is None else mask[..., None, None, None]
        x = self.conv1(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, frames))
        for number in range(1, len(_STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
            x = x if keep is None else x * keep
        last = self.conv2(x.flatten(0, 1)).unflatten(0, (-1, frames))
        return x, last if keep is None else last * keep


class TwoStreamTsm(MobileNetTsm):
    """MobileNetV2 with temporal shift of frames, and a second one of motion, whose feature maps are added.

    Entries of the first network have the keys of `MobileNetTsm`, so that its weights fit; those of the second one begin
    with `motion.`.

    Args:
        shift_division: see `MobileNetTsm`.
        width: multiplier of all widths of both networks.
        in_channels: channels of the clips, those of the motion included.
        motion_channels: channels of the motion, the last ones.
    """

    def __init__(self, *, shift_division: int | None, width: float, in_channels: int, motion_channels: int):
        self.split = [in_channels - motion_channels, motion_channels]
        super().__init__(shift_division=shift_division, width=width, in_channels=self.split[0])
        self.motion = MobileNetTsm(shift_division=shift_division, width=width, in_channels=motion_channels)

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the sums of the feature maps of both networks, see `MobileNetTsm.forward`."""
        frames, motion = clips.split(self.split, dim=1)
        maps = zip(super().forward(frames, mask), self.motion(motion, mask), strict=True)
        stage, last = (first + second for first, second in maps)
        return stage, last


def tsm_backbone(
    *, shift_division: int | None = 8, width: float = 1.0, in_channels: int = 3, motion_channels: int = 0
) -> MobileNetTsm:
    """Return the backbone of a streaming network: `MobileNetTsm`, or `TwoStreamTsm` for frames with motion.

    Args:
        shift_division: see `MobileNetTsm`.
        width: multiplier of all widths.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, have a network of their own; 0: none.

    Raises:
        ValueError: no channel is left for the frames.
    """
    if not 0 <= motion_channels < in_channels:
        raise ValueError(f"motion_channels={motion_channels} must be at least 0 and below in_channels={in_channels}")
    if motion_channels == 0:
        return MobileNetTsm(shift_division=shift_division, width=width, in_channels=in_channels)
    return TwoStreamTsm(
        shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
    )


class FrameClassifier(StreamModel):
    """Frame-wise classifier without memory, a baseline of the streaming networks.

    Args:
        num_classes: K.
        shift_division: reciprocal of the fraction of channels shifted in each direction.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        dropout: dropout probability before the classifier.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, are motion; see `tsm_backbone`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        shift_division: int = 8,
        width: float = 1.0,
        dropout: float = 0.5,
        in_channels: int = 3,
        motion_channels: int = 0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = tsm_backbone(
            shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.backbone.num_features, num_classes)

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Compute logits with S = 1 and an empty state, see `StreamModel.forward`."""
        keep = frame_mask(mask, clips)
        pooled = self.backbone(clips, keep)[1].mean(dim=(3, 4))
        logits = (self.fc(self.dropout(pooled)) * keep[..., None]).transpose(1, 2)
        return StreamOutput(logits[None]), StreamState({})


register_model(
    "mobilenet_v2_tsm_frames",
    FrameClassifier,
    task="streaming",
    input_spec=InputSpec(frames=30, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
