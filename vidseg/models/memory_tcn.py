"""Memory TCN: a causal temporal convolutional network with memory between windows.

Head of "Streaming Video Temporal Action Segmentation In Real Time", arXiv 2209.13808 (called SETE there). Each layer
stores the last columns of its input and prepends them to the next window, so the output for the windows of a stream
equals that of one causal pass over the whole video. Dilations decrease from layer to layer. Parameter names are those
of the published weights.

Shapes: B videos, D features, T frames, K classes, S stages.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory
from vidseg.models.mobilenet_tsm import tsm_backbone

__all__ = ["MemoryResidualLayer", "MemoryTcn", "MemoryTcnHead"]


class MemoryResidualLayer(nn.Module):
    """Residual layer: causal dilated convolution, ReLU, pointwise convolution, norm.

    Args:
        channels: number of channels.
        dilation: dilation of the convolution of kernel size 3.
        norm: "batch": batch normalization. "dropout": dropout with probability 0.5 instead.

    Raises:
        ValueError: `norm` is unknown.
    """

    def __init__(self, channels: int, dilation: int, *, norm: Literal["batch", "dropout"] = "batch"):
        super().__init__()
        self.dilation = dilation
        self.conv_dilated = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.conv_1x1 = nn.Conv1d(channels, channels, 1)
        if norm not in ("batch", "dropout"):
            raise ValueError(f"norm={norm!r} is not one of batch, dropout")
        self.norm: nn.Module = nn.BatchNorm1d(channels) if norm == "batch" else nn.Dropout()

    def forward(self, x: Tensor, mask: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (B, channels, T) and the columns for the next window.

        Args:
            x: (B, channels, T).
            mask: (B, 1, T), 1 on valid frames.
            past: (B, channels, 2 * dilation), the last columns of the previous window.
        """
        padded = torch.cat([past, x], dim=2)
        out = self.norm(self.conv_1x1(self.conv_dilated(padded).relu()))
        return (x + out) * mask, padded[:, :, -2 * self.dilation :].detach()


class _Stage(nn.Module):
    def __init__(
        self, in_features: int, channels: int, layers: int, num_classes: int, norm: Literal["batch", "dropout"]
    ):
        super().__init__()
        self.conv_1x1 = nn.Conv1d(in_features, channels, 1)
        self.layers = nn.ModuleList(
            MemoryResidualLayer(channels, 2**number, norm=norm) for number in reversed(range(layers))
        )
        self.conv_out = nn.Conv1d(channels, num_classes, 1)


class MemoryTcnHead(nn.Module):
    """Stages of causal layers. The first stage reads features, each other stage the probabilities of the previous one.

    Args:
        in_features: D.
        num_classes: K.
        stages: S.
        layers: number of layers of a stage; the dilations decrease from 2 ** (layers - 1) to 1.
        channels: number of channels of a stage.
        norm: norm of a layer: "batch", as in the later published code, or "dropout", as in the earlier code, whose
            parameter count is in the published table.

    Raises:
        ValueError: stages or layers is below 1, or `norm` is unknown.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        stages: int = 1,
        layers: int = 4,
        channels: int = 64,
        norm: Literal["batch", "dropout"] = "batch",
    ):
        super().__init__()
        if stages < 1 or layers < 1:
            raise ValueError(f"stages={stages} and layers={layers} must be at least 1")
        self.stage1 = _Stage(in_features, channels, layers, num_classes, norm)
        self.stages = nn.ModuleList(_Stage(num_classes, channels, layers, num_classes, norm) for _ in range(stages - 1))

    def forward(
        self, features: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return logits (S, B, K, T) and the stored columns of all layers.

        Args:
            features: (B, D, T).
            state: state of the previous window; None at the start of all videos.
            mask: (B, T), 1 on valid frames; None: no frame is padding.
        """
        keep = frame_mask(mask, features)[:, None]
        outputs: list[Tensor] = []
        pasts: dict[str, Tensor] = {}
        for number, stage in enumerate([self.stage1, *self.stages], 1):
            x = stage.conv_1x1(outputs[-1].softmax(dim=1) * keep if outputs else features)
            for index, layer in enumerate(stage.layers):
                name = f"stage{number}.layer{index}"
                past = memory(state, name, x, (x.shape[1], 2 * layer.dilation))
                x, pasts[name] = layer(x, keep, past)
            outputs.append(stage.conv_out(x) * keep)
        return torch.stack(outputs), pasts


class MemoryTcn(StreamModel):
    """MobileNetV2-TSM, spatial mean and memory TCN; 2.37 million parameters. The head is causal.

    Args:
        num_classes: K.
        stages: S.
        layers: number of layers of a stage.
        channels: number of channels of a stage.
        norm: norm of a layer, see `MemoryTcnHead`.
        shift_division: reciprocal of the fraction of channels shifted in each direction.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, are motion; see `tsm_backbone`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        stages: int = 1,
        layers: int = 4,
        channels: int = 64,
        norm: Literal["batch", "dropout"] = "batch",
        shift_division: int = 8,
        width: float = 1.0,
        in_channels: int = 3,
        motion_channels: int = 0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = tsm_backbone(
            shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
        )
        self.head = MemoryTcnHead(
            self.backbone.num_features, num_classes, stages=stages, layers=layers, channels=channels, norm=norm
        )

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """Compute logits for one window, see `StreamModel.forward`."""
        keep = frame_mask(mask, clips)
        pooled = self.backbone(clips, keep)[1].mean(dim=(3, 4)).transpose(1, 2) * keep[:, None]
        logits, pasts = self.head(pooled, state, keep)
        return StreamOutput(logits), StreamState(pasts)


register_model(
    "memory_tcn",
    MemoryTcn,
    task="streaming",
    input_spec=InputSpec(frames=32, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
