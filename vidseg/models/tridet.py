"""TriDet: convolutions at two scales over a feature pyramid, and boundaries as expectations over bins.

"TriDet: Temporal Action Detection with Relative Boundary Modeling", CVPR 2023, arXiv 2303.07347. Parameter names are
those of the published weights. A block ("scalable-granularity perception", section 3.2) replaces attention with a gate
from the mean over the video and depthwise convolutions. The trident head (section 3.3) predicts for every point and
class the distribution of the distances to start and end over bins.

Shapes: B videos, C channels, D feature width, K classes, L columns, N points.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidseg.models._detection import DetectionOutput
from vidseg.models._pyramid import Backbone, PointNetwork, check_pyramid, output_of_points
from vidseg.models._pyramid_heads import ClassHead, Joined, OffsetHead
from vidseg.models._pyramid_layers import ChannelNorm, PaddingMode, max_pool, residual_scale
from vidseg.models._registry import register_model
from vidseg.models._search_space import ModelSearchSpace
from vidseg.models._segmentation import clear_padding, video_lengths

__all__ = ["TriDet", "decode_bins"]

_GROUPS = 16
"""Groups of the group normalization."""


def decode_bins(starts: Tensor, ends: Tensor, bins: Tensor) -> Tensor:
    """Compute the expected distances from points to the start and the end of an action (section 3.3).

    The distance to the start has the values 0 to n strides. The score of the value v for a class at point t is the
    start logit of the class at point t - v plus the score of the bin at point t; start logits outside the level are 0.
    The distance to the end uses the end logits at t + v.

    Args:
        starts: (B, K, L), start logits of a level.
        ends: (B, K, L), end logits.
        bins: (B, 2 * (n + 1), L), scores of the bins: of the start for n to 0, then of the end for 0 to n.

    Returns:
        (B, K, L, 2): distances to start and end, in strides.
    """
    count = bins.shape[1] // 2
    before, behind = bins.unflatten(1, (2, count)).movedim(1, 0).movedim(2, 3)[:, :, None]
    value = torch.arange(count, dtype=bins.dtype, device=bins.device)
    left = F.pad(starts, (count - 1, 0)).unfold(2, count, 1) + before
    right = F.pad(ends, (0, count - 1)).unfold(2, count, 1) + behind
    return torch.stack([left.softmax(dim=3) @ value.flip(0), right.softmax(dim=3) @ value], dim=3)


def _depthwise(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """Apply a depthwise convolution; with kernel size 1, a product is faster."""
    if convolution.kernel_size[0] > 1 or convolution.bias is None:
        return convolution(x)
    return x * convolution.weight.view(1, -1, 1) + convolution.bias.view(1, -1, 1)


def _group_norm(x: Tensor, norm: nn.GroupNorm, padding: Tensor | None) -> Tensor:
    """Apply group normalization with statistics over the valid columns of each video."""
    if padding is None:
        return norm(x)
    groups = x.unflatten(1, (norm.num_groups, -1))
    count = (video_lengths(x, padding) * groups.shape[2])[:, None, None, None]
    outside = padding[:, None]
    mean = groups.masked_fill(outside, 0).sum(dim=(2, 3), keepdim=True) / count
    centered = (groups - mean).masked_fill(outside, 0)
    variance = centered.square().sum(dim=(2, 3), keepdim=True) / count
    normal = (centered * (variance + norm.eps).rsqrt()).flatten(1, 2)
    return normal * norm.weight[:, None] + norm.bias[:, None]


class _Block(nn.Module):
    """Scalable-granularity perception block, which halves the length with stride 2."""

    def __init__(
        self,
        maps: int,
        *,
        hidden: int,
        window: int,
        ratio: float,
        stride: int,
        deviation: float,
        drop_path: float,
        exact: bool,
    ):
        super().__init__()
        self.stride = stride
        self.exact = exact
        wide = round((window + 1) * ratio)
        wide += 1 - wide % 2

        def depthwise(kernel: int) -> nn.Conv1d:
            layer = nn.Conv1d(maps, maps, kernel, padding=kernel // 2, groups=maps)
            nn.init.normal_(layer.weight, std=deviation)
            return layer

        self.ln = ChannelNorm(maps)
        self.gn = nn.GroupNorm(_GROUPS, maps)
        self.psi = depthwise(window)
        self.fc = depthwise(1)
        self.convw = depthwise(window)
        self.convkw = depthwise(wide)
        self.global_fc = depthwise(1)
        self.mlp = nn.Sequential(nn.Conv1d(maps, hidden, 1), nn.GELU(), nn.Conv1d(hidden, maps, 1))
        self.drop_path_out = residual_scale(maps, drop_path)
        self.drop_path_mlp = residual_scale(maps, drop_path)

    def forward(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.stride > 1:
            x = max_pool(x, padding, dim=2, exact=self.exact)
            padding = None if padding is None else padding[..., :: self.stride]
        hidden = padding if self.exact else None
        x = clear_padding(x, hidden)
        normal = clear_padding(self.ln(x), hidden)
        mean = normal.sum(dim=2, keepdim=True) / video_lengths(x, hidden)[:, None, None]
        instant = _depthwise(normal, self.fc) * F.relu(_depthwise(mean, self.global_fc))
        x = clear_padding(x, padding) + self.drop_path_out(self._scales(normal) + instant + normal)
        x = x + self.drop_path_mlp(self.mlp(_group_norm(x, self.gn, hidden)))
        return clear_padding(x, hidden), padding

    def _scales(self, x: Tensor) -> Tensor:
        """Return the sum of the convolutions at two scales, as one convolution, times their gate."""
        narrow, wide = self.convw, self.convkw
        margin = (wide.kernel_size[0] - narrow.kernel_size[0]) // 2
        weight = F.pad(narrow.weight, (margin, margin)) + wide.weight
        bias = None if narrow.bias is None or wide.bias is None else narrow.bias + wide.bias
        both = F.conv1d(x, weight, bias, padding=wide.kernel_size[0] // 2, groups=x.shape[1])
        return both * _depthwise(x, self.psi)


class TriDet(PointNetwork):
    """TriDet.

    Every point predicts a segment for each class: `segments` of its output are (B, N, K, 2). Predictions of its output,
    which the loss reads: `logits` (B, N, K) before the sigmoid, `offsets` (B, N, K, 2), distances from the point to
    start and end in strides of the point, `points` (N, 2), position and stride of the points in columns.

    Args:
        num_classes: K.
        in_features: D.
        maps: number of channels, a multiple of 16.
        hidden: number of channels inside the MLP of a block.
        window: kernel size of the narrow convolution of the blocks of the pyramid, odd.
        ratio: factor from the narrow to the wide convolution.
        levels: number of levels of the pyramid.
        embeddings: number of convolutions in front of the blocks.
        stem: number of blocks at full length; their narrow convolution has kernel size 1.
        bins: highest distance from a point to a boundary, in strides of the point.
        head_maps: number of channels of the heads; None: `maps`.
        head_layers: number of convolutions of a head, at least 2.
        head_kernel: kernel size of the heads for classes and bins, odd.
        boundary_kernel: kernel size of the heads for start and end, odd.
        position_encoding: add sinusoidal position encodings, as published for ActivityNet and HACS.
        max_seq_len: number of columns of the position encodings, and length to which padding="published" pads videos.
        drop_path: probability of dropping a residual branch of the pyramid for a video; these branches have a learned
            scale of each channel unless it is 0.
        input_noise: standard deviation of the noise that is added to the features in training.
        deviation: standard deviation of the initial weights of the depthwise convolutions. The published configurations
            of THUMOS-14 and EPIC-Kitchens use 0; then the convolutions have no gradient and stay 0.
        class_agnostic: predict a single class, an action of any kind, as published for ActivityNet with class scores of
            the video from another network.
        padding: "exact": padding does not affect the output for a video. "published": as in the published code, where
            means and convolutions include the padding to `max_seq_len` columns; required to reproduce published
            results.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_features: int = 2048,
        maps: int = 512,
        hidden: int = 768,
        window: int = 1,
        ratio: float = 5.0,
        levels: int = 6,
        embeddings: int = 2,
        stem: int = 2,
        bins: int = 16,
        head_maps: int | None = None,
        head_layers: int = 3,
        head_kernel: int = 3,
        boundary_kernel: int = 3,
        position_encoding: bool = False,
        max_seq_len: int = 2304,
        drop_path: float = 0.1,
        input_noise: float = 0.0005,
        deviation: float = 0.1,
        class_agnostic: bool = False,
        padding: PaddingMode = "exact",
    ):
        kernels = (head_kernel, boundary_kernel)
        check_pyramid(levels=levels, head_layers=head_layers, kernels=kernels, padding=padding)
        if maps % _GROUPS:
            raise ValueError(f"maps={maps} must be a multiple of {_GROUPS}, the groups of the group normalization")
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window={window} must be odd")
        if bins < 1:
            raise ValueError(f"bins={bins} must be at least 1")
        exact = padding == "exact"

        def block(size: int, stride: int, depth: float) -> _Block:
            return _Block(
                maps,
                hidden=hidden,
                window=size,
                ratio=ratio,
                stride=stride,
                deviation=deviation,
                drop_path=depth,
                exact=exact,
            )

        backbone = Backbone(
            in_features,
            maps,
            embeddings=embeddings,
            stem=(block(1, 1, 0.0) for _ in range(stem)),
            branch=(block(window, 2, drop_path) for _ in range(levels - 1)),
            max_seq_len=max_seq_len if position_encoding else None,
            exact=exact,
        )
        super().__init__(
            backbone,
            num_classes=num_classes,
            in_features=in_features,
            maps=maps,
            levels=levels,
            gap=max(kernels) // 2,
            max_seq_len=max_seq_len,
            divisor=2 ** (levels - 1) * window,
            reach=None,
            padding=padding,
            input_noise=input_noise,
            class_agnostic=class_agnostic,
        )
        width = maps if head_maps is None else head_maps

        def head(kernel: int) -> ClassHead:
            return ClassHead(maps, width, self.outputs, kernel=kernel, layers=head_layers)

        self.cls_head = head(head_kernel)
        self.start_head = head(boundary_kernel)
        self.end_head = head(boundary_kernel)
        self.reg_head = OffsetHead(maps, width, 2 * (bins + 1), levels=levels, kernel=head_kernel, layers=head_layers)

    def _predict(self, joined: Joined, valid: Tensor) -> DetectionOutput:
        logits = joined.split(self.cls_head(joined))
        # The boundary heads do not train the backbone (as published).
        boundary = joined._replace(x=joined.x.detach())
        starts, ends = (joined.split(head(boundary)) for head in (self.start_head, self.end_head))
        bins = self.reg_head(joined)
        offsets = [self._decode(*level) for level in zip(starts, ends, bins, strict=True)]
        return output_of_points(
            torch.cat(logits, dim=2).transpose(1, 2),
            torch.cat(offsets, dim=2).transpose(1, 2),
            self._points(bins),
            valid,
        )

    def _decode(self, starts: Tensor, ends: Tensor, bins: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return decode_bins(starts, ends, bins)
        # The distributions (B, K, L, bins + 1) are larger than all else that the backward pass needs of a head.
        return checkpoint(decode_bins, starts, ends, bins, use_reentrant=False, preserve_rng_state=False)


register_model(
    "tridet",
    TriDet,
    task="detection",
    search_space=ModelSearchSpace(
        {
            "maps": [64, 128, 256, 512],
            "window": [1, 3, 5, 9],
            "levels": {"low": 4, "high": 7},
            "stem": {"low": 1, "high": 3},
            "bins": [8, 12, 16],
            "head_layers": {"low": 2, "high": 4},
        }
    ),
)
