"""Output class of the detection networks, sampling of features over segments, and a classifier of proposals.

Positions are in columns of the features: column n covers the positions from n to n + 1, and a position x is the time
x * seconds per column.

Shapes: B videos, C channels, D feature width, K classes, L columns, N proposals.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vidseg.models._segmentation import video_lengths
from vidseg.ops import align1d

__all__ = [
    "DetectionOutput",
    "ProposalClassifier",
    "align_segments",
    "dense_proposals",
    "in_chunks",
    "probabilities",
    "training_segments",
]

_CHUNK = 8192
"""Number of proposals of a batch that are processed together without gradients."""


@dataclass(frozen=True)
class DetectionOutput:
    """Output of a detection network."""

    segments: Tensor
    """(B, N, 2): start and end in columns of the features; (B, N, K, 2) if a proposal has a segment for each class. Not
    limited to the video."""
    scores: Tensor
    """(B, N, K): probabilities from 0 to 1; K = 1 if the network proposes segments without a class. 0 for proposals
    that are not valid."""
    valid: Tensor
    """bool (B, N): True for proposals of the video, False for entries that fill the batch."""
    predictions: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that the loss and the post-processing read, documented at each network."""


torch.export.register_dataclass(DetectionOutput)


def probabilities(logits: Tensor) -> Tensor:
    """Return the sigmoid of logits in at least single precision: half precision rounds values near 1 to 1."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()


def dense_proposals(length: int, *, max_duration: int | None, device: torch.device) -> Tensor:
    """Return all segments between two column edges, in order of duration, then of start.

    Args:
        length: number of columns L.
        max_duration: longest segment in columns; None: L.
        device: device of the result.

    Returns:
        int64 (N, 2), start and end in columns; N = L * (L + 1) / 2 without `max_duration`.
    """
    rows = length if max_duration is None else torch.sym_min(length, max_duration)
    duration = torch.arange(rows, device=device)
    first = duration * length - duration * (duration - 1) // 2
    entries = torch.arange(rows * length - rows * (rows - 1) // 2, device=device)
    row = torch.searchsorted(first, entries, right=True) - 1
    start = entries - first[row]
    return torch.stack([start, start + row + 1], dim=1)


def training_segments(segments: Tensor, features: Tensor, *, what: str) -> Tensor:
    """Return given segments in the dtype for positions, at least single precision.

    Args:
        segments: (B, N, 2), start and end in columns.
        features: (B, D, L), input of the network.
        what: name of the argument in the message.

    Raises:
        ValueError: the shape is wrong.
    """
    if segments.dim() != 3 or segments.shape[0] != features.shape[0] or segments.shape[2] != 2:
        raise ValueError(f"{what} must be ({features.shape[0]}, N, 2), but have shape {tuple(segments.shape)}")
    return segments.to(torch.promote_types(features.dtype, torch.float32))


def in_chunks(function: Callable[[Tensor], tuple[Tensor, ...]], segments: Tensor) -> tuple[Tensor, ...]:
    """Apply a function to segments (B, N, 2), without gradients in chunks along N, which limits the memory.

    Args:
        function: maps segments (B, n, 2) to tensors (..., n, C).
        segments: (B, N, 2).

    Returns:
        The tensors (..., N, C) of the function.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(segments)
    size = max(1, _CHUNK // max(1, len(segments)))
    if segments.shape[1] <= size:
        return function(segments)
    parts = [function(part) for part in segments.split(size, dim=1)]
    return tuple(torch.cat(each, dim=-2) for each in zip(*parts, strict=True))


def align_segments(
    x: Tensor,
    segments: Tensor,
    bins: int,
    *,
    padding: Tensor | None = None,
    extend: float = 0.0,
    shift: float = -0.5,
) -> Tensor:
    """Resample the features of each segment to `bins` columns (`vidseg.ops.align1d`).

    The result for a video does not depend on its padding: samples beyond its end are zero, as for a video without
    padding.

    Args:
        x: (B, C, L), 0 on padding.
        segments: (B, N, 2), start and end in columns; no gradient.
        bins: number of columns of the result.
        padding: bool (B, 1, L), True on padded columns; None: no column is padding.
        extend: share of its length by which a segment is extended on both sides.
        shift: added to positions. -0.5: the features of column n apply to its center, n + 0.5. 0: to its left edge, as
            in the published code of ETAD.

    Returns:
        (B * N, C, bins).
    """
    batch, count, _ = segments.shape
    start, end = (segments.detach() + shift).flatten(0, 1).unbind(dim=1)
    margin = extend * (end - start)
    start, end = start - margin, end + margin
    video = torch.arange(batch, device=x.device)[:, None].expand(-1, count).flatten()
    rois = torch.stack([video.to(start.dtype), start, end], dim=1)
    if padding is None:
        return align1d(x, rois, bins)
    # Continue each video with its last column, then subtract that column for the samples beyond the end of the video.
    lengths = video_lengths(x, padding)
    last = x.gather(2, (lengths - 1)[:, None, None].expand(-1, x.shape[1], 1))
    aligned = align1d(torch.where(padding, last, x), rois, bins)
    beyond = _share_beyond(start, end, bins, after=lengths[video].to(start.dtype), until=x.shape[2])
    return aligned - last[:, :, 0][video][:, :, None] * beyond[:, None].to(aligned.dtype)


def _share_beyond(start: Tensor, end: Tensor, bins: int, *, after: Tensor, until: int) -> Tensor:
    """Return the share of the samples of each bin of `align1d` at positions above `after` (R,) and up to `until`."""
    bin_length = ((end - start).clamp(min=1) / bins)[:, None]
    samples = bin_length.ceil()
    step = bin_length / samples
    first = start[:, None] + torch.arange(bins, device=start.device) * bin_length + 0.5 * step

    def count(position: Tensor | int) -> Tensor:
        """Return the number of samples up to a position."""
        return (((position - first) / step).floor() + 1).clamp(min=0).minimum(samples)

    return (count(until) - count(after[:, None])).clamp(min=0) / samples


class ProposalClassifier(nn.Module):
    """Classifier of proposals: features resampled over each proposal, then an MLP of two layers.

    It makes a class-agnostic network independent of video-level class scores from another source.

    Args:
        channels: C of the features.
        num_classes: K.
        bins: number of columns to which a proposal is resampled.
        hidden: width of the hidden layer.
        dropout: dropout probability of the hidden layer.
    """

    def __init__(self, channels: int, *, num_classes: int, bins: int = 8, hidden: int = 256, dropout: float = 0.5):
        super().__init__()
        self.bins = bins
        self.layers = nn.Sequential(
            nn.Linear(channels * bins, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)
        )

    def forward(self, x: Tensor, segments: Tensor, padding: Tensor | None = None) -> Tensor:
        """Compute class logits (B, N, K) of segments (B, N, 2) in columns of the features x (B, C, L).

        Args:
            x: (B, C, L), 0 on padding.
            segments: (B, N, 2), start and end in columns; no gradient.
            padding: bool (B, 1, L), True on padded columns; None: no column is padding.
        """

        def logits(part: Tensor) -> tuple[Tensor]:
            aligned = align_segments(x, part, self.bins, padding=padding)
            return (self.layers(aligned.flatten(1)).unflatten(0, part.shape[:2]),)

        return in_chunks(logits, segments)[0]
