"""V-JEPA 2: vision transformer with rotary positions, and the attentive probe that classifies its tokens.

"V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning", 2025, arXiv 2506.09985. The
published encoders are used frozen (`--freeze-backbone`); the probe has three self-attention blocks and one
cross-attention from a learned query. Positions are relative, so clips of every length and size need no interpolation.

Parameter names are those of the authors, whose encoder and probe are separate files. `load_weights` also reads files of
transformers (`VJEPA2ForVideoClassification`, `VJEPA2Model`).

Shapes: B clips, T frames, H, W; N tokens, D width, K classes.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from vidseg.models._linear import RowLinear
from vidseg.models._registry import register_model
from vidseg.models._stage import Stage
from vidseg.models._transformer import (
    Block,
    Mlp,
    PatchEmbed,
    Size,
    VideoTransformer,
    drop_rates,
    initialize,
    joined,
    scaled_width,
)

__all__ = ["NETWORKS", "VJepa2", "VJepa2Design", "own_key", "rotary_tables"]

TUBELET = 2
"""Frames of a patch."""

_Rotated = tuple[Tensor, tuple[Tensor, Tensor]]


class VJepa2Design(NamedTuple):
    """Size of a registered network.

    Attributes:
        width: D.
        layers: number of blocks of the encoder.
        heads: number of attention heads, of encoder and probe.
        ratio: width inside an MLP, as a multiple of D.
    """

    width: int
    layers: int
    heads: int
    ratio: float = 4.0


NETWORKS = {
    "vjepa2_large": VJepa2Design(1024, 24, 16),
    "vjepa2_huge": VJepa2Design(1280, 32, 16),
    "vjepa2_giant": VJepa2Design(1408, 40, 22, 48 / 11),
}
"""Networks of this module by name."""

_RENAMED = (
    (r"^(?:module\.)?backbone\.", ""),
    # transformers
    (r"^(?:vjepa2\.)?encoder\.embeddings\.patch_embeddings\.", "patch_embed."),
    (r"^(?:vjepa2\.)?encoder\.layer\.", "blocks."),
    (r"^(?:vjepa2\.)?encoder\.layernorm\.", "norm."),
    (r"^vjepa2\.predictor\.", "predictor."),
    (r"^(blocks\.\d+)\.attention\.", r"\1.attn."),
    (r"^pooler\.cross_attention_layer\.", "pooler.cross_attention_block."),
    (r"^pooler\.self_attention_layers\.", "pooler.blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.cross_attn\.([qkv])_proj\.", r".xattn.\1."),
    (r"\.self_attn\.q_proj\.", ".attn.query."),
    (r"\.self_attn\.k_proj\.", ".attn.key."),
    (r"\.self_attn\.v_proj\.", ".attn.value."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^classifier\.", "linear."),
)


def own_key(key: str) -> str:
    """Return the authors' key for a key of transformers, without the wrappers of the authors' checkpoints.

    Separate projections to queries, keys and values keep their names, see `VJepa2.own_entries`.
    """
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def recognize(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the registered network that has these entries, None for another one.

    Args:
        shapes: key -> shape.
    """
    named = {own_key(key): shape for key, shape in shapes.items()}
    biases = {"blocks.0.attn.qkv.bias", "blocks.0.attn.query.bias"}
    if not biases & set(named) or len(named.get("patch_embed.proj.weight", ())) != 5 or "norm.weight" not in named:
        return None
    layers = len({key.split(".")[1] for key in named if key.startswith("blocks.")})
    size = named["patch_embed.proj.weight"][0], layers
    return next((name for name, design in NETWORKS.items() if design[:2] == size), None)


