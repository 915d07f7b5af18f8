"""LTContext: dilated convolutions, attention in windows, and attention to every G-th frame of the whole video.

"How Much Temporal Long-Term Context is Needed for Action Segmentation?", ICCV 2023, arXiv 2308.11358. The first stage
reads the features. Each further stage, of half the width, reads the probabilities of the previous stage, whose last
feature map gives the values of its attention. Parameter names are those of the published weights.

Shapes: B videos, D feature width, K classes, L frames, S stages, C channels.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._registry import register_model
from vidseg.models._search_space import ModelSearchSpace, Sharing
from vidseg.models._segmentation import SegmentationOutput, clear_padding, find_padding, instance_norm
from vidseg.models._windows import sliding_windows

__all__ = ["LtContext", "long_term_attention", "windowed_attention"]


def _attend(query: Tensor, key: Tensor, value: Tensor, valid: Tensor, *, dropout: float) -> Tensor:
    """Compute attention within each part of a video.

    Args:
        query: (B, P, Q, C), P parts.
        key: (B, P, N, C).
        value: (B, P, N, C).
        valid: bool (B, P, N), False for keys without weight.
        dropout: dropout probability of the weights.

    Returns:
        (B, P, Q, C). Parts without a valid key have no valid query either; their values have no meaning.
    """
    # A softmax over no key is not a number, and its gradient would reach the weights.
    mask = valid | ~valid.any(dim=2, keepdim=True)
    return F.scaled_dot_product_attention(query, key, value, mask[:, :, None], dropout_p=dropout)


def _rest(frames: int, step: int) -> int:
    """Return the number of frames that fill a video to a multiple of `step`.

    In an exported graph it is at least 1: the layout of the result must not depend on whether the length is a multiple.
    """
    return step - frames % step if torch.compiler.is_exporting() else -frames % step


def windowed_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor, *, window: int, dropout: float = 0.0
) -> Tensor:
    """Compute the attention of each window of frames to twice as many frames, those of the window in their middle.

    Args:
        query: (B, L, C).
        key: (B, L, C).
        value: (B, L, C).
        valid: bool (B, L), False on padding.
        window: W, number of frames of a window, even.
        dropout: dropout probability of the weights.

    Returns:
        (B, L, C).
    """
    frames, half = query.shape[1], window // 2
    rest = _rest(frames, window)

    def neighborhoods(x: Tensor) -> Tensor:
        """Return overlapping views (B, L / W, 2 W, ...)."""
        return sliding_windows(x, 2 * window, window, before=half, after=half + rest)

    queries = F.pad(query, (0, 0, 0, rest)).unflatten(1, (-1, window))
    attended = _attend(queries, neighborhoods(key), neighborhoods(value), neighborhoods(valid), dropout=dropout)
    return attended.flatten(1, 2)[:, :frames]


def long_term_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor, *, stride: int, dropout: float = 0.0
) -> Tensor:
    """Compute the attention of each frame to the frames of the video at a distance of a multiple of `stride`.

    Args:
        query: (B, L, C).
        key: (B, L, C).
        value: (B, L, C).
        valid: bool (B, L), False on padding.
        stride: G.
        dropout: dropout probability of the weights.

    Returns:
        (B, L, C).
    """
    frames = query.shape[1]
    rest = _rest(frames, stride)

    def phases(x: Tensor) -> Tensor:
        """Return the frames by their remainder: (B, L, C) -> (B, G, L / G, C)."""
        return F.pad(x, (0, 0, 0, rest)).unflatten(1, (-1, stride)).transpose(1, 2)

    inside = F.pad(valid, (0, rest)).unflatten(1, (-1, stride)).transpose(1, 2)
    attended = _attend(phases(query), phases(key), phases(value), inside, dropout=dropout)
    return attended.transpose(1, 2).flatten(1, 2)[:, :frames]


class _Projections(nn.Module):
    """Projections of an attention with one head to half of the channels, and back."""

    def __init__(self, maps: int, dropout: float):
        super().__init__()
        self.proj_q = nn.Conv1d(maps, maps // 2, 1)
        self.proj_k = nn.Conv1d(maps, maps // 2, 1)
        self.proj_v = nn.Conv1d(maps, maps // 2, 1)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Sequential(nn.GELU(), nn.Conv1d(maps // 2, maps, 1))


class _Attention(nn.Module):
    """Attention in windows or over the whole video.

    Args:
        maps: C.
        step: W of `windowed_attention` or G of `long_term_attention`.
        kind: which of the two.
        dropout: dropout probabilities of the attention weights and of the output.
    """

    def __init__(self, maps: int, step: int, kind: Literal["windowed", "long_term"], dropout: tuple[float, float]):
        super().__init__()
        self.attn = _Projections(maps, dropout[1])
        self.step, self.kind, self.dropout = step, kind, dropout[0]

    def forward(self, x: Tensor, source: Tensor | None, padding: Tensor | None) -> Tensor:
        """Compute attention with queries and keys from `x` and values from `source` (None: `x`), all (B, C, L)."""
        query, key = self.attn.proj_q(x).transpose(1, 2), self.attn.proj_k(x).transpose(1, 2)
        value = self.attn.proj_v(x if source is None else source).transpose(1, 2)
        valid = x.new_ones(x.shape[0], x.shape[2], dtype=torch.bool) if padding is None else ~padding[:, 0]
        dropout = self.dropout if self.training else 0.0
        if self.kind == "windowed":
            attended = windowed_attention(query, key, value, valid, window=self.step, dropout=dropout)
        else:
            attended = long_term_attention(query, key, value, valid, stride=self.step, dropout=dropout)
        return clear_padding(self.attn.dropout(self.attn.proj(attended.transpose(1, 2))), padding)


class _DilatedConv(nn.Module):
    """Dilated convolution with kernel size 3 and GELU."""

    def __init__(self, maps: int, dilation: int):
        super().__init__()
        self.dilated_conv = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return clear_padding(F.gelu(self.dilated_conv(x)), padding)


class _Layer(nn.Module):
    """Residual layer: dilated convolution, attention in windows, attention over the whole video."""

    def __init__(
        self,
        maps: int,
        dilation: int,
        *,
        window: int,
        stride: int,
        norm: bool,
        dropout: float,
        attention_dropout: tuple[float, float],
    ):
        super().__init__()
        self.dilated_conv = _DilatedConv(maps, dilation)
        self.windowed_attn = _Attention(maps, window, "windowed", attention_dropout)
        self.ltc_attn = _Attention(maps, stride, "long_term", attention_dropout)
        self.out_linear = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)
        self.norm = norm

    def forward(self, x: Tensor, source: Tensor | None, padding: Tensor | None) -> Tensor:
        out = self.dilated_conv(x, padding)
        for attention in (self.windowed_attn, self.ltc_attn):
            out = out + attention(instance_norm(out, padding) if self.norm else out, source, padding)
        return clear_padding(x + self.dropout(self.out_linear(out)), padding)


class _Stage(nn.Module):
    """Stage: projection, layers, classifier."""

    def __init__(
        self,
        inputs: int,
        maps: int,
        outputs: int,
        *,
        layers: int,
        channel_dropout: float,
        exact: bool,
        **options: Any,
    ):
        super().__init__()
        self.input_proj = nn.Conv1d(inputs, maps, 1)
        self.layers = nn.ModuleList(_Layer(maps, 2**index, **options) for index in range(layers))
        self.out_proj = nn.Conv1d(maps, outputs, 1)
        self.channel_dropout, self.exact = channel_dropout, exact

    def forward(self, x: Tensor, source: Tensor | None, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits (B, K, L) and the last feature map (B, C, L)."""
        x = self.input_proj(F.dropout1d(x, self.channel_dropout, self.training))
        if self.exact:
            x = clear_padding(x, padding)
        for layer in self.layers:
            x = layer(x, source, padding)
        return clear_padding(self.out_proj(x), padding), x


