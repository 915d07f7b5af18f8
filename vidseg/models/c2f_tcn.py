"""C2F-TCN: a temporal U-Net whose prediction is an ensemble of the levels of its decoder, from coarse to fine.

"Coarse to Fine Multi-Resolution Temporal Convolutional Network", arXiv 2105.10859 (TPAMI 2023). The input is pooled
over chunks of frames; test-time augmentation averages over several chunk sizes. Parameter names are those of the
published weights.

Each level has half the frames of the next finer level. Every video is resized by its own length at each level, and
short videos are padded with zeros, see `C2fTcn`.

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
_PARTS = (2, 3, 5, 6)  # kernel sizes of the poolings at the bottleneck
MINIMUM_FRAMES = 2**_LEVELS * max(_PARTS)
PUBLISHED_WEIGHTS = (0.0, 0.0, 1.0, 1.0, 1.0, 1.0)
"""Published weights of the levels in the ensemble, coarsest first."""

_TINY = 1e-10  # added to probabilities before the logarithm, as published


def _padding(lengths: Tensor, frames: int) -> Tensor | None:
    """Return bool (B, 1, frames), True on padded frames; None if no frame is padding."""
    # An exported graph cannot branch on values, so it always clears padding.
    if not torch.compiler.is_exporting() and bool((lengths >= frames).all()):
        return None
    return torch.arange(frames, device=lengths.device) >= lengths[:, None, None]


def resize_linear(x: Tensor, lengths: Tensor, new_lengths: Tensor, frames: int) -> Tensor:
    """Resize each video by linear interpolation with aligned first and last frames.

    Args:
        x: (B, C, L).
        lengths: int64 (B,), number of valid frames of each video, from 1 to L.
        new_lengths: int64 (B,), number of frames of each resized video, from 1 to `frames`.
        frames: L of the result.

    Returns:
        (B, C, frames), 0 beyond the new length of each video.
    """
    # Source positions as in F.interpolate with align_corners=True, for each video by its own length.
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
    """Two blocks of convolution with kernel size 5, batch normalization and ReLU."""

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
                normal[valid] = module(x.transpose(1, 2)[valid])  # statistics over valid frames
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
    """Max pooling over `size` frames; 2-D, because `torch.export` fixes the length of a 1-D max pooling."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x[:, :, None], (1, self.size)).squeeze(2)


class _Down(nn.Module):
    """Max pooling over two frames, then convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.max_pool_conv = nn.ModuleList([_MaxPool(2), _DoubleConv(inputs, outputs)])

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        pool, convolutions = self.max_pool_conv
        return convolutions(clear_padding(pool(x), padding), padding)


class _Up(nn.Module):
    """Upsampling by two, concatenation with the skip connection, then convolutions."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = _DoubleConv(inputs, outputs)

    def forward(self, x: Tensor, lengths: Tensor, skip: Tensor, skip_lengths: Tensor) -> Tensor:
        # If the skip connection has an odd number of frames, the last upsampled frame is zero.
        twice = resize_linear(x, lengths, 2 * lengths, skip.shape[2])
        return self.conv(torch.cat([skip, twice], dim=1), _padding(skip_lengths, skip.shape[2]))


