"""Block-recurrent segmentation: attention inside a window, a set of state vectors between windows.

The head of SVTAS-RL ("End-to-End Streaming Video Temporal Action Segmentation with Reinforcement Learning", arXiv
2309.15683) after "Block-Recurrent Transformers", NeurIPS 2022, arXiv 2203.07852. In each layer of the encoder the
frames of a window attend to their followers in a band and to N state vectors; the state attends to itself and to the
frames, passes two gates, and goes on to the next window. The decoders refine the encoder's probabilities by dilated
convolutions alone. Names of parameters are those of the published weights.

Shapes: B videos, D features, T steps of a window, C channels, N state vectors, K classes, S stages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory
from vidseg.models.mobilenet_tsm import MobileNetTsm

__all__ = ["BlockRecurrent", "BlockRecurrentHead"]

_MAX_ROTATED = 32


class _Rotary(nn.Module):
    """Rotary position encoding of the first channels; its frequencies are stored with the weights but not trained."""

    def __init__(self, channels: int):
        super().__init__()
        exponents = torch.arange(0, channels, 2)[: channels // 2].float() / channels
        self.freqs = nn.Parameter(10_000.0**-exponents, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate (B, T, C) by position: channels 2i and 2i + 1 form a plane."""
        angles = torch.arange(x.shape[1], device=x.device, dtype=self.freqs.dtype)[:, None] * self.freqs
        angles = angles.repeat_interleave(2, dim=1)
        rotated, rest = x.split([angles.shape[1], x.shape[2] - angles.shape[1]], dim=2)
        turned = torch.stack([-rotated[..., 1::2], rotated[..., ::2]], dim=3).flatten(2)
        return torch.cat([rotated * angles.cos() + turned * angles.sin(), rest], dim=2)


class _Attention(nn.Module):
    """Single-head attention, without a projection of its result.

    Args:
        channels: C.
        band: a query at t sees the keys t to t + band - 1; None: all keys.
    """

    def __init__(self, channels: int, *, band: int | None = None):
        super().__init__()
        self.band = band
        self.embed_layers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))
        self.pos_enc = _Rotary(min(_MAX_ROTATED, channels))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries (B, T, C), keys and values (B, N, C) -> (B, T, C)."""
        q, k, v = (layer(x) for layer, x in zip(self.embed_layers, (queries, keys, keys), strict=True))
        visible = None
        if self.band is not None:
            offset = torch.arange(k.shape[1], device=q.device) - torch.arange(q.shape[1], device=q.device)[:, None]
            visible = (offset >= 0) & (offset < self.band)
        return F.scaled_dot_product_attention(self.pos_enc(q), self.pos_enc(k), v, attn_mask=visible)


class _Gate(nn.Module):
    """How much of the old state stays and how much of the new enters: an LSTM cell without output gate."""

    def __init__(self, channels: int):
        super().__init__()
        self.main_proj = nn.Linear(channels, channels)
        self.input_proj = nn.Linear(channels, channels)
        self.forget_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        enter = (self.input_proj(x) - 1).sigmoid()
        return state * (self.forget_proj(x) + 1).sigmoid() + self.main_proj(x).tanh() * enter


class _FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        # The published module has a norm and a dropout in the middle, both switched off; the last keeps its number.
        self.ff = nn.Sequential(
            nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU()),
            nn.Identity(),
            nn.Identity(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ff(x)


class _RecurrentAttention(nn.Module):
    def __init__(self, channels: int, band: int, state_length: int):
        super().__init__()
        self.input_self_attn = _Attention(channels, band=band)
        self.state_self_attn = _Attention(channels)
        self.input_state_cross_attn = _Attention(channels, band=state_length)
        self.state_input_cross_attn = _Attention(channels)
        self.proj_gate = _Gate(channels)
        self.ff_gate = _Gate(channels)
        self.input_proj = nn.Linear(2 * channels, channels, bias=False)
        self.state_proj = nn.Linear(2 * channels, channels, bias=False)
        self.input_ff = _FeedForward(channels)
        self.state_ff = _FeedForward(channels)

    def forward(self, x: Tensor, keep: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, C), keep (B, T, 1), state (B, N, C) -> output and the next state."""
        own = self.input_self_attn(x, x) * keep
        from_state = self.input_state_cross_attn(x, state) * keep
        between = self.state_self_attn(state, state)
        from_input = self.state_input_cross_attn(state, x)
        mixed = self.input_proj(torch.cat([from_state, own], dim=2)) + x
        gated = self.proj_gate(self.state_proj(torch.cat([from_input, between], dim=2)), state)
        return self.input_ff(mixed) + mixed, self.ff_gate(self.state_ff(gated), gated)


