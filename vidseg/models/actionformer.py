"""ActionFormer: a transformer with local attention over a feature pyramid, which detects actions at every point.

"ActionFormer: Localizing Moments of Actions with Transformers", ECCV 2022, arXiv 2202.07925. Parameter names are those
of the published weights. Each block normalizes depthwise convolutions of its input to queries, keys and values; the
blocks of the pyramid halve the length.

Shapes: B videos, C channels, D feature width, K classes, L columns, N points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._detection import DetectionOutput
from vidseg.models._linear import linear_rows
from vidseg.models._pyramid import Backbone, PointNetwork, check_pyramid, output_of_points
from vidseg.models._pyramid_heads import ClassHead, Joined, OffsetHead
from vidseg.models._pyramid_layers import ChannelNorm, Convolution, PaddingMode, max_pool, residual_scale
from vidseg.models._registry import register_model
from vidseg.models._search_space import ModelSearchSpace
from vidseg.models._segmentation import clear_padding
from vidseg.models._windows import sliding_windows

__all__ = ["ActionFormer", "local_attention"]

_CHUNK = 32
"""Queries of a chunk of local attention."""


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, outside: Tensor | None, *, heads: int, window: int
) -> Tensor:
    """Compute the attention of each column to the valid columns of a window centered on it.

    The queries are divided into chunks. The keys of a chunk are its columns and window // 2 columns on either side.
    Memory is linear in L.

    Args:
        query: (B, L, C).
        key: (B, L, C).
        value: (B, L, C).
        outside: bool (B, L, 1), True on padded columns; None: no column is padding.
        heads: number of heads; divides C.
        window: number of columns of a window, odd.

    Returns:
        (B, L, C); finite, but without meaning, on padded columns.
    """
    batch, frames, _ = query.shape
    half = window // 2
    rest = -frames % _CHUNK
    keys = _CHUNK + 2 * half

    def chunks(x: Tensor) -> Tensor:
        """Return the keys of each of n chunks: (B, L, C) -> (B, n, keys, C)."""
        return sliding_windows(x, keys, _CHUNK, before=half, after=half + rest)

    def by_head(x: Tensor) -> Tensor:
        """Divide channels into heads: (B, n, columns, C) -> (B * n, heads, columns, C / heads)."""
        return x.unflatten(3, (heads, -1)).transpose(2, 3).flatten(0, 1)

    if outside is None:
        outside = torch.zeros_like(query[:1, :, :1], dtype=torch.bool)
    valid = chunks(~outside).transpose(2, 3)
    distance = torch.arange(keys, device=query.device) - torch.arange(_CHUNK, device=query.device)[:, None] - half
    # Padded columns attend to themselves: a row without any key would be NaN.
    seen = ((distance.abs() <= half) & valid) | (distance == 0)
    attended = F.scaled_dot_product_attention(
        by_head(F.pad(query, (0, 0, 0, rest)).unflatten(1, (-1, _CHUNK))),
        by_head(chunks(key)),
        by_head(chunks(value)),
        attn_mask=seen.expand(batch, -1, -1, -1).flatten(0, 1)[:, None],
    )
    return attended.transpose(1, 2).flatten(2).unflatten(0, (batch, -1)).flatten(1, 2)[:, :frames]


def _full_attention(query: Tensor, key: Tensor, value: Tensor, outside: Tensor | None, *, heads: int) -> Tensor:
    """Compute the attention of each column to all valid columns; arguments as for `local_attention`."""
    query, key, value = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    seen = None if outside is None else ~outside.transpose(1, 2)[:, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)


class _Pointwise(nn.Conv1d):
    """Pointwise convolution of (B, L, C)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return linear_rows(x, self.weight[:, :, 0], self.bias)


