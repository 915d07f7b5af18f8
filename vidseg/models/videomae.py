"""VideoMAE: vision transformer over patches of 2 frames and 16 x 16 pixels, pre-trained by masked autoencoding.

"VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training", NeurIPS 2022, arXiv
2203.12602; "VideoMAE V2: Scaling Video Masked Autoencoders with Dual Masking", CVPR 2023, arXiv 2303.16727. The tokens
of the last block are averaged, normalized and classified. Positions are fixed sines of the number of a token.

Parameter names are those of the authors, which both versions have. `load_weights` also reads files of transformers
(`VideoMAEForVideoClassification`) and the encoders of pre-training checkpoints.

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
from vidseg.models._registry import register_model
from vidseg.models._stage import Stage
from vidseg.models._transformer import (
    PATCH,
    Block,
    PatchEmbed,
    Size,
    VideoTransformer,
    drop_rates,
    initialize,
    joined,
    scaled_width,
)

__all__ = ["NETWORKS", "VideoMae", "VideoMaeDesign", "own_key", "sine_positions"]

TUBELET = 2
"""Frames of a patch."""


class VideoMaeDesign(NamedTuple):
    """Size of a registered network.

    Attributes:
        width: D.
        layers: number of blocks.
        heads: number of attention heads.
    """

    width: int
    layers: int
    heads: int


NETWORKS = {
    "videomae_small": VideoMaeDesign(384, 12, 6),
    "videomae_base": VideoMaeDesign(768, 12, 12),
    "videomae_large": VideoMaeDesign(1024, 24, 16),
}
"""Networks of this module by name."""

_RENAMED = (
    (r"^(?:model\.)?(?:encoder\.|backbone\.)?(?=patch_embed\.|blocks\.|norm\.|fc_norm\.|head\.)", ""),
    (r"\.attn\.([qv])_bias$", r".attn.qkv.\1_bias"),
    # transformers
    (r"^(?:videomae\.)?embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(?:videomae\.)?encoder\.layer\.", "blocks."),
    (r"^videomae\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.attention\.attention\.(q|v)(?:uery|alue)?[._]bias$", r".attn.qkv.\1_bias"),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def own_key(key: str) -> str:
    """Return the authors' key for a key of transformers or of a pre-training checkpoint.

    Separate projections to queries, keys and values keep their names, see `VideoMae.own_entries`.
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
    if "blocks.0.attn.qkv.q_bias" not in named or "patch_embed.proj.weight" not in named:
        return None
    layers = len({key.split(".")[1] for key in named if key.startswith("blocks.")})
    size = named["patch_embed.proj.weight"][0], layers
    return next((name for name, design in NETWORKS.items() if design[:2] == size), None)


def sine_positions(count: int, width: int) -> Tensor:
    """Return position encodings (count, width): sines and cosines of the position in turn, with falling frequencies.

    "Attention Is All You Need", arXiv 1706.03762, section 3.5.
    """
    rates = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1).float()


class VideoMae(VideoTransformer):
    """Vision transformer of VideoMAE; for 400 classes, base has 86 534 800 parameters.

    Args:
        design: published size, see `NETWORKS`.
        num_classes: K.
        frames: T for which positions are defined, a multiple of 2; clips of other lengths have interpolated positions.
        size: height and width for which positions are defined, a multiple of 16 pixels; likewise.
        width: multiplier of D, see `scaled_width`; published: 1.0.
        layers: number of blocks; None: the published number.
        dropout: dropout probability before the classifier.
        drop_path: rate of stochastic depth of the last block; it rises linearly from 0 in the first one.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: an option is out of range.
    """

    head_modules = ("fc_norm", "head")
    classifier_name = "head"
    other_heads = ("decoder.", "encoder_to_decoder.", "decoder_pos_embed", "mask_token", "norm.")
    """Prefixes of entries of pre-training checkpoints that recognition does not use."""
    own_key = staticmethod(own_key)
    positions: Tensor

    def __init__(
        self,
        design: VideoMaeDesign,
        *,
        num_classes: int,
        frames: int = 16,
        size: int = 224,
        width: float = 1.0,
        layers: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        in_channels: int = 3,
    ):
        super().__init__()
        if frames < TUBELET or frames % TUBELET or size < PATCH or size % PATCH:
            raise ValueError(f"frames={frames} must be a multiple of {TUBELET}, size={size} a multiple of {PATCH}")
        features = scaled_width(design.width, design.heads, width)
        rates = drop_rates(drop_path, design.layers if layers is None else layers)
        self.num_classes, self.num_features = num_classes, features
        self.grid: Size = (frames // TUBELET, size // PATCH, size // PATCH)
        self.patch_embed = PatchEmbed(features, TUBELET, in_channels=in_channels)
        self.blocks = Stage(
            *(Block(features, design.heads, hidden=4 * features, drop_path=rate, key_bias=False) for rate in rates)
        )
        self.fc_norm = nn.LayerNorm(features, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)
        table = sine_positions(self.grid[0] * self.grid[1] * self.grid[2], features)
        self.register_buffer("positions", table, persistent=False)
        initialize(self)

    @staticmethod
    def own_entries(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the entries of a file under the keys of the network, with joined projections."""
        return joined({own_key(key): value for key, value in entries.items()}, ("query", "key", "value"), "qkv")

    def _positions(self, grid: Size) -> Tensor:
        """Return the encodings (T', H', W', D) of the positions of a grid."""
        table = self.positions.unflatten(0, self.grid)
        if grid == self.grid:
            return table
        return F.interpolate(table.permute(3, 0, 1, 2)[None], size=grid, mode="trilinear")[0].permute(1, 2, 3, 0)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the tokens of the last block.

        Args:
            clips: (B, C, T, H, W), normalized; T is a multiple of 2, H and W are multiples of 16.

        Returns:
            (B, N, D) with N = T / 2 x H / 16 x W / 16, in the order of time, height and width.

        Raises:
            ValueError: a size is not a multiple.
        """
        tokens: Tensor = self.patch_embed(clips)
        grid = tokens.shape[1], tokens.shape[2], tokens.shape[3]
        return self.blocks((tokens + self._positions(grid)).flatten(1, 3))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        return self.head(self.dropout(self.fc_norm(self.forward_features(clips).mean(dim=1))))


_INPUT = InputSpec(frames=16, interval=4, size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)

for _name, _design in NETWORKS.items():
    register_model(_name, partial(VideoMae, _design), input_spec=_INPUT)
