"""Parts of the video transformers: patch projection, attention, block, stochastic depth, keys of other publications.

Attention runs through `torch.nn.functional.scaled_dot_product_attention`. Queries, keys and values come from one
projection, whose weight `load_weights` joins from files with three separate ones.

Shapes: B clips, C channels, T frames, H, W; N tokens, D width.
"""

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._linear import RowLinear, linear_rows

__all__ = [
    "PATCH",
    "Attention",
    "Block",
    "DropPath",
    "Mlp",
    "PatchEmbed",
    "Size",
    "VideoTransformer",
    "check_clips",
    "cut_patches",
    "drop_rates",
    "initialize",
    "joined",
    "scaled_width",
]

Size = tuple[int, int, int]

PATCH = 16
"""Height and width of a patch in pixels, in every published network."""


def scaled_width(width: int, heads: int, factor: float) -> int:
    """Return the width D times `factor`, rounded so that each head has an even number of channels.

    Args:
        width: published D.
        heads: number of attention heads.
        factor: option `width` of a network.

    Raises:
        ValueError: `factor` is not positive, or `heads` does not divide the published width.
    """
    if factor <= 0:
        raise ValueError(f"width={factor} must be positive")
    if heads < 1 or width % heads:
        raise ValueError(f"heads={heads} must divide the width of {width}")
    return width if factor == 1 else heads * max(2, 2 * round(factor * width / heads / 2))


def check_clips(clips: Tensor, *, tubelet: int, channels: int = 3) -> None:
    """Refuse clips that cannot be divided into patches.

    Args:
        clips: (B, C, T, H, W).
        tubelet: number of frames of a patch.
        channels: C.

    Raises:
        ValueError: names the size that does not fit, the smallest size and the multiple.
    """
    if clips.dim() != 5 or clips.shape[1] != channels:
        raise ValueError(f"clips must be (B, {channels}, T, H, W), but have shape {tuple(clips.shape)}")
    for name, size, unit in zip(("T", "H", "W"), clips.shape[2:], (tubelet, PATCH, PATCH), strict=True):
        if size < unit or size % unit:
            what = "frames" if name == "T" else "pixels"
            raise ValueError(
                f"clips of shape {tuple(clips.shape)}: {name}={size} must be a multiple of {unit} {what}, at least "
                f"{unit}; choose another --{'frames' if name == 'T' else 'size'}"
            )


def cut_patches(clips: Tensor, *, tubelet: int) -> Tensor:
    """Cut clips into patches.

    Args:
        clips: (B, C, T, H, W).
        tubelet: number of frames of a patch.

    Returns:
        (B, T / tubelet, H / 16, W / 16, C x tubelet x 16 x 16).
    """
    parts = clips.unflatten(4, (-1, PATCH)).unflatten(3, (-1, PATCH)).unflatten(2, (-1, tubelet))
    return parts.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