class LtContext(nn.Module):
    """LTContext: stages of dilated convolutions with windowed and long-term attention.

    Args:
        num_classes: K.
        in_features: D.
        stages: S, number of stages.
        layers: number of layers of each stage; the dilation of layer i is 2^i.
        maps: number of channels of the first stage, a multiple of 4; further stages have half.
        window: W, number of frames of a window of local attention, even.
        stride: G, distance of the frames of long-term attention; published: 8 for Breakfast, 64 for Assembly101.
        instance_norm: normalize the input of attention over the frames of a video. The published configurations ask for
            it with USE_INSTANCE_NORM=True, but the published code then leaves it out.
        dropout: dropout probability of the output of a layer.
        channel_dropout: dropout probability of the channels of the input of a stage.
        attention_dropout: dropout probability of attention weights.
        projection_dropout: dropout probability of the output of an attention.
        padding: values of padded frames in the input of the first layer of a stage. "published": the bias of the
            projection, so the first frames in front of the padding differ from those of the video alone. "exact":
            zeros. Both agree without padding, as in all published training.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        stages: int = 4,
        layers: int = 9,
        maps: int = 64,
        window: int = 64,
        stride: int = 8,
        instance_norm: bool = False,
        dropout: float = 0.2,
        channel_dropout: float = 0.3,
        attention_dropout: float = 0.2,
        projection_dropout: float = 0.1,
        padding: Literal["published", "exact"] = "exact",
    ):
        super().__init__()
        if padding not in ("published", "exact"):
            raise ValueError(f"padding={padding!r} must be 'published' or 'exact'")
        if stages < 1 or layers < 1 or stride < 1:
            raise ValueError(f"stages={stages}, layers={layers} and stride={stride} must be at least 1")
        if maps < 4 or maps % 4:
            raise ValueError(f"maps={maps} must be a multiple of 4, because later stages and their attention halve it")
        if window < 2 or window % 2:
            raise ValueError(f"window={window} must be even, because keys reach window / 2 frames beyond it")

        def stage(inputs: int, channels: int) -> _Stage:
            return _Stage(
                inputs,
                channels,
                num_classes,
                layers=layers,
                channel_dropout=channel_dropout,
                exact=padding == "exact",
                window=window,
                stride=stride,
                norm=instance_norm,
                dropout=dropout,
                attention_dropout=(attention_dropout, projection_dropout),
            )

        self.in_features = in_features
        self.stage1 = stage(in_features, maps)
        self.dim_reduction = nn.Conv1d(maps, maps // 2, 1)
        self.stages = nn.ModuleList(stage(num_classes, maps // 2) for _ in range(stages - 1))

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Compute logits (S, B, K, L) from features (B, D, L) and a bool mask (B, L), True on valid frames."""
        padding = find_padding(features, mask, in_features=self.in_features)
        out, source = self.stage1(clear_padding(features, padding), None, padding)
        logits = [out]
        source = clear_padding(self.dim_reduction(source), padding)
        for stage in self.stages:
            out, source = stage(clear_padding(out.softmax(dim=1), padding), source, padding)
            logits.append(out)
        return SegmentationOutput(torch.stack(logits))


register_model(
    "ltcontext",
    LtContext,
    task="segmentation",
    search_space=ModelSearchSpace(
        {
            "stages": {"low": 1, "high": 4},
            "layers": {"low": 3, "high": 9},
            "maps": [16, 32, 48, 64],
            "window": [16, 32, 64],
            "stride": [4, 8, 16, 32, 64],
        },
        Sharing(),
    ),
)
