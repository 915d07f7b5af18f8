"""Parts shared by the detection networks that predict a segment at every point of a feature pyramid.

Level i of the pyramid has one point per 2^i columns of the features. Heads with shared weights predict the classes of
each point and the distances from the point to the start and the end of an action. Parameter names are those of the
published weights of ActionFormer (arXiv 2202.07925) and TriDet (arXiv 2303.07347).

Padding, two modes:
- "exact": padded columns are zero before every operator over several columns and have no part in statistics, so the
  output for a video depends neither on the batch nor on the length to which it is padded.
- "published": as in the published code, which pads every video to `max_seq_len` columns, masks the output of
  convolutions and not the input. The biases of normalizations on padded columns affect the last columns of a video.

Shapes: B videos, C channels, D feature width, J columns of joined levels, K classes, L columns, N points.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._detection import DetectionOutput, probabilities
from vidseg.models._pyramid_heads import Joined
from vidseg.models._pyramid_layers import ChannelNorm, Convolution, Level, PaddingMode, convolve
from vidseg.models._segmentation import clear_padding, find_padding, video_lengths

__all__ = ["Backbone", "PointNetwork", "check_pyramid", "output_of_points"]


def check_pyramid(*, levels: int, head_layers: int, kernels: Iterable[int], padding: str) -> None:
    """Check options that networks of points share.

    Raises:
        ValueError: an option is out of range.
    """
    if padding not in ("exact", "published"):
        raise ValueError(f"padding={padding!r} must be 'exact' or 'published'")
    if levels < 1:
        raise ValueError(f"levels={levels} must be at least 1")
    if head_layers < 2:
        raise ValueError(f"head_layers={head_layers} must be at least 2")
    for kernel in kernels:
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel size {kernel} of a head must be odd")


class _PositionEncoding(nn.Module):
    """Sinusoidal encoding of columns, divided by the square root of the number of channels.

    For videos of more than `frames` columns, the encodings of `frames` columns are stretched by linear interpolation.
    """

    table: Tensor

    def __init__(self, frames: int, channels: int):
        super().__init__()
        rates = 10000.0 ** (-2 * (torch.arange(channels, dtype=torch.float64) // 2) / channels)
        angles = torch.arange(frames, dtype=torch.float64)[:, None] * rates
        even = torch.arange(channels) % 2 == 0
        table = torch.where(even, angles.sin(), angles.cos()) / channels**0.5
        self.register_buffer("table", table.float(), persistent=False)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Add the encodings to x (B, C, L) of videos with `lengths` (B,) columns."""
        frames = self.table.shape[0]
        ratio = (frames / lengths.to(torch.float32)).clamp(max=1)[:, None]
        column = torch.arange(x.shape[2], device=x.device)
        position = ((column + 0.5) * ratio - 0.5).clamp(0, frames - 1)
        left = position.floor()
        share = (position - left)[..., None].to(self.table.dtype)
        index = left.long()
        encoding = torch.lerp(self.table[index], self.table[(index + 1).clamp(max=frames - 1)], share)
        return x + encoding.transpose(1, 2).to(x.dtype)


class Backbone(nn.Module):
    """Convolutions, blocks at full length, and blocks that each halve the length.

    Args:
        in_features: D.
        maps: C, number of channels.
        embeddings: number of convolutions in front of the blocks.
        stem: blocks at full length; they map a level to a level.
        branch: blocks that halve the length.
        max_seq_len: number of columns of the position encodings; None: no position encoding.
        exact: whether the mode of padding is "exact".
    """

    def __init__(
        self,
        in_features: int,
        maps: int,
        *,
        embeddings: int,
        stem: Iterable[nn.Module],
        branch: Iterable[nn.Module],
        max_seq_len: int | None,
        exact: bool,
    ):
        super().__init__()
        self.exact = exact
        widths = [in_features] + [maps] * embeddings
        self.embd = nn.ModuleList(Convolution(inputs, maps, 3) for inputs in widths[:-1])
        self.embd_norm = nn.ModuleList(ChannelNorm(maps) for _ in range(embeddings))
        self.position = None if max_seq_len is None else _PositionEncoding(max_seq_len, maps)
        self.stem = nn.ModuleList(stem)
        self.branch = nn.ModuleList(branch)
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, padding: Tensor | None) -> list[Level]:
        """Return the levels, from full length to the shortest."""
        after, last = (None, padding) if self.exact else (padding, None)
        x = convolve(x, self.embd, self.embd_norm, after=after, last=last)
        if self.position is not None:
            lengths = video_lengths(x, padding if self.exact else None)
            x = self.position(x, lengths)
            x = clear_padding(x, padding) if self.exact else x
        for block in self.stem:
            x, padding = block(x, padding)
        levels: list[Level] = [(x, padding)]
        for block in self.branch:
            levels.append(block(*levels[-1]))
        return levels


class _Neck(nn.Module):
    """Normalization of each level."""

    def __init__(self, maps: int, levels: int):
        super().__init__()
        self.fpn_norms = nn.ModuleList(ChannelNorm(maps) for _ in range(levels))

    def forward(self, levels: list[Level]) -> list[Level]:
        return [(norm(x), padding) for norm, (x, padding) in zip(self.fpn_norms, levels, strict=True)]


