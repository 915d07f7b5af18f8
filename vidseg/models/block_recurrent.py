"""Block-recurrent segmentation: attention within a window and recurrent state vectors between windows.

Head of SVTAS-RL ("End-to-End Streaming Video Temporal Action Segmentation with Reinforcement Learning", arXiv
2309.15683), based on "Block-Recurrent Transformers", NeurIPS 2022, arXiv 2203.07852. In each encoder layer, the frames
of a window attend to following frames in a band and to N state vectors. The state attends to itself and to the frames
and is updated by two gates. The decoders refine the probabilities of the encoder with dilated convolutions. Parameter
names are those of the published weights.

Shapes: B videos, D features, T steps of a window, C channels, N state vectors, K classes, S stages.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask, memory
from vidseg.models.mobilenet_tsm import tsm_backbone

__all__ = ["BlockRecurrent", "BlockRecurrentHead"]

_MAX_ROTATED = 32


class _Rotary(nn.Module):
    """Rotary position encoding of the first channels; the frequencies are part of the weights but not trained."""

    def __init__(self, channels: int):
        super().__init__()
        exponents = torch.arange(0, channels, 2)[: channels // 2].float() / channels
        self.freqs = nn.Parameter(10_000.0**-exponents, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate the channel pairs (2i, 2i + 1) of `x` (B, T, C) by their position."""
        angles = torch.arange(x.shape[1], device=x.device, dtype=self.freqs.dtype)[:, None] * self.freqs
        angles = angles.repeat_interleave(2, dim=1)
        rotated, rest = x.split([angles.shape[1], x.shape[2] - angles.shape[1]], dim=2)
        turned = torch.stack([-rotated[..., 1::2], rotated[..., ::2]], dim=3).flatten(2)
        return torch.cat([rotated * angles.cos() + turned * angles.sin(), rest], dim=2)


class _Attention(nn.Module):
    """Single-head attention without output projection.

    Args:
        channels: C.
        band: query t attends to the keys t to t + band - 1; None: to all keys.
    """

    def __init__(self, channels: int, *, band: int | None = None):
        super().__init__()
        self.band = band
        self.embed_layers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(3))
        self.pos_enc = _Rotary(min(_MAX_ROTATED, channels))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Compute attention (B, T, C) of queries (B, T, C) to keys (B, N, C), which are also the values."""
        q, k, v = (layer(x) for layer, x in zip(self.embed_layers, (queries, keys, keys), strict=True))
        visible = None
        if self.band is not None:
            offset = torch.arange(k.shape[1], device=q.device) - torch.arange(q.shape[1], device=q.device)[:, None]
            visible = (offset >= 0) & (offset < self.band)
        return F.scaled_dot_product_attention(self.pos_enc(q), self.pos_enc(k), v, attn_mask=visible)


class _Gate(nn.Module):
    """Update of the state: an LSTM cell without output gate."""

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
        # The identities replace an inactive norm and dropout, so that the last layer has its published index.
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
        """Return the output (B, T, C) and the next state (B, N, C); `keep` is (B, T, 1), 1 on valid frames."""
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
        """Return the output (B, C, T) and the next state (B, N, C); `mask` is (B, 1, T), 1 on valid frames."""
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
    """Residual layer with a dilated convolution and, in the encoder, recurrent attention to its output."""

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
        """Return logits (B, K, T) and the next states of the layers.

        Args:
            x: (B, in_features, T).
            mask: (B, 1, T), 1 on valid frames.
            states: state (B, N, C) of each layer; None for layers without recurrent attention.
        """
        x = self.conv_1x1(x)
        following = []
        for layer, state in zip(self.layers, states, strict=True):
            x, state = layer(x, mask, state)
            if state is not None:
                following.append(state)
        return self.conv_out(x) * mask, following


class BlockRecurrentHead(nn.Module):
    """Encoder with recurrent attention and decoders without; S = 1 + decoders.

    Attention looks ahead within the window: the band of layer i reaches 2 ** i - 1 steps into the future.

    Args:
        in_features: D.
        num_classes: K.
        decoders: number of refinement stages.
        encoder_layers: number of layers of the encoder; the dilation and the band of layer i are 2 ** i.
        decoder_layers: number of layers of each decoder; the dilation of layer i is 2 ** i.
        channels: C, even.
        state_length: N, the maximum number of steps of a window.
        dropout: dropout probability after the attention of the encoder.
        feature_dropout: dropout probability of feature channels.

    Raises:
        ValueError: `channels` is odd.
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
            raise ValueError(f"channels={channels} must be even, because rotary encoding rotates pairs of channels")
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
        """Compute logits and the next state vectors.

        Args:
            features: (B, D, T).
            state: state of the previous window; None at the start of all videos.
            mask: (B, T), 1 on valid frames; None: no frame is padding.

        Returns:
            Logits (S, B, K, T), and the state vectors (B, N, C) of each encoder layer.

        Raises:
            ValueError: the window has more steps than state vectors, so that its last steps could not attend to them.
        """
        steps = features.shape[2]
        if steps > self.state_length:
            raise ValueError(
                f"the window has {steps} steps, more than state_length={self.state_length}; use shorter windows, or "
                "build the network with a larger state_length"
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
    """Head of SVTAS-RL on MobileNetV2-TSM, a smaller backbone.

    `backbone_logits` are computed by a linear layer from the features of each frame.

    Args:
        num_classes: K.
        decoders: number of refinement stages, S - 1.
        layers: number of layers of the encoder and of each decoder.
        channels: C of the head, even.
        state_length: number of state vectors, the maximum number of frames of a window.
        dropout: dropout probability after the attention of the encoder and before the classifier of the backbone.
        shift_division: reciprocal of the fraction of channels shifted in each direction.
        width: multiplier of the widths of the backbone, rounded to multiples of 8; published: 1.0.
        in_channels: channels of the clips.
        motion_channels: how many of them, the last ones, are motion; see `tsm_backbone`.
    """

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
        in_channels: int = 3,
        motion_channels: int = 0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = tsm_backbone(
            shift_division=shift_division, width=width, in_channels=in_channels, motion_channels=motion_channels
        )
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
        """Compute logits for one window, see `StreamModel.forward`."""
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
