"""TimeSformer: vision transformer whose blocks attend over time, then over space.

"Is Space-Time Attention All You Need for Video Understanding?", ICML 2021, arXiv 2102.05095, with divided space-time
attention. A token for the class takes part in the attention over space of each frame.

Parameter names are those of the authors. `load_weights` also reads files of transformers
(`TimesformerForVideoClassification`).

Shapes: B clips, T frames, H, W; N patches of a frame, D width, K classes.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._input_spec import InputSpec
from vidseg.models._linear import RowLinear
from vidseg.models._registry import register_model
from vidseg.models._stage import Stage
from vidseg.models._transformer import (
    PATCH,
    Attention,
    Block,
    PatchEmbed,
    VideoTransformer,
    drop_rates,
    initialize,
    scaled_width,
)

__all__ = ["NETWORKS", "TimeSformer", "TimeSformerDesign", "own_key"]

_Tokens = tuple[Tensor, Tensor]


class TimeSformerDesign(NamedTuple):
    """Size of a registered network.

    Attributes:
        width: D.
        layers: number of blocks.
        heads: number of attention heads.
    """

    width: int
    layers: int
    heads: int


NETWORKS = {"timesformer_base": TimeSformerDesign(768, 12, 12)}
"""Networks of this module by name."""

_RENAMED = (
    (r"^model\.", ""),
    # transformers
    (r"^timesformer\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^timesformer\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^timesformer\.embeddings\.time_embeddings$", "time_embed"),
    (r"^timesformer\.embeddings\.cls_token$", "cls_token"),
    (r"^timesformer\.encoder\.layer\.", "blocks."),
    (r"^timesformer\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.temporal_attention\.attention\.", ".temporal_attn."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.temporal_layernorm\.", ".temporal_norm1."),
    (r"\.temporal_dense\.", ".temporal_fc."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)


def own_key(key: str) -> str:
    """Return the authors' key for a key of transformers or of the authors' checkpoints."""
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def recognize(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the registered network that has these entries, None for another one.

    Args:
        shapes: key -> shape.
    """
    named = {own_key(key): shape for key, shape in shapes.items()}
    if "blocks.0.temporal_attn.qkv.weight" not in named or "patch_embed.proj.weight" not in named:
        return None
    layers = len({key.split(".")[1] for key in named if key.startswith("blocks.")})
    size = named["patch_embed.proj.weight"][0], layers
    return next((name for name, design in NETWORKS.items() if design[:2] == size), None)


class _DividedBlock(Block):
    """Block of attention over time, attention over space and MLP.

    Args:
        width: D.
        heads: number of heads.
        hidden: width inside the MLP.
        drop_path: rate of stochastic depth.
    """

    label_only = False
    """Whether to compute the MLP for the token of the class alone: nothing reads the patches of the last block."""

    def __init__(self, width: int, heads: int, *, hidden: int, drop_path: float = 0.0):
        super().__init__(width, heads, hidden=hidden, drop_path=drop_path)
        self.temporal_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.temporal_attn = Attention(width, heads)
        self.temporal_fc = RowLinear(width, width)

    def forward(self, x: _Tokens) -> _Tokens:  # type: ignore[override]
        """Compute the next tokens from the token of the class (B, 1, D) and those of the patches (B, N, T, D)."""
        label, patches = x
        count, frames = patches.shape[1:3]
        # Attention has fast kernels for three dimensions: each place of each clip is a sequence.
        over_time = self.temporal_attn(self.temporal_norm1(patches).flatten(0, 1)).unflatten(0, (-1, count))
        patches = patches + self.temporal_fc(self.drop_path(over_time))
        tokens = torch.cat((label[:, None].expand(-1, frames, -1, -1), patches.transpose(1, 2)), dim=2)
        over_space = self.drop_path(self.attn(self.norm1(tokens).flatten(0, 1)).unflatten(0, (-1, frames)))
        label = label + over_space[:, :, 0].mean(dim=1, keepdim=True)
        patches = patches + over_space[:, :, 1:].transpose(1, 2)
        if self.label_only:
            return label + self.drop_path(self.mlp(self.norm2(label))), patches
        # One product with the large weights for both; patches by time, height and width, as Grad-CAM reads tokens.
        joint = torch.cat((label, patches.transpose(1, 2).flatten(1, 2)), dim=1)
        joint = joint + self.drop_path(self.mlp(self.norm2(joint)))
        return joint[:, :1], joint[:, 1:].unflatten(1, (frames, count)).transpose(1, 2)