def rotary_tables(grid: Size, channels: int, *, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the tables that rotate queries and keys by the position of their token.

    A third of the channels of a head, rounded down to an even number, encodes each of time, height and width; the rest
    is not rotated. As in the published code, the frequencies of the two channels of a pair differ: channel c of a part
    of P channels has the frequency of number c modulo P / 2.

    Args:
        grid: number of patches in time, height and width.
        channels: channels of a head, even.
        device: of the tables.
        dtype: of the tables.

    Returns:
        Factors of a channel and of the other channel of its pair, with the sign of the rotation; both (N, 1, 1,
        channels).
    """
    part = 2 * (channels // 3 // 2)
    rates = 10000 ** -(torch.arange(part // 2, device=device, dtype=torch.float32) / (part / 2))
    axes = [torch.arange(size, device=device, dtype=torch.float32) for size in grid]
    angles = torch.cat(
        [places.flatten()[:, None] * rates.repeat(2) for places in torch.meshgrid(*axes, indexing="ij")], 1
    )
    angles = F.pad(angles, (0, channels - 3 * part))
    signs = torch.tensor([-1.0, 1.0], device=device).repeat(channels // 2)
    return angles.cos()[:, None, None].to(dtype), (angles.sin() * signs)[:, None, None].to(dtype)


class _RotaryBlock(Block):
    """Block whose input and output carry the tables of `rotary_tables`."""

    def forward(self, x: _Rotated) -> _Rotated:  # type: ignore[override]
        return super().forward(*x), x[1]


class _CrossAttention(nn.Module):
    """Attention of queries to tokens, without a projection behind it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = RowLinear(width, width)
        self.kv = RowLinear(width, 2 * width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Compute (B, Q, D) from queries (B, Q, D) and tokens (B, N, D)."""
        query = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _CrossBlock(nn.Module):
    """Residual block of cross-attention and MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.xattn = _CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        queries = queries + self.xattn(queries, self.norm1(tokens))
        return queries + self.mlp(self.norm2(queries))


class AttentivePooler(nn.Module):
    """Attentive probe: self-attention blocks over the tokens, and a learned query that attends to them.

    Args:
        width: D.
        heads: number of attention heads.
        layers: number of self-attention blocks.
    """

    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = _CrossBlock(width, heads)
        self.blocks = Stage(*(Block(width, heads, hidden=4 * width) for _ in range(layers)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the features (B, D) of tokens (B, N, D)."""
        tokens = self.blocks(tokens)
        return self.cross_attention_block(self.query_tokens.expand(tokens.shape[0], -1, -1), tokens)[:, 0]


class VJepa2(VideoTransformer):
    """Encoder of V-JEPA 2 with an attentive probe.

    Args:
        design: published size, see `NETWORKS`.
        num_classes: K.
        width: multiplier of D, see `scaled_width`; published: 1.0.
        layers: number of blocks of the encoder; None: the published number.
        probe_layers: number of self-attention blocks of the probe.
        dropout: dropout probability before the classifier.
        drop_path: rate of stochastic depth of the last block of the encoder; it rises linearly from 0 in the first one.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: an option is out of range.
    """

    head_modules = ("pooler", "linear")
    classifier_name = "linear"
    other_heads = ("predictor.", "pos_embed")
    """Prefixes of entries of published files that recognition does not use."""
    own_key = staticmethod(own_key)

    def __init__(
        self,
        design: VJepa2Design,
        *,
        num_classes: int,
        width: float = 1.0,
        layers: int | None = None,
        probe_layers: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        in_channels: int = 3,
    ):
        super().__init__()
        if probe_layers < 0:
            raise ValueError(f"probe_layers={probe_layers} must be at least 0")
        features = scaled_width(design.width, design.heads, width)
        rates = drop_rates(drop_path, design.layers if layers is None else layers)
        hidden = int(features * design.ratio)
        self.num_classes, self.num_features = num_classes, features
        self.head_channels = features // design.heads
        self.patch_embed = PatchEmbed(features, TUBELET, in_channels=in_channels)
        self.blocks = Stage(*(_RotaryBlock(features, design.heads, hidden=hidden, drop_path=rate) for rate in rates))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.pooler = AttentivePooler(features, design.heads, probe_layers)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, num_classes)
        initialize(self)
        nn.init.trunc_normal_(self.pooler.query_tokens, std=0.02)
        # As published, deeper blocks start with smaller residual branches.
        for stage in (self.blocks, self.pooler.blocks):
            for depth, block in enumerate(stage.children(), start=1):
                assert isinstance(block, Block)
                block.attn.proj.weight.data.div_((2 * depth) ** 0.5)
                block.mlp.fc2.weight.data.div_((2 * depth) ** 0.5)

    @staticmethod
    def own_entries(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries of a file under the keys of the network, with joined projections."""
        found = joined({own_key(key): value for key, value in entries.items()}, ("query", "key", "value"), "qkv")
        return joined(found, ("k", "v"), "kv")

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the normalized tokens of the encoder.

        Args:
            clips: (B, C, T, H, W), normalized; T is a multiple of 2, H and W are multiples of 16.

        Returns:
            (B, N, D) with N = T / 2 x H / 16 x W / 16, in the order of time, height and width.

        Raises:
            ValueError: a size is not a multiple.
        """
        tokens: Tensor = self.patch_embed(clips)
        grid = tokens.shape[1], tokens.shape[2], tokens.shape[3]
        tables = rotary_tables(grid, self.head_channels, device=tokens.device, dtype=tokens.dtype)
        return self.norm(self.blocks((tokens.flatten(1, 3), tables))[0])

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        return self.linear(self.dropout(self.pooler(self.forward_features(clips))))


def _input(*, frames: int, interval: int, size: int) -> InputSpec:
    """Return the input of a published probe, whose frames are scaled to 8 / 7 of the crop."""
    return InputSpec(
        frames=frames, interval=interval, size=size, resize=size * 8 // 7, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


register_model(
    "vjepa2_large", partial(VJepa2, NETWORKS["vjepa2_large"]), input_spec=_input(frames=16, interval=4, size=256)
)
register_model(
    "vjepa2_huge", partial(VJepa2, NETWORKS["vjepa2_huge"]), input_spec=_input(frames=64, interval=2, size=256)
)
register_model(
    "vjepa2_giant", partial(VJepa2, NETWORKS["vjepa2_giant"]), input_spec=_input(frames=64, interval=2, size=384)
)