class _AttentionLayer(nn.Module):
    def __init__(self, channels: int, band: int, state_length: int, dropout: float):
        super().__init__()
        self.att = _RecurrentAttention(channels, band, state_length)
        self.fc1 = nn.Linear(channels, channels)
        self.fc2 = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, T), mask (B, 1, T), state (B, N, C) -> output and the next state."""
        out, state = self.att(x.transpose(1, 2), mask.transpose(1, 2), state)
        out = self.dropout(F.silu(self.fc2(self.fc1(out))))
        return out.transpose(1, 2) * mask, state


class _DilatedConvolution(nn.Module):
    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Layer(nn.Module):
    """A dilated convolution, in the encoder with recurrent attention beside it, and a residual connection."""

    def __init__(self, channels: int, dilation: int, dropout: float, *, state_length: int | None = None):
        super().__init__()
        self.feed_forward = _DilatedConvolution(channels, dilation)
        if state_length is not None:
            self.att_layer = _AttentionLayer(channels, dilation, state_length, dropout)
        self.conv_1x1 = nn.Conv1d(channels, channels, 1)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor, mask: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        out = self.feed_forward(x)
        if state is not None:
            attended, state = self.att_layer(F.instance_norm(out), mask, state)
            out = out + attended
        return (x + self.dropout(self.conv_1x1(out))) * mask, state


class _Stack(nn.Module):
    def __init__(
        self,
        in_features: int,
        channels: int,
        num_classes: int,
        layers: int,
        dropout: float,
        *,
        state_length: int | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.conv_1x1 = nn.Conv1d(in_features, channels, 1)
        self.layers = nn.ModuleList(
            _Layer(channels, 2**number, dropout, state_length=state_length) for number in range(layers)
        )
        self.conv_out = nn.Conv1d(channels, num_classes, 1)

    def forward(self, x: Tensor, mask: Tensor, states: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor]]:
        """x (B, ., T), mask (B, 1, T), the state of each layer that has one -> logits (B, K, T), the next states."""
        x = self.conv_1x1(x)
        following = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, mask, state)
            if state is not None:
                following.append(state)
        return self.conv_out(x) * mask, following


class BlockRecurrentHead(nn.Module):
    """An encoder with recurrent attention and decoders without; S = 1 + decoders.

    Frames of a window look ahead inside it: the band of layer i reaches 2 ** i - 1 steps into the future.

    Args:
        in_features: D.
        num_classes: K.
        decoders: number of refining stages.
        encoder_layers: with dilations and bands 1, 2, 4, ...
        decoder_layers: with dilations 1, 2, 4, ...
        channels: C.
        state_length: N; a window has at most this many steps.
        dropout: after the encoder's attention.
        feature_dropout: share of whole feature channels that training drops.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        decoders: int = 3,
        encoder_layers: int = 8,
        decoder_layers: int = 8,
        channels: int = 128,
        state_length: int = 512,
        dropout: float = 0.5,
        feature_dropout: float = 0.2,
    ):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels={channels} must be even: rotary encoding turns pairs of them")
        self.state_length = state_length
        self.decoder_layers = decoder_layers
        self.encoder = _Stack(in_features, channels, num_classes, encoder_layers, dropout, state_length=state_length)
        self.decoders = nn.ModuleList(
            _Stack(num_classes, channels, num_classes, decoder_layers, dropout) for _ in range(decoders)
        )
        self.feature_dropout = nn.Dropout1d(feature_dropout)

    def forward(
        self, features: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (B, D, T), state, mask (B, T) -> logits (S, B, K, T) and the state vectors of all layers.

        Raises:
            ValueError: more steps than state vectors: the last ones would see none of them.
        """
        steps = features.shape[2]
        if steps > self.state_length:
            raise ValueError(
                f"a window of {steps} steps is longer than the state, {self.state_length} vectors: "
                "take shorter windows, or build the head with a larger state_length"
            )
        keep = frame_mask(mask, features)[:, None]
        shape = (self.state_length, self.encoder.channels)
        names = [f"layer{number}" for number in range(len(self.encoder.layers))]
        states = [memory(state, name, features, shape) for name in names]
        logits, states = self.encoder(self.feature_dropout(features), keep, states)
        outputs = [logits]
        for decoder in self.decoders:
            logits, _ = decoder(outputs[-1].softmax(dim=1) * keep, keep, [None] * self.decoder_layers)
            outputs.append(logits)
        return torch.stack(outputs), {name: value.detach() for name, value in zip(names, states, strict=True)}


class BlockRecurrent(StreamModel):
    """MobileNetV2-TSM, spatial mean, block-recurrent head: the head of SVTAS-RL on a backbone for small machines."""

    def __init__(
        self,
        *,
        num_classes: int,
        decoders: int = 3,
        layers: int = 8,
        channels: int = 128,
        state_length: int = 512,
        dropout: float = 0.5,
        shift_division: int = 8,
        width: float = 1.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = MobileNetTsm(shift_division=shift_division, width=width)
        self.fc = nn.Linear(self.backbone.num_features, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.head = BlockRecurrentHead(
            self.backbone.num_features,
            num_classes,
            decoders=decoders,
            encoder_layers=layers,
            decoder_layers=layers,
            channels=channels,
            state_length=state_length,
            dropout=dropout,
        )

    def forward(
        self, clips: Tensor, state: StreamState | None = None, mask: Tensor | None = None
    ) -> tuple[StreamOutput, StreamState]:
        """See `StreamModel.forward`; `backbone_logits` come from a linear layer on each frame's features."""
        keep = frame_mask(mask, clips)
        pooled = self.backbone(clips, keep)[1].mean(dim=(3, 4)) * keep[..., None]
        backbone = self.fc(self.dropout(pooled)).transpose(1, 2)
        logits, states = self.head(pooled.transpose(1, 2), state, keep)
        return StreamOutput(logits, backbone_logits=backbone), StreamState(states)


register_model(
    "block_recurrent",
    BlockRecurrent,
    task="streaming",
    input_spec=InputSpec(frames=32, interval=4, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