class _Attention(nn.Module):
    """Attention whose queries, keys and values are depthwise convolutions of the input."""

    def __init__(self, maps: int, *, heads: int, window: int, stride: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.window = window
        self.stride = stride
        self.query_conv = Convolution(maps, maps, 3, groups=maps)
        self.query_norm = ChannelNorm(maps)
        self.key_conv = Convolution(maps, maps, 3, groups=maps)
        self.key_norm = ChannelNorm(maps)
        self.value_conv = Convolution(maps, maps, 3, groups=maps)
        self.value_norm = ChannelNorm(maps)
        self.key = _Pointwise(maps, maps)
        self.query = _Pointwise(maps, maps)
        self.value = _Pointwise(maps, maps)
        self.proj = _Pointwise(maps, maps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, outside: Tensor | None) -> Tensor:
        """Map (B, L, C) to (B, L / stride, C), whose padding is `outside` (B, L / stride, 1)."""
        padded = F.pad(x, (0, 0, 1, 1))
        taps = [padded[:, start : start + x.shape[1] : self.stride] for start in range(3)]
        query = self.query(self.query_norm.by_rows(_depthwise(taps, self.query_conv)))
        key = self.key(self.key_norm.by_rows(_depthwise(taps, self.key_conv)))
        value = self.value(self.value_norm.by_rows(_depthwise(taps, self.value_conv)))
        if self.window:
            attended = local_attention(query, key, value, outside, heads=self.heads, window=self.window)
        else:
            attended = _full_attention(query, key, value, outside, heads=self.heads)
        return clear_padding(self.dropout(self.proj(attended)), outside)


def _depthwise(taps: list[Tensor], convolution: Convolution) -> Tensor:
    """Apply a depthwise convolution with kernel size 3 to shifted inputs (B, L, C)."""
    first, second, third = convolution.conv.weight[:, 0].unbind(dim=1)
    return torch.addcmul(torch.addcmul(taps[0] * first, taps[1], second), taps[2], third)


class _Block(nn.Module):
    """Transformer block, which halves the length with stride 2.

    It computes with (B, L, C), the layout of linear layers. Input and output are (B, C, L).
    """

    def __init__(
        self, maps: int, *, heads: int, window: int, stride: int, dropout: float, drop_path: float, exact: bool
    ):
        super().__init__()
        self.stride = stride
        self.exact = exact
        self.ln1 = ChannelNorm(maps)
        self.ln2 = ChannelNorm(maps)
        self.attn = _Attention(maps, heads=heads, window=window, stride=stride, dropout=dropout)
        self.mlp = nn.Sequential(
            _Pointwise(maps, 4 * maps), nn.GELU(), nn.Dropout(dropout), _Pointwise(4 * maps, maps), nn.Dropout(dropout)
        )
        self.drop_path_attn = residual_scale(maps, drop_path)
        self.drop_path_mlp = residual_scale(maps, drop_path)

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = x.transpose(1, 2).contiguous()
        outside = None if padding is None else padding.transpose(1, 2)
        normal = clear_padding(self.ln1.by_rows(x), outside if self.exact else None)
        if self.stride > 1:
            x = max_pool(x, outside, dim=1, exact=self.exact)
            outside = None if outside is None else outside[:, :: self.stride]
        attended = self.attn(normal, outside)
        x = clear_padding(x, outside) + self.drop_path_attn(attended.transpose(1, 2)).transpose(1, 2)
        changed = clear_padding(self.mlp(self.ln2.by_rows(x)), outside)
        x = x + self.drop_path_mlp(changed.transpose(1, 2)).transpose(1, 2)
        return x.transpose(1, 2), None if outside is None else outside.transpose(1, 2)


class ActionFormer(PointNetwork):
    """ActionFormer.

    Predictions of its output, which the loss reads: `logits` (B, N, K) before the sigmoid, `offsets` (B, N, 2),
    distances from the point to start and end in strides of the point, and `points` (N, 2), position and stride of the
    points in columns.

    Args:
        num_classes: K.
        in_features: D.
        maps: number of channels.
        heads: number of attention heads; divides `maps`.
        window: number of columns of the attention window at each level, odd; 0: all columns. A number applies to all
            levels. Published: 19 for THUMOS-14, 9 for EPIC-Kitchens, (7, 7, 7, 7, 7, 0) for ActivityNet.
        levels: number of levels of the pyramid.
        embeddings: number of convolutions in front of the transformer.
        stem: number of transformer blocks at full length.
        head_layers: number of convolutions of a head, at least 2.
        head_kernel: kernel size of the heads, odd.
        position_encoding: add sinusoidal position encodings, as published for ActivityNet and Ego4D.
        max_seq_len: number of columns of the position encodings, and length to which padding="published" pads videos.
        dropout: dropout probability of values inside a block; published: 0, and 0.1 for Ego4D.
        drop_path: probability of dropping a residual branch for a video; branches have a learned scale of each channel
            unless it is 0.
        class_agnostic: predict a single class, an action of any kind, as published for ActivityNet with class scores of
            the video from another network.
        padding: "exact": padding does not affect the output for a video. "published": as in the published code, whose
            biases on padded columns affect the last columns of a video; required to reproduce published results.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        maps: int = 512,
        heads: int = 4,
        window: int | tuple[int, ...] = 19,
        levels: int = 6,
        embeddings: int = 2,
        stem: int = 2,
        head_layers: int = 3,
        head_kernel: int = 3,
        position_encoding: bool = False,
        max_seq_len: int = 2304,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        class_agnostic: bool = False,
        padding: PaddingMode = "exact",
    ):
        check_pyramid(levels=levels, head_layers=head_layers, kernels=[head_kernel], padding=padding)
        windows = (window,) * levels if isinstance(window, int) else tuple(window)
        if len(windows) != levels:
            raise ValueError(f"window={window} must be a number or have one number for each of the {levels} levels")
        if wrong := [size for size in windows if size < 0 or (size and size % 2 == 0)]:
            raise ValueError(f"window: {wrong[0]} must be odd, or 0 for all columns")
        if maps % heads:
            raise ValueError(f"maps={maps} must be a multiple of heads={heads}")
        exact = padding == "exact"

        def block(size: int, stride: int) -> _Block:
            return _Block(
                maps, heads=heads, window=size, stride=stride, dropout=dropout, drop_path=drop_path, exact=exact
            )

        backbone = Backbone(
            in_features,
            maps,
            embeddings=embeddings,
            stem=(block(windows[0], 1) for _ in range(stem)),
            branch=(block(size, 2) for size in windows[1:]),
            max_seq_len=max_seq_len if position_encoding else None,
            exact=exact,
        )
        super().__init__(
            backbone,
            num_classes=num_classes,
            in_features=in_features,
            maps=maps,
            levels=levels,
            gap=head_kernel // 2,
            max_seq_len=max_seq_len,
            divisor=max(2**index * (size // 2 * 2 if size > 1 else 1) for index, size in enumerate(windows)),
            # All padded columns behind a video are equal, and each convolution reads half its kernel of them.
            reach=max(1, head_kernel // 2),
            padding=padding,
            class_agnostic=class_agnostic,
        )
        self.cls_head = ClassHead(maps, maps, self.outputs, kernel=head_kernel, layers=head_layers)
        self.reg_head = OffsetHead(maps, maps, 2, levels=levels, kernel=head_kernel, layers=head_layers)

    def _predict(self, joined: Joined, valid: Tensor) -> DetectionOutput:
        logits = joined.split(self.cls_head(joined))
        offsets = self.reg_head(joined)
        return output_of_points(
            torch.cat(logits, dim=2).transpose(1, 2),
            torch.cat(offsets, dim=2).transpose(1, 2),
            self._points(offsets),
            valid,
        )


register_model(
    "actionformer",
    ActionFormer,
    task="detection",
    search_space=ModelSearchSpace(
        {
            "maps": [64, 128, 256, 512],
            "window": [5, 9, 19, 37],
            "levels": {"low": 4, "high": 7},
            "stem": {"low": 1, "high": 3},
            "head_layers": {"low": 2, "high": 4},
        }
    ),
)
