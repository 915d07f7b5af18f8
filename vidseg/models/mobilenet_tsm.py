"""MobileNetV2 with temporal shift: backbone of the smaller streaming networks, and a frame-wise classifier.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv 1801.04381; "TSM: Temporal Shift Module for
Efficient Video Understanding", ICCV 2019, arXiv 1811.08383. Blocks with an expansion and a residual connection exchange
channels with the neighboring frames of the window before the first convolution. Parameter names are those of the
published weights, in which `.net` marks a convolution after a shift.

Shapes: B videos, C channels, T frames, H, W, K classes.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask

__all__ = ["FrameClassifier", "MobileNetTsm", "temporal_shift"]

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
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, division: int):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if expansion != 1:
            expand = _convolution(inputs, hidden, 1)
            layers.append(_Shifted(expand, division) if self.residual else expand)
        layers.append(_convolution(hidden, hidden, 3, stride=stride, groups=hidden))
        layers.append(_convolution(hidden, outputs, 1, relu=False))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        out = x
        for layer in self.conv:
            out = layer(out, frames) if isinstance(layer, _Shifted) else layer(out)
        return x + out if self.residual else out


class MobileNetTsm(nn.Module):
    """MobileNetV2 with temporal shift, without classifier; 2 223 872 parameters.

    Args:
        shift_division: reciprocal of the fraction of channels shifted in each direction; published: 8 in TSM, 30 in
            the first version of ETESVS.
        width: multiplier of all widths, rounded to multiples of 8; published: 1.0.

    Raises:
        ValueError: shift_division is below 2, or width is not positive.
    """

    def __init__(self, *, shift_division: int = 8, width: float = 1.0):
        super().__init__()
        if shift_division < 2:
            raise ValueError(f"shift_division={shift_division} must be at least 2")
        if width <= 0:
            raise ValueError(f"width={width} must be positive")

        def scale(channels: int) -> int:
            return channels if width == 1 else max(8, 8 * round(channels * width / 8))

        inputs = scale(32)
        self.conv1 = _convolution(3, inputs, 3, stride=2)
        for number, (expansion, channels, blocks, stride) in enumerate(_STAGES, 1):
            outputs = scale(channels)
            stage = nn.Sequential()
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
        self.num_features = scale(1280)
        self.conv2 = _convolution(inputs, self.num_features, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the feature maps of the last stage and of the last convolution.

        Args:
            clips: (B, 3, T, H, W), normalized.
            mask: (B, T), 1 on valid frames.

        Returns:
            Two tensors (B, T, C, H / 32, W / 32) with C = `stage_features` and C = `num_features`, 0 on padded frames.
        """
        frames = clips.shape[2]
        keep = mask.reshape(-1, 1, 1, 1)
        x = self.conv1(clips.transpose(1, 2).flatten(0, 1))
        for number in range(1, len(_STAGES) + 1):
            for block in self.get_submodule(f"layer{number}").children():
                x = block(x, frames)
            x = x * keep
        last = self.conv2(x) * keep
        return x.unflatten(0, (-1, frames)), last.unflatten(0, (-1, frames))


class FrameClassifier(StreamModel):
    """Frame-wise classifier without memory, a baseline of the streaming networks.

    Args:
        num_classes: K.
        shift_division: reciprocal of the fraction of channels shifted in each direction.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        dropout: dropout probability before the classifier.
    """

    def __init__(self, *, num_classes: int, shift_division: int = 8, width: float = 1.0, dropout: float = 0.5):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = MobileNetTsm(shift_division=shift_division, width=width)
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