class PointNetwork(nn.Module, ABC):
    """Base class of networks with a feature pyramid and shared heads.

    Args:
        backbone: network that returns the levels.
        num_classes: K.
        in_features: D.
        maps: number of channels of the levels.
        levels: number of levels, at least 1.
        gap: half the largest kernel of the heads.
        max_seq_len: number of columns to which padding="published" pads shorter videos.
        divisor: number whose multiples are the lengths to which padding="published" pads longer videos.
        reach: number of columns of the shortest level behind a video that affect the video's output with
            padding="published"; None: all.
        padding: "exact" or "published".
        input_noise: standard deviation of the noise that is added to the features in training.
        class_agnostic: the heads have a single class, an action of any kind; class scores of the video come from
            another network.

    Raises:
        ValueError: max_seq_len does not fit the levels with padding="published".
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        in_features: int,
        maps: int,
        levels: int,
        gap: int,
        max_seq_len: int,
        divisor: int,
        reach: int | None,
        padding: PaddingMode,
        input_noise: float = 0.0,
        class_agnostic: bool = False,
    ):
        super().__init__()
        block = 2 ** (levels - 1)
        if padding == "published" and max_seq_len % block:
            raise ValueError(f"max_seq_len={max_seq_len} must be a multiple of {block} for {levels} levels")
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        self.outputs = 1 if class_agnostic else num_classes
        self.in_features = in_features
        self.backbone = backbone
        self.neck = _Neck(maps, levels)
        self.levels = levels
        self.max_seq_len = max_seq_len
        self.padding = padding
        self._gap = gap
        self._divisor = math.lcm(divisor, block)
        self._reach = reach
        self.input_noise = input_noise

    def forward(self, features: Tensor, mask: Tensor | None = None) -> DetectionOutput:
        """Detect actions.

        Args:
            features: (B, D, L).
            mask: bool (B, L), True on valid columns; None: no column is padding.

        Returns:
            One proposal for each point, ordered by level, then by position; N is the sum of ceil(L / 2^i) over the
            levels i.

        Raises:
            ValueError: see `vidseg.models._segmentation.find_padding`.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        frames = features.shape[2]
        x, padding = self._extend(clear_padding(features, padding), padding)
        if self.training and self.input_noise:
            x = x + self.input_noise * torch.randn_like(x)
            x = clear_padding(x, padding) if self.padding == "exact" else x
        levels = self.neck(self.backbone(x, padding))
        joined = Joined.join(levels, frames=frames, gap=self._gap, exact=self.padding == "exact")
        valid = torch.cat(joined.split(~joined.outside[:, 0]), dim=1).expand(features.shape[0], -1)
        return self._predict(joined, valid)

    @abstractmethod
    def _predict(self, joined: Joined, valid: Tensor) -> DetectionOutput:
        """Apply the heads and return the output for points with `valid` (B, N)."""

    def _extend(self, x: Tensor, padding: Tensor | None) -> Level:
        """Pad features to a length that every level divides."""
        frames = x.shape[2]
        length = self._padded_length(frames)
        if padding is None and not torch.compiler.is_exporting() and length == frames:
            return x, None
        if padding is None:  # an exported graph has a mask for every length
            padding = (torch.arange(frames, device=x.device) < 0).expand(x.shape[0], 1, -1)
        return F.pad(x, (0, length - frames)), F.pad(padding, (0, length - frames), value=True)

    def _padded_length(self, frames: int) -> int:
        block = 2 ** (self.levels - 1)
        blocks = (frames + block - 1) // block
        if self.padding == "exact":
            return blocks * block
        length = self.max_seq_len
        if frames > length:
            length = (frames + self._divisor - 1) // self._divisor * self._divisor
        if self._reach is not None:
            length = min(length, (blocks + self._reach) * block)
        return length

    @staticmethod
    def _points(levels: Sequence[Tensor]) -> Tensor:
        """Return position and stride in columns, float32 (N, 2), of the points of levels (..., n)."""
        points = []
        for index, level in enumerate(levels):
            number = torch.arange(level.shape[-1], dtype=torch.float32, device=level.device)
            points.append(torch.stack([number * 2**index + 0.5, torch.ones_like(number) * 2**index], dim=1))
        return torch.cat(points)


def output_of_points(logits: Tensor, offsets: Tensor, points: Tensor, valid: Tensor) -> DetectionOutput:
    """Decode the predictions of points.

    Args:
        logits: (B, N, K), class scores before the sigmoid.
        offsets: (B, N, 2) or (B, N, K, 2), distances to start and end in strides of the point, at least 0.
        points: (N, 2), position and stride in columns.
        valid: bool (B, N).

    Returns:
        The output; its predictions are `logits`, `offsets` and `points`.
    """
    distances = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    shape = (-1,) + (1,) * (offsets.dim() - 3)
    position, stride = (column.reshape(shape) for column in points.unbind(dim=1))
    start, end = distances.unbind(dim=-1)
    segments = torch.stack([position - start * stride, position + end * stride], dim=-1)
    scores = probabilities(logits).masked_fill(~valid[:, :, None], 0)
    return DetectionOutput(segments, scores, valid, {"logits": logits, "offsets": offsets, "points": points})
