"""C2F-TCN: a U-Net over time whose prediction is the mean of what its levels say, coarse to fine.

"Coarse to Fine Multi-Resolution Temporal Convolutional Network", arXiv 2105.10859 (TPAMI 2023). Features are pooled
over chunks of frames first; testing may average over chunks of several sizes. Names of parameters are those of the
published weights.

A level holds half of the frames of the level above, so a video is resized by its own length at every level, and short
videos are continued with zeros: see `C2fTcn`.

Shapes: B videos, D feature width, K classes, L frames (of chunks), S stages.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidseg.models._registry import register_model
from vidseg.models._segmentation import SegmentationOutput, clear_padding, find_padding, video_lengths

__all__ = [
    "C2fTcn",
    "augmented_prediction",
    "average_chunks",
    "ensemble_probabilities",
    "pool_features",
    "resize_linear",
]

_LEVELS = 6
_PARTS = (2, 3, 5, 6)  # frames that the bottom's poolings put together
MINIMUM_FRAMES = 2**_LEVELS * max(_PARTS)
PUBLISHED_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
"""Weights of the levels in the ensemble, coarsest first."""

_TINY = 1e-10  # keeps the logarithm of a probability finite, as published


def _padding(lengths: Tensor, frames: int) -> Tensor | None:
    """bool (B, 1, `frames`), True beyond each video's length; None where there is no such frame."""
    # A graph cannot depend on values, so that an exported one always clears.
    if not torch.compiler.is_exporting() and bool((lengths >= frames).all()):
        return None
    return torch.arange(frames, device=lengths.device) >= lengths[:, None, None]


def resize_linear(x: Tensor, lengths: Tensor, new_lengths: Tensor, frames: int) -> Tensor:
    """Resize each video by linear interpolation from first frame to first and from last to last.

    Args:
        x: (B, C, L).
        lengths: int64 (B,), valid frames of each video, from 1 to L.
        new_lengths: int64 (B,), frames that each becomes, from 1 to `frames`.
        frames: L of the result.

    Returns:
        (B, C, frames), 0 beyond each video's new length.
    """
    # The sources as torch's interpolate with align_corners computes them, for a different length of each video.
    step = (lengths - 1).float() / (new_lengths - 1).clamp(min=1).float()
    source = torch.arange(frames, device=x.device, dtype=torch.float32) * step[:, None]
    last = (lengths - 1)[:, None]
    left = torch.minimum(source.long(), last)
    right = torch.minimum(left + 1, last)
    share = (source - left).clamp(0, 1).to(x.dtype)[:, None]
    width = (-1, x.shape[1], -1)
    resized = x.gather(2, left[:, None].expand(width)) * (1 - share) + x.gather(2, right[:, None].expand(width)) * share
    return clear_padding(resized, _padding(new_lengths, frames))


class _DoubleConv(nn.Module):
    """Twice a convolution over five frames, batch normalization and a ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(inputs, outputs, 5, padding=2),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, 5, padding=2),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        if padding is None:
            return self.conv(x)
        for module in self.conv:
            if isinstance(module, nn.BatchNorm1d) and self.training:
                valid = ~padding[:, 0]
                normal = torch.zeros_like(x).transpose(1, 2)
                normal[valid] = module(x.transpose(1, 2)[valid])  # statistics over valid frames only
                x = normal.transpose(1, 2)
            else:
                x = module(x)
                if isinstance(module, nn.ReLU):
                    x = clear_padding(x, padding)
        return x


class _Entry(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = _DoubleConv(inputs, outputs)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        return self.conv(x, padding)


class _MaxPool(nn.Module):
    """Maxima of `size` frames; in two dimensions, because `torch.export` fixes the length of a one-dimensional one."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x[:, :, None], (1, self.size)).squeeze(2)


class _Down(nn.Module):
    """Maximum of two frames, then convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.max_pool_conv = nn.ModuleList([_MaxPool(2), _DoubleConv(inputs, outputs)])

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        pool, convolutions = self.max_pool_conv
        return convolutions(clear_padding(pool(x), padding), padding)


class _Up(nn.Module):
    """Twice as many frames, beside those of the way down, then convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = _DoubleConv(inputs, outputs)

    def forward(self, x: Tensor, lengths: Tensor, skip: Tensor, skip_lengths: Tensor) -> Tensor:
        # A level of an odd number of frames gets a last frame of zeros.
        twice = resize_linear(x, lengths, 2 * lengths, skip.shape[2])
        return self.conv(torch.cat([skip, twice], dim=1), _padding(skip_lengths, skip.shape[2]))


