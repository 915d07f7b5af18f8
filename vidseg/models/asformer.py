"""ASFormer: dilated convolutions and windowed attention; the window doubles from layer to layer.

"ASFormer: Transformer for Action Segmentation", BMVC 2021, arXiv 2110.08568. The encoder reads the features. Each of
three decoders reads the probabilities of the previous module, whose last feature map gives the values of its attention.
Parameter names are those of the published weights.

Shapes: B videos, D feature width, K classes, L frames, S stages (encoder and decoders).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._registry import register_model
from vidseg.models._search_space import ModelSearchSpace, Sharing
from vidseg.models._segmentation import SegmentationOutput, clear_padding, find_padding, instance_norm
from vidseg.models._windows import sliding_windows

__all__ = ["AsFormer", "window_attention"]

_REDUCTION = 2  # ratio of the channels of a layer to those of its queries, keys and values


def window_attention(query: Tensor, key: Tensor, value: Tensor, valid: Tensor, *, window: int, banded: bool) -> Tensor:
    """Compute the attention of each frame to the frames around it, in blocks.

    The queries are divided into blocks of `window` frames. The keys of a block are its frames and window // 2 frames on
    either side, with zeros outside the video. A masked key contributes exp(score) * 1e-6 to the sum of the softmax and
    has weight 0; as in the published code, the weights are not normalized again.

    Args:
        query: (B, C, L).
        key: (B, C, L), 0 on padded frames.
        value: (B, C, L), 0 on padded frames.
        valid: (B, 1, L), 1 on valid frames and 0 on padding.
        window: number of frames of a block.
        banded: True: frame t attends to the frames from t - window // 2 to t - window // 2 + window - 1, as in the
            paper. False: it attends to all keys of its block except the last one, as in the published code.

    Returns:
        (B, C, L).
    """
    frames, half = query.shape[2], window // 2
    rest = -frames % window
    keys = window + 2 * half

    def neighborhoods(x: Tensor) -> Tensor:
        """Return the keys of each of N blocks: (B, C, L) -> (B, N, C, keys)."""
        return sliding_windows(x, keys, window, before=half, after=half + rest, dim=2)

    # Row i attends to keys i to i + window - 1; without the band, each row attends to the keys of all rows.
    band = torch.ones(window, keys, device=valid.device, dtype=valid.dtype).tril(window - 1).triu()
    if not banded:
        band = band.amax(dim=0, keepdim=True)
    # A key counts if it is in the band and inside the video: the smaller one of two logarithms.
    bias = torch.minimum((neighborhoods(valid) + 1e-6).log(), (band + 1e-6).log())
    queries = F.pad(query / math.sqrt(query.shape[1]), (0, rest)).unflatten(2, (-1, window)).permute(0, 2, 3, 1)
    weights = (queries @ neighborhoods(key) + bias).softmax(dim=3)
    attended = (weights * band) @ neighborhoods(value).transpose(2, 3)
    return attended.permute(0, 3, 1, 2).flatten(2)[..., :frames]


class _FeedForward(nn.Module):
    """Dilated convolution with kernel size 3 and ReLU."""

    def __init__(self, dilation: int, maps: int):
        super().__init__()
        self.layer = nn.Sequential(nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Attention(nn.Module):
    """Windowed attention with one head."""

    def __init__(self, window: int, maps: int, banded: bool):
        super().__init__()
        inner = maps // _REDUCTION
        self.query_conv = nn.Conv1d(maps, inner, 1)
        self.key_conv = nn.Conv1d(maps, inner, 1)
        self.value_conv = nn.Conv1d(maps, inner, 1)
        self.conv_out = nn.Conv1d(inner, maps, 1)
        self.window = window
        self.banded = banded

    def forward(self, x: Tensor, source: Tensor, padding: Tensor | None) -> Tensor:
        """Compute attention with queries and keys from `x` and values from `source`, all (B, C, L)."""
        valid = x.new_ones(x.shape[0], 1, x.shape[2]) if padding is None else (~padding).to(x.dtype)
        key = clear_padding(self.key_conv(x), padding)
        value = clear_padding(self.value_conv(source), padding)
        attended = window_attention(self.query_conv(x), key, value, valid, window=self.window, banded=self.banded)
        return clear_padding(self.conv_out(F.relu(attended)), padding)


class _Layer(nn.Module):
    """Residual layer: dilated convolution, attention, pointwise convolution."""

    def __init__(self, dilation: int, maps: int, *, alpha: float, dropout: float, banded: bool):
        super().__init__()
        self.feed_forward = _FeedForward(dilation, maps)
        self.att_layer = _Attention(dilation, maps, banded)
        self.conv_1x1 = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)
        self.alpha = alpha

    def forward(self, x: Tensor, source: Tensor | None, padding: Tensor | None) -> Tensor:
        out = self.feed_forward(x)
        normal = instance_norm(out, padding)
        out = out + self.alpha * self.att_layer(normal, normal if source is None else source, padding)
        return clear_padding(x + self.dropout(self.conv_1x1(out)), padding)


class _Module(nn.Module):
    """Encoder or decoder."""

    def __init__(
        self, inputs: int, maps: int, outputs: int, *, layers: int, alpha: float, dropout: float, banded: bool
    ):
        super().__init__()
        self.conv_1x1 = nn.Conv1d(inputs, maps, 1)
        self.layers = nn.ModuleList(
            _Layer(2**index, maps, alpha=alpha, dropout=dropout, banded=banded) for index in range(layers)
        )
        self.conv_out = nn.Conv1d(maps, outputs, 1)

    def forward(self, x: Tensor, source: Tensor | None, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, L) and the last feature map (B, C, L)."""
        x = clear_padding(self.conv_1x1(x), padding)
        for layer in self.layers:
            x = layer(x, source, padding)
        return clear_padding(self.conv_out(x), padding), x


