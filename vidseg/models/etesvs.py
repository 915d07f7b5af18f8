"""ETESVS: end-to-end streaming video segmentation with a recurrent memory, in two published versions.

Network of the ETESVS code base (April 2022): MobileNetV2 with temporal shift as backbone, a recurrent memory between
windows, and a dilated temporal convolutional network as head. `Etesvs` is the version of the published table, with an
LSTM over spatial means and 15 518 241 parameters for 11 classes. `EtesvsConvLstm` is the version of the end of that
month, with a convolutional LSTM over the feature maps of the last stage and 3 563 564 parameters. Parameter names are
those of the published weights.

Shapes: B videos, C channels, T frames, H, W, D features, K classes, S stages.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._recurrent import run_recurrent, scan_steps
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory
from vidseg.models.mobilenet_tsm import tsm_backbone

__all__ = ["Etesvs", "EtesvsConvLstm"]

FrameScores = Literal["published", "corrected"]


class _ResidualLayer(nn.Module):
    def __init__(self, channels: int, dilation: int, norm: nn.Module):
        super().__init__()
        self.conv_dilated = nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv_1x1 = nn.Conv1d(channels, channels, 1)
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x + self.norm(self.conv_1x1(self.conv_dilated(x).relu()))) * mask


class _TcnStage(nn.Module):
    def __init__(self, in_features: int, num_classes: int, layers: int, channels: int, dropout: float | None):
        super().__init__()
        self.conv_1x1 = nn.Conv1d(in_features, channels, 1)
        self.layers = nn.ModuleList(
            _ResidualLayer(channels, 2**number, nn.BatchNorm1d(channels) if dropout is None else nn.Dropout(dropout))
            for number in range(layers)
        )
        self.conv_out = nn.Conv1d(channels, num_classes, 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        x = self.conv_1x1(features)
        for layer in self.layers:
            x = layer(x, mask)
        return self.conv_out(x) * mask


class _TcnHead(nn.Module):
    """Stage of dilated layers over one window, with dropout, or with batch normalization if `dropout` is None."""

    def __init__(self, in_features: int, num_classes: int, *, layers: int, channels: int, dropout: float | None):
        super().__init__()
        self.seg_conv = _TcnStage(in_features, num_classes, layers, channels, dropout)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Compute logits (1, B, K, T) from features (B, D, T) and a mask (B, 1, T)."""
        return self.seg_conv(features, mask)[None]


class _LstmMemory(nn.Module):
    def __init__(self, features: int, num_classes: int, dropout: float):
        super().__init__()
        self.lstm = nn.LSTM(features, features)
        self.fc_frames_cls = nn.Linear(features, num_classes)
        self.dropout = nn.Dropout(dropout)


def _in_memory_order(x: Tensor) -> Tensor:
    """Transpose (B, T, D) to (B, D, T) and reshape the result to (B, T, D) in memory order."""
    if not torch.compiler.is_exporting():
        return x.transpose(1, 2).reshape(x.shape)
    # torch.export specializes the reshape on whether the number of frames divides the number of features.
    frames, features = x.shape[1:]
    steps, columns = torch.arange(frames, device=x.device), torch.arange(features, device=x.device)
    return x.transpose(1, 2).flatten(1)[:, steps[:, None] * features + columns]