class _Head(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _PyramidPooling(nn.Module):
    """Maxima of 2, 3, 5 and 6 frames, one channel each, in front of the channels that are there."""

    def __init__(self, inputs: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, 1, 1)
        self.pools = nn.ModuleList(_MaxPool(part) for part in _PARTS)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        pooled = [
            resize_linear(self.conv(pool(x)), lengths // part, lengths, x.shape[2])
            for part, pool in zip(_PARTS, self.pools, strict=True)
        ]
        return torch.cat([*pooled, x], dim=1)


def ensemble_probabilities(
    levels: Sequence[Tensor], lengths: Tensor, *, weights: Sequence[float] = PUBLISHED_WEIGHTS
) -> Tensor:
    """The weighted mean of the levels' class probabilities.

    Args:
        levels: logits (B, K, L_i), coarsest first; the last has all frames.
        lengths: int64 (B,), frames of each video at the last level; a level above holds half of them, rounded down.
        weights: one for each level, at least one of them not 0.

    Returns:
        (B, K, L), 0 beyond each video's length.

    Raises:
        ValueError: there are not as many weights as levels, or one is negative, or all are 0.
    """
    if len(weights) != len(levels) or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(
            f"weights={tuple(weights)} must be {len(levels)} numbers, none negative and not all 0: one for each level"
        )
    frames = levels[-1].shape[2]
    total = torch.zeros_like(levels[-1])
    for depth, (logits, weight) in enumerate(zip(reversed(levels), reversed(weights), strict=True)):
        if weight:
            fine = resize_linear(logits, lengths // 2**depth, lengths, frames)
            total = total + weight / sum(weights) * fine.softmax(dim=1)
    return clear_padding(total, _padding(lengths, frames))


class C2fTcn(nn.Module):
    """C2F-TCN.

    A video of fewer than 384 frames is continued with zeros to 384, and the result is cut to its length: the bottom of
    the network needs six frames, each of which stands for 64. (The published data set continues every video with zeros
    to a common length and lets the network see them as frames; give such features without a mask to do that.) In
    training, batch normalization takes its statistics over valid frames only.

    Args:
        num_classes: K.
        in_features: D.
        ensemble: weights of the six levels in the prediction, coarsest first.

    Raises:
        ValueError: `ensemble` is not six weights.
    """

    def __init__(self, *, num_classes: int, in_features: int = 2048, ensemble: Sequence[float] = PUBLISHED_WEIGHTS):
        super().__init__()
        if len(ensemble) != _LEVELS:
            raise ValueError(f"ensemble={tuple(ensemble)} must be {_LEVELS} weights, one for each level")
        self.in_features = in_features
        self.ensemble = tuple(ensemble)
        # Published weights hold this entry; nothing reads it.
        self.weights = nn.Parameter(torch.ones(_LEVELS), requires_grad=False)
        self.inc = _Entry(in_features, 256)
        self.down1 = _Down(256, 256)
        self.down2 = _Down(256, 256)
        self.down3 = _Down(256, 128)
        self.down4 = _Down(128, 128)
        self.down5 = _Down(128, 128)
        self.down6 = _Down(128, 128)
        self.up = _Up(128 + len(_PARTS) + 128, 128)
        self.outcc0 = _Head(128, num_classes)
        self.up0 = _Up(256, 128)
        self.outcc1 = _Head(128, num_classes)
        self.up1 = _Up(256, 128)
        self.outcc2 = _Head(128, num_classes)
        self.up2 = _Up(384, 128)
        self.outcc3 = _Head(128, num_classes)
        self.up3 = _Up(384, 128)
        self.outcc4 = _Head(128, num_classes)
        self.up4 = _Up(384, 128)
        self.outcc = _Head(128, num_classes)
        self.tpp = _PyramidPooling(128)

    def forward_features(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """The feature maps (B, 128, L_i) of the six levels on the way up, coarsest first.

        Args:
            features: (B, D, L), 0 beyond each video's length.
            lengths: int64 (B,), at least 384.
        """
        downs = (self.down1, self.down2, self.down3, self.down4, self.down5, self.down6)
        ups = (self.up, self.up0, self.up1, self.up2, self.up3, self.up4)
        sizes = [lengths // 2**depth for depth in range(_LEVELS + 1)]
        skips = [self.inc(features, _padding(lengths, features.shape[2]))]
        for down, size in zip(downs, sizes[1:], strict=True):
            skips.append(down(skips[-1], _padding(size, skips[-1].shape[2] // 2)))
        x = self.tpp(skips.pop(), sizes[-1])
        maps = []
        for depth, up in zip(reversed(range(_LEVELS)), ups, strict=True):
            x = up(x, sizes[depth + 1], skips[depth], sizes[depth])
            maps.append(x)
        return maps

    def forward_levels(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Logits (B, K, L_i) of the six levels, coarsest first; arguments as for `forward_features`."""
        heads = (self.outcc0, self.outcc1, self.outcc2, self.outcc3, self.outcc4, self.outcc)
        *coarse, fine = self.forward_features(features, lengths)
        levels = [head(F.relu(x)) for head, x in zip(heads[:-1], coarse, strict=True)]
        return [*levels, heads[-1](fine)]

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Features (B, D, L) and bool mask (B, L) -> logits (7, B, K, L).

        The first six stages are the levels, coarsest first, resized to all frames. The last is the logarithm of the
        ensemble's probabilities (plus 1e-10), so that its softmax is the ensemble.
        """
        padding = find_padding(features, mask, in_features=self.in_features)
        frames = features.shape[2]
        x = clear_padding(features, padding)
        if frames < MINIMUM_FRAMES:
            x = F.pad(x, (0, MINIMUM_FRAMES - frames))
        lengths = video_lengths(features, padding).clamp(min=MINIMUM_FRAMES)
        levels = self.forward_levels(x, lengths)
        stages = [
            resize_linear(logits, lengths // 2**depth, lengths, x.shape[2])
            for depth, logits in zip(reversed(range(_LEVELS)), levels, strict=True)
        ]
        stages.append((ensemble_probabilities(levels, lengths, weights=self.ensemble) + _TINY).log())
        return SegmentationOutput(torch.stack([clear_padding(stage[..., :frames], padding) for stage in stages]))


def pool_features(features: Tensor, chunk: int) -> Tensor:
    """The maximum of each channel over chunks of frames; the last chunk may be shorter.

    Args:
        features: (B, D, L), of videos of the same length.
        chunk: frames of a chunk, at least 1.

    Returns:
        (B, D, N), N = L / chunk rounded up.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    return F.max_pool1d(features, chunk, ceil_mode=True)


def average_chunks(
    probabilities: Sequence[Tensor], chunks: Sequence[int], *, frames: int, weights: Sequence[float] | None = None
) -> Tensor:
    """The weighted mean of predictions that were made on chunks of several sizes.

    Args:
        probabilities: (..., K, N_i), one for each size, N_i at least frames / chunk.
        chunks: frames of a chunk of each.
        frames: L of the result.
        weights: of each size; None: all equal.

    Returns:
        (..., K, L).

    Raises:
        ValueError: the numbers of predictions, sizes and weights differ, or a prediction is too short.
    """
    weights = [1.0] * len(chunks) if weights is None else weights
    if not len(probabilities) == len(chunks) == len(weights) > 0:
        raise ValueError(f"{len(probabilities)} predictions, {len(chunks)} chunk sizes and {len(weights)} weights")
    total: Tensor | None = None
    for values, chunk, weight in zip(probabilities, chunks, weights, strict=True):
        if values.shape[-1] * chunk < frames:
            raise ValueError(f"{values.shape[-1]} chunks of {chunk} frames do not reach {frames} frames")
        part = weight / sum(weights) * values.repeat_interleave(chunk, dim=-1)[..., :frames]
        total = part if total is None else total + part
    assert total is not None
    return total


def augmented_prediction(
    model: nn.Module, features: Tensor, *, chunks: Sequence[int], weights: Sequence[float] | None = None
) -> SegmentationOutput:
    """Test-time augmentation: pool one video's features over chunks of several sizes and average the predictions.

    Published chunks (and weights): GTEA 3, 4, 5 (1, 3, 1); Breakfast 7 to 15 and 50Salads 20 to 39 (equal).

    Args:
        model: in evaluation mode.
        features: (B, D, L), at full frame rate, of videos of the same length.
        chunks: frames of a chunk, in each run.
        weights: of each run; None: all equal.

    Returns:
        logits (1, B, K, L): the logarithm of the mean probabilities.
    """
    runs = [model(pool_features(features, chunk)).logits[-1].softmax(dim=1) for chunk in chunks]
    mean = average_chunks(runs, chunks, frames=features.shape[2], weights=weights)
    return SegmentationOutput((mean + _TINY).log()[None])


register_model("c2f_tcn", C2fTcn, task="segmentation")