class AsFormer(nn.Module):
    """ASFormer: an encoder and several decoders.

    Args:
        num_classes: K.
        in_features: D.
        decoders: number of decoders, S - 1.
        layers: number of layers of the encoder and of each decoder; the window of layer i has 2^i frames.
        maps: number of channels, even.
        dropout: dropout probability of values inside a layer.
        channel_dropout: dropout probability of channels of the features; published: 0.3, for GTEA 0.5.
        window: "corrected": a frame attends to a window centered on it, as described in the paper. "published": a frame
            attends to its block, as in the published code; required for published weights.

    Raises:
        ValueError: `window` is unknown, or `maps` is odd.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        decoders: int = 3,
        layers: int = 10,
        maps: int = 64,
        dropout: float = 0.5,
        channel_dropout: float = 0.3,
        window: Literal["corrected", "published"] = "corrected",
    ):
        super().__init__()
        if window not in ("corrected", "published"):
            raise ValueError(f"window={window!r} must be 'corrected' or 'published'")
        if maps % _REDUCTION:
            raise ValueError(f"maps={maps} must be even, because queries, keys and values have maps / 2 channels")

        def module(inputs: int, alpha: float) -> _Module:
            banded = window == "corrected"
            return _Module(inputs, maps, num_classes, layers=layers, alpha=alpha, dropout=dropout, banded=banded)

        self.in_features = in_features
        self.channel_dropout = channel_dropout
        self.encoder = module(in_features, 1.0)
        # The weight of attention decreases with depth, so that fewer errors of early modules are propagated.
        self.decoders = nn.ModuleList(module(num_classes, math.exp(-3 * index)) for index in range(decoders))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Compute logits (S, B, K, L) from features (B, D, L) and a bool mask (B, L), True on valid frames."""
        padding = find_padding(features, mask, in_features=self.in_features)
        x = F.dropout1d(clear_padding(features, padding), self.channel_dropout, self.training)
        out, source = self.encoder(x, None, padding)
        logits = [out]
        for decoder in self.decoders:
            out, source = decoder(clear_padding(out.softmax(dim=1), padding), source, padding)
            logits.append(out)
        return SegmentationOutput(torch.stack(logits))


register_model(
    "asformer",
    AsFormer,
    task="segmentation",
    search_space=ModelSearchSpace(
        {"decoders": {"low": 0, "high": 3}, "layers": {"low": 4, "high": 10}, "maps": [16, 32, 48, 64]}, Sharing()
    ),
)