class TimeSformer(VideoTransformer):
    """Vision transformer with divided space-time attention.

    Args:
        design: published size, see `NETWORKS`.
        num_classes: K.
        frames: T for which positions are learned; clips of other lengths take the nearest positions.
        size: height and width for which positions are learned, a multiple of 16 pixels; likewise.
        width: multiplier of D, see `scaled_width`; published: 1.0.
        layers: number of blocks; None: the published number.
        dropout: dropout probability before the classifier.
        drop_path: rate of stochastic depth of the last block (published: 0.1); it rises linearly from 0 in the first.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: an option is out of range.
    """

    head_modules = ("head",)
    adapted = (*VideoTransformer.adapted, "temporal_attn.qkv", "temporal_attn.proj", "temporal_fc")
    classifier_name = "head"
    own_key = staticmethod(own_key)

    def __init__(
        self,
        design: TimeSformerDesign,
        *,
        num_classes: int,
        frames: int = 8,
        size: int = 224,
        width: float = 1.0,
        layers: int | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.1,
        in_channels: int = 3,
    ):
        super().__init__()
        if frames < 1 or size < PATCH or size % PATCH:
            raise ValueError(f"frames={frames} must be at least 1, size={size} a multiple of {PATCH}")
        features = scaled_width(design.width, design.heads, width)
        rates = drop_rates(drop_path, design.layers if layers is None else layers)
        self.num_classes, self.num_features = num_classes, features
        self.side = size // PATCH
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, features))
        self.time_embed = nn.Parameter(torch.zeros(1, frames, features))
        self.patch_embed = PatchEmbed(features, None, in_channels=in_channels)
        self.blocks = Stage(
            *(_DividedBlock(features, design.heads, hidden=4 * features, drop_path=rate) for rate in rates)
        )
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)
        initialize(self)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        list(self.blocks.children())[-1].label_only = True  # type: ignore[assignment]
        for block in list(self.blocks.children())[1:]:  # as published: attention over time begins without effect
            assert isinstance(block, _DividedBlock)
            nn.init.zeros_(block.temporal_fc.weight)

    def _positions(self, height: int, width: int) -> Tensor:
        """Return the position embeddings (1, N, D) of the patches of a frame."""
        learned = self.pos_embed[:, 1:]
        if (height, width) == (self.side, self.side):
            return learned
        plane = learned.unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        return F.interpolate(plane, size=(height, width), mode="nearest").flatten(2).transpose(1, 2)

    def _times(self, frames: int) -> Tensor:
        """Return the time embeddings (1, T, D)."""
        if frames == self.time_embed.shape[1]:
            return self.time_embed
        return F.interpolate(self.time_embed.transpose(1, 2), size=frames, mode="nearest").transpose(1, 2)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute the normalized token of the class.

        Args:
            clips: (B, C, T, H, W), normalized; H and W are multiples of 16.

        Returns:
            (B, D).

        Raises:
            ValueError: a size is not a multiple.
        """
        patches: Tensor = self.patch_embed(clips)
        frames, height, width = patches.shape[1:4]
        patches = patches.flatten(2, 3).transpose(1, 2)
        patches = patches + self._positions(height, width)[:, :, None] + self._times(frames)[:, None]
        label = (self.cls_token + self.pos_embed[:, :1]).expand(clips.shape[0], -1, -1)
        return self.norm(self.blocks((label, patches))[0][:, 0])

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        return self.head(self.dropout(self.forward_features(clips)))


_INPUT = InputSpec(frames=8, interval=32, size=224, mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))

for _name, _design in NETWORKS.items():
    register_model(_name, partial(TimeSformer, _design), input_spec=_INPUT)
