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
from vidseg.models._pyramid import (
    Backbone,
    ChannelNorm,
    ClassHead,
    Convolution,
    Joined,
    OffsetHead,
    PaddingMode,
    PointNetwork,
    max_pool,
    output_of_points,
    residual_scale,
)
from vidseg.models._registry import register_model
from vidseg.models._segmentation import clear_padding

__all__ = ["ActionFormer", "local_attention"]

_CHUNK = 32
"""Queries of a chunk of local attention."""


def local_attention(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, *, heads: int, window: int
) -> Tensor:
    """Compute the attention of each column to the valid columns of a window centered on it.

    The queries are divided into chunks. The keys of a chunk are its columns and window // 2 columns on either side.
    Memory is linear in L.

    Args:
        query: (B, C, L).
        key: (B, C, L).
        value: (B, C, L).
        padding: bool (B, 1, L), True on padded columns; None: no column is padding.
        heads: number of heads; divides C.
        window: number of columns of a window, odd.

    Returns:
        (B, C, L); finite, but without meaning, on padded columns.
    """
    batch, _, frames = query.shape
    half = window // 2
    rest = -frames % _CHUNK
    keys = _CHUNK + 2 * half

    def neighborhoods(x: Tensor, fill: float = 0) -> Tensor:
        """Return the keys of each of n chunks: (B, C, L) -> (B, C, n, keys)."""
        return F.pad(x, (half, half + rest), value=fill).unfold(2, keys, _CHUNK)

    def by_chunk(x: Tensor) -> Tensor:
        """Divide channels into heads: (B, C, n, columns) -> (B * n, heads, columns, C / heads)."""
        return x.unflatten(1, (heads, -1)).permute(0, 3, 1, 4, 2).flatten(0, 1)

    if padding is None:
        padding = torch.zeros_like(query[:1, :1], dtype=torch.bool)
    valid = ~neighborhoods(padding, True)[:, 0, :, None]
    rows = torch.arange(_CHUNK, device=query.device)[:, None]
    distance = torch.arange(keys, device=query.device) - half - rows
    # Padded columns attend to themselves: a row without any key would be NaN.
    seen = ((distance.abs() <= half) & valid) | (distance == 0)
    attended = F.scaled_dot_product_attention(
        by_chunk(F.pad(query, (0, rest)).unflatten(2, (-1, _CHUNK))),
        by_chunk(neighborhoods(key)),
        by_chunk(neighborhoods(value)),
        attn_mask=seen.expand(batch, -1, -1, -1).flatten(0, 1)[:, None],
    )
    chunks = attended.unflatten(0, (batch, -1))
    return chunks.permute(0, 2, 4, 1, 3).flatten(3).flatten(1, 2)[..., :frames]


def _full_attention(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, *, heads: int) -> Tensor:
    """Compute the attention of each column to all valid columns, as `local_attention`."""
    parts = (x.unflatten(1, (heads, -1)).transpose(2, 3) for x in (query, key, value))
    seen = None if padding is None else ~padding[:, :, None]
    return F.scaled_dot_product_attention(*parts, attn_mask=seen).transpose(2, 3).flatten(1, 2)


class _Attention(nn.Module):
    """Attention whose queries, keys and values are depthwise convolutions of the input."""

    def __init__(self, maps: int, *, heads: int, window: int, stride: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.window = window
        for name in ("query", "key", "value"):
            self.add_module(f"{name}_conv", Convolution(maps, maps, 3, stride=stride, groups=maps))
            self.add_module(f"{name}_norm", ChannelNorm(maps))
        self.key = nn.Conv1d(maps, maps, 1)
        self.query = nn.Conv1d(maps, maps, 1)
        self.value = nn.Conv1d(maps, maps, 1)
        self.proj = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Map (B, C, L) to (B, C, L / stride) with `padding`."""
        query = self.query(self.query_norm(self.query_conv(x)))
        key = self.key(self.key_norm(self.key_conv(x)))
        value = self.value(self.value_norm(self.value_conv(x)))
        if self.window:
            attended = local_attention(query, key, value, padding, heads=self.heads, window=self.window)
        else:
            attended = _full_attention(query, key, value, padding, heads=self.heads)
        return clear_padding(self.dropout(self.proj(attended)), padding)


class _Block(nn.Module):
    """Transformer block, which halves the length with stride 2."""

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
            nn.Conv1d(maps, 4 * maps, 1),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv1d(4 * maps, maps, 1),
            nn.Dropout(dropout),
        )
        self.drop_path_attn = residual_scale(maps, drop_path)
        self.drop_path_mlp = residual_scale(maps, drop_path)

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        normal = clear_padding(self.ln1(x), padding if self.exact else None)
        if self.stride > 1:
            x = max_pool(x, padding, exact=self.exact)
            padding = None if padding is None else padding[..., :: self.stride]
        x = clear_padding(x, padding) + self.drop_path_attn(self.attn(normal, padding))
        return x + self.drop_path_mlp(clear_padding(self.mlp(self.ln2(x)), padding)), padding


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
            levels. Published: 19 for THUMOS-14, 9 for EPIC-Kitchens, (25, 25, 25, 25, 25, 0) for ActivityNet.
        levels: number of levels of the pyramid.
        embeddings: number of convolutions in front of the transformer.
        stem: number of transformer blocks at full length.
        head_layers: number of convolutions of a head, at least 2.
        head_kernel: kernel size of the heads, odd.
        position_encoding: add sinusoidal position encodings, as published for ActivityNet and Ego4D.
        max_seq_len: number of columns of the position encodings, and length to which padding="published" pads videos.
        dropout: dropout probability of values inside a block.
        drop_path: probability of dropping a residual branch for a video; branches have a learned scale of each channel
            unless it is 0.
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
        dropout: float = 0.1,
        drop_path: float = 0.1,
        padding: PaddingMode = "exact",
    ):
        if padding not in ("exact", "published"):
            raise ValueError(f"padding={padding!r} must be 'exact' or 'published'")
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
        )
        self.cls_head = ClassHead(maps, maps, num_classes, kernel=head_kernel, layers=head_layers)
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


register_model("actionformer", ActionFormer, task="detection")