class PatchEmbed(nn.Module):
    """Projection of the patches of clips to tokens; a matrix product, faster than the convolution that it replaces.

    Args:
        width: D.
        tubelet: number of frames of a patch; None: one frame, with the weight of a convolution of images.
        in_channels: channels of the clips.
    """

    def __init__(self, width: int, tubelet: int | None, *, in_channels: int = 3):
        super().__init__()
        self.tubelet = tubelet or 1
        patch = (self.tubelet, PATCH, PATCH)
        self.proj: nn.Conv2d | nn.Conv3d = (
            nn.Conv2d(in_channels, width, PATCH, PATCH)
            if tubelet is None
            else nn.Conv3d(in_channels, width, patch, patch)
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Compute tokens (B, T / tubelet, H / 16, W / 16, D) of clips (B, C, T, H, W).

        Raises:
            ValueError: a size is not a multiple of that of a patch.
        """
        check_clips(clips, tubelet=self.tubelet, channels=self.proj.in_channels)
        patches = cut_patches(clips, tubelet=self.tubelet)
        return linear_rows(patches, self.proj.weight.flatten(1), self.proj.bias)


class DropPath(nn.Module):
    """Stochastic depth: omit the residual branch of a sample with a probability, in training.

    "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382.

    Args:
        rate: probability.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.rate or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * keep.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def drop_rates(rate: float, layers: int) -> list[float]:
    """Return the rate of stochastic depth of each block, rising linearly from 0 to `rate`.

    Raises:
        ValueError: `rate` is not in [0, 1), or there is no block.
    """
    if layers < 1:
        raise ValueError(f"layers={layers} must be at least 1")
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path={rate} must be in [0, 1)")
    return [rate * index / max(1, layers - 1) for index in range(layers)]


class _QueryValueBias(nn.Linear):
    """Projection to queries, keys and values with biases of queries and values; the keys have none."""

    def __init__(self, width: int):
        super().__init__(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))

    def forward(self, input: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        return linear_rows(input, self.weight, bias)


class Attention(nn.Module):
    """Self-attention over all tokens.

    Args:
        width: D.
        heads: number of heads, which divides D.
        key_bias: whether keys have a bias.
    """

    def __init__(self, width: int, heads: int, *, key_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv = RowLinear(width, 3 * width) if key_bias else _QueryValueBias(width)
        self.proj = RowLinear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Compute attention.

        Args:
            x: (B, N, D).
            rotation: tables (N, 1, 1, D / heads) of `vidseg.models.vjepa2.rotary_tables` for queries and keys; None:
                no rotary positions.

        Returns:
            (B, N, D).
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        if rotation is None:
            query, key, value = qkv.unbind(-3)
        else:
            cosines, sines = rotation
            both = qkv[..., :2, :, :]
            swapped = both.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
            query, key = torch.addcmul(both * cosines, swapped, sines).unbind(-3)
            value = qkv[..., 2, :, :]
        attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.proj(attended.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = RowLinear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = RowLinear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Residual block of attention and MLP, with the norms in front.

    Args:
        width: D.
        heads: number of heads.
        hidden: width inside the MLP.
        drop_path: rate of stochastic depth.
        key_bias: whether keys have a bias.
        eps: epsilon of the norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int,
        drop_path: float = 0.0,
        key_bias: bool = True,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, key_bias=key_bias)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), rotation))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VideoTransformer(nn.Module):
    """Base class of the recognition transformers: what training options read of them.

    The blocks are `blocks`, in order of depth.
    """

    head_modules: tuple[str, ...] = ()
    """Modules behind the blocks that `--freeze-backbone` and `--adapter-rank` train."""
    adapted: tuple[str, ...] = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    """Ends of the names of the linear layers in `blocks` that `--adapter-rank` adapts."""
    blocks: nn.Module

    @property
    def num_layers(self) -> int:
        """Number of the head in `layer_of`."""
        return sum(1 for _ in self.blocks.children()) + 1

    def layer_of(self, name: str) -> int:
        """Return the number of a parameter's layer, for a learning rate that decreases towards the input.

        Args:
            name: name of a parameter.

        Returns:
            0 for patches and positions, i + 1 for block i, `num_layers` for what follows the blocks.
        """
        first, _, rest = name.partition(".")
        if first == "blocks":
            return int(rest.partition(".")[0]) + 1
        return 0 if first in ("patch_embed", "pos_embed", "time_embed", "cls_token") else self.num_layers


def initialize(model: nn.Module) -> None:
    """Initialize linear layers with a truncated normal of 0.02, biases with 0 and norms with 1, as published."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def joined(entries: Mapping[str, Tensor], names: Sequence[str], name: str) -> dict[str, Tensor]:
    """Concatenate the entries of separate projections into those of one projection.

    Args:
        entries: entries of a file.
        names: last parts of the names of the separate projections, in the order of the rows, such as ("query", "key",
            "value").
        name: last part of the name of the one projection.

    Returns:
        The entries; projections that are not complete stay as they are.
    """
    pattern = re.compile(rf"(.*\.){re.escape(names[0])}(\.\w+)")
    found = dict(entries)
    for key in entries:
        if match := pattern.fullmatch(key):
            parts = [f"{match[1]}{part}{match[2]}" for part in names]
            if all(part in found for part in parts):
                found[f"{match[1]}{name}{match[2]}"] = torch.cat([found.pop(part) for part in parts])
    return found
