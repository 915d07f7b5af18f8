"""MTNet: multi-temporal convolutions on a short and a long stream with different temporal resolution.

"Right on Time: Multi-Temporal Convolutions for Human Action Recognition in Videos", arXiv 2011.03949. The short stream
has 7/8 of the channels. The long stream has 1/8 of the channels at half the temporal and spatial size. Each convolution
processes both streams and adds the output of the short stream to the long stream. Temporal pooling keeps the frames
that are most similar to their neighbors. The residual branch of each block is multiplied by the output of a GRU over
its spatial means (recurrent alignment).

Parameter names and widths are those of the published weights. As in the published code, the output of the long stream
and the lateral connection from the short stream share one norm.

Shapes: B clips, C channels, T frames, H, W, K classes; a pair is (short, long).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidseg.models._input_spec import InputSpec
from vidseg.models._recurrent import run_recurrent
from vidseg.models._registry import register_model
from vidseg.models._search_space import stage_space
from vidseg.models._stage import Stage
from vidseg.models._width import Width, stage_blocks

__all__ = ["BLOCKS", "MtBlock", "MtConv", "MtNet", "RecurrentAlignment", "cosine_pool", "frames_kept"]

Pair = tuple[Tensor, Tensor]

SHORT_SHARE = 0.875
MIN_FRAMES, MIN_SIZE = 3, 33


def frames_kept(x: Tensor) -> Tensor:
    """Return the half of the frames with the highest similarity to both neighbors.

    Similarity is the squared cosine of spatial means. The first and the last frame are never selected, because they
    have only one neighbor.

    Args:
        x: (B, C, T, H, W), T >= 3.

    Returns:
        int64 (B, T // 2): frame numbers in ascending order.
    """
    with torch.no_grad():
        means = x.mean(dim=(3, 4))
        if means.dtype in (torch.float16, torch.bfloat16):
            means = means.float()
        likeness = F.cosine_similarity(means[:, :, :-1], means[:, :, 1:], dim=1, eps=1e-4).square()
        both = (likeness[:, :-1] + likeness[:, 1:]) / 2
        return both.topk(x.shape[2] // 2, dim=1).indices.sort(dim=1).values + 1


def cosine_pool(x: Tensor) -> Tensor:
    """Select the frames `frames_kept` of each clip: (B, C, T, H, W) -> (B, C, T // 2, H, W)."""
    return _select(x, frames_kept(x))


def _select(x: Tensor, frames: Tensor) -> Tensor:
    return x.gather(2, frames[:, None, :, None, None].expand(-1, x.shape[1], -1, *x.shape[3:]))


def _frames_of_graph(x: Tensor) -> Tensor:
    """Return `frames_kept`, or all frames if there are one or two, without a branch on their number."""
    frames = x.shape[2]
    means = F.normalize(x.mean(dim=(3, 4)), dim=1, eps=1e-4)
    # The outer frames, which have one neighbor, are below every other one, so they are selected only if all are.
    likeness = F.pad((means[:, :, :-1] * means[:, :, 1:]).sum(dim=1).square(), (1, 1), value=-4.0)
    count = frames // 2 + torch.sym_max(0, torch.sym_min(1, 3 - frames))
    return (likeness[:, :-1] + likeness[:, 1:]).topk(count, dim=1).indices.sort(dim=1).values


def _shorten(x: Tensor) -> Tensor:
    """Halve height and width, and the number of frames if there are more than two."""
    x = F.avg_pool3d(x, (1, 2, 2))
    if torch.compiler.is_exporting():
        return _select(x, _frames_of_graph(x))
    return cosine_pool(x) if x.shape[2] > 2 else x


def _resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if not torch.compiler.is_exporting() and tuple(x.shape[2:]) == size:
        return x  # interpolation would not change it; an exported graph must not branch on sizes
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def _share(channels: int, share: float) -> int:
    """Return the number of channels of the short stream."""
    return int(channels * share)


class MtConv(nn.Module):
    """Multi-temporal convolution: a convolution and a norm for each stream (section 3.1 of the paper).

    Args:
        inputs: number of input channels of both streams.
        outputs: number of output channels of both streams.
        kernel: kernel size, one value or (T, H, W).
        stride: stride of all three dimensions.
        padding: zero padding, one value or (T, H, W).
        groups: number of sub-streams; above 1, the norms are group norms.
        lateral: add the output of the short stream to the long stream.
        share: share of the channels that the short stream has.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int | tuple[int, int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int, int] = 0,
        groups: int = 1,
        lateral: bool = True,
        share: float = SHORT_SHARE,
    ):
        super().__init__()
        groups_short = max(1, _share(groups, share))
        groups_long = max(1, groups - groups_short)
        in_short = _share(inputs, share) // groups_short * groups_short
        out_short = _share(outputs, share)
        out_long = outputs - out_short
        conv = partial(nn.Conv3d, kernel_size=kernel, stride=stride, padding=padding, bias=False)
        self.conv_short = conv(in_short, out_short, groups=groups_short)
        self.conv_long = conv(inputs - in_short, out_long, groups=groups_long)
        self.conv_short2long = nn.Conv3d(out_short, out_long, 1, bias=False) if lateral else None
        if groups > 1:
            self.norm_short: nn.Module = nn.GroupNorm(groups_short, out_short)
            self.norm_long: nn.Module = nn.GroupNorm(groups_long, out_long)
        else:
            self.norm_short, self.norm_long = nn.BatchNorm3d(out_short), nn.BatchNorm3d(out_long)

    def forward(self, pair: Pair) -> Pair:
        """Compute the (short, long) pair of outputs of a (short, long) pair."""
        short, long = self.conv_short(pair[0]), self.conv_long(pair[1])
        size = tuple(long.shape[2:])
        normal = self.norm_long(long)
        if self.conv_short2long is not None:
            # The shared norm: in training, both calls update its running statistics, in this order.
            normal = normal + self.norm_long(self.conv_short2long(_resize(_shorten(short), size)))
        return self.norm_short(short), normal


class RecurrentAlignment(nn.Module):
    """Multiplication of features by the output of a two-layer GRU over their spatial means.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.GRU(channels, channels, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute aligned features (B, C, T, H, W) of features of the same shape."""
        recurrent = run_recurrent(self.op, x.mean(dim=(3, 4)).permute(2, 0, 1))[0].permute(1, 2, 0)
        return x * recurrent[..., None, None]


class MtBlock(nn.Module):
    """Residual block of four multi-temporal convolutions.

    Args:
        inputs: number of input channels of both streams.
        outputs: number of output channels of both streams.
        stride: stride of the third convolution and of the shortcut, in all three dimensions.
        groups: number of sub-streams of the last two convolutions.
        lateral: add the output of the short stream to the long stream in each convolution.
        share: share of the channels that the short stream has.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int = 1,
        groups: int = 1,
        lateral: bool = True,
        share: float = SHORT_SHARE,
    ):
        super().__init__()
        inner = outputs // groups
        conv = partial(MtConv, lateral=lateral, share=share)
        self.conv1_1 = conv(inputs, inner)
        self.conv1_2 = conv(inner, inputs)
        self.conv2 = conv(inputs, inner, kernel=3, stride=stride, padding=1, groups=groups)
        changes = stride != 1 or inputs != outputs
        if changes:
            self.conv3 = conv(inner, outputs, groups=groups)
        else:
            self.conv3 = conv(inner, outputs, kernel=(1, 3, 3), padding=(0, 1, 1), groups=groups)
        self.downsample = MtConv(inputs, outputs, stride=stride, lateral=False, share=share) if changes else None
        self.sr_short = RecurrentAlignment(_share(outputs, share))
        self.sr_long = RecurrentAlignment(outputs - _share(outputs, share))

    def _shortcut(self, pair: Pair) -> Pair:
        if self.downsample is None:
            return pair
        short, long = pair
        frames, *sides = long.shape[2:]
        return self.downsample((short, _resize(long, (frames, *(max(3, side) for side in sides)))))

    def forward(self, pair: Pair) -> Pair:
        """Compute the (short, long) pair of outputs of a (short, long) pair."""
        shortcut = self._shortcut(pair)
        out = pair
        for conv in (self.conv1_1, self.conv1_2, self.conv2):
            short, long = conv(out)
            out = F.relu(short), F.relu(long)
        short, long = self.conv3(out)
        short, long = self.sr_short(short), self.sr_long(long)
        return (
            F.relu(short + _resize(shortcut[0], tuple(short.shape[2:]))),
            F.relu(long + _resize(shortcut[1], tuple(long.shape[2:]))),
        )


class MtNet(nn.Module):
    """Residual network of multi-temporal convolutions.

    Args:
        blocks: number of blocks of each of the four stages.
        num_classes: K.
        groups: number of sub-streams, 1 or 8.
        width: multiplier of all widths, or one for each stage, rounded to multiples of 8 (of 64 with 8 sub-streams);
            published: 1.0.
        short_share: share of the channels that the short stream has, above 0 and below 1; published: 0.875. The long
            stream has at least one channel.
        lateral: add the output of the short stream to the long stream in each convolution, as published.
        in_channels: channels of the clips; 3 for RGB, 2 for each flow of a stack.

    Raises:
        ValueError: width is not positive, or short_share leaves a stream without channels.
    """

    trace_frames = 64
    """Frames of the clip to trace a graph with: `torch.export` fixes an axis of size 1, and all maps have two frames or
    more then."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        *,
        num_classes: int,
        groups: int = 1,
        width: Width = 1.0,
        short_share: float = SHORT_SHARE,
        lateral: bool = True,
        in_channels: int = 3,
    ):
        super().__init__()
        widths = _widths(width, 8 * groups)
        if not 1 <= _share(min(widths) // groups, short_share) < min(widths) // groups:
            raise ValueError(
                f"short_share={short_share}: of {min(widths) // groups} channels both streams must have at least one"
            )
        if groups > 1 and short_share != SHORT_SHARE:
            raise ValueError(f"short_share={short_share}: with {groups} sub-streams it must be {SHORT_SHARE}")
        block = partial(MtBlock, groups=groups, lateral=lateral, share=short_share)

        def stage(inputs: int, outputs: int, count: int, stride: int) -> Stage:
            return Stage(block(inputs, outputs, stride=stride), *(block(outputs, outputs) for _ in range(count - 1)))

        self.short_share = short_share
        self.num_classes = num_classes
        self.num_features = widths[3]
        conv = nn.Conv3d(in_channels, widths[0], (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm3d(widths[0]), nn.ReLU(inplace=True))
        self.layer1 = stage(widths[0], widths[0], blocks[0], 1)
        self.layer2 = stage(widths[0], widths[1], blocks[1], 2)
        self.layer3 = stage(widths[1], widths[2], blocks[2], 2)
        self.layer4 = stage(widths[2], widths[3], blocks[3], 2)
        self.fc = nn.Linear(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def pool(self, x: Tensor) -> Tensor:
        """Apply 3x3 max pooling with stride 2 to maps (B, C, T, H, W), padded to an even height and width."""
        if x.shape[3] % 2 or x.shape[4] % 2:
            x = F.pad(x, (1, 0, 1, 0, 0, 0), mode="replicate")
        return F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def split(self, x: Tensor) -> Pair:
        """Split maps (B, C, T, H, W) into short (B, 7/8 C, T/2, H, W) and long stream (B, C/8, T/4, H/2, W/2).

        The shares of the channels are those of `short_share=0.875`.
        """
        short, long = cosine_pool(x).tensor_split([_share(x.shape[1], self.short_share)], dim=1)
        return short, _shorten(long)

    def forward_features(self, clips: Tensor) -> Pair:
        """Compute the feature maps of the last stage, short and long stream, of normalized clips (B, C, T, H, W).

        Raises:
            ValueError: the clips have fewer than 3 frames, or a side has fewer than 33 pixels.
        """
        frames, height, width = clips.shape[2:]
        if frames < MIN_FRAMES or min(height, width) < MIN_SIZE:
            raise ValueError(
                f"clips of {frames} frames, {height}x{width}: MTNet needs at least {MIN_FRAMES} frames of "
                f"{MIN_SIZE}x{MIN_SIZE} pixels"
            )
        pair = self.split(self.pool(self.stem(clips)))
        return self.layer4(self.layer3(self.layer2(self.layer1(pair))))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute logits (B, K) of normalized clips (B, C, T, H, W)."""
        short, long = self.forward_features(clips)
        return self.fc(torch.cat([short.mean(dim=(2, 3, 4)), long.mean(dim=(2, 3, 4))], dim=1))


def _widths(width: Width, unit: int) -> list[int]:
    """Return the number of channels of each stage, a multiple of `unit`."""
    each = [width] * 4 if isinstance(width, (int, float)) else list(width)
    if len(each) != 4 or min(each) <= 0:
        raise ValueError(f"width={width} must be positive: one number, or one for each of the four stages")
    return [max(unit, unit * round(size * part / unit)) for size, part in zip((64, 128, 256, 512), each, strict=True)]


def _mtnet(
    published: tuple[int, int, int, int],
    groups: int,
    *,
    num_classes: int,
    width: Width = 1.0,
    blocks: Sequence[int] | None = None,
    short_share: float = SHORT_SHARE,
    lateral: bool = True,
    in_channels: int = 3,
) -> MtNet:
    return MtNet(
        stage_blocks(blocks, published),
        num_classes=num_classes,
        groups=groups,
        width=width,
        short_share=short_share,
        lateral=lateral,
        in_channels=in_channels,
    )


BLOCKS = {
    "xs": (2, 2, 2, 2),
    "s": (2, 2, 5, 3),
    "m": (3, 4, 6, 3),
    "l": (3, 4, 23, 3),
    "xl": (3, 8, 36, 3),
    "xxl": (3, 24, 36, 3),
}
"""Number of blocks of each stage, by size in the name of the network."""

_INPUT = InputSpec(frames=16, interval=2, size=112, resize=128)

for _size, _blocks in BLOCKS.items():
    register_model(
        f"mtnet_{_size}",
        partial(_mtnet, _blocks, 1),
        input_spec=_INPUT,
        search_space=stage_space(_blocks, short_share=[0.5, 0.75, SHORT_SHARE], lateral=[True, False]),
    )
    register_model(
        f"mtnet_{_size}_g8",
        partial(_mtnet, _blocks, 8),
        input_spec=_INPUT,
        search_space=stage_space(_blocks, lateral=[True, False]),
    )
