"""SVTAS-RL: Video Swin Transformer with a block-recurrent head, trained end to end on windows.

"End-to-End Streaming Video Temporal Action Segmentation with Reinforcement Learning", arXiv 2309.15683; backbone "Video
Swin Transformer", CVPR 2022, arXiv 2106.13230. The training loss is `vidseg.losses.streaming.reward_loss`. Parameter
names are those of the published weights.

Shapes: B videos, C channels, T frames, H, W, K classes; in the backbone (B, D, H, W, C) with D steps of two frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import GTEA_MEAN, GTEA_STD, InputSpec
from vidseg.models._linear import RowLinear
from vidseg.models._registry import register_model
from vidseg.models._streaming import StreamModel, StreamOutput, StreamState, frame_mask
from vidseg.models.block_recurrent import BlockRecurrentHead

__all__ = ["SvtasRl", "VideoSwin"]

Size = tuple[int, int, int]

_HIDDEN = -100.0  # attention mask of pairs that are adjacent only because of the cyclic shift


def _cut(x: Tensor, window: Size) -> Tensor:
    """Divide (B, D, H, W, C), sizes divisible by the window, into windows (B * windows, positions, C)."""
    batch, depth, height, width, channels = x.shape
    split = x.view(
        batch, depth // window[0], window[0], height // window[1], window[1], width // window[2], window[2], channels
    )
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window[0] * window[1] * window[2], channels)


def _join(windows: Tensor, window: Size, size: Size) -> Tensor:
    """Join the windows of `_cut` to maps (B, *size, C)."""
    counts = [side // part for side, part in zip(size, window, strict=True)]
    split = windows.view(-1, *counts, *window, windows.shape[-1])
    return split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, *size, windows.shape[-1])


def _hidden_pairs(size: Size, window: Size, shift: Size, device: torch.device) -> Tensor:
    """Return the attention mask (windows, N, N) of a cyclic shift: 0, or a large negative number for masked pairs."""
    region = torch.zeros(1, *size, 1, device=device)
    number = 0
    sides = [(slice(-part), slice(-part, -move), slice(-move, None)) for part, move in zip(window, shift, strict=True)]
    for depth in sides[0]:
        for height in sides[1]:
            for width in sides[2]:
                region[:, depth, height, width] = number
                number += 1
    regions = _cut(region, window).squeeze(2)
    return torch.where(regions[:, None] == regions[:, :, None], 0.0, _HIDDEN)


class _WindowAttention(nn.Module):
    """Attention within a window, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, window: Size, heads: int):
        super().__init__()
        self.heads = heads
        spans = [2 * side - 1 for side in window]
        self.relative_position_bias_table = nn.Parameter(torch.zeros(spans[0] * spans[1] * spans[2], heads))
        places = torch.cartesian_prod(*(torch.arange(side) for side in window))
        relative = places[:, None] - places[None] + torch.tensor([side - 1 for side in window])
        index = (relative * torch.tensor([spans[1] * spans[2], spans[2], 1])).sum(dim=2)
        self.register_buffer("relative_position_index", index)
        self.qkv = RowLinear(channels, 3 * channels)
        self.proj = RowLinear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        """Compute attention in windows (M, N, C) -> (M, N, C).

        Args:
            x: (M, N, C), the windows of all videos.
            hidden: attention mask (windows of one video, N, N); None: all pairs are visible.
        """
        count, places, channels = x.shape
        q, k, v = self.qkv(x).view(count, places, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        # A smaller window uses the first N rows of the index, as published, for every shape of the window.
        index = self.relative_position_index[:places, :places].flatten()
        bias = self.relative_position_bias_table[index].view(places, places, -1).permute(2, 0, 1)
        if hidden is not None:
            bias = (bias + hidden[:, None]).repeat(count // hidden.shape[0], 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).reshape(count, places, channels))


class _Mlp(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = RowLinear(channels, 4 * channels)
        self.fc2 = RowLinear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, window: Size, shift: Size, drop_path: float):
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, window, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _Mlp(channels)

    def _attend(self, x: Tensor) -> Tensor:
        depth, height, width = x.shape[1:4]
        size = (depth, height, width)
        # Dimensions that fit into one window are not shifted.
        fits = [side <= part for side, part in zip(size, self.window, strict=True)]
        window = (depth, height, width)
        window = tuple(side if fit else part for side, part, fit in zip(size, self.window, fits, strict=True))  # type: ignore[assignment]
        shift = [0 if fit else move for move, fit in zip(self.shift, fits, strict=True)]
        padding = [-side % part for side, part in zip(size, window, strict=True)]
        x = F.pad(x, (0, 0, 0, padding[2], 0, padding[1], 0, padding[0]))
        padded = (x.shape[1], x.shape[2], x.shape[3])
        hidden = None
        if any(shift):
            x = x.roll([-move for move in shift], dims=(1, 2, 3))
            hidden = _hidden_pairs(padded, window, (shift[0], shift[1], shift[2]), x.device)
        x = _join(self.attn(_cut(x, window), hidden), window, padded)
        if any(shift):
            x = x.roll(shift, dims=(1, 2, 3))
        return x[:, :depth, :height, :width]

    def _drop(self, x: Tensor) -> Tensor:
        """Apply stochastic depth: drop the branch for random videos and rescale it for the others."""
        if not self.training or self.drop_path == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1, 1).bernoulli_(1 - self.drop_path)
        return x * kept / (1 - self.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self._attend(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))


class _Merge(nn.Module):
    """Patch merging: concatenation of 2x2 neighbors and a linear layer, which halves height and width."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduction = RowLinear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=4)))


class _Stage(nn.Module):
    def __init__(self, channels: int, heads: int, window: Size, drop_paths: Sequence[float], *, merge: bool):
        super().__init__()
        half = (window[0] // 2, window[1] // 2, window[2] // 2)
        self.blocks = nn.ModuleList(
            _Block(channels, heads, window, half if number % 2 else (0, 0, 0), rate)
            for number, rate in enumerate(drop_paths)
        )
        self.downsample = _Merge(channels) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _PatchEmbedding(nn.Module):
    def __init__(self, channels: int, patch: Size):
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, channels, patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute patch embeddings (B, D, H', W', C) of clips (B, 3, T, H, W)."""
        padding = [-side % part for side, part in zip(clips.shape[2:], self.patch, strict=True)]
        x = self.proj(F.pad(clips, (0, padding[2], 0, padding[1], 0, padding[0])))
        return self.norm(x.permute(0, 2, 3, 4, 1))


class VideoSwin(nn.Module):
    """Video Swin Transformer without classifier. Defaults are those of Swin-B, with 87 638 984 parameters.

    Args:
        channels: number of channels of the first stage; each stage doubles it.
        depths: number of blocks of each stage.
        heads: number of attention heads of each stage.
        window: steps, rows and columns of an attention window.
        patch: frames, rows and columns of a patch.
        drop_path: drop probability of the last block; it increases linearly from 0.

    Raises:
        ValueError: depths and heads have different lengths, or the heads do not divide the channels.
    """

    def __init__(
        self,
        *,
        channels: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: Size = (8, 7, 7),
        patch: Size = (2, 4, 4),
        drop_path: float = 0.2,
    ):
        super().__init__()
        if len(depths) != len(heads):
            raise ValueError(f"depths={tuple(depths)} and heads={tuple(heads)} must have one value for each stage")
        self.patch_frames = patch[0]
        self.patch_embed = _PatchEmbedding(channels, patch)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for number, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            wide = channels * 2**number
            if wide % count:
                raise ValueError(f"stage {number}: {count} heads do not divide {wide} channels")
            first = sum(depths[:number])
            self.layers.append(
                _Stage(wide, count, window, rates[first : first + depth], merge=number + 1 < len(depths))
            )
        self.num_features = channels * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(self.num_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Compute features (B, D, H', W', C) of clips (B, 3, T, H, W), with D steps of `patch_frames` frames."""
        x = self.patch_embed(clips)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class _Neck(nn.Module):
    def __init__(self, in_features: int, num_classes: int, dropout: float):
        super().__init__()
        self.backbone_cls_fc = nn.Linear(in_features, num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.backbone_cls_fc(self.dropout(features))


class SvtasRl(StreamModel):
    """Video Swin Transformer with block-recurrent head; 95 170 687 trainable parameters for 11 classes.

    A step of the head covers two frames. The logits of a step are repeated for its frames.

    Args:
        num_classes: K.
        swin_channels: number of channels of the first stage of the backbone.
        depths: number of blocks of each stage of the backbone.
        heads: number of attention heads of each stage of the backbone.
        window: steps, rows and columns of an attention window of the backbone.
        drop_path: drop probability of the last block of the backbone.
        decoders: number of refinement stages of the head, S - 1.
        layers: number of layers of the encoder and of each decoder of the head.
        channels: number of channels of the head, even.
        state_length: number of state vectors, the maximum number of steps of a window.
        dropout: dropout probability after the attention of the head and before the classifier of the backbone.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        swin_channels: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: Size = (8, 7, 7),
        drop_path: float = 0.2,
        decoders: int = 3,
        layers: int = 8,
        channels: int = 128,
        state_length: int = 512,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = VideoSwin(
            channels=swin_channels, depths=depths, heads=heads, window=window, drop_path=drop_path
        )
        features = self.backbone.num_features
        self.neck = _Neck(features, num_classes, dropout)
        self.head = BlockRecurrentHead(
            features,
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
        """Compute logits for one window, see `StreamModel.forward`. A step is valid if its first frame is."""
        frames, step = clips.shape[2], self.backbone.patch_frames
        keep = frame_mask(mask, clips)[:, ::step]
        pooled = self.backbone(clips).mean(dim=(2, 3)) * keep[..., None]
        backbone = self.neck(pooled).transpose(1, 2)
        logits, states = self.head(pooled.transpose(1, 2), state, keep)
        output = StreamOutput(
            logits.repeat_interleave(step, dim=3)[..., :frames],
            backbone_logits=backbone.repeat_interleave(step, dim=2)[..., :frames],
        )
        return output, StreamState(states)


register_model(
    "svtas_rl",
    SvtasRl,
    task="streaming",
    input_spec=InputSpec(frames=64, interval=2, size=224, resize=252, mean=GTEA_MEAN, std=GTEA_STD),
)