class _LstmNeck(nn.Module):
    def __init__(self, features: int, num_classes: int, dropout: float, frame_scores: FrameScores):
        super().__init__()
        self.frame_scores = frame_scores
        self.rnn_conv = _LstmMemory(features, num_classes, dropout)
        self.fc = nn.Linear(features, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, maps: Tensor, state: StreamState | None, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Return features (B, D, T), logits (B, K, T) of the backbone and of the memory, and the next state.

        Args:
            maps: (B, T, D, H, W).
            state: state of the previous window; None at the start of all videos.
            mask: (B, T), 1 on valid frames.
        """
        pooled = maps.mean(dim=(3, 4))
        start = tuple(memory(state, name, pooled, pooled.shape[2:])[None] for name in ("hidden", "cell"))
        recurrent, (hidden, cell) = run_recurrent(self.rnn_conv.lstm, pooled.transpose(0, 1), start)
        recurrent = recurrent.transpose(0, 1).contiguous()
        scored = recurrent
        if self.frame_scores == "published":
            scored = _in_memory_order(recurrent)
        neck = self.rnn_conv.fc_frames_cls(scored) * mask[..., None]
        features = (recurrent + self.rnn_conv.dropout(recurrent)) * mask[..., None]
        backbone = self.fc(self.dropout(pooled))
        remembered = {"hidden": hidden[0].detach(), "cell": cell[0].detach()}
        return features.transpose(1, 2), backbone.transpose(1, 2), neck.transpose(1, 2), remembered


class Etesvs(StreamModel):
    """MobileNetV2-TSM, LSTM and single-stage TCN: "mobiV2+ms" of the published table.

    `backbone_logits` are computed from the pooled features of each frame, `neck_logits` from the output of the LSTM.

    Args:
        num_classes: K.
        shift_division: reciprocal of the fraction of channels shifted in each direction; published: 30.
        layers: number of layers of the head; the dilation of layer i is 2 ** i.
        channels: number of channels of the head.
        dropout: dropout probability of neck and head.
        frame_scores: input of `neck_logits`. "published": the output (D, T) of the LSTM is reshaped to (T, D) in memory
            order, which mixes values of different frames, as in the training of the published weights. "corrected": the
            output of each frame. No effect on other outputs.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, are motion; see `tsm_backbone`.

    Raises:
        ValueError: `frame_scores` is unknown.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        shift_division: int = 30,
        layers: int = 4,
        channels: int = 64,
        dropout: float = 0.5,
        frame_scores: FrameScores = "published",
        width: float = 1.0,
        in_channels: int = 3,
        motion_channels: int = 0,
    ):
        super().__init__()
        if frame_scores not in ("published", "corrected"):
            raise ValueError(f"frame_scores={frame_scores!r} is not one of published, corrected")
        self.num_classes = num_classes
        self.backbone = tsm_backbone(
            shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
        )
        features = self.backbone.num_features
        self.neck = _LstmNeck(features, num_classes, dropout, frame_scores)
        self.head = _TcnHead(features, num_classes, layers=layers, channels=channels, dropout=dropout)

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Compute logits with S = 1, see `StreamModel.forward`."""
        keep = frame_mask(mask, clips)
        features, backbone, neck, remembered = self.neck(self.backbone(clips, keep)[1], state, keep)
        output = StreamOutput(self.head(features, keep[:, None]), backbone_logits=backbone, neck_logits=neck)
        return output, StreamState(remembered)


def _norm_conv(inputs: int, outputs: int, kernel: int, *, groups: int = 1, relu: bool = True) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    layers["bn"] = nn.BatchNorm2d(outputs)
    if relu:
        layers["activate"] = nn.ReLU6(inplace=True)
    return nn.Sequential(layers)


class _ConvLstmCell(nn.Module):
    """Cell of a convolutional LSTM; its gates are depthwise-separable convolutions of input and hidden state."""

    def __init__(self, channels: int):
        super().__init__()
        both = 2 * channels
        self.conv = nn.Sequential(_norm_conv(both, both, 3, groups=both), _norm_conv(both, 4 * channels, 1, relu=False))

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        enter, forget, leave, candidate = self.conv(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        return leave.sigmoid() * cell.tanh(), cell


class _ConvLstm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.cell_list = nn.ModuleList([_ConvLstmCell(channels)])

    def forward(self, maps: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return spatial means (B, C, T) of the hidden states, and the last hidden and cell state.

        Args:
            maps: (B, T, C, H, W).
            hidden: (B, C, H, W), hidden state before the first frame.
            cell: (B, C, H, W), cell state before the first frame.
        """
        if torch.compiler.is_exporting():
            return self._scan(maps, hidden, cell)
        means = []
        for frame in maps.unbind(dim=1):
            hidden, cell = self.cell_list[0](frame, hidden, cell)
            means.append(hidden.mean(dim=(2, 3)))
        return torch.stack(means, dim=2), hidden, cell

    def _scan(self, maps: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute `forward` in an exported graph with a variable number of frames."""

        def step(
            state: tuple[Tensor, ...], values: tuple[Tensor, ...]
        ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            following = self.cell_list[0](values[0], *state)
            return following, (following[0].mean(dim=(2, 3)),)

        (hidden, cell), (means,) = scan_steps(step, (hidden, cell), (maps.transpose(0, 1),))
        return means.permute(1, 2, 0), hidden, cell


class _ConvLstmMemory(nn.Module):
    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv_lstm = _ConvLstm(channels)
        # Entry of the published weights, included in the published parameter count; the network does not use it.
        self.fc_frames_cls = nn.Linear(channels, num_classes)


class _ConvLstmNeck(nn.Module):
    def __init__(self, stage_features: int, last_features: int, num_classes: int, dropout: float):
        super().__init__()
        self.rnn_conv = _ConvLstmMemory(stage_features, num_classes)
        self.neck_cls = nn.Conv1d(stage_features, num_classes, 1)
        self.neck_norm = nn.BatchNorm1d(stage_features)
        self.backbone_cls_conv = nn.Conv1d(last_features, stage_features, 1)
        self.backbone_cls_fc_2 = nn.Linear(stage_features, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, stage: Tensor, last: Tensor, state: StreamState | None, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Return features (B, D, T), logits (B, K, T) of the backbone and of the memory, and the next state.

        Args:
            stage: maps (B, T, stage_features, H, W) of the last stage.
            last: maps (B, T, last_features, H, W) of the last convolution.
            state: state of the previous window; None at the start of all videos.
            mask: (B, T), 1 on valid frames.
        """
        spatial = self.backbone_cls_conv(last.mean(dim=(3, 4)).transpose(1, 2))
        backbone = self.backbone_cls_fc_2(self.dropout(spatial.transpose(1, 2))).transpose(1, 2)
        hidden, cell = (memory(state, name, stage, stage.shape[2:]) for name in ("hidden", "cell"))
        keep = mask[:, None]
        means, hidden, cell = self.rnn_conv.conv_lstm(stage, hidden, cell)
        recurrent = means * keep
        neck = self.neck_cls(self.dropout(recurrent))
        features = self.neck_norm((spatial + recurrent) * keep)
        return features, backbone, neck, {"hidden": hidden.detach(), "cell": cell.detach()}


class EtesvsConvLstm(StreamModel):
    """MobileNetV2-TSM, convolutional LSTM and single-stage TCN.

    Args:
        num_classes: K.
        shift_division: reciprocal of the fraction of channels shifted in each direction.
        layers: number of layers of the head; the dilation of layer i is 2 ** i.
        channels: number of channels of the head.
        dropout: dropout probability of the neck; the head has batch normalization instead of dropout.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, are motion; see `tsm_backbone`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        shift_division: int = 8,
        layers: int = 4,
        channels: int = 64,
        dropout: float = 0.5,
        width: float = 1.0,
        in_channels: int = 3,
        motion_channels: int = 0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = tsm_backbone(
            shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
        )
        features = self.backbone.stage_features
        self.neck = _ConvLstmNeck(features, self.backbone.num_features, num_classes, dropout)
        self.head = _TcnHead(features, num_classes, layers=layers, channels=channels, dropout=None)

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Compute logits with S = 1, see `StreamModel.forward`; the state has the spatial size H / 32 x W / 32."""
        keep = frame_mask(mask, clips)
        stage, last = self.backbone(clips, keep)
        features, backbone, neck, remembered = self.neck(stage, last, state, keep)
        output = StreamOutput(self.head(features, keep[:, None]), backbone_logits=backbone, neck_logits=neck)
        return output, StreamState(remembered)


register_model(
    "etesvs",
    Etesvs,
    task="streaming",
    input_spec=InputSpec(frames=30, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
register_model(
    "etesvs_convlstm",
    EtesvsConvLstm,
    task="streaming",
    input_spec=InputSpec(frames=32, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