class _Head(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _PyramidPooling(nn.Module):
    """Concatenation of the input with one channel for each max pooling over 2, 3, 5 and 6 frames."""

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
    """Return the weighted mean of the class probabilities of all levels.

    Args:
        levels: logits (B, K, L_i), coarsest first; the last level has all frames.
        lengths: int64 (B,), number of frames of each video at the last level; each coarser level has half as many,
            rounded down.
        weights: weight of each level, at least 0, not all 0.

    Returns:
        (B, K, L), 0 beyond the length of each video.

    Raises:
        ValueError: the numbers of weights and levels differ, a weight is negative, or all weights are 0.
    """
    if len(weights) != len(levels) or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(
            f"weights={tuple(weights)} must be {len(levels)} numbers, one for each level, at least 0 and not all 0"
        )
    frames = levels[-1].shape[2]
    total = torch.zeros_like(levels[-1])
    for depth, (logits, weight) in enumerate(zip(reversed(levels), reversed(weights), strict=True)):
        if weight:
            fine = resize_linear(logits, lengths // 2**depth, lengths, frames)
            total = total + weight / sum(weights) * fine.softmax(dim=1)
    return clear_padding(total, _padding(lengths, frames))


class C2fTcn(nn.Module):
    """C2F-TCN with an encoder and a decoder of six levels; S = 7.

    A video with fewer than 384 frames is padded with zeros to 384, and its output is cropped: the bottleneck needs six
    frames and downsamples by 64. (The published data set pads every video with zeros to a common length and treats the
    padding as frames; for the same result, pass such features without a mask.) In training, batch normalization
    computes its statistics over valid frames.

    Args:
        num_classes: K.
        in_features: D.
        ensemble: weights of the six levels in the prediction, coarsest first.

    Raises:
        ValueError: `ensemble` does not have six weights.
    """

    def __init__(self, *, num_classes: int, in_features: int = 2048, ensemble: Sequence[float] = PUBLISHED_WEIGHTS):
        super().__init__()
        if len(ensemble) != _LEVELS:
            raise ValueError(f"ensemble={tuple(ensemble)} must be {_LEVELS} weights, one for each level")
        self.in_features = in_features
        self.ensemble = tuple(ensemble)
        # Entry of the published weights; the network does not use it.
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
        """Return the feature maps (B, 128, L_i) of the six levels of the decoder, coarsest first.

        Args:
            features: (B, D, L), 0 beyond the length of each video.
            lengths: int64 (B,), number of frames of each video, at least 384.
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
        """Return logits (B, K, L_i) of the six levels, coarsest first; arguments as for `forward_features`."""
        heads = (self.outcc0, self.outcc1, self.outcc2, self.outcc3, self.outcc4, self.outcc)
        *coarse, fine = self.forward_features(features, lengths)
        levels = [head(F.relu(x)) for head, x in zip(heads[:-1], coarse, strict=True)]
        return [*levels, heads[-1](fine)]

    def forward(self, features: Tensor, mask: Tensor | None = None) -> SegmentationOutput:
        """Compute logits (7, B, K, L) from features (B, D, L) and a bool mask (B, L), True on valid frames.

        The first six stages are the levels, coarsest first, resized to L frames. The last stage is the logarithm of the
        ensemble probabilities plus 1e-10, so that its softmax is the ensemble.
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
    """Apply max pooling over chunks of frames; the last chunk may be shorter.

    Args:
        features: (B, D, L); all videos have the same length.
        chunk: number of frames of a chunk, at least 1.

    Returns:
        (B, D, N), N = ceil(L / chunk).

    Raises:
        ValueError: chunk < 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    return F.max_pool1d(features, chunk, ceil_mode=True)


def average_chunks(
    probabilities: Sequence[Tensor], chunks: Sequence[int], *, frames: int, weights: Sequence[float] | None = None
) -> Tensor:
    """Return the weighted mean of predictions for several chunk sizes.

    Args:
        probabilities: tensors (..., K, N_i), one for each chunk size, N_i >= frames / chunk.
        chunks: chunk sizes in frames.
        frames: L of the result.
        weights: weight of each chunk size; None: equal weights.

    Returns:
        (..., K, L).

    Raises:
        ValueError: the numbers of predictions, chunk sizes and weights differ, or a prediction is too short.
    """
    weights = [1.0] * len(chunks) if weights is None else weights
    if not len(probabilities) == len(chunks) == len(weights) > 0:
        raise ValueError(
            f"{len(probabilities)} predictions, {len(chunks)} chunk sizes and {len(weights)} weights; expected equal "
            "numbers of them, at least 1"
        )
    total: Tensor | None = None
    for values, chunk, weight in zip(probabilities, chunks, weights, strict=True):
        if values.shape[-1] * chunk < frames:
            raise ValueError(f"{values.shape[-1]} chunks of {chunk} frames are shorter than {frames} frames")
        part = weight / sum(weights) * values.repeat_interleave(chunk, dim=-1)[..., :frames]
        total = part if total is None else total + part
    assert total is not None
    return total


def augmented_prediction(
    model: nn.Module, features: Tensor, *, chunks: Sequence[int], weights: Sequence[float] | None = None
) -> SegmentationOutput:
    """Average the predictions for features pooled with several chunk sizes (test-time augmentation).

    Published chunk sizes (and weights): GTEA 3, 4, 5 (1, 3, 1); Breakfast 7 to 15 and 50Salads 20 to 39 (equal).

    Args:
        model: C2F-TCN in evaluation mode.
        features: (B, D, L) at full frame rate; all videos have the same length.
        chunks: chunk sizes in frames.
        weights: weight of each chunk size; None: equal weights.

    Returns:
        Output with logits (1, B, K, L), the logarithm of the mean probabilities.

    Raises:
        ValueError: a chunk size is below 1, or the numbers of chunk sizes and weights differ.
    """
    runs = [model(pool_features(features, chunk)).logits[-1].softmax(dim=1) for chunk in chunks]
    mean = average_chunks(runs, chunks, frames=features.shape[2], weights=weights)
    return SegmentationOutput((mean + _TINY).log()[None])


register_model("c2f_tcn", C2fTcn, task="segmentation")
